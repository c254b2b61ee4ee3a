"""`ceus predict`: from raw files to probabilities, decisions and warnings."""

import csv
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import nan
from pathlib import Path

from datamodules import Store
from datamodules.ingest.prepare import prepare
from evaluation.files import read_parquet
from evaluation.tables.operating import YOUDEN
from experiments.errors import ConfigError
from experiments.predicting.deployed import Deployed, find_deployed
from experiments.predicting.output import Prediction, require_rule, write
from experiments.predicting.reference import facts_of, reference_of
from experiments.predicting.scoring import load_model
from experiments.predicting.sets import read_levels, set_cuts
from experiments.predicting.unlike import Finding, findings_of
from experiments.training.trained import Accelerator


def predict(
    folder: Path,
    *,
    cell: str,
    cohort: Path | None = None,
    image: Path | None = None,
    clip: Path | None = None,
    patient: str = "patient",
    to: Path = Path("predictions"),
    rule: str = YOUDEN,
    conformal: Sequence[str] = (),
    store: Path | None = None,
    skip_bad: bool = False,
    accelerator: Accelerator = "auto",
    workers: int | None = None,
) -> int:
    """Predict new patients from raw files with the deployed model of a cell.

    Files go through the same preparation as those of the sweep's store, then through the runs of
    fold `all` of every seed; the mean log-odds are recalibrated as the sweep's evaluation says, and
    cut at the threshold that it freezes. Where all of a cohort's rows have labels, or some, those
    patients are evaluated as an external test set.

    Args:
        folder: Sweep folder, as runs/demo.
        cell: ARCHITECTURE-MODALITY, as swin-combined.
        cohort: Table of new patients, as for `ceus prepare`; labels may be empty.
        image: In the place of a table: an image of one patient.
        clip: In the place of a table, or beside an image: a clip of the same patient.
        patient: Name for that patient in what is written.
        to: Folder for predictions.csv and predictions.json, and what else there is.
        rule: Operating point of the decision, as the evaluation names it.
        conformal: Levels of sets of classes, as 0.1,0.05: shares of either class that may be
            missed. Calibrated on the opened test set.
        store: The sweep's store, if it was moved; needed for the first prediction only.
        skip_bad: Leave bad rows out instead of failing.
        accelerator: Where to compute; auto takes a GPU if there is one.
        workers: Processes that read files; by default one a core, or one for 2 GB of memory.

    Raises:
        ConfigError, DataError, EvaluationError: For what the user can mend.
    """
    if (cohort is None) == (image is None and clip is None):
        raise ConfigError(
            "new patients must be given by --cohort, or one of them by --image and --clip, got "
            f"{'both' if cohort else 'neither'}. Give one of these."
        )
    levels = read_levels(conformal)
    deployed = find_deployed(folder, cell)
    require_rule(deployed, rule)
    cuts = set_cuts(deployed, levels)
    models = [load_model(deployed, run, accelerator=accelerator) for run in deployed.runs]
    references = [reference_of(deployed, model, store) for model in models]
    with _tabled(cohort, image, clip, patient) as (table, root, temporary):
        path = prepare(
            table, temporary / "store", skip_bad=skip_bad, root=root,
            # Of one patient a second process would take longer to start than to read.
            workers=1 if cohort is None and workers is None else workers,
            progress=cohort is not None, told=False, **deployed.prepared,
        )  # fmt: skip
        new = Store(path, with_unlabelled=True)
        known = _of_sweep(deployed, new)
        scored = []
        for model in models:
            model.data.take_new(new.path)
            scored.append(model.score(model.data.evaluation_rows(model.data.patients("new"))))
        findings = findings_of(
            facts_of(new, new.items["patient_id"]), scored, references,
            inputs=tuple(models[0].data.inputs),
        )  # fmt: skip
        for each, more in known.items():
            findings[each] = [*more, *findings.get(each, ())]
        items = new.items  # read while it is there
    print(write(Prediction(deployed, tuple(scored), items, findings, rule, cuts), to))
    return 0


@contextmanager
def _tabled(
    cohort: Path | None, image: Path | None, clip: Path | None, patient: str
) -> Iterator[tuple[Path, Path | None, Path]]:
    """The table of the new patients, what its paths are relative to, and a folder to work in."""
    with tempfile.TemporaryDirectory(prefix="ceus-predict-") as name:
        folder = Path(name)
        if cohort is not None:
            yield Path(cohort), None, folder
            return
        given = {"image": image, "ceus": clip}
        paths = {kind: Path(path).resolve() for kind, path in given.items() if path is not None}
        root = Path(os.path.commonpath([path.parent for path in paths.values()]))
        table = folder / "command-line.csv"
        with table.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(("patient_id", "label", "modality", "path"))
            for kind, path in paths.items():
                writer.writerow((patient, "", kind, path.relative_to(root)))
        yield table, root, folder


def _of_sweep(deployed: Deployed, new: Store) -> dict[str, list[Finding]]:
    """Findings on patients whose files the sweep has, too.

    Raises:
        ConfigError: If one of them has a label, so that an external test would be asked for.
    """
    listed = read_parquet(deployed.sweep.path / "cohort.parquet", columns=["source_sha", "label"])
    held_out = dict(zip(listed["source_sha"], listed["label"].isna(), strict=True))
    items = new.items[new.items["source_sha"].isin(list(held_out))]
    if count := items.loc[items["label"].notna(), "patient_id"].nunique():
        raise ConfigError(
            "labelled patients must be others than the sweep's, for they are an external test, "
            f"got {count} with files that the sweep was made of. Leave their labels empty; the "
            "test set is opened by ceus evaluate --unseal-test."
        )
    findings: dict[str, list[Finding]] = {}
    for patient, rows in items.groupby("patient_id"):
        sealed = all(held_out[sha] for sha in rows["source_sha"])
        what = "its test set" if sealed else "those that the model was trained on"
        text = f"the same file is in the sweep, among {what}"
        findings[str(patient)] = [Finding("file of the sweep", text, nan)]
    return findings
