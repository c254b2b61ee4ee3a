"""Explained rows as pictures: a contact sheet, and the clip beside its overlay."""

import io
from fractions import Fraction

import av
import matplotlib as mpl
import numpy as np
import torch
import torch.nn.functional as F
from av.video.stream import VideoStream
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from experiments.explaining.row import Explained
from lightning_modules.attribution import Method

_COLUMNS = 8  # frames of a clip on the sheet
_FRAMES = 240  # of an overlay at most
_SIDE = 256  # pixels of each of its two pictures
_STILL = 4.4  # rows of a clip's pictures that an image takes
_STRIP = 64  # height of the curve below them
_NAMES = {"grad_cam": "Grad-CAM", "occlusion": "occlusion", "gradients": "integrated\ngradients"}


def sheet(explained: Explained, title: str) -> bytes:
    """The contact sheet as PNG: frames, maps, maps of random weights, the curve in time.

    Args:
        explained: What to draw.
        title: Its first line.
    """
    heights = [
        2 * len(look.maps) + 1 if key == "video" else _STILL
        for key, look in explained.looks.items()
    ]
    has_clip = "video" in explained.looks
    figure = Figure(figsize=(11, 1.25 * sum(heights) + 2.2 * has_clip + 0.8), layout="constrained")
    figure.suptitle(title, fontsize=9)
    parts = figure.subfigures(
        len(heights) + has_clip, 1, squeeze=False, height_ratios=[*heights, *[2] * has_clip]
    )[:, 0]
    for part, key in zip(parts, explained.looks, strict=False):
        (_draw_clip if key == "video" else _draw_still)(part, explained, key)
    if has_clip:
        _draw_curve(parts[-1].subplots(), explained)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=80)
    return content.getvalue()


def _draw_still(part: Figure, explained: Explained, key: str) -> None:
    look = explained.looks[key]
    axes = part.subplots(2, 1 + len(look.maps), squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    axes[0, 0].imshow(look.pixels[0])
    axes[0, 0].set_title(key, fontsize=8)
    for column, method in enumerate(look.maps, 1):
        ways = [(False, _NAMES[method].replace("\n", " "))]
        if method in look.random:
            ways.append((True, f"random weights, ρ {look.sanity.get(method, np.nan):.2f}"))
        for axis, (random, name) in zip(axes[:, column], ways, strict=False):
            shown = explained.evidence(key, method, random=random)[0]
            axis.imshow(overlaid(look.pixels[0], shown, full(shown)))
            axis.set_title(name, fontsize=8)


def _draw_clip(part: Figure, explained: Explained, key: str) -> None:
    look = explained.looks[key]
    chosen = np.unique(np.linspace(0, len(look.pixels) - 1, _COLUMNS).round().astype(int))
    axes = part.subplots(1 + 2 * len(look.maps), _COLUMNS, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for column, at in enumerate(chosen):
        axes[0, column].imshow(look.pixels[at])
        axes[0, column].set_title(f"{explained.seconds[at]:.1f} s", fontsize=7)
        for number, method in enumerate(look.maps):
            for line, random in ((1 + 2 * number, False), (2 + 2 * number, True)):
                if random and method not in look.random:
                    continue
                shown = explained.evidence(key, method, random=random)
                axes[line, column].imshow(overlaid(look.pixels[at], shown[at], full(shown)))
    _label(axes[0, 0], key)
    for number, method in enumerate(look.maps):
        _label(axes[1 + 2 * number, 0], _NAMES[method])
        _label(axes[2 + 2 * number, 0], f"random weights\nρ {look.sanity.get(method, np.nan):.2f}")


def _label(axis: Axes, text: str) -> None:
    axis.text(-0.08, 0.5, text, fontsize=7, ha="right", va="center", transform=axis.transAxes)


def _draw_curve(axis: Axes, explained: Explained) -> None:
    times = explained.times
    assert times is not None
    axis.plot(np.arange(times.frames) / times.fps, times.curve, color="black", linewidth=1)
    axis.set(xlabel="seconds", ylabel="mean grey level (black)")
    for moment, name in ((times.arrival_s, "arrival"), (times.peak_s, "peak")):
        if moment is not None:
            axis.axvline(moment, color="grey", linewidth=0.8, linestyle=":")
            axis.text(
                moment, 1, f" {name}", fontsize=7, va="top", transform=axis.get_xaxis_transform()
            )
    bars = axis.twinx()
    gap = np.diff(explained.seconds).min() if len(explained.seconds) > 1 else 1.0
    held = explained.lean * explained.in_time
    colours = np.where(held > 0, "tab:orange", "tab:blue")
    bars.bar(explained.seconds, held, width=0.5 * gap, color=colours, alpha=0.6)
    bars.axhline(0, color="tab:orange", linewidth=0.5)
    bars.set_ylabel(
        f"importance of a frame for {explained.leaning}\n(log-odds lost without it)", fontsize=7
    )


def full(evidence: NDArray[np.float32]) -> float:
    """The evidence that has the full colour: exceeded by 1 % of a map, lest one pixel dim it."""
    return float(np.quantile(evidence, 0.99)) or float(evidence.max())


def overlaid(
    pixels: NDArray[np.float32], evidence: NDArray[np.float32], highest: float
) -> NDArray[np.float32]:
    """A frame `(H, W, 3)`, 0 to 1, in grey under its evidence `(H, W)`, strong where it is high."""
    share = np.clip(evidence / highest, 0, 1) if highest > 0 else np.zeros_like(evidence)
    colour = mpl.colormaps["turbo"](0.25 + 0.75 * share)[..., :3]
    alpha = 0.65 * share[..., None] ** 0.7
    grey = pixels.mean(-1, keepdims=True)
    return np.asarray((1 - alpha) * grey + alpha * colour, np.float32)


def overlay(explained: Explained, method: Method, frames: torch.Tensor) -> bytes:
    """An MP4 of the clip, beside it the same under the evidence, below them the curve in time.

    Args:
        explained: A row with a clip.
        method: Whose map.
        frames: uint8 `(N, 3, H, W)`, those that `shown_frames` names.
    """
    assert explained.times is not None
    assert explained.row.window is not None
    numbers = shown_frames(explained)
    found = explained.evidence("video", method)
    highest = full(found)
    evidence = torch.from_numpy(found)
    evidence = F.interpolate(evidence[:, None], size=(_SIDE, _SIDE), mode="bilinear")[:, 0]
    strip = _strip(explained, width=2 * _SIDE)
    speed = len(numbers) / ((numbers[-1] - numbers[0] + 1) / explained.times.fps)
    content = io.BytesIO()
    with av.open(content, "w", format="mp4") as container:
        rate = Fraction(max(speed, 1.0)).limit_denominator(1000)
        stream = container.add_stream("libx264", rate=rate, options={"crf": "23"})
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = 2 * _SIDE, _SIDE + _STRIP, "yuv420p"
        for number, frame in zip(numbers, frames, strict=True):
            plain = F.interpolate(frame[None].float() / 255, size=(_SIDE, _SIDE), mode="bilinear")
            pixels = plain[0].permute(1, 2, 0).numpy()
            over = overlaid(pixels, _at(number, explained.row.window, evidence), highest)
            below = strip.copy()
            at = round(number / max(explained.times.frames - 1, 1) * (2 * _SIDE - 1))
            below[:, max(at - 1, 0) : at + 1] = (1.0, 1.0, 1.0)
            picture = np.concatenate([np.concatenate([pixels, over], 1), below])
            shown = np.rint(255 * np.clip(picture, 0, 1)).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(shown, format="rgb24")))
        container.mux(stream.encode())
    return content.getvalue()


