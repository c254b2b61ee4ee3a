"""A synthetic CEUS cohort with a known answer, as the files a hospital would hand over.

Every patient has two independent latent scores, z ~ N(label · d, 1). One shows only in the B-mode
image (texture and margin of the nodule), one only in the clip (perfusion of the nodule). So the
best AUC that any classifier can reach is known: Φ(d/√2) for one modality and Φ(√(d_i² + d_v²)/√2)
for both, reached by the scores z themselves and by d_i z_i + d_v z_v.
"""

import csv
import json
import multiprocessing
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from datamodules.cores import cores
from datamodules.errors import DataError
from datamodules.phantom.anatomy import draw_anatomy
from datamodules.phantom.files import Frame, write_clip, write_still
from datamodules.phantom.perfusion import draw_perfusion
from datamodules.phantom.preset import PRESETS, PhantomPreset
from datamodules.phantom.render import Rendered, render_bmode, render_ceus
from datamodules.phantom.truth import Patient, answer, draw_patients, separation
from datamodules.processes import end_with_parent

__all__ = ["PRESETS", "PhantomPreset", "make_phantom"]
_RECIPE = 2  # raise it when the same settings no longer give the same bytes


def make_phantom(
    out: Path,
    *,
    patients: int | None = None,
    seed: int = 0,
    preset: Literal["demo", "published"] | PhantomPreset = "demo",
    masks: bool = False,
    workers: int | None = None,
    progress: bool = True,
) -> Path:
    """Make a synthetic cohort: `cohort.csv`, `images/`, `clips/` and the answer in `truth.json`.

    The bytes written depend on the settings alone (with the same library versions), not on the
    number of workers. The folder appears whole or not at all; making it again with the same
    settings does nothing.

    Args:
        out: Folder to make.
        patients: Number of patients; by default the preset's own.
        seed: Any whole number from 0.
        preset: Name of one of PRESETS, or a preset of your own.
        masks: Also draw lesion and parenchyma on the brightest frame of each clip, for `ceus tic`;
            images and clips stay the same.
        workers: Processes; by default one for each core. They are spawned, so a script that calls
            this needs its `if __name__ == "__main__":` guard.
        progress: Whether to show a progress bar on the standard error stream.

    Returns:
        The path of `cohort.csv`.

    Raises:
        DataError: A setting is out of its range, or `out` holds something else.
    """
    out = Path(out)
    if isinstance(preset, str) and preset not in PRESETS:
        raise DataError(f"preset must be one of {', '.join(PRESETS)}, got {preset!r}. Choose one.")
    name, knobs = (preset, PRESETS[preset]) if isinstance(preset, str) else ("custom", preset)
    if patients is not None:
        knobs = knobs.with_patients(patients)
    workers = cores() if workers is None else workers
    for option, value, lowest in (("seed", seed, 0), ("workers", workers, 1)):
        if value < lowest:
            raise DataError(f"{option} must be at least {lowest}, got {value!r}. Change it.")
    settings = {"preset": name, "seed": seed, "recipe": _RECIPE, **asdict(knobs)}
    if masks:  # phantoms of before are the same without
        settings["masks"] = True
    if _is_made(out, json.loads(json.dumps(settings))):
        return out / "cohort.csv"

    people = draw_patients(knobs, seed)
    partial_folder = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial_folder, ignore_errors=True)
    try:
        for folder in ("images", "clips", *(["masks"] if masks else [])):
            (partial_folder / folder).mkdir(parents=True)
        job = partial(_render_patient, preset=knobs, seed=seed, folder=partial_folder, masks=masks)
        records = list(_run(job, people, workers=workers, progress=progress))
        _write_cohort(partial_folder / "cohort.csv", people, records)
        truth = {"settings": settings, **answer(knobs, people), "patients": records}
        (partial_folder / "truth.json").write_text(json.dumps(truth, indent=1) + "\n")
        partial_folder.replace(out)
    finally:
        shutil.rmtree(partial_folder, ignore_errors=True)
    return out / "cohort.csv"


