"""How contrast arrives in the regions of a phantom patient, and leaves."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

REGIONS = ("carotid", "thyroid", "nodule", "muscle")


@dataclass(frozen=True)
class Bolus:
    """Enhancement of one region: peak in dB below white, times in seconds of the clip.

    The first pass of a bolus as a lognormal, the model that fitted contrast ultrasound best in
    Strouthos et al., "Indicator dilution models for the quantification of microvascular blood flow
    with bolus administration of ultrasound contrast agents", IEEE Trans. UFFC 57(6):1296-1310,
    2010, doi 10.1109/TUFFC.2010.1550. Written by its peak it is
    I(t) = I_peak exp(-ln²((t - t_arrival) / (t_peak - t_arrival)) / (2 sigma²)).
    """

    arrival_s: float
    peak_s: float
    peak_db: float
    sigma: float

    def intensity(self, seconds: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Linear intensity (1 is white) at times in seconds; 0 before arrival."""
        elapsed = np.asarray(seconds, np.float64) - self.arrival_s
        log_time = np.log(np.maximum(elapsed, 1e-6) / (self.peak_s - self.arrival_s))
        curve = 10 ** (self.peak_db / 10) * np.exp(-(log_time**2) / (2 * self.sigma**2))
        return np.where(elapsed > 0, curve, 0.0)


def draw_perfusion(
    rng: np.random.Generator, *, vascularity: float, time_scale: float
) -> dict[str, Bolus]:
    """Boluses of the REGIONS: carotid first, then thyroid and nodule, then muscle.

    Args:
        rng: Source of what differs between injections (circulation time, dose).
        vascularity: 0..1; the nodule's peak rises with it from 14 dB below the thyroid's to 14 dB
            above, it fills earlier and faster, and empties later.
        time_scale: 1 for real time; 0.3 makes the bolus run 1/0.3 times faster.
    """
    u = rng.uniform
    arrival, dose = u(7.0, 11.0), u(-1.0, 1.0)
    step = 2 * vascularity - 1

    def bolus(delay: float, rise: float, peak_db: float, sigma: float) -> Bolus:
        start = arrival + delay
        return Bolus(start * time_scale, (start + rise) * time_scale, peak_db + dose, sigma)

    thyroid_db = u(-22.5, -21.5)
    return {
        "carotid": bolus(0.0, u(3.5, 4.5), -9.0, 0.75),
        "thyroid": bolus(u(1.5, 2.0), u(7.0, 8.0), thyroid_db, 0.95),
        "nodule": bolus(
            1.75 - 1.2 * step,
            7.5 - 2.0 * step,
            thyroid_db + 14 * step + u(-0.5, 0.5),
            0.95 + 0.15 * step,
        ),
        "muscle": bolus(u(3.0, 4.0), u(9.0, 11.0), -31.0, 0.95),
    }
