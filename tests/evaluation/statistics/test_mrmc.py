"""Readers without and with a model: published figures, and the same test another way."""

import numpy as np
import pytest
from scipy import stats

from evaluation import EvaluationError, auc_interval, delong_test
from evaluation.statistics.mrmc import (
    delong_covariance,
    mrmc_from_covariance,
    mrmc_test,
    reader_mean,
    reader_mean_from_covariance,
)

READERS, PATIENTS = 4, 60


@pytest.fixture
def read():
    """Labels, and confidences 0 to 100 in steps of 5 of four readers without and with."""
    rng = np.random.default_rng(3)
    labels = (np.arange(PATIENTS) % 3 == 0).astype(int)
    case = rng.normal(size=PATIENTS)
    skill = rng.normal(1, 0.3, size=(READERS, 1))
    both = [
        np.clip(
            50 + 15 * (gain * labels * skill + case + rng.normal(size=(READERS, PATIENTS))), 0, 100
        )
        for gain in (0.9, 1.5)
    ]
    return labels, *(5 * np.round(each / 5) for each in both)


def test_the_published_analysis_of_van_dykes_data():
    """Its AUCs and covariances (jackknife) and what R's MRMCaov makes of them, as printed in both.

    MRMCaov's user guide and Chakraborty's RJafroc book (dataset02): 114 patients, 5 readers.
    """
    aucs = np.array(
        [
            [0.9196457, 0.8587762, 0.9038647, 0.9731079, 0.8297907],
            [0.9478261, 0.9053140, 0.9217391, 0.9993559, 0.9299517],
        ]
    )
    cov1, cov3, of_each = 0.0003466137, 0.0002390284, (0.0004839618, 0.0002041879)
    covariances = np.full((10, 10), cov3)
    covariances[range(5), range(5, 10)] = covariances[range(5, 10), range(5)] = cov1
    for at, cov2 in zip((slice(0, 5), slice(5, 10)), of_each, strict=True):
        covariances[at, at] = cov2
    np.fill_diagonal(covariances, 0.0008022883)

    found = mrmc_from_covariance(aucs, covariances)
    assert found.auc_a == pytest.approx(0.8970370, abs=1e-7)
    assert found.auc_b == pytest.approx(0.9408374, abs=1e-7)
    assert found.f == pytest.approx(4.456319, rel=1e-6)
    assert found.df == pytest.approx(15.25967, rel=1e-5)
    assert found.p_value == pytest.approx(0.05166569, rel=1e-5)
    assert found.se == pytest.approx(0.02074862, rel=1e-5)
    assert (found.low, found.high) == pytest.approx((-0.0879594986, 0.0003588544), abs=1e-7)
    for at, se, df, low, high in (
        (0, 0.03317360, 12.74465, 0.8252236, 0.9688505),
        (1, 0.02156637, 12.71019, 0.8941378, 0.9875369),
    ):
        own = slice(5 * at, 5 * at + 5)
        mean = reader_mean_from_covariance(aucs[at], covariances[own, own])
        assert (mean.se, mean.df) == pytest.approx((se, df), rel=1e-5)
        assert (mean.low, mean.high) == pytest.approx((low, high), abs=1e-6)


