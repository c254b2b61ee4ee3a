"""Which patients are hard, and whether two ways of looking agree on them."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from evaluation import (
    EvaluationError,
    cohen_kappa,
    concordance,
    make_tables,
    misranked,
    patient_difficulty,
    read_sweep,
    stratified_spearman,
)

MODEL = ["architecture", "modality", "fold"]


@pytest.fixture(scope="module")
def tables(sweep_maker, tmp_path_factory):
    path = tmp_path_factory.mktemp("hard") / "trial"
    return make_tables(read_sweep(sweep_maker(path, seeds=(0, 1)).write().path))


def test_misranked_shares_average_to_one_less_the_auc_of_the_fold(tables):
    table = misranked(tables.patients)
    assert set(table["part"]) == {"oof"}  # the hold-out is sealed
    aucs = tables.folds.set_index(MODEL)["auc"]
    for key, mine in table.groupby([*MODEL, "label"]):
        assert 1 - mine["misranked"].mean() == pytest.approx(aucs[key[:3]], abs=1e-12)
    row = table.iloc[0]
    others = table[(table[MODEL] == row[MODEL]).all(axis=1) & (table["label"] != row["label"])]
    on_the_wrong_side = (others["score"] - row["score"]) * (1 if row["label"] else -1)
    expected = ((on_the_wrong_side > 0) + 0.5 * (on_the_wrong_side == 0)).mean()
    assert row["misranked"] == pytest.approx(expected, abs=1e-12)
    assert table["residual"].tolist() == pytest.approx(abs(table["label"] - table["probability"]))


def test_difficulty_is_the_mean_over_cells_hardest_first(tables):
    table, every = patient_difficulty(tables.patients), misranked(tables.patients)
    assert (table["misranked"].diff().dropna() <= 0).all()
    assert len(table) == every["patient_id"].nunique() == 40
    for row in table.head(3).to_dict("records"):
        mine = every[every["patient_id"] == row["patient_id"]]
        assert (row["cells"], row["label"]) == (4, mine["label"].iloc[0])
        assert row["misranked"] == pytest.approx(mine["misranked"].mean())
        assert row["misranked_sd"] == pytest.approx(mine["misranked"].std())
        assert row["residual"] == pytest.approx(mine["residual"].mean())
        assert row["called_wrong"] == (mine["call"] != mine["label"]).mean()


def test_without_a_class_or_a_call_difficulty_is_undefined(tables):
    patients = tables.patients[tables.patients["fold"] == "0"]
    table = patient_difficulty(patients.assign(label=0.0, call=pd.array([pd.NA] * len(patients))))
    assert table[["misranked", "called_wrong"]].isna().all(axis=None)
    assert table["residual"].notna().all()


def test_kappa_of_a_worked_example():
    # Both yes 20, only the first 5, only the second 10, both no 15.
    a, b = np.repeat([1, 1, 0, 0], [20, 5, 10, 15]), np.repeat([1, 0, 1, 0], [20, 5, 10, 15])
    ours = cohen_kappa(a, b)
    assert (ours.agreement, ours.kappa) == pytest.approx((0.7, 0.4))
    assert ours.reason == ""


def kappa_of(p):
    expected = p.sum(axis=1) @ p.sum(axis=0)
    return (np.trace(p) - expected) / (1 - expected)


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(st.lists(st.integers(1, 30), min_size=4, max_size=4))
def test_kappa_has_the_variance_of_the_delta_method(counts):
    """The multinomial covariance carried through a numerical gradient."""
    a, b = np.repeat([1, 1, 0, 0], counts), np.repeat([1, 0, 1, 0], counts)
    p = np.array(counts, float) / sum(counts)
    step = 1e-6 * np.eye(4)
    gradient = [
        (kappa_of((p + h).reshape(2, 2)) - kappa_of((p - h).reshape(2, 2))) / 2e-6 for h in step
    ]
    covariance = (np.diag(p) - np.outer(p, p)) / sum(counts)
    half = 1.959963984540054 * math.sqrt(gradient @ covariance @ gradient)
    ours = cohen_kappa(a, b)
    kappa = kappa_of(p.reshape(2, 2))
    assert ours.kappa == pytest.approx(kappa)
    assert (ours.low, ours.high) == pytest.approx(
        (max(kappa - half, -1), min(kappa + half, 1)), abs=1e-6
    )
    assert cohen_kappa(b, a) == ours


def test_kappa_at_its_edges():
    assert cohen_kappa([0, 1, 1], [0, 1, 1]).kappa == 1
    assert cohen_kappa([0, 1], [1, 0]).kappa == -1
    same = cohen_kappa([1, 1, 1], [1, 1, 1])
    assert math.isnan(same.kappa)
    assert same.agreement == 1
    assert "nothing beyond chance" in same.reason
    assert cohen_kappa([], []).reason == "no patients"
    assert cohen_kappa([1, 1, 0], [1, 1, 1]).kappa == 0


def test_spearman_is_within_strata():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 9, (2, 40)).astype(float)  # with ties
    one = stratified_spearman(a, b, np.zeros(40))
    assert one == pytest.approx(spearmanr(a, b).statistic, abs=1e-12)
    strata = np.repeat(["x", "y", "z"], [25, 13, 2])
    parts = [spearmanr(a[strata == s], b[strata == s]).statistic for s in "xy"]
    expected = (25 * parts[0] + 13 * parts[1]) / 38
    assert stratified_spearman(a, b, strata) == pytest.approx(expected, abs=1e-12)
    # What the strata have in common does not count.
    shift = 100 * (strata == "x")
    assert stratified_spearman(a + shift, b + shift, strata) == pytest.approx(expected, abs=1e-12)
    assert math.isnan(stratified_spearman(a, np.ones(40), strata))


@pytest.mark.parametrize("between", ["modality", "architecture"])
def test_concordance_counts_who_is_right(tables, between):
    table = concordance(tables.patients, between=between)
    assert len(table) == 2  # one pair in each of two
    other = "architecture" if between == "modality" else "modality"
    oof = tables.patients[tables.patients["part"] == "oof"]
    for row in table.to_dict("records"):
        a, b = (
            oof[(oof[other] == row["within"]) & (oof[between] == row[side])]
            .set_index("patient_id")
            .sort_index()
            for side in "ab"
        )
        right_a, right_b = a["call"] == a["label"], b["call"] == b["label"]
        assert row["patients"] == 40
        assert row["both_right"] == (right_a & right_b).sum()
        assert row["only_a"] == (right_a & ~right_b).sum()
        assert row["only_b"] == (~right_a & right_b).sum()
        assert row["both_wrong"] == (~right_a & ~right_b).sum()
        assert row["kappa"] == cohen_kappa(a["call"], b["call"]).kappa
        strata = a["fold"] + a["label"].astype(str)
        assert row["spearman"] == stratified_spearman(a["score"], b["score"], strata)


def test_concordance_without_pairs_or_calls(tables):
    oof = tables.patients[tables.patients["part"] == "oof"]
    one = concordance(oof[oof["modality"] == "image"])
    assert one.empty
    assert "kappa" in one
    uncalled = concordance(oof.assign(call=pd.array([pd.NA] * len(oof), dtype="Int64")))
    assert uncalled[["both_right", "kappa"]].isna().all(axis=None)
    assert set(uncalled["reason"]) == {"no patients"}
    assert uncalled["spearman"].notna().all()


def test_wrong_input_is_refused():
    with pytest.raises(EvaluationError, match=r"calls must be 0 or 1, got 2 \(1 of 4\)"):
        cohen_kappa([0, 2], [0, 1])
    with pytest.raises(EvaluationError, match="calls_b must be as many as"):
        cohen_kappa([0, 1], [0])
    with pytest.raises(EvaluationError, match="level must be between 0 and 1"):
        cohen_kappa([0, 1], [0, 1], level=95)
    with pytest.raises(EvaluationError, match="scores_b must be as many as"):
        stratified_spearman([0, 1], [0], [0, 0])
    with pytest.raises(EvaluationError, match="strata must be as many as"):
        stratified_spearman([0, 1], [0, 1], [0])
