"""The probe: against scikit-learn on plain features, patients as the unit, and as a head."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from backbones import ConcatFusion, SumLogitFusion
from lightning_modules import CombinedClassifier, ImageClassifier
from lightning_modules.probe import STRENGTHS, ProbeRows, fit_rule, patient_means, rule_logits
from lightning_modules.scores import patient_scores


def rows_of(
    *, patients: int = 40, width: int = 6, signal: float = 1.5, seed: int = 0, video: bool = False
) -> ProbeRows:
    rng = np.random.default_rng(seed)
    labels = (np.arange(patients) % 3 == 0).astype(float)
    features = {"image": rng.normal(5, 2, (patients, width)) + signal * labels[:, None]}
    if video:
        features["video"] = rng.normal(0, 9, (patients, 2 * width)) + 9 * labels[:, None]
    names = np.array([f"p{i:03d}" for i in range(patients)])
    return ProbeRows(features, names, names, labels)


@pytest.mark.parametrize("strength", [0.1, 10.0])
def test_the_rule_is_the_ridge_of_standardised_features(strength: float) -> None:
    rows = rows_of()
    rule = fit_rule(rows, strengths=[strength])
    x = rows.features["image"]
    spread = np.sqrt(x.var(0) + 0.01 * x.var(0).mean())
    standard = (x - x.mean(0)) / spread / np.sqrt(x.shape[1])
    theirs = LogisticRegression(C=strength, tol=1e-10, max_iter=10000).fit(standard, rows.labels)
    np.testing.assert_allclose(
        rule_logits(rule, rows.features), theirs.decision_function(standard), atol=1e-4
    )
    assert rule.strengths == {"image": strength}


def test_a_feature_that_is_silent_in_training_does_not_decide_alone() -> None:
    rows = rows_of(patients=60, width=20)
    silent = np.zeros((60, 1))
    silent[3] = 1e-4 * rows.features["image"].std()
    with_silent = np.hstack([rows.features["image"], silent])
    rule = fit_rule(ProbeRows({"image": with_silent}, rows.patients, rows.items, rows.labels))
    new = with_silent.copy()
    new[:, -1] = 1.0  # it speaks, as loud as the others
    moved = rule_logits(rule, {"image": new}) - rule_logits(rule, {"image": with_silent})
    assert np.abs(moved).max() < 0.5


def test_a_patient_with_many_rows_weighs_as_one() -> None:
    rows = rows_of()
    again = np.concatenate([np.arange(40), np.zeros(30, int), np.full(7, 5)])
    repeated = ProbeRows(
        {"image": rows.features["image"][again]},
        rows.patients[again],
        np.array([f"i{n}" for n in range(len(again))]),
        rows.labels[again],
    )
    one, many = fit_rule(rows), fit_rule(repeated)
    assert one.strengths == many.strengths
    np.testing.assert_allclose(one.weights["image"], many.weights["image"], rtol=1e-4, atol=1e-6)
    assert one.bias == pytest.approx(many.bias, rel=1e-3)


def test_features_of_a_patient_give_the_logit_that_the_patient_is_scored_with() -> None:
    rng = np.random.default_rng(1)
    items = np.repeat([f"i{i:02d}" for i in range(40)], rng.integers(1, 4, 40))
    patients = np.array([f"p{int(item[1:]) // 3:02d}" for item in items])  # of up to nine windows
    labels = np.array([float(patient < "p05") for patient in patients])
    features = rng.normal(size=(len(items), 6)) + labels[:, None]
    features[patients == "p07"] = np.nan
    rows = ProbeRows({"image": features}, patients, items, labels)
    rule = fit_rule(rows)
    table = {"item_id": items, "patient_id": patients, "label": labels}
    table |= {"row_key": range(len(items)), "logit": rule_logits(rule, rows.features)}
    scored = patient_scores(pd.DataFrame(table)).set_index("patient_id").drop(index="p07")
    means, label = patient_means(rows, "image")
    np.testing.assert_allclose(rule_logits(rule, {"image": means}), scored["logit"])
    np.testing.assert_array_equal(label, scored["label"])


def test_the_penalty_follows_the_signal_and_the_same_rows_give_the_same_rule() -> None:
    noise = fit_rule(rows_of(signal=0.0, width=60))
    clear = fit_rule(rows_of(signal=3.0))
    assert noise.strengths["image"] == min(STRENGTHS)
    assert clear.strengths["image"] > noise.strengths["image"]
    again = fit_rule(rows_of(signal=3.0))
    np.testing.assert_array_equal(clear.weights["image"], again.weights["image"])


def test_two_modalities_add_their_log_odds_ratios_and_one_that_is_lacking_adds_nothing() -> None:
    rows = rows_of(video=True)
    rule = fit_rule(rows)
    alone = {
        name: fit_rule(ProbeRows({name: values}, rows.patients, rows.items, rows.labels))
        for name, values in rows.features.items()
    }
    prior = np.log(rows.labels.mean() / (1 - rows.labels.mean()))
    added = sum(rule_logits(alone[name], rows.features) - prior for name in alone) + prior
    np.testing.assert_allclose(rule_logits(rule, rows.features), added, atol=1e-8)
    assert rule.strengths == {name: alone[name].strengths[name] for name in alone}
    lacking = {"image": rows.features["image"].copy(), "video": rows.features["video"]}
    lacking["image"][:7] = np.nan
    np.testing.assert_allclose(
        rule_logits(rule, lacking)[:7], rule_logits(alone["video"], rows.features)[:7], atol=1e-8
    )
    nothing = {name: np.full_like(values, np.nan) for name, values in rows.features.items()}
    np.testing.assert_allclose(rule_logits(rule, nothing), prior, atol=1e-8)


def test_each_modality_is_fitted_on_those_who_have_it_whatever_their_prevalence() -> None:
    rows = rows_of(patients=90, video=True)
    lacking = np.flatnonzero(rows.labels == 0)[:40]
    features = {name: values.copy() for name, values in rows.features.items()}
    features["video"][lacking] = np.nan
    rule = fit_rule(ProbeRows(features, rows.patients, rows.items, rows.labels))
    there = np.setdiff1d(np.arange(90), lacking)
    video = ProbeRows(
        {"video": features["video"][there]},
        rows.patients[there], rows.items[there], rows.labels[there],
    )  # fmt: skip
    np.testing.assert_allclose(rule.weights["video"], fit_rule(video).weights["video"])
    # Who lacks the clip is judged by the image and the prevalence of all, not of those with a clip.
    image = ProbeRows({"image": features["image"]}, rows.patients, rows.items, rows.labels)
    of_image = rule_logits(fit_rule(image), features)[lacking]
    there_more = np.log(30 / 20) - np.log(30 / 60)
    mean_clip = fit_rule(video).bias - np.log(30 / 20)
    assert there_more > 0
    np.testing.assert_allclose(
        rule_logits(rule, features)[lacking], of_image + mean_clip, atol=1e-8
    )
    features["video"][rows.labels == 0] = np.nan
    with pytest.raises(ValueError, match=r"got 30 of one with features of modality video"):
        fit_rule(ProbeRows(features, rows.patients, rows.items, rows.labels))


def test_patients_of_one_class_are_refused() -> None:
    rows = rows_of()
    alike = ProbeRows(rows.features, rows.patients, rows.items, np.zeros(40))
    with pytest.raises(ValueError, match=r"patients of a probe must be of both labels, got 40"):
        fit_rule(alike)
    lonely = (np.arange(40) == 3).astype(float)
    one = ProbeRows(rows.features, rows.patients, rows.items, lonely)
    assert (
        fit_rule(one).strengths["image"] in STRENGTHS
    )  # nothing can be held out: no choice is made


class Mean(nn.Module):
    """Channel means times a weight each: three features."""

    num_features = 3

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale * x.flatten(2).mean(2)


def batch(count: int = 12) -> dict[str, Any]:
    torch.manual_seed(0)
    present = torch.arange(count) % 4 != 0
    return {
        "image": torch.randn(count, 3, 4, 4),
        "video": torch.randn(count, 3, 2, 4, 4) * present[:, None, None, None, None],
        "present_image": torch.ones(count, dtype=torch.bool),
        "present_video": present,
        "label": (torch.arange(count) % 3 == 0).float(),
        "patient_id": [f"p{i}" for i in range(count)],
        "item_id": [f"i{i}" for i in range(count)],
        "row_key": [f"i{i}@0" for i in range(count)],
    }


@pytest.mark.parametrize("settings", [{}, {"unit_features": True}, {"mirror_views": True}])
@pytest.mark.parametrize("modality", ["image", "combined"])
def test_a_model_whose_head_is_the_rule_scores_as_the_rule(
    modality: str, settings: dict[str, bool]
) -> None:
    model: Any = (
        ImageClassifier(Mean(), **settings)
        if modality == "image"
        else CombinedClassifier(Mean(), Mean(), SumLogitFusion, **settings)
    )
    one = batch()
    model.eval()
    with torch.no_grad():
        features = {
            name: torch.where(one[f"present_{name}"][:, None], v, torch.nan).double().numpy()
            for name, v in model.encode(one).items()
        }
    assert ("video" in features) == (modality == "combined")
    if "unit_features" in settings:
        rms = np.sqrt((features["image"] ** 2).mean(1))
        np.testing.assert_allclose(rms, 1, rtol=1e-3)
    patients, items = np.array(one["patient_id"]), np.array(one["item_id"])
    rows = ProbeRows(features, patients, items, one["label"].double().numpy())
    rule = fit_rule(rows, strengths=[3.0])
    model.start_from_rule(rule)
    with torch.no_grad():
        np.testing.assert_allclose(
            model.logits(one).numpy(), rule_logits(rule, features), atol=1e-4
        )


class LeftEdge(Mean):
    """Channel means of the first column: not the same of a mirror image."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x[..., :1])