def _is_made(out: Path, settings: dict[str, Any]) -> bool:
    """Whether `out` already holds this very phantom; anything else in it is an error."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    truth = out / "truth.json"
    if not truth.is_file():
        raise DataError(
            f"out must be a new folder or a phantom made before, got {str(out)!r}. "
            "Choose another folder."
        )
    made_with = json.loads(truth.read_text())["settings"]
    keys = sorted(made_with.keys() | settings.keys())
    changed = [
        f"{key} {made_with.get(key)!r} -> {settings.get(key)!r}"
        for key in keys
        if made_with.get(key) != settings.get(key)
    ]
    if changed:
        raise DataError(
            f"out must be a phantom of the same settings, got {str(out)!r} "
            f"({'; '.join(changed)}). Choose another folder or remove this one."
        )
    return True


def _squash(z: float, d: float) -> float:
    """Latent score to 0..1, in order and nearly straight over the scores that occur."""
    return float(0.5 + 0.5 * np.tanh((z - d / 2) / 2.5))


def _render_patient(
    patient: Patient, *, preset: PhantomPreset, seed: int, folder: Path, masks: bool
) -> dict[str, Any]:
    """Write one patient's files and return the patient's entry of truth.json."""
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(1, patient.number)))
    suspicion = _squash(patient.z_image, separation(preset.image_auc))
    vascularity = _squash(patient.z_video, separation(preset.video_auc))
    anatomy = draw_anatomy(rng)
    images, clips = [], []
    for number in range(patient.images):
        path = folder / "images" / f"{patient.patient_id}_{number + 1}.png"
        still = render_bmode(
            rng, anatomy, suspicion=suspicion, size=preset.image_size, depth_mm=preset.depth_mm
        )
        write_still(path, still)
        images.append({"path": path.relative_to(folder).as_posix()})
    for number in range(patient.clips):
        boluses = draw_perfusion(rng, vascularity=vascularity, time_scale=preset.time_scale)
        fps = int(rng.integers(preset.fps[0], preset.fps[1] + 1))
        count = max(1, round(fps * rng.uniform(*preset.clip_seconds)))
        rendered = render_ceus(
            rng,
            anatomy,
            boluses,
            frames=count,
            fps=fps,
            size=preset.clip_size,
            depth_mm=preset.clip_depth_mm,
        )
        stem = folder / "clips" / f"{patient.patient_id}_{number + 1}"
        levels: list[float] = []
        path = write_clip(
            stem,
            _noting(rendered.frames, levels),
            size=preset.clip_size,
            kind=patient.number + number,
            fps=fps,
        )
        drawn = _draw_masks(folder / "masks", stem.name, rendered, levels, fps) if masks else {}
        clips.append(
            {
                "path": path.relative_to(folder).as_posix(),
                "frames": count,
                "fps": fps,
                "boluses": {region: asdict(bolus) for region, bolus in boluses.items()},
                **drawn,
            }
        )
    return {
        "patient_id": patient.patient_id,
        "label": patient.label,
        "split": patient.split,
        "z_image": patient.z_image,
        "z_video": patient.z_video,
        "images": images,
        "clips": clips,
    }


def _noting(frames: Iterator[Frame], levels: list[float]) -> Iterator[Frame]:
    """The frames, their mean grey levels noted on the way."""
    for frame in frames:
        levels.append(float(frame.mean()))
        yield frame


def _draw_masks(
    folder: Path, name: str, rendered: Rendered, levels: Sequence[float], fps: int
) -> dict[str, str]:
    """Masks on the brightest second's frame, the entry `mask` of the clip's row."""
    brightest = int(np.convolve(levels, np.ones(min(fps, len(levels))), "same").argmax())
    paths = []
    for region, mask in rendered.masks(brightest).items():
        if not mask.any():  # a preset so shallow shows none
            break
        paths.append(folder / f"{name}_{region}.png")
        write_still(paths[-1], mask)
    return {"mask": ";".join(path.relative_to(folder.parent).as_posix() for path in paths)}


def _run(
    job: "partial[dict[str, Any]]", people: Sequence[Patient], *, workers: int, progress: bool
) -> Iterator[dict[str, Any]]:
    """Do the job for everyone, in order of the patients."""
    from rich.console import Console  # here, for workers need no progress bar
    from rich.progress import track

    with ExitStack() as stack:
        results: Iterator[dict[str, Any]] = map(job, people)
        if workers > 1 and len(people) > 1:
            pool = ProcessPoolExecutor(
                workers, multiprocessing.get_context("spawn"), initializer=end_with_parent
            )
            stack.callback(pool.shutdown, cancel_futures=True)
            results = pool.map(job, people, chunksize=2)
        console = Console(stderr=True)
        yield from track(
            results, "phantom", total=len(people), console=console, disable=not progress
        )


def _write_cohort(path: Path, people: Sequence[Patient], records: Sequence[dict[str, Any]]) -> None:
    columns = ["patient_id", "label", "modality", "path", "split", "age", "sex", "centre"]
    if not people[0].split:
        columns.remove("split")
    if any("mask" in clip for record in records for clip in record["clips"]):
        columns.append("mask")
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        table.writeheader()
        for patient, record in zip(people, records, strict=True):
            row = {"patient_id": patient.patient_id, **asdict(patient)}
            for modality, items in (("image", record["images"]), ("ceus", record["clips"])):
                for item in items:
                    table.writerow({**row, **item, "modality": modality})
