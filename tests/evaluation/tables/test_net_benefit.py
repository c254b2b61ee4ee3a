"""The primary contrast in net benefit, from the prediction files."""

import json

import numpy as np
import pytest

from evaluation import EvaluationError, compute, decision_curve, net_benefit_difference, unseal
from evaluation.records.analysis import read_analysis
from evaluation.tables.net_benefit import MEAN_OVER_RANGE
from evaluation.tables.scores import of_cell

PRIMARY = {"primary": {"modalities": ["video", "image"]}}


def declare(made, analysis):
    made.analysis = analysis
    made.list_runs()
    return made


def test_it_is_that_of_the_means_over_architectures(sweep):
    declare(sweep, PRIMARY | {"net_benefit_range": [0.1, 0.305]})
    result = compute(sweep.path)
    table = result.tables.net_benefit_contrast
    oof = table[table["part"] == "oof"]
    assert oof["threshold"].tolist()[1:] == [*(n / 100 for n in range(10, 31)), 0.305]
    patients = result.tables.patients
    worth = {}
    for modality in ("image", "video"):
        curves = []
        for name in ("alpha", "beta"):
            mine = of_cell(patients, name, modality, part="oof").sort_values("patient_id")
            labels = mine["label"]
            at = oof["threshold"][1:]
            curves.append(decision_curve(labels, mine["probability"], thresholds=at).model)
        worth[modality] = np.mean(curves, axis=0)
    np.testing.assert_allclose(oof["difference"][1:], worth["video"] - worth["image"], atol=1e-12)
    mean = oof.iloc[0]
    assert mean["at"] == MEAN_OVER_RANGE
    assert mean["difference"] == pytest.approx((worth["video"] - worth["image"]).mean())
    assert mean["low"] < mean["difference"] < mean["high"]
    assert mean["patients"] == 40
    assert table.loc[table["part"] == "test", "reason"].tolist() == ["sealed"]


@pytest.mark.parametrize(
    ("folds", "reason"), [((0, 1), "an ensemble of fold models"), ((0, 1, "all"), "")]
)
def test_on_the_hold_out_only_of_deployed_models(sweep_maker, tmp_path, folds, reason):
    made = sweep_maker(tmp_path / "trial", folds=folds, analysis=PRIMARY).write()
    unseal(made.path, made.store, reason="because")
    table = compute(made.path).tables.net_benefit_contrast
    first = table[table["part"] == "test"].iloc[0]
    assert first["reason"].startswith(reason)
    assert np.isfinite(first["difference"]) == (not reason)


def test_what_is_not_complete_is_not_compared(sweep):
    declare(sweep, PRIMARY)
    sweep.status(sweep.run_ids(architecture="alpha", modality="image", fold=1)[0], "failed")
    table = compute(sweep.path).tables.net_benefit_contrast
    assert table["reason"].str.startswith(("not tested before all runs", "sealed")).all()
    assert table["difference"].isna().all()


def test_without_a_primary_contrast_there_is_none(sweep):
    assert compute(sweep.path).tables.net_benefit_contrast.empty


def test_a_sweep_from_before_has_the_default_range(sweep):
    assert read_analysis({"sensitivity": 0.9, "probabilities": []}).net_benefit_range == (0.05, 0.4)
    frozen = json.loads(json.dumps({"net_benefit_range": (0.1, 0.2), "npv": 0.9}))
    assert read_analysis(frozen).net_benefit_range == (0.1, 0.2)


@pytest.mark.parametrize("wrong", [[0.4, 0.05], [0.0, 0.4], [0.1, 1.0], [0.1], [0.1, 0.2, 0.3]])
def test_a_range_that_is_none_is_refused(wrong):
    with pytest.raises(EvaluationError, match="net_benefit_range must be two risks"):
        read_analysis({"net_benefit_range": wrong})


def test_it_is_the_functions_answer(sweep):
    declare(sweep, PRIMARY | {"net_benefit_range": [0.2, 0.2]})
    result = compute(sweep.path)
    sides = []
    for modality in ("video", "image"):
        cells = [
            of_cell(result.tables.patients, name, modality, part="oof").sort_values("patient_id")
            for name in ("alpha", "beta")
        ]
        sides.append(np.array([cell["probability"] for cell in cells]))
    found = net_benefit_difference(cells[0]["label"], *sides, thresholds=[0.2])
    row = result.tables.net_benefit_contrast.iloc[1]
    assert (row["low"], row["high"]) == pytest.approx((found.low[0], found.high[0]))
