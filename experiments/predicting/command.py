"""`ceus predict`: from raw files to probabilities, decisions and warnings."""

import csv
import os
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from datamodules import DataError, Store
from datamodules.ingest.prepare import prepare
from evaluation.records.listing import FILE as LISTING
from evaluation.tables.operating import YOUDEN
from experiments.errors import ConfigError
from experiments.gpus import Accelerator
from experiments.predicting.looks import enter_look
from experiments.predicting.of_sweep import OfSweep, open_sweep
from experiments.predicting.onnx import Exported, open_exported
from experiments.predicting.output import Prediction, write
from experiments.predicting.sets import read_levels


def predict(
    folder: Path | None = None,
    *,
    cell: str = "",
    onnx: Path | None = None,
    cohort: Path | None = None,
    image: Path | None = None,
    clip: Path | None = None,
    fps: float | None = None,
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
        onnx: In the place of a sweep: folder of a cell that `ceus export` wrote; needs no torch.
        cohort: Table of new patients, as for `ceus prepare`; labels may be empty.
        image: In the place of a table: an image of one patient.
        clip: In the place of a table, or beside an image: a clip of the same patient.
        fps: Frames per second of that clip, in place of the file's own; an array has none.
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
    if (onnx is None) == (folder is None):
        raise ConfigError(
            "the model must be given by a sweep's FOLDER, or by --onnx FOLDER as ceus export "
            f"wrote it, got {'neither' if folder is None else 'both'}. Give one of them."
        )
    if (cohort is None) == (image is None and clip is None):
        raise ConfigError(
            "new patients must be given by --cohort, or one of them by --image and --clip, got "
            f"{'both' if cohort else 'neither'}. Give one of these."
        )
    if fps is not None and clip is None:
        raise ConfigError(
            f"--fps is of the clip that --clip names, got {fps:g} without one. In a table a column "
            "fps says it."
        )
    for file, what in (("store.json", "a store"), (LISTING, "a sweep's folder")):
        if (to / file).is_file():
            raise ConfigError(f"--to must be a folder for predictions, got {what} ({to}).")
    levels = read_levels(conformal)
    model: OfSweep | Exported
    if folder is not None:
        model = open_sweep(
            folder, cell, store=store, rule=rule, levels=levels, accelerator=accelerator
        )
    else:
        assert onnx is not None
        given = {
            "--cell": bool(cell), "--store": store is not None, "--conformal": bool(levels),
            "--accelerator gpu": accelerator == "gpu",
        }  # fmt: skip
        unused = [name for name, was_given in given.items() if was_given]
        model = open_exported(onnx, rule=rule, unused=unused)
    with (
        _tabled(cohort, image, clip, fps, patient) as (table, root, temporary),
        ThreadPoolExecutor(1) as beside,
    ):
        loading = beside.submit(model.load)
        if cohort is not None:
            loading.result()  # many files are read for long: not for a model that cannot be loaded
        try:
            path = prepare(
                table, temporary / "store", skip_bad=skip_bad, root=root,
                # Of one patient a second process would take longer to start than to read.
                workers=1 if cohort is None and workers is None else workers,
                progress=cohort is not None, told=False, **model.ensemble.prepared,
            )  # fmt: skip
        except DataError as error:
            if cohort is not None:
                raise
            made = "The table was made of --image and --clip; its column fps is --fps."
            raise DataError(f"{error}\n{made}") from error
        loading.result()
        new = Store(path, with_unlabelled=True)
        scored, findings = model.score(new)
        items = new.items  # read while it is there
    prediction = Prediction(
        model.ensemble, tuple(scored), items, findings, rule, model.cuts, model.left_out
    )
    looks = enter_look(folder, prediction) if folder is not None else []
    print(write(prediction, to, looks))
    return 0


@contextmanager
def _tabled(
    cohort: Path | None, image: Path | None, clip: Path | None, fps: float | None, patient: str
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
            writer.writerow(("patient_id", "label", "modality", "path", "fps"))
            for kind, path in paths.items():
                rate = fps if kind == "ceus" else None
                writer.writerow((patient, "", kind, path.relative_to(root), rate))
        yield table, root, folder
