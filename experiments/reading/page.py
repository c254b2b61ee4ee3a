"""`ceus reader`: a folder at which patients are read in a browser, first without the models."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from math import isfinite
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from rich.console import Console
from rich.progress import track

from datamodules.files import storing
from datamodules.perfusion.bolus import fit_bolus
from datamodules.perfusion.curves import read_curves
from datamodules.store.folder import Store
from datamodules.store.pseudonyms import Pseudonyms
from evaluation.records.holdout import store_of
from evaluation.records.runs import Sweep, read_sweep
from evaluation.tables.scores import CellScores, cell_scores
from evaluation.tables.seal import read_seal
from experiments.errors import ConfigError
from experiments.reading.media import mp4_of, png_of
from experiments.reading.overlays import Overlay, read_overlays

FORMAT = 1
"""Of a page and its answers."""

Part = Literal["oof", "test"]

_PAGE = ("index.html", "page.css", "page.js")


@dataclass(frozen=True)
class Facts:
    """What tells a page from others; it is written into every answer.

    Attributes:
        format: `FORMAT`.
        sweep: Its name.
        part: Whose patients are read.
        patients: How many.
        split_sha: Of the sweep.
        store_sha: Of the sweep.
        predictions_sha: Of the predictions that the page shows.
        seed: Of the patients' choice and order.
    """

    format: int
    sweep: str
    part: Part
    patients: int
    split_sha: str
    store_sha: str
    predictions_sha: str
    seed: int


@dataclass(frozen=True)
class Opened:
    """A sweep as readers meet it.

    Attributes:
        sweep: As read.
        store: Its store.
        scores: By cell, each patient once; labels are not NaN.
        part: Of which patients.
    """

    sweep: Sweep
    store: Store
    scores: tuple[CellScores, ...]
    part: Part

    def table(self, scores: CellScores) -> pd.DataFrame:
        """The scores of a cell in this part."""
        return scores.oof if self.part == "oof" else scores.test

    @property
    def labels(self) -> pd.Series:
        """0 or 1 by patient whom any cell has scored, sorted."""
        tables = [self.table(each)[["patient_id", "label"]] for each in self.scores]
        known = pd.concat(tables).drop_duplicates("patient_id").set_index("patient_id")
        return known["label"].astype(int).sort_index()


def open_sweep(folder: Path, part: Part, store: Path | None) -> Opened:
    """A sweep whose patients readers may see.

    Raises:
        ConfigError: If the part is sealed, nobody of it was scored, or there is no store of it.
        DataError, EvaluationError: If store or sweep cannot be read.
    """
    sweep = read_sweep(folder)
    seal = read_seal(sweep, store)
    if part == "test" and seal.labels is None:
        raise ConfigError(
            f"the test set must be opened before it is read, got a sealed one ({folder}). Read "
            "the patients out of fold, or open it first: ceus evaluate --unseal-test."
        )
    near = store or store_of(sweep.path, sweep.listing)
    if near is None:
        raise ConfigError(
            f"store of the sweep must be where it was, got none ({folder}). Name it: --store STORE."
        )
    opened = Store(near)
    if opened.sha != sweep.shas["store_sha"]:
        raise ConfigError(
            f"store must be the one that the sweep was made from, got another ({near}). Name the "
            "sweep's: --store STORE."
        )
    result = Opened(sweep, opened, tuple(cell_scores(sweep, seal.labels)), part)
    if not any(len(result.table(each)) for each in result.scores):
        raise ConfigError(
            f"patients of part {part} must have scores, got none ({folder}). Train runs of folds "
            "0, 1, … for out-of-fold scores."
        )
    return result


def reader(
    folder: Path,
    *,
    out: Path | None = None,
    part: Part = "oof",
    count: int | None = None,
    seed: int = 0,
    store: Path | None = None,
) -> int:
    """Write a page at which radiologists read the patients, without and with the models.

    Args:
        folder: Sweep folder, as runs/demo.
        out: A new folder for the page, by default FOLDER/reader; it opens in a browser without a
            network. It shows patients' pictures and names nobody.
        part: oof, the patients whom models scored that had not seen them; or test, once that set
            was opened.
        count: Read so many of them, drawn by chance, with the classes' shares kept.
        seed: Of that draw and of the order of the patients, which differs between readers.
        store: The store, if it was moved.

    Raises:
        ConfigError, DataError, EvaluationError: For what the user can mend.
    """
    out = out or Path(folder) / "reader"
    if out.exists():
        raise ConfigError(
            f"out must be a new folder, got one that is there ({out}). Answers belong to the page "
            "that they were given at: name another with --out, or remove the old one."
        )
    opened = open_sweep(Path(folder), part, store)
    hashes = Pseudonyms(opened.store.path)
    patients = sorted(_drawn(opened.labels, count, seed), key=hashes.of)
    overlays = read_overlays(Path(folder) / "explained")
    facts = facts_of(opened, len(patients), seed)
    building = out.with_name(f".{out.name}.building")
    with storing(out, "Or name another folder: --out FOLDER."):
        shutil.rmtree(building, ignore_errors=True)  # of one that was killed
        (building / "media").mkdir(parents=True)
        for name in _PAGE:
            (building / name).write_bytes((files("experiments") / "reading" / name).read_bytes())
        cases, maps = [], {}
        console = Console(stderr=True)
        for patient in track(patients, "reader", console=console):
            name = hashes.of(patient)
            cases.append(_case(opened.store, patient, name, building))
            maps[name] = _maps(opened.store, patient, name, overlays, building)
        question = opened.sweep.question
        asked = {key: getattr(question, key) for key in ("title", "positive", "negative")}
        page = asdict(facts) | {"question": asked}
        _script(building / "cases.js", ceusPage=page, ceusCases=cases)
        _script(building / "model.js", ceusModel=_model(opened, patients, hashes) | {"maps": maps})
        building.rename(out)
    mapped = sum(map(bool, maps.values()))
    print(
        f"page: {out / 'index.html'} ({len(patients)} patients, {mapped} with an overlay of "
        f"ceus explain)\nThen: ceus readers {folder} ANSWERS.json …"
    )
    return 0


def facts_of(opened: Opened, patients: int, seed: int) -> Facts:
    """What a page of this sweep says of itself."""
    sweep = opened.sweep
    return Facts(
        FORMAT, sweep.name, opened.part, patients, **sweep.shas,
        predictions_sha=sweep.predictions_sha, seed=seed,
    )  # fmt: skip


def _drawn(labels: pd.Series, count: int | None, seed: int) -> list[str]:
    everyone = [str(patient) for patient in labels.index]
    if count is None:
        return everyone
    if not 2 <= count <= len(everyone):
        raise ConfigError(
            f"count must be 2 to {len(everyone)}, the patients of this part, got {count}."
        )
    rng = np.random.default_rng(seed)
    positives = round(count * float(labels.mean()))
    positives = min(max(positives, 1), count - 1)  # of one class there is no AUC
    drawn = []
    for label, wanted in ((1, positives), (0, count - positives)):
        own = labels.index[labels == label]
        drawn += list(rng.choice(own, min(wanted, len(own)), replace=False))
    return [str(patient) for patient in drawn]


def _case(store: Store, patient: str, name: str, to: Path) -> dict[str, Any]:
    """A patient's pictures, written; what the page knows of them: no label and no score."""
    images, clips = [], []
    for number, item in enumerate(_items(store, patient, "image"), start=1):
        images.append(f"media/{name}-image{number}.png")
        (to / images[-1]).write_bytes(png_of(store.image(item)))
    for number, item in enumerate(_items(store, patient, "ceus"), start=1):
        file = f"media/{name}-clip{number}.mp4"
        (to / file).write_bytes(mp4_of(store, item))
        clips.append({"file": file, **_curves(store, item)})
    return {"patient": name, "images": images, "clips": clips}


