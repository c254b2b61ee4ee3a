"""One picture of a phantom patient: B-mode, contrast over time, and the curves behind it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from datamodules.errors import DataError
from datamodules.phantom.perfusion import Bolus

_COLOURS = {"carotid": "#c0392b", "thyroid": "#2471a3", "nodule": "#e67e22"}
_FLOOR_DB = -45.0  # black in the clips
_NUM_FRAMES = 6


def draw_phantom(cohort_dir: Path, out_png: Path) -> Path:
    """Draw the most conspicuous patient of a phantom cohort.

    Args:
        cohort_dir: Folder made by `make_phantom`.
        out_png: Picture to write.

    Returns:
        `out_png`.

    Raises:
        DataError: `cohort_dir` holds no phantom.
    """
    from matplotlib.figure import Figure
    from PIL import Image

    patients = phantom_patients(cohort_dir)
    patient: dict[str, Any] = max(patients, key=lambda p: p["z_image"] + p["z_video"])
    clip = patient["clips"][0]
    boluses = {region: Bolus(**values) for region, values in clip["boluses"].items()}
    times = _telling_times(boluses, clip["frames"] / clip["fps"])
    frames = _frames(Path(cohort_dir) / clip["path"], np.rint(times * clip["fps"]).astype(int))

    figure = Figure(figsize=(11, 4.4), layout="constrained")
    grid = figure.add_gridspec(2, 3 + _NUM_FRAMES, height_ratios=(1, 1.2))
    bmode = figure.add_subplot(grid[:, :3])
    with Image.open(Path(cohort_dir) / patient["images"][0]["path"]) as still:
        bmode.imshow(np.asarray(still), cmap="gray")
    bmode.set_title("B-mode", fontsize=10)
    bmode.set_axis_off()
    for column, (second, frame) in enumerate(zip(times, frames, strict=True)):
        axes = figure.add_subplot(grid[0, 3 + column])
        axes.imshow(frame)
        axes.set_title(f"{second:.1f} s", fontsize=9)
        axes.set_axis_off()
    curves = figure.add_subplot(grid[1, 3:])
    seconds = np.linspace(0, clip["frames"] / clip["fps"], 400)
    for region, colour in _COLOURS.items():
        level = 10 * np.log10(np.maximum(boluses[region].intensity(seconds), 1e-9))
        curves.plot(seconds, level, color=colour, label=region)
    for second in times:
        curves.axvline(second, color="0.7", linewidth=0.8, linestyle=":")
    curves.set(
        xlim=(0, seconds[-1]),
        ylim=(_FLOOR_DB, 0),
        xlabel="time (s)",
        ylabel="enhancement (dB below white)",
        title="time-intensity curves",
    )
    curves.legend(frameon=False, loc="lower right")
    return save(figure, out_png)


def phantom_patients(cohort_dir: Path) -> list[dict[str, Any]]:
    """What is true of each patient of a phantom cohort.

    Raises:
        DataError: `cohort_dir` holds no phantom.
    """
    path = Path(cohort_dir) / "truth.json"
    if not path.is_file():
        raise DataError(
            f"cohort_dir must be a folder made by `ceus phantom`, got {str(cohort_dir)!r}. "
            "Make the phantom first."
        )
    patients: list[dict[str, Any]] = json.loads(path.read_text())["patients"]
    return patients


def save(figure: Any, out_png: Path) -> Path:
    """Write a figure as PNG, the same bytes whenever it is the same; give the path."""
    out_png.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out_png, dpi=150, metadata={"Software": None})
    return out_png


def _telling_times(boluses: dict[str, Bolus], clip_seconds: float) -> npt.NDArray[np.float64]:
    """Seconds of the frames to show: before arrival, arrival, wash-in, peak, and wash-out."""
    carotid, nodule, thyroid = (boluses[region] for region in ("carotid", "nodule", "thyroid"))
    peak = max(nodule.peak_s, thyroid.peak_s)
    last = clip_seconds * 0.98
    wanted = (
        carotid.arrival_s / 2,
        carotid.arrival_s + 0.3 * (carotid.peak_s - carotid.arrival_s),
        thyroid.arrival_s + 0.15 * (thyroid.peak_s - thyroid.arrival_s),
        peak,
        (peak + last) / 2,
        last,
    )
    return np.sort(np.minimum(wanted, last))


def _frames(path: Path, indices: npt.NDArray[np.int_]) -> list[npt.NDArray[np.uint8]]:
    """RGB frames (H, W, 3) at the indices, by decoding the clip once in order."""
    import av

    with av.open(str(path)) as container:
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return [np.asarray(decoded[min(i, len(decoded) - 1)], np.uint8) for i in indices]
