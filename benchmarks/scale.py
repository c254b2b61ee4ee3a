"""How the work between training steps grows: with patients, and with runs."""

import hashlib
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from omegaconf import OmegaConf

from benchmarks.measure import Section, once, verdict
from datamodules.batches.modalities import CombinedDataModule
from datamodules.batches.sampling import UniformFrames
from datamodules.ingest.prepare import prepare
from datamodules.phantom.make import make_phantom
from datamodules.store.folder import Store
from datamodules.store.splits import load_split, make_split
from evaluation.records.listing import read_listing
from evaluation.records.schema import PREDICTION_COLUMNS
from experiments.config.compose import compose
from experiments.config.files import HERE, load_yaml
from experiments.config.run import Run, make_run, open_cohort
from experiments.launchers.go import go
from experiments.launchers.overview import overview
from experiments.run_folder.status import Status, write_status
from experiments.sweeps.expand import Sweep, expand
from experiments.sweeps.file import read_sweep
from experiments.sweeps.freeze import freeze

_PATIENTS = (400, 2_000, 10_000)
_SEEDS = {30: 1, 300: 10, 3_000: 100}
"""Seeds by number of runs: five architectures, three modalities and two folds of each."""
_COHORT = 400


def run(folder: Path, *, part: bool = False) -> Section:  # noqa: ARG001
    """Times what is done once a run or once a sweep, at three sizes of cohort and of sweep.

    Args:
        folder: Not used: everything is made in a temporary one.
        part: Without the largest sizes.
    """
    sizes = _PATIENTS[: 2 if part else 3]
    counts = list(_SEEDS)[: 2 if part else 3]
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        small = _small_store(place)
        stores = {n: _multiply(small, place / f"store{n}", patients=n) for n in sizes}
        rows = []
        timed: dict[tuple[str, int], float] = {}
        for n, store in stores.items():
            for what, case in _of_patients(store).items():
                timed[what, n] = once(case).cpu
        rows += [_row(what, "patients", sizes, timed) for what, n in timed if n == sizes[0]]
        for n in counts:
            for what, seconds in _of_runs(stores[_COHORT], place / f"runs{n}", n).items():
                timed[what, n] = seconds
        rows += [_row(what, "runs", counts, timed) for what, n in timed if n == counts[0]]
    targets = [] if part else _targets(timed)
    return Section(
        title="Scale",
        about="CPU seconds of what is done once a run (first rows) and once a sweep (last rows), "
        "without the imports. Exponent: of the last step up, 1 is linear. Runs are not trained: "
        "their folders and predictions are written as finished ones are, with scores at random.",
        columns=["", "of", *(f"size {i + 1}" for i in range(len(sizes))), "exponent"],
        rows=rows,
        targets=targets,
    )


def _row(
    what: str, of: str, sizes: Sequence[int], timed: dict[tuple[str, int], float]
) -> list[str]:
    seconds = [timed[what, n] for n in sizes]
    last = math.log(seconds[-1] / seconds[-2]) / math.log(sizes[-1] / sizes[-2])
    cells = [f"{n:,}: {s:.2f}" for n, s in zip(sizes, seconds, strict=True)]
    return [what, of, *cells, f"{last:.2f}"]


def _targets(timed: dict[tuple[str, int], float]) -> list[str]:
    most = {
        ("split load", 10_000): 0.2,
        ("setup", 10_000): 1.0,
        ("expand", 3_000): 20.0,
        ("freeze", 3_000): 20.0,
        ("nothing to do", 3_000): 20.0,
        ("status", 3_000): 5.0,
        ("evaluate", 3_000): 120.0,
    }
    return [
        verdict(f"{what}, {n:,}, CPU seconds", timed[what, n], most=bound)
        for (what, n), bound in most.items()
    ]


def _small_store(place: Path) -> Path:
    cohort = make_phantom(place / "phantom", patients=24, workers=1, progress=False)
    return prepare(cohort, place / "small", canvas=64, as_is=True, progress=False)


