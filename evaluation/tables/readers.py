"""Readers beside the cells: AUCs without and with the models, differences, and the mean of all."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from math import nan
from pathlib import Path
from typing import Any

import pandas as pd

from evaluation.errors import EvaluationError
from evaluation.files import read_csv
from evaluation.statistics.auc import auc_interval
from evaluation.statistics.auc_tests import AucTest, delong_test
from evaluation.statistics.checks import undefined
from evaluation.statistics.mrmc import MrmcTest, mrmc_test, reader_mean

WITHOUT, WITH = "without", "with"

PASSES = (WITHOUT, WITH)
"""A reader's passes over the patients: before and after the models' probabilities are shown."""

MODEL, READER, MEAN = "model", "reader", "mean of readers"

FOLDER, SOURCE = "readers", "source.csv"
"""Of a sweep's folder, where the tables are kept, and the file that says of which predictions."""

Given = Mapping[tuple[str, str], pd.Series]
"""Confidences by patient, of each reader and pass."""

_AUC = ("auc", "low", "high", "reason")
_TEST = ("auc_a", "auc_b", "difference", "low", "high", "p_value", "reason")
_MRMC = (*_TEST[:5], "f", "df", *_TEST[5:])


@dataclass(frozen=True, kw_only=True)
class ReaderTables:
    """All numbers of a reader study, tidy; NaN where undefined, with `reason` saying why.

    Attributes:
        aucs: A row a model, a reader's pass, and the mean of readers a pass: on the same patients,
            in one ranking, so that a model's is its pooled one.
        differences: A row a reader: with less without, DeLong's paired test.
        mrmc: One row: the same for the mean of the readers, readers and patients at random.
        patients: One row a patient: label, log-odds of each model, answers of each reader.
    """

    aucs: pd.DataFrame
    differences: pd.DataFrame
    mrmc: pd.DataFrame
    patients: pd.DataFrame


@dataclass(frozen=True, kw_only=True)
class ReaderStudy:
    """A reader study that was kept in a sweep's folder.

    Attributes:
        part: Whose patients were read.
        predictions_sha: Of the predictions whose models stand beside the readers.
        tables: Its numbers.
    """

    part: str
    predictions_sha: str
    tables: ReaderTables


def source_of(part: str, predictions_sha: str) -> pd.DataFrame:
    """The content of `SOURCE`."""
    return pd.DataFrame([{"part": part, "predictions_sha": predictions_sha}])


def kept_study(sweep_dir: Path) -> ReaderStudy | None:
    """The reader study of a sweep's folder; None if there is none.

    Raises:
        EvaluationError: If a file of it is not as it was written.
    """
    folder = sweep_dir / FOLDER
    if not (folder / SOURCE).is_file():
        return None
    try:
        (source,) = read_csv(folder / SOURCE).to_dict("records")
        tables = {f.name: _known(read_csv(folder / f"{f.name}.csv")) for f in fields(ReaderTables)}
        return ReaderStudy(
            part=str(source["part"]),
            predictions_sha=str(source["predictions_sha"]),
            tables=ReaderTables(**tables),
        )
    except (OSError, ValueError, KeyError) as error:
        raise EvaluationError(
            f"tables of a reader study must be as ceus readers wrote them, got {error!r} "
            f"({folder}). Call ceus readers again, or delete the folder."
        ) from error


def _known(table: pd.DataFrame) -> pd.DataFrame:
    """Without the NaN that an empty text is read as."""
    texts = [name for name in ("name", "pass", "reason") if name in table]
    return table.assign(**{name: table[name].astype(object).fillna("") for name in texts})


