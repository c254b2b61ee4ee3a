"""A lognormal bolus fitted to a time-intensity curve, and the parameters that are read from it.

The model is the one that fitted contrast ultrasound best in Strouthos et al., IEEE Trans. UFFC
57(6):1296-1310, 2010, doi 10.1109/TUFFC.2010.1550, over a constant baseline. Names are those of the
EFSUMB update 2023, doi 10.1055/a-2157-2587; each formula is in docs/how-to/perfusion.md, Formulas.
"""

from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt
from scipy.optimize import least_squares
from scipy.special import ndtr

Floats = npt.NDArray[np.float64]

PARAMETERS = {
    "AT": "s", "PE": "I", "TTP": "s", "RT": "s", "FT": "s", "mTT": "s", "WiAUC": "I*s",
    "WoAUC": "I*s", "WiWoAUC": "I*s", "WiR": "I/s", "WoR": "I/s",
}  # fmt: skip
"""Names and units; I is the unit of the curve's intensity."""

WASH_OUT = ("FT", "mTT", "WoAUC", "WiWoAUC", "WoR")
"""Those that are known only once the contrast has left again."""

_LEAST_FRAMES, _LEAST_SECONDS = 7, 3.0  # of a curve: five numbers are fitted to it
_LEAST_R2 = 0.5
_FALLEN = 0.5  # of the peak: so far the clip must show the fall for wash-out to be known
_MOST_POINTS = 600  # to fit: more tell no more, and take longer
_SHAPES = (0.4, 0.8, 1.3)  # sigmas to start from
_HEAD_STARTS = (0.0, 0.3)  # of the rise seen, that contrast arrived before it
_SIGMA = (0.1, 2.5)
_FLOOR = 0.02  # of the curve's range, added before roots are taken


@dataclass(frozen=True)
class Bolus:
    """I(t) = baseline + peak · exp(−ln²((t − arrival_s) / rise_s) / (2 sigma²)), baseline before.

    Attributes:
        baseline: Intensity without contrast.
        peak: Largest intensity above the baseline.
        arrival_s: When contrast arrives, seconds of the clip.
        rise_s: Seconds from there to the peak.
        sigma: Width, in logarithms of time.
    """

    baseline: float
    peak: float
    arrival_s: float
    rise_s: float
    sigma: float

    def __call__(self, seconds: npt.ArrayLike) -> Floats:
        """Intensity at times in seconds."""
        elapsed = np.asarray(seconds, np.float64) - self.arrival_s
        log_time = np.log(np.maximum(elapsed, 1e-9) / self.rise_s)
        curve = np.exp(-(log_time**2) / (2 * self.sigma**2))
        return self.baseline + self.peak * np.where(elapsed > 0, curve, 0.0)

    def parameters(self) -> dict[str, float]:
        """PARAMETERS by name, all of the bolus without its baseline."""
        square = self.sigma**2
        # Logarithms of time, from the peak, at which the curve is steepest: where its second
        # derivative, proportional to u²/σ² + u − 1, is 0. A tangent there meets the baseline at
        # (1 + σ²/u) times that time.
        root = np.sqrt(square**2 + 4 * square)
        up, down = (-square - root) / 2, (-square + root) / 2
        rise_from, fall_to = (self.rise_s * np.exp(u) * (1 + square / u) for u in (up, down))
        slope_up, slope_down = (
            self.peak * -u / (square * self.rise_s) * np.exp(-u - u**2 / (2 * square))
            for u in (up, down)
        )
        wash_in, wash_out = self._area(self.rise_s), self._area(fall_to)
        return {
            "AT": self.arrival_s,
            "PE": self.peak,
            "TTP": self.rise_s,
            "RT": self.rise_s - rise_from,
            "FT": fall_to - self.rise_s,
            "mTT": self.rise_s * np.exp(1.5 * square),
            "WiAUC": wash_in,
            "WoAUC": wash_out - wash_in,
            "WiWoAUC": wash_out,
            "WiR": slope_up,
            "WoR": -slope_down,
        }

    def _area(self, elapsed: float) -> float:
        """Under the curve, from arrival on."""
        whole = self.peak * self.rise_s * self.sigma * np.sqrt(2 * np.pi)
        reached = ndtr(np.log(elapsed / self.rise_s) / self.sigma - self.sigma)
        return float(whole * np.exp(self.sigma**2 / 2) * reached)


@dataclass(frozen=True)
class Fit:
    """What came of fitting.

    Attributes:
        bolus: None where none fits.
        r2: Share of the curve's variance that it explains; NaN without one.
        notes: Why there is none, or what is not known of it, in words.
        is_washed_out: Whether the clip shows enough of the fall for WASH_OUT.
    """

    bolus: Bolus | None
    r2: float
    notes: tuple[str, ...] = ()
    is_washed_out: bool = True

    def parameters(self) -> dict[str, float]:
        """PARAMETERS by name, NaN where they are not known."""
        if self.bolus is None:
            return dict.fromkeys(PARAMETERS, float("nan"))
        unknown = () if self.is_washed_out else WASH_OUT
        return self.bolus.parameters() | dict.fromkeys(unknown, float("nan"))


