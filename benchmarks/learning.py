"""How well small cohorts are learned: recipes side by side, by the number of patients.

Every row is made of real runs: configured, trained and scored as a sweep's are, in processes of
their own. All recipes see the same patients.
"""

import itertools
import json
import logging
import math
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from omegaconf import OmegaConf
from scipy.stats import t as student

from benchmarks.measure import Section
from benchmarks.recipes import curve_of, logistic
from datamodules import ClipReader, Store
from datamodules.ingest.prepare import prepare
from datamodules.phantom.make import make_phantom
from datamodules.store.splits import make_split
from evaluation import auc_interval, calibration
from experiments.config.compose import compose
from experiments.config.run import make_run
from experiments.run_folder.status import read_status
from experiments.training.build import build
from experiments.training.execute import execute

_LIGHT = "densenet"
_BEFORE = (
    "finetune=full", "selection=inner_bce", "freeze_batch_norm=false", "unit_features=false",
    "pos_weight=balanced", "head_lr=1e-3", "head.class_path=backbones.WeightedLogitFusion",
    "unimodal_loss=0", "mirror_views=false",
)  # fmt: skip
_SCRATCH = (*_BEFORE, "encoder_lr=1e-3")
RECIPES: dict[str, tuple[str, ...]] = {
    "default": (),
    "probe": ("finetune=probe",),
    "early stopping, as before": _SCRATCH,
    "all patients, last weights": (*_SCRATCH, "selection=last", "trainer.max_epochs=12"),
    "refit": (*_SCRATCH, "selection=refit"),
    "timm": (*_SCRATCH, "selection=last", "model.class_path=benchmarks.recipes.TimmFinetuning",
             "trainer.max_epochs=12"),
    "EchoNet-Dynamic": (*_SCRATCH, "selection=last", "trainer.max_epochs=45",
                        "model.class_path=benchmarks.recipes.EchoNetDynamic"),
    "pretrained, then default": (),
    "pretrained, then probe": ("finetune=probe",),
}  # fmt: skip
"""Settings of each, over the demo's profile."""


_PEERS = {"timm": "image", "EchoNet-Dynamic": "video"}
"""Recipes of one modality."""

_OURS = ("default", "probe", "early stopping, as before")
_PRETRAINED_SIZES = (50, 100)
_DEMO, _UNLABELLED = 1000, 400
_ALL = {"demo": 280, "published": 224}
"""Training patients of fold 0."""


@dataclass(frozen=True)
class Job:
    """A run, and the row that it counts for."""

    cohort: str
    modality: str
    recipe: str
    size: int
    seed: int
    settings: tuple[str, ...]


def run(folder: Path, *, part: bool = False) -> Section:
    """Trains all recipes; with `part` three of them, at one size of one cohort."""
    folder = (folder / "learning").absolute()
    sizes, seeds = ((50,), range(2)) if part else ((25, 50, 100, _ALL["demo"]), range(3))
    jobs = list(_jobs(folder, "demo", _OURS if part else list(RECIPES), sizes, seeds))
    if not part:
        jobs += _jobs(folder, "published", _OURS, (50, _ALL["published"]), range(2))
    stores = {name: _cohort(folder, name) for name in {job.cohort for job in jobs}}
    weights = {} if part else {m: _pretrained(folder, m) for m in ("image", "video")}
    scored = _score_all(folder, jobs, weights)
    scored += [row for name, store in stores.items() for row in _twenty_lines(store, name, scored)]
    truths = {name: _truth(folder / f"{name}-files") for name in stores}
    return Section(
        title="Learning from few patients",
        about=f"Out-of-fold AUC of {_LIGHT}, light, from scratch: the mean over draws of patients "
        "and initial weights, and the difference to the default recipe on the same patients, "
        "with its 95 % interval over the draws. Gap: to the phantom's own scores on the same "
        "patients. Below the largest size early stopping and refit see a fifth of the fold "
        "besides, to choose an epoch.",
        columns=("cohort", "modality", "patients", "recipe", "AUC", "− default", "gap", "slope",
                 "Brier", "CPU s a run"),
        rows=list(_rows(scored, truths)),
    )  # fmt: skip


