"""Binomial intervals, McNemar's test and Holm's adjustment against R."""

import json
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation import (
    Confusion,
    EvaluationError,
    clopper_pearson,
    confusion,
    holm,
    mcnemar,
    wilson,
    youden_threshold,
)

FIXTURES = Path(__file__).parents[1] / "fixtures"


NAMES = sorted(path.stem for path in FIXTURES.glob("*.json") if path.with_suffix(".csv").exists())


def read(name):
    return json.loads((FIXTURES / f"{name}.json").read_text())


@pytest.mark.parametrize("row", read("binomial_ci")["grid"], ids=lambda r: f"{r['k']}of{r['n']}")
def test_intervals_agree_with_r(row):
    k, n = row["k"], row["n"]
    counts = Confusion(tp=k, fn=n - k, tn=0, fp=0)
    assert counts.sensitivity == pytest.approx(row["estimate"], abs=1e-10)
    for ours, theirs in (
        (clopper_pearson(k, n), "clopper_pearson"),
        (wilson(k, n), "wilson"),
        (clopper_pearson(k, n, level=0.9), "cp90"),
        (wilson(k, n, level=0.9), "wilson90"),
    ):
        assert ours == pytest.approx(row[theirs], abs=1e-10)


QUESTION = Path(__file__).parents[3] / "experiments/yaml/question/olnm.yaml"
PRINTED = {
    (row["part"], row["modality"]): row
    for row in yaml.safe_load(QUESTION.read_text())["published"]["rows"]
}


@pytest.mark.parametrize(
    "row", read("published_counts")["cells"], ids=lambda r: f"{r['set']}-{r['model']}"
)
def test_published_confusion_tables_give_the_printed_rates(row):
    counts = Confusion(**{name: row[name] for name in ("tp", "fn", "tn", "fp")})
    printed = PRINTED[row["set"], row["model"]]
    for rate in ("sensitivity", "specificity", "accuracy"):
        assert round(getattr(counts, rate), 3) == printed[rate]
    assert printed["patients"] == counts.tp + counts.fn + counts.tn + counts.fp
    assert printed["events"] == counts.tp + counts.fn
    check_rates(counts, row)
    if row["set"] == "test":
        assert round(counts.accuracy_commoner_class, 3) == 0.767
        assert counts.accuracy_commoner_class > counts.accuracy


@pytest.mark.parametrize("name", NAMES)
def test_rates_at_the_youden_threshold_agree_with_r(name, reference):
    answer, _ = reference(name)
    for marker in answer["markers"].values():
        row = marker["youden_first_confusion"]
        check_rates(Confusion(**{key: row[key] for key in ("tp", "fn", "tn", "fp")}), row)


def test_a_threshold_carried_from_train_to_test_agrees_with_r(reference):
    columns = {
        part: reference(f"study_{name}")[1]
        for part, name in (("train", "train_55_225"), ("test", "test_27_89"))
    }
    for row in read("transfer")["threshold_from_train"]:
        threshold = youden_threshold(columns["train"]["y"], columns["train"][row["model"]])
        (best,) = row["proc_youden"]
        assert threshold == pytest.approx(best["threshold"], rel=1e-15)
        for part, data in columns.items():
            assert row[part]["threshold"] == best["threshold"]
            counts = confusion(data["y"], data[row["model"]], threshold)
            for count in ("tp", "fn", "tn", "fp"):
                assert getattr(counts, count) == row[part][count]
            check_rates(counts, row[part])
        for rate in ("sensitivity", "specificity"):
            assert row["train"][rate]["estimate"] == pytest.approx(best[rate], abs=1e-12)