def _multiply(small: Path, out: Path, *, patients: int) -> Path:
    """A store of many patients whose files are those of a few, linked."""
    table = Store(small).items
    sources = list(table.groupby("patient_id"))
    (out / "items").mkdir(parents=True)
    for name in ("store.json", "prepared.json", "quality.csv", "skipped.csv", "patient.key"):
        if (small / name).exists():
            shutil.copy(small / name, out / name)
    tables = []
    for number in range(patients):
        _, items = sources[number % len(sources)]
        copied = items.assign(
            patient_id=f"p{number:06d}", item_id=[f"{number:08x}{k:08x}" for k in range(len(items))]
        )
        for old, new in zip(items["item_id"], copied["item_id"], strict=True):
            for file in (small / "items").glob(f"{old}.*"):
                os.link(file, out / "items" / f"{new}{file.suffix}")
        tables.append(copied)
    pd.concat(tables, ignore_index=True).to_parquet(out / "cohort.parquet", index=False)
    make_split(out, num_folds=2)
    return out


def _of_patients(store: Path) -> dict[str, Callable[[], object]]:
    common = ["architecture=resnet", "modality=combined", "profile=demo", f"store={store}"]
    input_args: dict[str, Any] = {
        f"{key}_{name}": value
        for key in ("image", "video")
        for name, value in (("size", 48), ("mean", [0.5] * 3), ("std", [0.5] * 3))
    }
    frames = UniformFrames(num_frames=8)

    def data() -> CombinedDataModule:
        return CombinedDataModule(
            store=store, split="default", fold=0, train_sampling=frames, eval_sampling=frames,
            **input_args,
        )  # fmt: skip

    there = data()
    there.setup()

    return {
        "split load": lambda: load_split(store, "default"),
        "setup": lambda: data().setup(),
        "plan of an epoch": lambda: len(there.train_dataloader()),
        "compose and make_run": lambda: make_run(compose(common)),
    }


def _sweep_file(store: Path, runs: Path, count: int) -> str:
    """The demo's sweep with more seeds."""
    content = load_yaml(HERE / "sweep" / "demo.yaml")
    content["axes"]["seed"] = list(range(_SEEDS[count]))
    content["overrides"].update({"store": str(store), "runs": str(runs), "wandb": False})
    file = runs.with_name("scale.yaml")
    OmegaConf.save(content, file)
    return str(file)


def _of_runs(store: Path, runs: Path, count: int) -> dict[str, float]:
    file = _sweep_file(store, runs, count)
    seconds, made = {}, list[Sweep]()
    seconds["expand"] = once(lambda: made.append(expand(read_sweep(file, [])))).cpu
    sweep = made[0]
    seconds["freeze"] = once(partial(freeze, sweep, extend=False)).cpu
    for each in sweep.runs:
        _finish(each, sweep)
    seconds["nothing to do"] = once(lambda: go(expand(read_sweep(file, [])), extend=False)).cpu
    seconds["status"] = once(lambda: overview(sweep.folder)).cpu
    from evaluation import evaluate

    seconds["evaluate"] = once(lambda: evaluate(sweep.folder)).cpu
    return seconds


def _finish(run: Run, sweep: Sweep) -> None:
    """Write what a finished run leaves and evaluation reads, scores at random."""
    study = run.study
    store, split = open_cohort(study.store, study.split)
    labels = store.labels
    rng = np.random.default_rng(int(run.run_id[-8:], 16))
    fold: Any = study.fold
    parts = {p: part for part, patients in split.parts(fold).items() for p in patients}
    truth = np.array([labels[p] for p in parts])
    logit = np.round(rng.normal(truth * 1.2, 1.0), 3)
    sealed = np.array([part == "test" for part in parts.values()])
    table = pd.DataFrame(
        {
            "patient_id": list(parts),
            "part": list(parts.values()),
            "label": np.where(sealed, np.nan, truth),
            "logit": logit,
            "probability": 1 / (1 + np.exp(-logit)),
            "n_items": 1,
        }
    ).assign(
        run_id=run.run_id,
        architecture=study.architecture,
        modality=study.modality,
        fold=str(study.fold),
        seed=study.seed,
        checkpoint_sha="0" * 64,
        **run.shas,
    )
    content = table[list(PREDICTION_COLUMNS)].to_parquet(index=False)
    (run.folder / "predictions.parquet").write_bytes(content)
    status = Status(
        state="done",
        attempts=1,
        analysis_sha=read_listing(sweep.folder).analysis_sha,
        predictions_sha=hashlib.sha256(content).hexdigest(),
    )
    write_status(run.folder, status)