def _cohort(folder: Path, preset: str) -> Path:
    """The phantom's store; of `demo` 400 patients have no label, and few are held out."""
    store, files = folder / preset, folder / f"{preset}-files"
    if (store / "splits" / "default.json").is_file():
        return store
    folder.mkdir(parents=True, exist_ok=True)
    demo = preset == "demo"
    cohort = make_phantom(files, preset=preset, patients=_DEMO if demo else None, progress=False)  # type: ignore[arg-type]
    if demo:
        table = pd.read_csv(cohort, dtype=str, keep_default_na=False)
        without = sorted(table["patient_id"].unique())[:_UNLABELLED]
        table.loc[table["patient_id"].isin(without), "label"] = ""
        cohort = cohort.with_name("partly-labelled.csv")
        table.to_csv(cohort, index=False)
    prepare(cohort, store, canvas=128, as_is=True, progress=False)  # light networks need no more
    make_split(store, num_folds=2 if demo else 5, holdout_fraction=0.066)
    return store


def _jobs(
    folder: Path, cohort: str, recipes: Sequence[str], sizes: Sequence[int], seeds: Sequence[int]
) -> Iterator[Job]:
    """Our recipes at every size and in every modality; others where they say most."""
    common = ("profile=demo", f"architecture={_LIGHT}", f"store={folder / cohort}", "wandb=false")
    ends = (sizes[min(1, len(sizes) - 1)], sizes[-1])
    for size, seed, modality, recipe in itertools.product(
        sizes, seeds, ("image", "video", "combined"), recipes
    ):
        if recipe not in _OURS:
            wanted = _PRETRAINED_SIZES if recipe.startswith("pretrained") else ends
            if modality == "combined" or size not in wanted:
                continue
            if _PEERS.get(recipe, modality) != modality:
                continue
        draw = "null" if size == _ALL[cohort] else size  # of so many no part can be set aside
        settings = (f"modality={modality}", "fold=0", f"seed={seed}", f"train_patients={draw}")
        yield Job(cohort, modality, recipe, size, seed, (*common, *settings, *RECIPES[recipe]))


def _pretrained(folder: Path, modality: str) -> Path:
    """Weights of an encoder that saw the patients without a label; made once."""
    settings = (
        f"runs={folder / 'runs'}",
        "profile=demo",
        "wandb=false",
        "encoder_lr=1e-3",
        f"trainer.max_epochs={40 if modality == 'image' else 15}",
    )
    command = [sys.executable, "-m", "experiments", "pretrain", folder / "demo", "--encoder",
               _LIGHT, "--modality", modality, *settings]  # fmt: skip
    shown = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
    return Path(shown.stdout.rpartition("weights: ")[2].strip())


def _score_all(
    folder: Path, jobs: Sequence[Job], weights: Mapping[str, Path]
) -> list[tuple[Job, pd.DataFrame, float]]:
    runs = folder / "runs"
    ready = [
        replace(job, settings=(*job.settings, f"runs={runs}", _start(job, weights)))
        if job.recipe.startswith("pretrained")
        else replace(job, settings=(*job.settings, f"runs={runs}"))
        for job in jobs
    ]
    with ProcessPoolExecutor(os.cpu_count(), get_context("forkserver")) as pool:
        return list(pool.map(_score, ready))


def _start(job: Job, weights: Mapping[str, Path]) -> str:
    return f"{job.modality}_encoder.init_args.pretrained={weights[job.modality]}"


def _score(job: Job) -> tuple[Job, pd.DataFrame, float]:
    """One run, as `ceus fit` makes it but without its display; its OOF scores and CPU seconds."""
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    made = make_run(compose(job.settings))
    start, is_new = time.process_time(), read_status(made.folder).state != "done"
    if is_new:
        made.folder.mkdir(parents=True, exist_ok=True)
        (made.folder / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(made.config)))
        execute(made.folder)
    seconds = time.process_time() - start if is_new else math.nan  # an earlier call's
    table = pd.read_parquet(made.folder / "predictions.parquet")
    log_odds = np.log(table["probability"].clip(1e-7, 1 - 1e-7))
    log_odds -= np.log1p(-table["probability"].clip(1e-7, 1 - 1e-7))
    kept = table.assign(log_odds=log_odds)[table["part"] == "oof"]
    return job, kept[["patient_id", "label", "log_odds"]], seconds