def check_rates(counts, row):
    for name in ("sensitivity", "specificity", "accuracy", "ppv", "npv"):
        theirs = row[name]
        share = counts.share(name)
        assert share == (theirs["k"], theirs["n"])
        for ours, expected in (
            ([getattr(counts, name)], [theirs["estimate"]]),
            # None where there is nobody to count
            (clopper_pearson(*share), theirs["clopper_pearson"] or ["NaN"] * 2),
            (wilson(*share), theirs["wilson"] or ["NaN"] * 2),
        ):
            values = [float(value) for value in expected]
            assert list(ours) == pytest.approx(values, abs=1e-10, nan_ok=True)
            assert np.isnan(ours).all() == (theirs["n"] == 0)


def test_mcnemar_agrees_with_r(reference):
    _, data = reference("study_test_27_89")
    cuts = {r["model"]: r["train"]["threshold"] for r in read("transfer")["threshold_from_train"]}
    for pair in read("transfer")["mcnemar_on_test"]:
        right_a, right_b = (
            (data[pair[side]] >= cuts[pair[side]]) == (data["y"] == 1) for side in "ab"
        )
        for rate, of in (("sensitivity", 1), ("specificity", 0)):
            mine = data["y"] == of
            ours = mcnemar(
                int((right_a & ~right_b & mine).sum()), int((~right_a & right_b & mine).sum())
            )
            theirs = pair[rate]
            assert (ours.only_a, ours.only_b) == (theirs["n10"], theirs["n01"])
            assert ours.p_exact == pytest.approx(theirs["exact_p"], abs=1e-10)
            assert ours.chi2 == pytest.approx(theirs["chi2"], abs=1e-10)
            assert ours.p_chi2 == pytest.approx(theirs["p_chi2"], abs=1e-10)
            assert ours.chi2_corrected == pytest.approx(theirs["chi2_cc"], abs=1e-10)
            assert ours.p_corrected == pytest.approx(theirs["p_cc"], abs=1e-10)


def test_mcnemar_without_a_disagreement_is_undefined():
    ours = mcnemar(0, 0)
    assert math.isnan(ours.p_exact)
    assert ours.reason == "the calls never disagree"
    assert mcnemar(3, 3).p_exact == 1
    assert mcnemar(3, 3).chi2_corrected == 0  # R corrects no difference of 0


@pytest.mark.parametrize("name", NAMES)
def test_holm_agrees_with_r(name, reference):
    answer, _ = reference(name)
    p = [float(pair["p_two_sided"]) for pair in answer["paired"]]
    theirs = np.atleast_1d(np.array(answer["paired_p_adjusted"]["holm"], dtype=float))
    np.testing.assert_allclose(holm(p), theirs, atol=1e-10, rtol=0)


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_never_lowers_keeps_the_order_and_stays_below_bonferroni(p):
    adjusted = holm(p)
    ordered = [value for _, value in sorted(zip(p, adjusted, strict=True))]
    assert all(a <= b for a, b in pairwise(ordered))
    assert (adjusted >= p).all()
    assert (adjusted <= np.minimum(1, np.array(p) * len(p)) + 1e-15).all()


def test_a_family_counts_the_tests_that_could_not_be_done():
    adjusted = holm([0.01, math.nan, 0.02], size=3)
    assert adjusted[[0, 2]] == pytest.approx([0.03, 0.04])
    assert math.isnan(adjusted[1])


def test_wrong_input_is_refused():
    with pytest.raises(
        EvaluationError, match=r"count must be between 0 and the total \(3\), got 4"
    ):
        clopper_pearson(4, 3)
    with pytest.raises(EvaluationError, match="count must be between 0"):
        wilson(-1, 3)
    with pytest.raises(EvaluationError, match="count must be between 0"):
        mcnemar(-1, 3)
    with pytest.raises(EvaluationError, match="level must be between 0 and 1"):
        clopper_pearson(1, 3, level=95)
    with pytest.raises(EvaluationError, match=r"p_values must be in \[0, 1\]"):
        holm([0.5, 1.5])
    with pytest.raises(
        EvaluationError, match=r"size must be at least the number of p-values \(2\)"
    ):
        holm([0.5, 0.5], size=1)
