"""`ceus readers`: radiologists' answers compared, without and with the models."""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from rich.console import Console

from datamodules.store.pseudonyms import Pseudonyms
from evaluation.files import csv_text, write_together
from evaluation.tables.readers import FOLDER, SOURCE, reader_tables, source_of
from evaluation.text.readers import reader_sentences, reader_table
from experiments.errors import ConfigError
from experiments.reading.answers import Answers, as_table, read_all, unfinished
from experiments.reading.page import Opened, open_sweep


def readers(folder: Path, answers: Sequence[str], *, store: Path | None = None) -> int:
    """Compare radiologists' answers, without and with the models.

    Writes aucs.csv, differences.csv, mrmc.csv and patients.csv into FOLDER/readers, from where
    `ceus evaluate` takes them into the report.

    Args:
        folder: Sweep folder that the page was made of.
        answers: Files that readers downloaded from one page, one a reader.
        store: The store, if it was moved.

    Raises:
        ConfigError, DataError, EvaluationError: For what the user can mend.
    """
    given = read_all([Path(path) for path in answers])
    first = given[0]
    opened = open_sweep(Path(folder), first.facts.part, store)
    _check_page(opened, first)
    hashes = Pseudonyms(opened.store.path)
    labels = opened.labels
    names = {hashes.of(str(patient)): str(patient) for patient in labels.index}
    if strangers := [name for name in first.patients if name not in names]:
        raise ConfigError(
            f"patients of the answers must be of part {opened.part} of the sweep, got "
            f"{len(strangers)} that are not, as {strangers[0]} ({first.path}). The store's "
            "patient.key is another than when the page was made, or the page is another sweep's."
        )
    labels = labels[[names[name] for name in first.patients]].sort_index()
    table = as_table(given)
    tables = reader_tables(
        labels,
        {
            "-".join(each.cell): opened.table(each).set_index("patient_id")["score"]
            for each in opened.scores
        },
        table.assign(patient_id=table["patient"].map(names)),
    )
    out = Path(folder) / FOLDER
    out.mkdir(exist_ok=True)
    files = {f"{f.name}.csv": getattr(tables, f.name) for f in fields(tables)}
    files[SOURCE] = source_of(opened.part, opened.sweep.predictions_sha)
    write_together({out / name: csv_text(table) for name, table in files.items()})
    console = Console(highlight=False, markup=False, emoji=False)
    for line in unfinished(given):
        console.print(line, soft_wrap=True)
    if first.facts.predictions_sha != opened.sweep.predictions_sha:
        console.print(
            "warning: the sweep's predictions are not those that the page showed: its models' AUCs "
            "here are of those now"
        )
    console.print(reader_table(tables))
    for line in reader_sentences(tables):
        console.print(line)
    console.print(
        f"Tables: {out}; ceus evaluate {folder} takes them into the report", soft_wrap=True
    )
    return 0


def _check_page(opened: Opened, first: Answers) -> None:
    for name in ("store_sha", "split_sha"):
        own, theirs = opened.sweep.shas[name], getattr(first.facts, name)
        if own != theirs:
            raise ConfigError(
                f"answers must be of a page of this sweep, got one of sweep "
                f"{first.facts.sweep!r} with another {name} ({first.path}). Name the sweep that "
                "the page was made of."
            )
