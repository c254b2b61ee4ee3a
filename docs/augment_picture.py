"""One picture of every augmentation, at the far end of its range, on a phantom patient."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datamodules.batches.augment import Augment, resize
from datamodules.batches.phases import PhaseFrames
from datamodules.batches.sampling import ClipTimes, FrameSampling
from datamodules.store.clips import ClipReader
from datamodules.store.folder import Store
from docs.phantom_picture import phantom_patients, save

_SIZE = 192
_STILL = {"flip": 0.0, "degrees": 0.0, "scale": 0.0, "shift": 0.0, "gain": 0.0}

# The settings of profile/study.yaml and base.yaml, one by one.
_SPACE: Sequence[tuple[str, dict[str, float]]] = (
    ("as stored", {}),
    ("flip", {"flip": 1.0}),
    ("degrees 5, scale\nand shift 0.05", {"degrees": 5.0, "scale": 0.05, "shift": 0.05}),
    ("gain 0.1", {"gain": 0.1}),
    ("tgc 0.1", {"tgc": 0.1}),
    ("shadow", {"shadow": 1.0}),
    ("speckle 0.05", {"speckle": 0.05}),
)

_TIME: Sequence[tuple[str, dict[str, Any]]] = (
    ("PhaseFrames", {}),
    ("shift_seconds 0.5", {"shift_seconds": 0.5}),
    ("speed 0.1", {"speed": 0.1}),
    ("jitter_seconds 0.2", {"jitter_seconds": 0.2}),
)

_DRAWS = 64  # of which the one that changes most is shown


def draw_augmentations(cohort_dir: Path, store: Path, out_png: Path) -> Path:
    """Draw the most conspicuous patient of a phantom cohort, augmented.

    Args:
        cohort_dir: Folder made by `make_phantom`.
        store: Store prepared from it.
        out_png: Picture to write.

    Returns:
        `out_png`.

    Raises:
        DataError: `cohort_dir` holds no phantom, or `store` is no store.
    """
    from matplotlib.figure import Figure

    patients = phantom_patients(cohort_dir)
    patient: str = max(patients, key=lambda p: p["z_image"] + p["z_video"])["patient_id"]
    opened = Store(store)
    items = opened.items[opened.items["patient_id"] == patient].set_index("modality")
    image, clip = (items.loc[[name]].iloc[0] for name in ("image", "ceus"))
    reader = ClipReader(opened)
    times = ClipTimes(
        curve=reader.index(clip["item_id"])["level"],
        fps=clip["fps"],
        arrival_s=clip["arrival_s"],
        peak_s=clip["peak_s"],
    )
    frame = reader.read(clip["item_id"], [round(clip["peak_s"] * clip["fps"])])
    still = torch.from_numpy(opened.image(image["item_id"]))[None]

    figure = Figure(figsize=(11, 5.6), layout="constrained")
    grid = figure.add_gridspec(3, len(_SPACE), height_ratios=(1, 1, 1.3))
    for row, (name, picture) in enumerate((("B-mode", still), ("CEUS", frame))):
        for column, (title, settings) in enumerate(_SPACE):
            axes = figure.add_subplot(grid[row, column])
            axes.imshow(_augmented(picture, settings).numpy(), cmap="gray", vmin=0, vmax=255)
            axes.set(xticks=[], yticks=[])
            if row == 0:
                axes.set_title(title, fontsize=9)
            if column == 0:
                axes.set_ylabel(name)
    _draw_times(figure.add_subplot(grid[2, :]), times)
    return save(figure, out_png)


def _augmented(picture: torch.Tensor, settings: dict[str, float]) -> torch.Tensor:
    """One channel (H, W) of a picture (1, 3, H, W), as the draw that changes it most leaves it."""
    augment = Augment(**_STILL | settings)
    planes = resize(picture[:, None], _SIZE)[:, 0]  # (1, T, H, W)
    drawn = torch.stack([augment.draw(np.random.default_rng(seed)) for seed in range(_DRAWS)])
    out = augment(planes.repeat(_DRAWS, 1, 1, 1), drawn)[:, 0]
    return out[int((out - planes[:, 0]).abs().mean(dim=(1, 2)).argmax())]


def _draw_times(axes: Any, times: ClipTimes) -> None:
    """The curve, and below it the frames of a window as each setting moves them."""
    seconds = np.arange(times.frames) / times.fps
    top = float(times.curve.max())
    axes.plot(seconds, times.curve, color="0.35", label="time-intensity curve")
    for moment, colour, name in (
        (times.arrival_s, "#0072B2", "arrival"),
        (times.peak_s, "#D55E00", "peak"),
    ):
        axes.axvline(moment, color=colour, linewidth=1, label=name)
    for line, (title, settings) in enumerate(_TIME, start=1):
        window = _varied(PhaseFrames(num_frames=16, **settings), times)
        level = -0.16 * top * line
        axes.plot(seconds[window], np.full(len(window), level), "|", color="black", markersize=9)
        axes.text(seconds[-1] * 1.01, level, title, fontsize=9, va="center")
    axes.set(
        xlim=(0, seconds[-1]),
        yticks=[0, round(top / 20) * 10, round(top / 20) * 20],
        xlabel="time (s)",
        ylabel="mean grey level",
    )
    axes.legend(frameon=False, loc="upper left", fontsize=9)


def _varied(sampling: FrameSampling, times: ClipTimes) -> np.ndarray[Any, Any]:
    """The window, as the draw that moves it most leaves it."""
    drawn = [sampling.draw(times, rng=np.random.default_rng(seed))[0] for seed in range(_DRAWS)]
    plain = sampling.windows(times, rng=np.random.default_rng(0))[0]
    return max(drawn, key=lambda window: int(np.abs(window - plain).sum()))