def reader_tables(
    labels: pd.Series, models: Mapping[str, pd.Series], answers: pd.DataFrame
) -> ReaderTables:
    """The tables of a reader study.

    A pass that is not complete has an AUC over the patients answered, and no part in differences.

    Args:
        labels: 0 or 1 by patient, all who were to be read.
        models: Log-odds by patient, by the name of the cell; who lacks its modality is not there.
        answers: `reader`, `pass`, `patient_id`, `confidence` (0 to 100) and `seconds`; a reader
            answers for a patient once a pass.
    """
    given = {
        (str(reader), str(each)): rows.set_index("patient_id")["confidence"]
        .reindex(labels.index)
        .astype(float)
        for (reader, each), rows in answers.groupby(["reader", "pass"])
    }
    readers = sorted({reader for reader, _ in given})
    complete = [
        reader
        for reader in readers
        if all((reader, each) in given and given[reader, each].notna().all() for each in PASSES)
    ]
    by_pass = {each: [given[reader, each] for reader in complete] for each in PASSES}
    columns = {f"model {name}": values.reindex(labels.index) for name, values in models.items()}
    columns |= {f"{reader} {each}": values for (reader, each), values in given.items()}
    patients = pd.DataFrame({"label": labels, **columns}).rename_axis("patient_id").reset_index()
    return ReaderTables(
        aucs=pd.DataFrame(
            [
                *(_auc_row(labels, values, MODEL, name) for name, values in models.items()),
                *_of_readers(labels, given, answers),
                *(_mean_row(labels, by_pass[each], each) for each in PASSES if complete),
            ]
        ),
        differences=pd.DataFrame(list(_differences(labels, given, readers, complete))),
        mrmc=pd.DataFrame([{"readers": len(complete), **_mrmc(labels, by_pass)}]),
        patients=patients,
    )


def _auc_row(
    labels: pd.Series, values: pd.Series, kind: str, name: str, *, of: str = ""
) -> dict[str, Any]:
    known = values.dropna()
    known = known[known.index.isin(labels.index)]
    own = labels[known.index]
    auc = auc_interval(own, known)
    lacking = f"{len(known)} of {len(labels)} patients" if len(known) < len(labels) else ""
    row = {name: getattr(auc, name) for name in _AUC}
    return {
        "kind": kind, "name": name, "pass": of, "patients": len(known), "events": int(own.sum()),
        **row, "seconds": nan, "reason": "; ".join(filter(None, [lacking, auc.reason])),
    }  # fmt: skip


def _of_readers(labels: pd.Series, given: Given, answers: pd.DataFrame) -> Iterator[dict[str, Any]]:
    taken = answers.groupby(["reader", "pass"])["seconds"].median()
    order = {each: number for number, each in enumerate(PASSES)}
    for reader, each in sorted(given, key=lambda key: (key[0], order[key[1]])):
        row = _auc_row(labels, given[reader, each], READER, reader, of=each)
        yield row | {"seconds": float(taken[reader, each])}


def _mean_row(labels: pd.Series, scores: list[pd.Series], of: str) -> dict[str, Any]:
    mean = reader_mean(labels, scores)
    return {
        "kind": MEAN, "name": f"{len(scores)} readers", "pass": of, "patients": len(labels),
        "events": int(labels.sum()), **{name: getattr(mean, name) for name in _AUC},
        "seconds": nan,
    }  # fmt: skip


def _differences(
    labels: pd.Series, given: Given, readers: Sequence[str], complete: Sequence[str]
) -> Iterator[dict[str, Any]]:
    for reader in readers:
        if reader in complete:
            test = delong_test(labels, given[reader, WITH], given[reader, WITHOUT])
        else:
            test = undefined(AucTest, "a pass is not complete")
        yield {"reader": reader, **_with_and_without(test, _TEST)}


def _mrmc(labels: pd.Series, by_pass: Mapping[str, list[pd.Series]]) -> dict[str, Any]:
    if by_pass[WITH]:
        test = mrmc_test(labels, by_pass[WITH], by_pass[WITHOUT])
    else:
        test = undefined(MrmcTest, "no reader has completed both passes")
    return _with_and_without(test, _MRMC)


def _with_and_without(test: AucTest | MrmcTest, names: tuple[str, ...]) -> dict[str, Any]:
    shown = {"auc_a": "auc_with", "auc_b": "auc_without"}
    return {shown.get(name, name): getattr(test, name) for name in names}
