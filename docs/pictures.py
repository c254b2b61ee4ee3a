"""Three pictures of the README, each drawn from a phantom cohort, and one of `ceus doctor`.

Each drawer of the first takes the folder made by `make_phantom` (and the store prepared from it,
where it shows what was found), writes a PNG and gives its path. It raises DataError if the folder
holds no phantom, or the store is none.
"""

import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import torch
from matplotlib.figure import Figure
from PIL import Image
from rich.console import Console

from datamodules.batches.augment import Augment, resize
from datamodules.batches.phases import PhaseFrames
from datamodules.batches.sampling import ClipTimes, FrameSampling
from datamodules.errors import DataError
from datamodules.phantom.perfusion import Bolus
from datamodules.store.clip_file import read_index
from datamodules.store.clips import ClipReader
from datamodules.store.folder import Store
from experiments.doctor.finding import Finding
from experiments.doctor.page import page

_COLOURS = {"carotid": "#c0392b", "thyroid": "#2471a3", "nodule": "#e67e22"}
_FLOOR_DB = -50.0  # black in the clips
_NUM_FRAMES = 6
_NUM_CURVES = 6
_SIZE = 192  # pixels of an augmented picture
_BLUE, _ORANGE = "#0072B2", "#D55E00"
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


def draw_doctor(found_json: Path, out_svg: Path) -> Path:
    """Draw the page of what `ceus doctor --json` found, 80 columns wide, without a font to load."""
    checks = json.loads(Path(found_json).read_text())["checks"]
    console = Console(record=True, width=80, file=io.StringIO(), force_terminal=True)
    console.print(page([Finding(**check) for check in checks]))
    svg = console.export_svg(title="ceus doctor stores/demo --sweep demo", unique_id="doctor")
    out_svg.write_text(re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL), encoding="utf-8")
    return out_svg


def draw_phantom(cohort_dir: Path, out_png: Path) -> Path:
    """Draw the most conspicuous patient of a phantom cohort."""
    patients = _patients(cohort_dir)
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
    return _save(figure, out_png)


def draw_arrivals(cohort_dir: Path, store: Path, out_png: Path) -> Path:
    """Draw time-intensity curves of a phantom cohort, from the earliest arrival to the latest."""
    opened = Store(store)
    patients = _patients(cohort_dir)
    single = {p["patient_id"]: p["clips"][0]["boluses"] for p in patients if len(p["clips"]) == 1}
    items = opened.items[opened.items["modality"] == "ceus"]
    items = items[items["patient_id"].isin(single)].sort_values("arrival_s")
    chosen = items.iloc[np.unique(np.linspace(0, len(items) - 1, _NUM_CURVES).round().astype(int))]

    figure = Figure(figsize=(11, 5), layout="constrained")
    grid = figure.subplots(2, _NUM_CURVES // 2, squeeze=False)
    for axes, (_, row) in zip(grid.flat, chosen.iterrows(), strict=False):
        index = read_index(opened.item_path(row["item_id"], ".idx"))
        _draw_clip(axes, index, row, single[row["patient_id"]])
    for axes in grid[:, 0]:
        axes.set_ylabel("mean grey level")
    for axes in grid[-1]:
        axes.set_xlabel("time (s)")
    handles, labels = grid.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False)
    return _save(figure, out_png)


def draw_augmentations(cohort_dir: Path, store: Path, out_png: Path) -> Path:
    """Draw the most conspicuous patient of a phantom cohort, augmented."""
    patients = _patients(cohort_dir)
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
    return _save(figure, out_png)


def _patients(cohort_dir: Path) -> list[dict[str, Any]]:
    """What is true of each patient of a phantom cohort."""
    path = Path(cohort_dir) / "truth.json"
    if not path.is_file():
        raise DataError(
            f"cohort_dir must be a folder made by `ceus phantom`, got {str(cohort_dir)!r}. "
            "Make the phantom first."
        )
    patients: list[dict[str, Any]] = json.loads(path.read_text())["patients"]
    return patients


def _save(figure: Any, out_png: Path) -> Path:
    """Write a figure as PNG, the same bytes whenever it is the same; give the path."""
    out_png.parent.mkdir(parents=True, exist_ok=True)
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=150, metadata={"Software": None})
    # Speckle hardly compresses: a palette makes the file smaller.
    picture = Image.open(drawn).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    picture.save(out_png, optimize=True)
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
    with av.open(str(path)) as container:
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return [np.asarray(decoded[min(i, len(decoded) - 1)], np.uint8) for i in indices]


def _draw_clip(axes: Any, index: Any, row: Any, boluses: dict[str, dict[str, float]]) -> None:
    truth = min(bolus["arrival_s"] for bolus in boluses.values())
    peaks = [boluses[region]["peak_s"] for region in ("carotid", "thyroid", "nodule")]
    axes.plot(index["pts"], index["level"], color="0.35", linewidth=1.2, label="stored curve")
    axes.axvline(truth, color=_BLUE, linewidth=4, alpha=0.35, label="true arrival")
    axes.axvline(row["arrival_s"], color=_BLUE, linewidth=1.2, label="arrival found")
    axes.axvspan(
        min(peaks), max(peaks), color=_ORANGE, alpha=0.2, linewidth=0,
        label="true peaks of artery, thyroid and nodule",
    )  # fmt: skip
    axes.axvline(row["peak_s"], color=_ORANGE, linewidth=1.2, linestyle="--", label="peak found")
    axes.set_title(
        f"arrival {row['arrival_s'] - truth:+.2f} s, confidence {row['arrival_confidence']:.2f}",
        fontsize=9,
    )
    axes.set_ylim(bottom=0)


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
        (times.arrival_s, _BLUE, "arrival"),
        (times.peak_s, _ORANGE, "peak"),
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
