"""Who was studied: the flow of patients, and their characteristics by label and split.

Labels of the hold-out are counted only once they are open.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from evaluation.records.schema import ITEMS
from evaluation.records.study import Study

DEVELOPMENT, HOLDOUT = "development", "hold-out"

LACKING_SHARE = 0.10
"""From which share on patients who lack a modality are a warning beside combined figures."""

MAX_LEVELS = 10
"""A covariate of more may name patients."""

MODALITIES = {"image": "ultrasound image", "ceus": "CEUS clip"}
"""Modalities of items, and what they are called."""

_TECHNICAL = ("frames", "fps", "seconds", "width", "height")

FLOW = ("step", "split", "modality", "rows", "patients", "events", "reason")

CHARACTERISTICS = (
    "group", "characteristic", "level", "development", "development_negative",
    "development_positive", "holdout", "holdout_negative", "holdout_positive", "smd",
)  # fmt: skip


def lacking_table(study: Study, scored: pd.DataFrame) -> pd.DataFrame:
    """Of the patients whom combined models scored, how many lack a modality: a row a part.

    Args:
        study: Of its items' modalities.
        scored: `Tables.patients`.

    Returns:
        part, patients, image and ceus (who lacks it), lacking (either), share; empty where items
        are not known, or no model is combined.
    """
    columns = ["part", "patients", "image", "ceus", "lacking", "share"]
    if study.items is None or "modality" not in study.items:
        return pd.DataFrame(columns=columns)
    holders = study.items.groupby("modality")["patient_id"].agg(set).to_dict()
    rows: list[dict[str, Any]] = []
    combined = scored[scored["modality"] == "combined"]
    for part, members in combined.groupby("part", sort=False)["patient_id"]:
        patients = set(members)
        lack = {name: patients - holders.get(name, set()) for name in MODALITIES}
        either = len(set().union(*lack.values()))
        counts = {name: len(who) for name, who in lack.items()}
        people = {"part": part, "patients": len(patients), "lacking": either}
        rows.append(people | counts | {"share": either / len(patients)})
    return pd.DataFrame(rows, columns=columns)


def flow_table(
    study: Study, scored: pd.DataFrame, labels: Mapping[str, int] | None
) -> pd.DataFrame:
    """From the rows of the cohort table to the patients scored (`Tables.patients`), a row a count.

    `labels` are 0/1 by hold-out patient; None while sealed.
    """
    rows: list[dict[str, Any]] = []

    def count(step: str, **what: Any) -> None:
        rows.append(dict.fromkeys(FLOW) | {"step": step} | what)

    skipped, patients = study.skipped, _labelled(study, labels)
    if len(patients):
        items = study.items if study.items is not None else pd.DataFrame()
        lost = int(skipped["lost_patient"].nunique()) if len(skipped) else 0
        count("cohort table", rows=len(items) + len(skipped), patients=len(patients) + lost)
        if len(skipped):
            count("left out", rows=len(skipped), patients=lost, reason="rows with a problem")
            by = skipped.astype({"modality": object}).fillna({"modality": ""})
            groups = by.groupby(["reason", "modality"], sort=True)
            for (reason, modality), lost_rows in sorted(
                groups, key=lambda group: (group[0][0], _place(group[0][1]))
            ):
                name = MODALITIES.get(str(modality), str(modality))
                count("reason", rows=len(lost_rows), modality=name, reason=reason)
        for split, members in _splits(patients):
            count("split", split=split, **_people(members))
            for column, name in _item_columns(patients).items():
                holders = members[members[column] > 0]
                files = int(members[column].sum())
                count("available", split=split, modality=name, rows=files, **_people(holders))
            if len(columns := list(_item_columns(patients))) > 1:
                both = members[(members[columns] > 0).all(axis=1)]
                count("available", split=split, modality="both", **_people(both))
    for (part, modality), rows_scored in scored.groupby(["part", "modality"], sort=False):
        people = rows_scored.drop_duplicates("patient_id")
        known = people["label"].notna().all()
        events = int(people["label"].sum()) if known and len(people) else None
        split = DEVELOPMENT if part == "oof" else HOLDOUT
        count("scored", split=split, modality=modality, patients=len(people), events=events)
    table = pd.DataFrame(rows, columns=list(FLOW))
    return table.astype(dict.fromkeys(("rows", "patients", "events"), "Int64"))


def characteristics_table(study: Study, labels: Mapping[str, int] | None) -> pd.DataFrame:
    """Table 1: covariates and technical facts by split, within development by label.

    A covariate of many values that are not numbers may name a patient, so only their number is
    given. `smd` is the standardised mean difference of development and hold-out (Austin 2009,
    Statistics in Medicine 28:3083); above 0.1 the two differ by more than chance has to explain.
    """
    patients = _labelled(study, labels)
    if patients.empty:
        return pd.DataFrame(columns=list(CHARACTERISTICS))
    rows = [_row("cohort", "patients", "n", patients, lambda group: str(len(group) or ""))]
    if study.items is not None and "modality" in study.items:
        rows += _technical(study.items, patients)
    for name in study.covariates:
        rows += _covariate(name, patients)
    table = pd.DataFrame(rows, columns=list(CHARACTERISTICS))
    return table.assign(smd=table["smd"].astype(float))


def _place(modality: Any) -> int:
    """Where a modality of items stands among the others."""
    return ITEMS.index(modality) if modality in ITEMS else len(ITEMS)


def _labelled(study: Study, labels: Mapping[str, int] | None) -> pd.DataFrame:
    """Patients with `holdout` (their label is sealed in the cohort) and `label`, opened or NA."""
    patients = study.patients
    if patients.empty:
        return patients
    label = pd.to_numeric(patients["label"]).astype(float)
    holdout = label.isna()
    opened = pd.Series(dict(labels or {}), dtype=float).reindex(patients.index)
    return patients.assign(holdout=holdout, label=label.where(~holdout, opened))


def _splits(patients: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    return [(DEVELOPMENT, patients[~patients["holdout"]]), (HOLDOUT, patients[patients["holdout"]])]


def _people(patients: pd.DataFrame) -> dict[str, int | None]:
    known = patients["label"].notna().all()
    return {"patients": len(patients), "events": int(patients["label"].sum()) if known else None}


def _item_columns(patients: pd.DataFrame) -> dict[str, str]:
    """Columns that count a patient's items of a modality, and what the modality is called."""
    columns = [str(name) for name in patients if str(name).startswith("items_")]
    kinds = [name.removeprefix("items_") for name in columns]
    return {c: MODALITIES.get(kind, kind) for c, kind in zip(columns, kinds, strict=True)}


