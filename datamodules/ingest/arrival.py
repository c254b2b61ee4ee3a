"""When contrast arrives and peaks in a clip, from the mean grey level of its frames.

Flashes and steps of gain are taken out of the curve first. Wash-in is where it first passes half
its rise and stays up. Before that, the curve's departure from its baseline is looked for against
the baseline's own changes, and arrival is the breakpoint of a piecewise regression around it, a
straight baseline and a straight rise, as in Cheong, Koh and Hou, "An automatic approach for
estimating bolus arrival time in dynamic contrast MRI using piecewise continuous regression models",
Phys. Med. Biol. 48(5):N83, 2003. A threshold alone is late on a slow rise; the foot of the steepest
tangent misses an artery that fills before the tissue. A bolus model (lognormal, gamma variate) is
not fitted: it holds for linear intensity, while clips hold grey levels, compressed by a curve that
differs between devices and is not in the file.

Where a clip does not show an arrival none is given, with the reason.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Curve = npt.NDArray[np.floating]
_Floats = npt.NDArray[np.float64]
LEAST_CONFIDENCE = 0.5  # below it no arrival is given
_LEAST_SECONDS = 2.0  # of a clip that can show an arrival
_SIDE_SECONDS = 0.25  # of the curve on either side of a step
_PEAK_SECONDS = 1.0
_SUSTAINED_SECONDS = 2.0  # wash-in stays up so long, a flash does not
_FLASH_SECONDS = 1.5  # a burst of destructive pulses is over by then
_LEAST_STEP, _LEAST_FLASH = 0.02, 0.05  # of the curve's range
_RETURN = 0.5  # of a flash's rise, that falls again in one frame
_GAP_SECONDS = 0.4  # an artery brightens visibly in that time
_LOOK_BACK_SECONDS = 2.0  # half a breath
_LEAST_SHARE = 0.01  # of the rise: an artery at the picture's edge

# Confidence is the least of five, each 0 at the first and 1 at the second value. They were set on
# phantom clips of another seed than the tests' and on lung ultrasound without contrast.
_GREY_LEVELS = (3.0, 9.0)  # rise, of 255
_RISE = (0.25, 0.75)  # rise over the baseline's level: in contrast mode tissue is nearly black
_CLARITY = (4.0, 20.0)  # rise over the baseline's own ups and downs
_BASELINE = (0.3, 0.9)  # seconds before arrival
_BEND = (1.5, 3.0)  # speed of wash-in over that of the baseline's drift


@dataclass(frozen=True)
class Arrival:
    """What a clip's curve tells.

    Attributes:
        arrival_s: Seconds from the first frame to the arrival of contrast; None if not found.
        peak_s: Seconds to the largest mean grey level after arrival; None without an arrival, or
            where the clip ends before it.
        confidence: 0 to 1; 1 where a person gave the arrival.
        warnings: What was found instead, in words.
    """

    arrival_s: float | None
    peak_s: float | None
    confidence: float
    warnings: tuple[str, ...] = ()


NO_ARRIVAL = Arrival(None, None, 0.0)
"""Of an image."""


def find_arrival(curve: Curve, *, fps: float) -> Arrival:
    """Find arrival and peak.

    Args:
        curve: (T,) mean grey level of each frame, of any scale that is 0 at black.
        fps: Frames per second, above 0.
    """
    cleaned, oddities = _clean(np.asarray(curve, np.float64), fps)
    if len(cleaned) < max(_LEAST_SECONDS * fps, 6):
        return _none(0.0, *oddities, f"clip of {len(cleaned) / fps:.1f} s is too short to see it")
    smooth = _mean(cleaned, _PEAK_SECONDS * fps)
    top = int(smooth.argmax())
    low = float(smooth[: top + 1].min())
    rise = float(smooth[top]) - low
    middle = _wash_in(smooth, low + rise / 2, low + rise / 4, fps)
    if middle is None or rise <= 0:
        return _none(0.0, *oddities, "mean grey level never rises to stay")
    foot = _foot(cleaned, middle, rise, fps)
    if foot is None:
        return _none(0.0, *oddities, "mean grey level climbs evenly")
    start, wander, drift = foot
    bend = (cleaned[middle] - cleaned[start]) / (middle - start) / max(drift, 1e-9)
    level = max(float(np.median(cleaned[: max(start, 1)])), 1e-3)
    doubts = {
        "mean grey level hardly rises": min(_ramp(rise, _GREY_LEVELS), _ramp(rise / level, _RISE)),
        "mean grey level rises no more than it wavers": _ramp(rise / wander, _CLARITY),
        "contrast is there from the first frames": _ramp(start / fps, _BASELINE),
        "mean grey level climbs evenly": _ramp(bend, _BEND),
    }
    doubt, confidence = min(doubts.items(), key=lambda item: item[1])
    if confidence < LEAST_CONFIDENCE:
        return _none(confidence, *oddities, doubt)
    return _with_peak(cleaned, fps, start / fps, confidence, oddities)


def given_arrival(curve: Curve, *, fps: float, arrival_s: float) -> Arrival:
    """The peak that follows an arrival which a person has given.

    Args:
        curve: As for `find_arrival`.
        fps: Frames per second, above 0.
        arrival_s: Seconds from the first frame, 0 to the clip's length.
    """
    cleaned, oddities = _clean(np.asarray(curve, np.float64), fps)
    return _with_peak(cleaned, fps, arrival_s, 1.0, oddities)


def _none(confidence: float, *reasons: str) -> Arrival:
    *others, reason = reasons
    return Arrival(None, None, confidence, (*others, f"no arrival of contrast found: {reason}"))


def _with_peak(
    cleaned: _Floats, fps: float, arrival_s: float, confidence: float, oddities: tuple[str, ...]
) -> Arrival:
    smooth = _mean(cleaned, _PEAK_SECONDS * fps)
    first = min(int(np.ceil(arrival_s * fps)), len(smooth) - 1)
    top = first + int(smooth[first:].argmax())
    if top + _PEAK_SECONDS * fps / 2 >= len(smooth) - 1:
        oddities = (*oddities, "clip ends before the peak of contrast")
        return Arrival(arrival_s, None, confidence, oddities)
    return Arrival(arrival_s, top / fps, confidence, oddities)


def _clean(curve: _Floats, fps: float) -> tuple[_Floats, tuple[str, ...]]:
    """The curve without single odd frames, flashes and steps of gain, and what was taken out.

    Up within one frame and down again within `_FLASH_SECONDS` is a flash. Up alone, and flat on
    both sides, is gain (or a cut): what follows is lowered. Down alone stays: it may be bubbles
    destroyed, and does not pass for an arrival.
    """
    side = max(1, round(_SIDE_SECONDS * fps))
    if len(curve) < 4 * side:
        return curve, ()
    steady = _median(curve, side)
    jumps = np.diff(steady, prepend=steady[0])
    spread = float(np.ptp(steady))
    large = max(_LEAST_STEP * spread, 10 * float(np.median(np.abs(jumps))))
    flashes, steps = [], []
    done = 0
    for step in np.flatnonzero(jumps > large).tolist():
        if step < done:
            continue
        window = jumps[step : step + round(_FLASH_SECONDS * fps)]
        back = np.flatnonzero(window < -max(_RETURN * jumps[step], _LEAST_FLASH * spread))
        before, after = steady[max(0, step - 1 - side)], steady[min(step + side, len(steady) - 1)]
        climb, follow = abs(steady[step - 1] - before), abs(after - steady[step])
        sudden = jumps[step] > 4 * climb
        if sudden and len(back) and jumps[step] > _LEAST_FLASH * spread:
            done = step + int(back[-1])
            steady[step:done] = np.linspace(steady[step - 1], steady[done], done - step)
            flashes.append(f"{step / fps:.1f}")
        elif sudden and jumps[step] > 4 * follow:
            steady[step:] -= jumps[step]
            steps.append(f"{step / fps:.1f}")
    oddities = [
        f"{what} at {', '.join(times[:3])}{' ...' * (len(times) > 3)} s"
        for what, times in (("flash", flashes), ("brightness jumps (gain?)", steps))
        if times
    ]
    return steady, tuple(oddities)


def _wash_in(smooth: _Floats, half: float, quarter: float, fps: float) -> int | None:
    """The first frame from which the curve is above half its rise, and does not fall back."""
    above = smooth >= half
    for start in np.flatnonzero(above & ~np.concatenate([[False], above[:-1]])).tolist():
        following = smooth[start : start + round(_SUSTAINED_SECONDS * fps)]
        if following.min() >= quarter and len(following) > fps / 2:
            return int(start)
    return None


def _foot(curve: _Floats, middle: int, rise: float, fps: float) -> tuple[int, float, float] | None:
    """The frame where the curve leaves its baseline, and the baseline's wavering and drift.

    Wavering is from its 10th to its 90th percentile, drift by the frame. The curve leaves where,
    for the first time, all that follows after `_GAP_SECONDS` is above the seconds before, by more
    than a share of the rise and than the baseline usually changes in that time. Around that frame
    a straight baseline and a straight rise are fitted; where they meet is arrival.
    """
    gap = max(1, round(_GAP_SECONDS * fps))
    back = max(1, round(_LOOK_BACK_SECONDS * fps))
    lowest_after = np.minimum.accumulate(curve[middle::-1])[::-1]
    for left in range(middle - gap):
        before = curve[max(0, left - back) : left + 1]
        usual = np.median(np.abs(before[gap:] - before[:-gap])) if len(before) > 2 * gap else 0
        if lowest_after[left + gap] - before.max() > max(_LEAST_SHARE * rise, 4 * usual):
            break
    else:
        return None
    first = max(0, left - back)
    part = curve[first : left + gap + 1]
    seconds = np.arange(len(part)) / fps
    best: tuple[float, int, float] | None = None
    for place in range(left - first, len(part) - 1):
        late = np.maximum(seconds - seconds[place], 0)
        terms = np.stack([np.ones_like(seconds), seconds, late], axis=1)
        fitted, *_ = np.linalg.lstsq(terms, part, rcond=None)
        error = float(np.square(terms @ fitted - part).sum())
        if best is None or error < best[0]:
            best = (error, first + place, abs(float(fitted[1])) / fps)
    assert best is not None
    _, start, drift = best
    wander = float(np.ptp(np.percentile(curve[: start + 1], [10, 90])))
    return start, max(wander, 1e-3), drift


def _ramp(value: float, ends: tuple[float, float]) -> float:
    return float(np.clip((value - ends[0]) / (ends[1] - ends[0]), 0, 1))


def _median(curve: _Floats, side: int) -> _Floats:
    """Median of each frame and `side` neighbours on either side."""
    padded = np.pad(curve, side, mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * side + 1)
    return np.asarray(np.median(windows, axis=1))


def _mean(curve: _Floats, width: float) -> _Floats:
    """Moving average over an odd number of frames; near the ends over those there are."""
    ones = np.ones(2 * min(int(width / 2), (len(curve) - 1) // 2) + 1)
    return np.convolve(curve, ones, "same") / np.convolve(np.ones(len(curve)), ones, "same")