def _twenty_lines(
    store: Path, cohort: str, scored: Sequence[tuple[Job, pd.DataFrame, float]]
) -> Iterator[tuple[Job, pd.DataFrame, float]]:
    """Time-intensity curve, 40 points from arrival, PCA, logistic regression: no network."""
    curves: dict[str, list[Any]] = defaultdict(list)
    table = Store(store)
    reader = ClipReader(table)
    clips = table.items[table.items["modality"] == "ceus"]
    columns = ("item_id", "patient_id", "frames", "fps", "arrival_s")
    for item, patient, frames, fps, arrival in zip(*(clips[c] for c in columns), strict=True):
        first = 0.0 if math.isnan(arrival) else min(arrival * fps, frames - 1)
        at = np.linspace(first, frames - 1, 40).astype(int)
        curves[patient].append(curve_of(reader.read(item, at)))
    for job, scores, _ in scored:
        if (job.cohort, job.modality, job.recipe) != (cohort, "video", "default"):
            continue
        start = time.process_time()
        data: Any = build(make_run(compose(job.settings)).config)[2]
        rows = [(p, curve) for p in data.training_patients for curve in curves[p]]
        others = [(p, curve) for p in scores["patient_id"] for curve in curves[p]]
        labels = [table.labels[p] for p, _ in rows]
        logits = logistic([c for _, c in rows], labels, [c for _, c in others], components=10)
        every = pd.DataFrame({"patient_id": [p for p, _ in others], "log_odds": logits})
        means = every.groupby("patient_id", as_index=False).mean()
        means["label"] = means["patient_id"].map(table.labels)
        taken = replace(job, recipe="intensity curve, scikit-learn")
        yield taken, means, time.process_time() - start


def _truth(files: Path) -> dict[str, dict[str, float]]:
    """The phantom's own best score of each patient, by modality."""
    content = json.loads((files / "truth.json").read_text())
    d = content["separation"]
    return {
        patient["patient_id"]: {
            "image": patient["z_image"],
            "video": patient["z_video"],
            "combined": d["image"] * patient["z_image"] + d["video"] * patient["z_video"],
        }
        for patient in content["patients"]
    }


def _rows(
    scored: Sequence[tuple[Job, pd.DataFrame, float]], truths: Mapping[str, Mapping[str, Any]]
) -> Iterator[list[str]]:
    cells: dict[tuple[Any, ...], list[tuple[Job, pd.DataFrame, float]]] = defaultdict(list)
    for job, table, seconds in scored:
        cells[job.cohort, job.modality, job.size, job.recipe].append((job, table, seconds))
    for (cohort, modality, size, recipe), runs in cells.items():
        aucs = [_auc(table["label"], table["log_odds"]) for _, table, _ in runs]
        best = [
            _auc(table["label"], [truths[cohort][p][modality] for p in table["patient_id"]])
            for _, table, _ in runs
        ]
        pooled = pd.concat([table for _, table, _ in runs])
        fitted = calibration(pooled["label"].to_numpy(), _sigmoid(pooled["log_odds"].to_numpy()))
        brier = float(((_sigmoid(pooled["log_odds"]) - pooled["label"]) ** 2).mean())
        yield [
            cohort, modality, str(size), recipe, f"{np.mean(aucs):.3f}",
            _difference(runs, aucs, cells.get((cohort, modality, size, "default"), [])),
            f"{np.mean(best) - np.mean(aucs):.3f}", f"{fitted.slope:.2f}", f"{brier:.3f}",
            f"{np.nanmedian([seconds for *_, seconds in runs]):.0f}",
        ]  # fmt: skip


def _difference(runs: Sequence[Any], aucs: Sequence[float], default: Sequence[Any]) -> str:
    """To the default recipe, paired by draw, with its interval over draws."""
    theirs = {job.seed: _auc(table["label"], table["log_odds"]) for job, table, _ in default}
    paired = [auc - theirs[job.seed] for (job, *_), auc in zip(runs, aucs, strict=True)]
    if len(paired) < 2 or not any(paired):
        return "–"
    half = student.ppf(0.975, len(paired) - 1) * statistics.stdev(paired) / math.sqrt(len(paired))
    middle = statistics.mean(paired)
    return f"{middle:+.3f} ({middle - half:+.3f} to {middle + half:+.3f})"


def _auc(labels: Any, scores: Any) -> float:
    return auc_interval(np.asarray(labels, int), np.asarray(scores, float)).auc


def _sigmoid(values: Any) -> Any:
    return 1 / (1 + np.exp(-values))
