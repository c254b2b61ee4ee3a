"""Modalities stand in the order of the list of runs in every table, text and figure."""

import re
from dataclasses import fields

import numpy as np
import pandas as pd
import pytest

from evaluation import Tables, compute, render
from evaluation.checklists import fill
from evaluation.figures import drawings
from evaluation.report.page import report_html
from evaluation.text.sentences import findings

ORDER = ["video", "image", "combined"]


@pytest.fixture(scope="module")
def evaluation(study_maker, tmp_path_factory):
    """The selected architectures are in the order combined, image, video of the list."""
    made = study_maker(
        tmp_path_factory.mktemp("order") / "trial",
        architectures=("a", "b", "c"),
        modalities=ORDER,
        folds=(0, 1),
        seeds=(0,),
        patients=140,
        holdout=20,
    )
    best = {"combined": "a", "image": "b", "video": "c"}
    made.write()
    for entry in made.entries:
        truth = 3.0 * (best[entry["modality"]] == entry["architecture"])
        path = made.path / entry["run_id"] / "predictions.parquet"
        table = pd.read_parquet(path)
        up = truth * table["patient_id"].map(made.labels)
        logit = table["logit"] + up
        probability = 1 / (1 + np.exp(0.75 - logit))
        made.put(entry["run_id"], table.assign(logit=logit, probability=probability))
    return compute(made.path)


def in_order(names):
    """Names of modalities as they first appear."""
    found = list(dict.fromkeys(names))
    return found == [name for name in ORDER if name in found]


def test_tables_and_texts(evaluation):
    selected = evaluation.tables.cells[evaluation.tables.cells["selected"]]
    assert selected["architecture"].tolist() == ["a", "b", "c"]
    assert selected["modality"].tolist() == ["combined", "image", "video"]
    for field in fields(Tables):
        table = getattr(evaluation.tables, field.name)
        if "modality" in table and field.name not in ("flow", "planning"):
            by = table["architecture"] if "architecture" in table else table["modality"] == ""
            for _, rows in table.groupby(by):
                assert in_order(rows["modality"]), field.name
    assert [each["modality"] for each in findings(evaluation)] == ORDER
    assert evaluation.selected["modality"].tolist() == ORDER
    flow = evaluation.tables.flow
    assert in_order(flow.loc[flow["step"] == "scored", "modality"])
    available = flow.loc[flow["step"] == "available", "modality"]
    assert list(dict.fromkeys(available)) == ["ultrasound image", "CEUS clip", "both"]
    technical = evaluation.tables.characteristics["characteristic"]
    kinds = [name.partition(":")[0] for name in technical if ":" in name]
    assert list(dict.fromkeys(kinds)) == ["ultrasound image", "CEUS clip"]
    said = re.findall(r"^(VIDEO|IMAGE|COMBINED)\b", render(evaluation), flags=re.MULTILINE)
    assert [name.lower() for name in said] == ORDER


def test_page_and_figures(evaluation):
    drawn = drawings(evaluation)
    for name in ("comparison", "roc", "folds", "calibration", "decision", "scales"):
        (figure,) = [each.figure for each in drawn.values() if each.name.startswith(name)][:1]
        titles = [axes.get_title(loc="left").split(",")[0] for axes in figure.axes]
        shown = [title for title in titles if title in ORDER]
        assert in_order(shown), name
        assert set(shown) == set(ORDER), name
    rows = [axes.get_ylabel() for axes in drawn["confusion_oof"].figure.axes]
    assert [name for name in rows if name] == ORDER
    page = report_html(evaluation, drawn, fill(evaluation))
    reference = page[page.index("In the form of a paper") :]
    assert in_order(re.findall(r"<td[^>]*>(video|image|combined)</td>", reference[:9000])[:6])
    cards = page[: page.index("In the form of a paper")]
    where = [cards.index(f"{name}</") if f"{name}</" in cards else -1 for name in ORDER]
    assert where == sorted(where)
