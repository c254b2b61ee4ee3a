"""The rule-out point, F1, MCC and PR-AUC in the tables and on the page."""

import numpy as np
import pytest
from scipy.special import expit as sigmoid

from evaluation import EvaluationError, average_precision, compute, confusion, evaluate, unseal
from evaluation.records.analysis import read_analysis
from evaluation.statistics.precision_recall import f1_interval, mcc_interval
from evaluation.tables.scores import of_cell


@pytest.fixture
def deployed(sweep_maker, tmp_path):
    def make(npv, **more):
        made = sweep_maker(
            tmp_path / "deployed" / "trial", architectures=("alpha",), folds=(0, 1, "all"),
            analysis={"npv": npv}, **more,
        ).write()  # fmt: skip
        unseal(made.path, made.store, reason="because")
        return made

    return make


def test_it_is_transferred_and_frozen_like_the_others(deployed):
    made = deployed(0.8)
    result = evaluate(made.path)
    points = result.tables.operating
    rule = points[points["rule"] == "NPV 0.8"].set_index(["modality", "part"])
    for modality in ("image", "video"):
        oof = of_cell(result.tables.patients, "alpha", modality, part="oof")
        values = oof["score"].to_numpy()
        cuts = {
            cut: (oof.loc[values < cut, "label"] == 0).mean()
            for cut in [*np.unique(values)[1:], np.inf]
        }
        best = max(cut for cut, npv in cuts.items() if npv >= 0.8)
        test, row = of_cell(result.tables.patients, "alpha", modality, part="test"), rule.loc
        frozen = row[modality, "test"]["threshold"]
        assert (values < frozen).sum() == (values < best).sum()
        counts = confusion(test["label"], test["score"], frozen)
        assert row[modality, "test"]["tn"] == counts.tn
        assert row[modality, "oof"]["chosen_on"] == "the other folds, by quantile"
        for name, interval in (("f1", f1_interval), ("mcc", mcc_interval)):
            ends = row[modality, "test"][[f"{name}_low", f"{name}_high"]].tolist()
            assert ends == pytest.approx(interval(counts), nan_ok=True)
    page = result.report.read_text()
    selected = page[page.index('id="selected-points"') :]
    assert "NPV 0.8" in selected[: selected.index("</table>")]


def test_where_no_threshold_reaches_it_that_is_said(sweep_maker, tmp_path):
    made = sweep_maker(
        tmp_path / "trial", architectures=("alpha",), modalities=("image",), folds=(0, 1, "all"),
        analysis={"npv": 0.99},
    ).write()  # fmt: skip
    sick = [name for name, label in made.labels.items() if label]

    def sink(table):  # the sick below all others
        logit = table["logit"] - 20 * table["patient_id"].isin(sick)
        return table.assign(logit=logit, probability=sigmoid(logit - 0.75))

    for run_id in made.run_ids():
        made.change(run_id, sink)
    unseal(made.path, made.store, reason="because")
    result = evaluate(made.path)
    rule = result.tables.operating.query("rule == 'NPV 0.99'").set_index("part")
    assert "fold 0: no threshold on the other folds reaches it" in rule.loc["oof", "reason"]
    for part in ("train", "test"):
        assert rule.loc[part, "reason"] == "no threshold on the out-of-fold patients reaches it"
    assert rule["tp"].isna().all()
    assert "no threshold on the out-of-fold patients reaches it" in result.report.read_text()


def test_where_calling_everyone_negative_reaches_it_that_is_said(deployed):
    result = compute(deployed(0.05).path)
    rule = result.tables.operating.query("rule == 'NPV 0.05'")
    assert rule["reason"].str.contains("calling everyone negative reaches it").all()
    assert (rule["tp"] == 0).all()


def test_it_is_off_unless_declared(sweep):
    points = compute(sweep.path).tables.operating
    assert set(points["rule"]) == {"youden", "sensitivity 0.90"}


@pytest.mark.parametrize("wrong", [0, 1, 95, -0.1])
def test_an_npv_that_is_none_is_refused(wrong):
    with pytest.raises(EvaluationError, match="npv must be above 0 and below 1"):
        read_analysis({"npv": wrong})


def test_precision_recall_areas_are_of_the_parts_with_labels(deployed, sweep):
    sealed = compute(sweep.path).tables.precision_recall
    assert set(sealed["part"]) == {"oof"}
    result = compute(deployed(None).path)
    for row in result.tables.precision_recall.to_dict("records"):
        name = row["architecture"], row["modality"]
        mine = of_cell(result.tables.patients, *name, part=row["part"])
        expected = vars(average_precision(mine["label"], mine["score"]))
        assert {key: row[key] for key in expected} == pytest.approx(expected, nan_ok=True)
    assert len(result.tables.precision_recall) == 4