def shown_frames(explained: Explained) -> NDArray[np.int64]:
    """Numbers of the clip's frames in its overlay: those of the window and all between."""
    window = explained.row.window
    assert window is not None
    count = min(int(window[-1] - window[0]) + 1, _FRAMES)
    return np.linspace(window[0], window[-1], count).round().astype(np.int64)


def _at(number: int, window: NDArray[np.int64], evidence: torch.Tensor) -> NDArray[np.float32]:
    """The evidence at a frame between those that the network saw, on a straight line."""
    after = int(np.clip(np.searchsorted(window, number), 1, max(len(window) - 1, 1)))
    if len(window) == 1:
        return np.asarray(evidence[0])
    first, second = window[after - 1], window[after]
    share = float((number - first) / max(second - first, 1))
    return np.asarray(evidence[after - 1] * (1 - share) + evidence[after] * share)


def _strip(explained: Explained, *, width: int) -> NDArray[np.float32]:
    """Curve (grey) and importance of the frames (orange; blue against), `(_STRIP, width, 3)`."""
    times = explained.times
    assert times is not None
    figure = Figure(figsize=(width / 100, _STRIP / 100), dpi=100, facecolor="black")
    axis = figure.add_axes((0, 0, 1, 1))
    axis.set_axis_off()
    axis.set_xlim(0, max(times.frames - 1, 1) / times.fps)
    axis.fill_between(np.arange(times.frames) / times.fps, times.curve, color="0.35")
    bars = axis.twinx()
    bars.set_axis_off()
    held = explained.lean * explained.in_time
    gap = np.diff(explained.seconds).min() if len(explained.seconds) > 1 else 1.0
    colours = np.where(held > 0, "tab:orange", "tab:blue")
    bars.bar(explained.seconds, held, width=0.4 * gap, color=colours)
    content = io.BytesIO()
    figure.savefig(content, format="rgba", facecolor="black")
    pixels = np.frombuffer(content.getvalue(), np.uint8).reshape(_STRIP, width, 4)
    return np.asarray(pixels[..., :3] / 255, np.float32)