def test_with_jackknife_covariances_it_is_the_analysis_of_pseudovalues(read):
    """Dorfman, Berbaum & Metz's three-way analysis of variance, by sums of squares of its own."""
    labels, without, with_model = read
    scores = np.concatenate([without, with_model])
    aucs = np.array([auc_interval(labels, each).auc for each in scores])
    left_out = np.array(
        [
            [auc_interval(np.delete(labels, at), np.delete(each, at)).auc for at in range(PATIENTS)]
            for each in scores
        ]
    )
    pseudo = PATIENTS * aucs[:, None] - (PATIENTS - 1) * left_out
    jackknife = np.cov(pseudo) / PATIENTS
    means = pseudo.mean(axis=1).reshape(2, READERS)  # of them the analysis is, to rounding
    found = mrmc_from_covariance(means, jackknife)

    cube = pseudo.reshape(2, READERS, PATIENTS)
    centred = {
        axes: cube.mean(axis=axes, keepdims=True)
        for axes in ((), (2,), (1,), (0,), (1, 2), (0, 2), (0, 1), (0, 1, 2))
    }
    grand = centred[0, 1, 2]
    ms_t = READERS * PATIENTS * ((centred[1, 2] - grand) ** 2).sum()
    tr = centred[(2,)] - centred[1, 2] - centred[0, 2] + grand
    ms_tr = PATIENTS * (tr**2).sum() / (READERS - 1)
    tc = centred[(1,)] - centred[1, 2] - centred[0, 1] + grand
    ms_tc = READERS * (tc**2).sum() / (PATIENTS - 1)
    trc = (
        cube - centred[(2,)] - centred[(1,)] - centred[(0,)]
        + centred[1, 2] + centred[0, 2] + centred[0, 1] - grand
    )  # fmt: skip
    ms_trc = (trc**2).sum() / ((READERS - 1) * (PATIENTS - 1))
    below = ms_tr + max(ms_tc - ms_trc, 0)
    df = below**2 / (ms_tr**2 / (READERS - 1))
    assert ms_tc > ms_trc  # or the two would agree on nothing but the interaction
    assert found.f == pytest.approx(ms_t / below, rel=1e-9)
    assert found.df == pytest.approx(df, rel=1e-9)
    assert found.p_value == pytest.approx(stats.f.sf(ms_t / below, 1, df), rel=1e-9)


def test_covariances_are_those_of_delongs_test(read):
    labels, without, with_model = read
    scores = np.concatenate([without, with_model])
    aucs, covariances = delong_covariance(labels, scores)
    for at, each in enumerate(scores):
        alone = auc_interval(labels, each)
        assert (aucs[at], covariances[at, at]) == pytest.approx((alone.auc, alone.variance))
    paired = delong_test(labels, scores[0], scores[5])
    variance = covariances[0, 0] + covariances[5, 5] - 2 * covariances[0, 5]
    assert paired.z == pytest.approx((aucs[0] - aucs[5]) / np.sqrt(variance))


def test_of_readings_it_is_the_same_as_of_their_covariances(read):
    labels, without, with_model = read
    found = mrmc_test(labels, with_model, without)
    aucs, covariances = delong_covariance(labels, np.concatenate([with_model, without]))
    assert found == mrmc_from_covariance(aucs.reshape(2, -1), covariances)
    assert found.difference > 0
    assert found.low < found.difference < found.high
    back = mrmc_test(labels, without, with_model)
    assert (back.difference, back.p_value) == pytest.approx((-found.difference, found.p_value))
    assert reader_mean(labels, without).auc == pytest.approx(found.auc_b)


def test_readers_who_are_one_reader_leave_the_patients_alone(read):
    """No reader adds a variance: DeLong's paired test is what is left."""
    labels, without, with_model = read
    found = mrmc_test(labels, np.stack([with_model[0]] * 2), np.stack([without[0]] * 2))
    paired = delong_test(labels, with_model[0], without[0])
    assert found.df == np.inf
    assert found.p_value == pytest.approx(paired.p_value)
    assert (found.low, found.high) == pytest.approx((paired.low, paired.high))
    same = mrmc_test(labels, without, without)
    assert (same.difference, same.f, same.p_value) == (0, 0, 1)


@pytest.mark.parametrize(
    ("labels", "readers", "reason"),
    [
        ([1, 1, 1, 1], 2, "no negative patient"),
        ([1, 0, 0, 0], 2, "a single positive patient"),
        ([1, 1, 0, 0], 1, "a single reader"),
    ],
)
def test_what_is_undefined_says_why(labels, readers, reason):
    scores = np.tile([10.0, 60.0, 30.0, 20.0], (readers, 1))
    found = mrmc_test(labels, scores, scores)
    assert reason in found.reason
    assert np.isnan([found.difference, found.p_value, found.df]).all()
    assert reason in reader_mean(labels, scores).reason


def test_readers_who_lack_a_condition_are_refused(read):
    labels, without, with_model = read
    with pytest.raises(EvaluationError, match="same readers and patients"):
        mrmc_test(labels, without, with_model[:2])