def _groups(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The columns of Table 1; those by label of the hold-out are empty while it is sealed."""
    groups = {}
    for split, members in (("development", ~table["holdout"]), ("holdout", table["holdout"])):
        groups[split] = table[members]
        for label, name in ((0, "negative"), (1, "positive")):
            groups[f"{split}_{name}"] = table[members & (table["label"] == label)]
    return groups


def _row(group: str, name: str, level: str, table: pd.DataFrame, tell: Any) -> dict[str, Any]:
    """A row whose column of each group of patients or files is what `tell` says of it."""
    columns = {key: tell(members) for key, members in _groups(table).items()}
    return {"group": group, "characteristic": name, "level": level, **columns}


def _technical(items: pd.DataFrame, patients: pd.DataFrame) -> list[dict[str, Any]]:
    rows = []
    joined = items.drop(columns="label").join(patients[["holdout", "label"]], on="patient_id")
    for modality, files in sorted(
        joined.groupby("modality", sort=False), key=lambda group: _place(group[0])
    ):
        name = MODALITIES.get(str(modality), str(modality))
        column = f"items_{modality}"

        def share(people: pd.DataFrame, column: str = column) -> str:
            return _share(people[column] > 0)

        rows.append(_row("files", f"{name}: patients with one", "n (%)", patients, share))
        rows.append(_row("files", f"{name}: files", "n", files, lambda t: str(len(t) or "")))
        rows += [
            _numeric("files", f"{name}: {fact}", fact, files)
            for fact in _TECHNICAL
            if fact in files and pd.to_numeric(files[fact]).nunique() > 1
        ]
        if "warnings" in files:
            warned = files.assign(warned=files["warnings"].fillna("") != "")
            title = f"{name}: with a warning"
            rows.append(_row("files", title, "n (%)", warned, lambda t: _share(t["warned"])))
    return rows


_MOST_CODES = 5
"""Distinct whole numbers up to which they are taken for codes: centres, grades, TI-RADS."""


def is_measured(values: pd.Series) -> bool:
    """Whether a covariate is a quantity: numbers, and not a few whole ones, which are codes."""
    if not pd.api.types.is_numeric_dtype(values):
        return False
    known = values.dropna().unique()
    return len(known) > _MOST_CODES or bool((known % 1 != 0).any() and len(known) > 2)


def _covariate(name: str, patients: pd.DataFrame) -> list[dict[str, Any]]:
    values = patients[name].replace("", None)
    rows = []
    if is_measured(patients[name]):
        rows.append(_numeric("covariates", name, name, patients))
    else:
        levels = sorted(values.dropna().unique(), key=str)
        if len(levels) > MAX_LEVELS or len(levels) == values.notna().sum():
            rows.append(
                _row("covariates", name, f"{len(levels)} values, not shown", patients, lambda _: "")
            )
            levels = []
        for level in levels:
            is_level = patients.assign(_is=values == level)
            row = _row("covariates", name, f"{level}, n (%)", is_level, lambda t: _share(t["_is"]))
            rows.append(row | {"smd": _smd(is_level, "_is")})
    if values.isna().any():
        missing = patients.assign(_is=values.isna())
        rows.append(_row("covariates", name, "missing, n (%)", missing, lambda t: _share(t["_is"])))
    return rows


def _numeric(group: str, name: str, column: str, table: pd.DataFrame) -> dict[str, Any]:
    numbers = table.assign(_value=pd.to_numeric(table[column], errors="coerce"))

    def tell(group: pd.DataFrame) -> str:
        x = group["_value"].dropna()
        return f"{x.mean():.1f} ± {x.std():.1f}" if len(x) > 1 else ""

    row = _row(group, name, "mean ± SD", numbers, tell)
    return row | {"smd": _smd(numbers, "_value")}


def _share(chosen: pd.Series) -> str:
    return f"{int(chosen.sum())} ({100 * chosen.mean():.1f} %)" if len(chosen) else ""


def _smd(table: pd.DataFrame, column: str) -> float:
    """Difference of means over the root mean square of the two standard deviations."""
    sides = [t[column].dropna().to_numpy(float) for _, t in _splits(table)]
    if min(map(len, sides)) < 2:
        return np.nan
    a, b = sides
    spread = np.sqrt((a.var(ddof=1) + b.var(ddof=1)) / 2)
    return float((b.mean() - a.mean()) / spread) if spread else 0.0
