"""What W&B is shown of scores: out-of-fold only, cut where these patients had no say."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import wandb

from datamodules.store.pseudonyms import Pseudonyms
from datamodules.store.splits import load_split
from evaluation import youden_threshold
from experiments.tracking.charts import BARS, CONFUSION, Figures, run_figures


@pytest.fixture
def predictions(store: Path) -> pd.DataFrame:
    """A prediction table of the store's fold 0 with scores that follow the label, loosely."""
    rng = np.random.default_rng(0)
    items = pd.read_parquet(store / "cohort.parquet").drop_duplicates("patient_id")
    labels = items.set_index("patient_id")["label"].astype(float)
    rows = []
    for part, patients in load_split(store, "default").parts(0).items():
        for patient in patients:
            logit = labels[patient] + rng.normal()
            label = np.nan if part == "test" else labels[patient]
            rows.append((part, patient, label, logit, 1 / (1 + np.exp(-logit)), "0"))
    columns = ["part", "patient_id", "label", "logit", "probability", "fold"]
    return pd.DataFrame(rows, columns=columns)


def figures(predictions: pd.DataFrame, store: Path) -> Figures:
    return run_figures(predictions, Pseudonyms(store))


def test_the_table_has_the_out_of_fold_patients_by_hash(
    predictions: pd.DataFrame, store: Path
) -> None:
    table = figures(predictions, store).charts["oof"].table
    oof = predictions[predictions["part"] == "oof"]
    patients = Pseudonyms(store)
    expected = dict(zip(map(patients.of, oof["patient_id"]), oof["probability"], strict=True))
    assert dict(zip(table["patient"], table["probability"], strict=True)) == expected
    assert list(table.columns) == ["patient", "label", "probability", "fold"]


def test_the_cut_is_youdens_of_inner_validation(predictions: pd.DataFrame, store: Path) -> None:
    inner = predictions[predictions["part"] == "inner_val"]
    oof = predictions[predictions["part"] == "oof"]
    cut = youden_threshold(inner["label"], inner["probability"])
    shown = figures(predictions, store)
    assert shown.summary["inner_threshold"] == max(cut, 0)
    counts = shown.charts["oof_confusion"].table.set_index(["Actual", "Predicted"])["nPredictions"]
    called = oof["probability"] >= cut
    assert counts["positive", "positive"] == (called & (oof["label"] == 1)).sum()
    assert counts["negative", "positive"] == (called & (oof["label"] == 0)).sum()
    assert counts.sum() == len(oof)
    # Other out-of-fold labels, other patients of the hold-out: the cut stays.
    other = predictions.copy()
    mine = other["part"] == "oof"
    other.loc[mine, "label"] = 1 - other.loc[mine, "label"]
    assert figures(other, store).summary["inner_threshold"] == shown.summary["inner_threshold"]
    without = predictions[predictions["part"] != "test"]
    assert figures(without, store).summary == shown.summary


def test_what_is_undefined_is_told_and_not_drawn(predictions: pd.DataFrame, store: Path) -> None:
    inner = predictions["part"] == "inner_val"
    shown = figures(predictions.assign(label=predictions["label"].mask(inner, 0.0)), store)
    assert "inner_threshold" not in shown.summary
    assert "no threshold from inner validation" in str(shown.summary["oof_note"])
    assert set(shown.charts) == {"oof", "oof_roc"}
    oof = predictions["part"] == "oof"
    shown = figures(predictions.assign(label=predictions["label"].mask(oof, 0.0)), store)
    assert "oof_auroc" not in shown.summary
    assert set(shown.charts) == {"oof", "oof_confusion"}
    json.dumps(shown.summary, allow_nan=False)


def test_a_run_of_all_patients_has_nothing_out_of_fold(
    predictions: pd.DataFrame, store: Path
) -> None:
    assert figures(predictions[predictions["part"] != "oof"], store) == Figures({}, {})


def test_the_chart_types_are_wandbs_own() -> None:
    matrix = wandb.plot.confusion_matrix(y_true=[0, 1], preds=[0, 1], class_names=["a", "b"])
    assert (matrix.spec.spec_name, matrix.table.columns) == (
        CONFUSION,
        ["Actual", "Predicted", "nPredictions"],
    )
    bars = wandb.plot.bar(wandb.Table(columns=["a", "b"], data=[["x", 1]]), "a", "b")
    assert bars.spec.spec_name == BARS
    assert set(bars.spec.fields) == {"label", "value"}