def test_scored_are_the_mean_features_of_a_row_and_its_mirror_image_trained_is_the_row() -> None:
    model = ImageClassifier(LeftEdge(), mirror_views=True)
    pixels = torch.randn(5, 3, 4, 4)
    left, right = pixels[..., 0].mean(2), pixels[..., -1].mean(2)
    with torch.no_grad():
        torch.testing.assert_close(model.train().encode({"image": pixels})["image"], left)
        torch.testing.assert_close(
            model.eval().encode({"image": pixels})["image"], (left + right) / 2
        )


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
def test_unit_features_do_not_depend_on_the_scale_of_the_encoder(scale: float) -> None:
    model = ImageClassifier(Mean(), unit_features=True)
    pixels = torch.randn(5, 3, 4, 4)
    with torch.no_grad():
        features = model.features(model.encoder, pixels * scale)
        expected = model.features(model.encoder, pixels)
    torch.testing.assert_close(features, expected)
    torch.testing.assert_close(features.square().mean(1), torch.ones(5))


def test_a_head_that_is_not_linear_is_refused() -> None:
    model = CombinedClassifier(Mean(), Mean(), ConcatFusion)
    rows = rows_of(width=3, video=True)
    with pytest.raises(ValueError, match=r"head must be a backbones.SumLogitFusion .*ConcatFusion"):
        model.start_from_rule(fit_rule(rows))
