"""`ceus explain`: what a trained model looked at, patient by patient."""

import json
import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch

from datamodules.files import write_atomic
from datamodules.store.clips import ClipReader
from datamodules.store.pseudonyms import Pseudonyms
from experiments.errors import ConfigError
from experiments.explaining.choose import Asked, asked, store_near
from experiments.explaining.draw import overlay, sheet, shown_frames
from experiments.explaining.row import LEARNED, Explained, explain_row
from experiments.training.trained import Trained, load_trained
from lightning_modules.attribution import Method


def explain(
    folder: Path,
    *,
    cell: str = "",
    patients: Sequence[str] = (),
    method: Method = "occlusion",
    out: Path | None = None,
    store: Path | None = None,
) -> int:
    """Show what a trained model looked at in patients' images and clips.

    Args:
        folder: Folder of a run or of a sweep.
        cell: Which model of a sweep, as swin-video; of each patient the run that did not train on
            it is asked.
        patients: Ids, with commas between; by default those scored lowest and highest.
        method: Whose map is laid over the clip; the contact sheet has all.
        out: Folder for the files, by default FOLDER/explained; they are of patients and named by
            items' ids.
        store: The store, if it was moved.
    """
    chosen = asked(folder, cell, patients)
    near = store_near(folder, store)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    out = out or folder / "explained"
    out.mkdir(parents=True, exist_ok=True)

    @cache
    def opened(run: Path) -> Trained:
        return _open(run, near, device)

    for ask in chosen:
        trained = opened(ask.run)
        if ask.part not in ("oof", "test"):
            print(f"{ask.patient_id}: the model was trained on this patient (part {ask.part})")
        for row in trained.data.evaluation_rows([ask.patient_id]):
            explained = explain_row(trained, row, device)
            print(f"{ask.patient_id}: {_write(trained, ask, explained, method, out)}", flush=True)
            for line in _doubts(explained):
                print(f"  {line}")
    return 0


def _open(run: Path, store: Path | None, device: torch.device) -> Trained:
    trained = load_trained(run, store=store)
    trained.data.setup()
    trained.model.to(device)
    if trained.data.store.sha != trained.identity["store_sha"]:
        raise ConfigError(
            "store must be the one that the run was made from, got another "
            f"({trained.data.store.path}). Name the run's: --store STORE."
        )
    return trained


def _write(trained: Trained, ask: Asked, explained: Explained, method: Method, out: Path) -> Path:
    """The files of one row; the path of its contact sheet."""
    row, looks = explained.row, explained.looks
    name = f"{ask.run.name}-{row.item_id}-{row.window_number}"
    chance = 1 / (1 + math.exp(-explained.logit))
    title = (
        f"{ask.run.name}\n{row.item_id}   {ask.part}   probability {chance:.3f}   "
        f"colour: what speaks for {explained.leaning}"
    )
    if explained.alone:
        title += "".join(f"   {key} alone {v:+.2f}" for key, v in explained.alone.items())
        title += f"   both {explained.logit:+.2f} log-odds"
    write_atomic(out / f"{name}.png", sheet(explained, title))
    if "video" in looks:
        shown = method if method in looks["video"].maps else "occlusion"
        clip = row.items["video"]
        assert clip is not None
        frames = ClipReader(trained.data.store).read(clip, shown_frames(explained))
        write_atomic(out / f"{name}.mp4", overlay(explained, shown, frames))
    content = {
        "run_id": ask.run.name,
        "checkpoint": dict(trained.identity),
        "patient": Pseudonyms(trained.data.store.path).of(ask.patient_id),
        "item": row.item_id,
        "window": row.window_number,
        "part": ask.part,
        "log_odds": explained.logit,
        "log_odds_alone": explained.alone,
        "probability": chance,
        "frames_s": explained.seconds.tolist(),
        "importance_in_time": explained.in_time.tolist(),
        "most_important": explained.phase,
        "correlation_with_random_weights": {
            key: {m: None if math.isnan(v) else v for m, v in look.sanity.items()}
            for key, look in looks.items()
        },
    }
    write_atomic(out / f"{name}.json", json.dumps(content, indent=1))
    return out / f"{name}.png"


def _doubts(explained: Explained) -> list[str]:
    """What is to be known before a map is believed."""
    lines = []
    for key, look in explained.looks.items():
        if "grad_cam" not in look.maps:
            lines.append(f"{key}: no Grad-CAM, for no layer of this encoder is a map")
        same = [m for m, value in look.sanity.items() if abs(value) >= LEARNED]
        if same:
            lines.append(
                f"{key}: {', '.join(same)} looks much the same with random weights: it shows the "
                "picture, not what was learned"
            )
    return lines