def _items(store: Store, patient: str, modality: str) -> list[str]:
    table = store.items
    own = (table["patient_id"] == patient) & (table["modality"] == modality)
    return sorted(table.loc[own, "item_id"].astype(str))


def _curves(store: Store, item: str) -> dict[str, Any]:
    found = read_curves(store, item, box=None, range_db=None)
    curves = {}
    for name, values in found.intensity.items():
        bolus = fit_bolus(found.seconds, values).bolus
        fitted = bolus(found.seconds) if bolus else ()
        curves[name] = {"seen": _rounded(values), "fitted": _rounded(fitted)}
    return {"seconds": _rounded(found.seconds, 4), "curves": curves}


def _rounded(values: Any, digits: int = 1) -> list[float | None]:
    return [round(float(v), digits) if isfinite(v) else None for v in values]


def _maps(
    store: Store, patient: str, name: str, overlays: Sequence[Overlay], to: Path
) -> list[dict[str, Any]]:
    """Overlays of the patient's clips, written."""
    clips = _items(store, patient, "ceus")
    found: list[dict[str, Any]] = []
    for overlay in (each for each in overlays if each.patient == name and each.item in clips):
        file = f"media/{name}-map{len(found) + 1}.mp4"
        shutil.copyfile(overlay.clip, to / file)
        shown = {"file": file, "clip": clips.index(overlay.item), "model": overlay.run}
        found.append(shown | {"from": overlay.first_s, "to": overlay.last_s})
    return found


def _model(opened: Opened, patients: Sequence[str], hashes: Pseudonyms) -> dict[str, Any]:
    """Every cell's probability by patient; None where the patient lacks its modality."""
    columns: list[Mapping[str, float]] = []
    for scores in opened.scores:
        table = opened.table(scores)
        columns.append(dict(zip(table["patient_id"], table["probability"], strict=True)))
    return {
        "cells": [list(scores.cell) for scores in opened.scores],
        "probabilities": {
            hashes.of(patient): [
                round(float(column[patient]), 4) if patient in column else None
                for column in columns
            ]
            for patient in patients
        },
    }


def _script(path: Path, **values: Any) -> None:
    """Values as a script: a page that was opened from a disk may not read other files."""
    lines = [f"window.{name} = {json.dumps(value)};\n" for name, value in values.items()]
    path.write_text("".join(lines), encoding="utf-8")
