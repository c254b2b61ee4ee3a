"""One patient's clips as a picture: the regions, their curves with the fit, and the motion."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from datamodules.perfusion.bolus import Fit
from datamodules.perfusion.curves import Curves

_COLOURS = ("#D55E00", "#0072B2")  # of regions, the first and the second
_SHOWN = ("PE", "TTP", "mTT", "WiAUC", "WiR")


@dataclass(frozen=True)
class Clip:
    """A clip's curves and the fit of each region."""

    curves: Curves
    fits: Mapping[str, Fit]


def draw(clips: Sequence[Clip], *, unit: str) -> bytes:
    """A PNG, a row a clip; `unit` is that of the intensities. No patient is named in it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.6 * len(clips)), layout="constrained")
    grid = figure.subplots(len(clips), 3, squeeze=False, width_ratios=(1, 2, 1))
    for (frame, curve, motion), clip in zip(grid, clips, strict=True):
        _draw_frame(frame, clip.curves)
        _draw_curves(curve, clip, unit)
        _draw_motion(motion, clip.curves)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=110, metadata={"Software": None})
    return buffer.getvalue()


def _draw_frame(axes: Any, curves: Curves) -> None:
    axes.imshow(curves.grey, cmap="gray", vmin=0, vmax=255)
    for mask, colour in zip(curves.regions.values(), _COLOURS, strict=False):
        around = np.arange(-1, len(mask) + 1)  # a region may reach the picture's edge
        axes.contour(around, around, np.pad(mask, 1), [0.5], colors=colour, linewidths=1.2)
    second = curves.seconds[curves.reference]
    axes.set(xticks=[], yticks=[], title=f"brightest frame, {second:.1f} s")


def _draw_curves(axes: Any, clip: Clip, unit: str) -> None:
    seconds = clip.curves.seconds
    for (name, values), colour in zip(clip.curves.intensity.items(), _COLOURS, strict=False):
        fit = clip.fits[name]
        axes.plot(seconds, values, ".", color=colour, markersize=3, alpha=0.5)
        if fit.bolus is None:
            axes.plot([], [], color=colour, label=f"{name}: {fit.notes[0]}")
            continue
        known = {name: value for name, value in fit.parameters().items() if np.isfinite(value)}
        shown = ", ".join(f"{name} {known[name]:.3g}" for name in _SHOWN if name in known)
        label = f"{name}, R² {fit.r2:.2f}: {shown}"
        axes.plot(seconds, fit.bolus(seconds), color=colour, label=label)
        axes.axvline(fit.bolus.arrival_s, color=colour, linewidth=1, linestyle=":")
    axes.set(xlabel="time (s)", ylabel=f"intensity ({unit})")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.2), frameon=False, fontsize=8)


def _draw_motion(axes: Any, curves: Curves) -> None:
    for values, name, style in zip(curves.moved.T, ("down", "right"), ("-", "--"), strict=True):
        axes.plot(curves.seconds, values, style, color="0.3", linewidth=1, label=name)
    axes.set(xlabel="time (s)", ylabel="tissue moved (pixels)")
    axes.legend(frameon=False, fontsize=8)