def fit_bolus(seconds: npt.ArrayLike, intensity: npt.ArrayLike) -> Fit:
    """Fit by least squares of square roots, from several starts, within bounds.

    Speckle's noise grows with the signal; of roots it is nearly the same everywhere, so that the
    foot of the curve, which tells the arrival, counts beside its top. R² is of the curve itself.

    Args:
        seconds: (T,) times from the clip's first frame, increasing.
        intensity: (T,) of any scale; frames that are not finite are left out.
    """
    times, values = np.asarray(seconds, np.float64), np.asarray(intensity, np.float64)
    times, values = times[np.isfinite(values)], values[np.isfinite(values)]
    if len(times) < _LEAST_FRAMES or times[-1] - times[0] < _LEAST_SECONDS:
        shown = times[-1] - times[0] if len(times) else 0.0
        return _none(
            f"curve must be of {_LEAST_FRAMES} frames and {_LEAST_SECONDS:g} s or more to fit "
            f"five numbers to it, got {len(times)} frames of {shown:.1f} s"
        )
    spread = float(np.ptp(values))
    if spread <= 0:
        return _none("intensity never changes")
    fitted = _least_squares(times, values, spread)
    if fitted is None:
        return _none("fit did not converge from any start")
    variance = float(np.square(values - values.mean()).sum())
    r2 = 1 - float(np.square(values - fitted(times)).sum()) / variance
    if r2 < _LEAST_R2:
        return _none(f"no bolus: it would explain {100 * max(r2, 0):.0f} % of the curve's variance")
    peak_at = fitted.arrival_s + fitted.rise_s
    if peak_at > times[-1]:
        return _none("clip ends before the peak of contrast")
    notes = []
    if fitted.arrival_s <= times[0] + np.diff(times).max():
        notes.append("contrast is there from the first frames: AT, TTP, RT, WiAUC, WiR in doubt")
    left = (fitted(times[-1])[()] - fitted.baseline) / fitted.peak
    if left > _FALLEN:
        notes.append(
            f"clip too short for wash-out: it ends at {100 * left:.0f} % of the peak; no "
            f"{', '.join(WASH_OUT)}"
        )
    return Fit(fitted, r2, tuple(notes), bool(left <= _FALLEN))


def _none(reason: str) -> Fit:
    return Fit(None, float("nan"), (reason,))


def _least_squares(times: Floats, values: Floats, spread: float) -> Bolus | None:
    step = -(-len(times) // _MOST_POINTS)
    whole = len(times) // step * step
    # Means of neighbours, so that no frame is thrown away.
    times, values = (each[:whole].reshape(-1, step).mean(axis=1) for each in (times, values))
    length = times[-1] - times[0]
    low = float(values.min())
    smooth = np.convolve(values, np.ones(3) / 3, "same")[1:-1]
    top = int(smooth.argmax()) + 1
    floor = float(values[: top + 1].min())
    below = np.flatnonzero(values[: top + 1] <= floor + 0.1 * (values[top] - floor))
    foot = times[below[-1]]
    seen = max(times[top] - foot, length / len(times))
    scale = np.array([spread, spread, 1.0, 1.0, 1.0])
    lowest = np.array([low - spread, 0.0, times[0], np.log(length / len(times)), np.log(_SIGMA[0])])
    highest = np.array(
        [values.max(), 10 * spread, times[-1], np.log(2 * length), np.log(_SIGMA[1])]
    )
    lowest, highest = lowest / scale, highest / scale

    def bolus(x: Floats) -> Bolus:
        baseline, peak, arrival, rise, sigma = (float(value) for value in x * scale)
        return Bolus(baseline, peak, arrival, float(np.exp(rise)), float(np.exp(sigma)))

    def roots(curve: Floats) -> Floats:
        return np.sqrt(np.maximum((curve - low) / spread + _FLOOR, 0))

    best = None
    for sigma, ahead in product(_SHAPES, _HEAD_STARTS):
        arrival = max(foot - ahead * seen, times[0])
        guess = [floor, values[top] - floor, arrival, np.log(times[top] - arrival + 1e-3)]
        start = np.clip(np.array([*guess, np.log(sigma)]) / scale, lowest + 1e-6, highest - 1e-6)
        found = least_squares(
            lambda x: roots(bolus(x)(times)) - roots(values), start, bounds=(lowest, highest),
            x_scale=[1, 1, length / 10, 1, 1], max_nfev=300,
        )  # fmt: skip
        if found.success and (best is None or found.cost < best.cost):
            best = found
    return None if best is None else bolus(best.x)
