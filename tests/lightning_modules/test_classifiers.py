"""Loss, scoring by patient and optimiser of the classifiers."""

import math
from typing import Any

import lightning as L
import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from backbones import AverageLogitFusion, ConcatFusion, SumLogitFusion, WeightedLogitFusion
from lightning_modules import (
    CombinedClassifier,
    ImageClassifier,
    PatientClassifier,
    VideoClassifier,
    gather_rows,
    patient_scores,
)
from lightning_modules.probe import LinearRule

LABELS = [0, 0, 0, 1]  # of patients a, b, c, d


class MeanEncoder(nn.Module):
    """Channel means: a network small enough to compute by hand."""

    num_features = 3

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x.flatten(2).mean(2)


def classifier(modality: str, **settings: Any) -> PatientClassifier:
    if modality == "combined":
        return CombinedClassifier(MeanEncoder(), MeanEncoder(), ConcatFusion, **settings)
    return {"image": ImageClassifier, "video": VideoClassifier}[modality](MeanEncoder(), **settings)


def batch(patients: str = "abcd", labels: list[int] | None = None) -> dict[str, Any]:
    n = len(patients)
    labels = labels or [LABELS["abcd".index(p)] for p in patients]
    return {
        "image": torch.randn(n, 3, 4, 4),
        "video": torch.randn(n, 3, 2, 4, 4),
        "present_image": torch.ones(n, dtype=torch.bool),
        "present_video": torch.ones(n, dtype=torch.bool),
        "label": torch.tensor(labels).float(),
        "patient_id": list(patients),
        "item_id": [f"{p}-item" for p in patients],
        "row_key": [f"{p}{i}" for i, p in enumerate(patients)],
    }


class Data(L.LightningDataModule):
    """Two batches of the contract, without files."""

    def __init__(self, labels: list[int] | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.batches = [batch(labels=labels), batch(labels=labels)]
        for number, one in enumerate(self.batches):
            one["row_key"] = [f"{key}@{number}" for key in one["row_key"]]

    def train_label_counts(self) -> tuple[int, int]:
        return 6, 2

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.batches, batch_size=None)  # type: ignore[arg-type]

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.batches, batch_size=None)  # type: ignore[arg-type]


def trainer(**settings: Any) -> L.Trainer:
    return L.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"max_epochs": 1} | settings,
    )


@pytest.mark.parametrize("modality", ["image", "video", "combined"])
def test_every_classifier_scores_rows_and_trains_every_parameter(modality: str) -> None:
    model = classifier(modality)
    logits = model.logits(batch())
    assert logits.shape == (4,)
    logits.sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_balanced_loss_weights_positives_by_negatives_per_positive() -> None:
    model = classifier("image")
    trainer().fit(model, datamodule=Data())
    assert model.pos_weight == pytest.approx(3.0)
    one = batch()
    model.log = lambda *_, **__: None  # type: ignore[method-assign]
    z, y = model.logits(one).detach(), one["label"]
    by_hand = (-3 * y * torch.log(torch.sigmoid(z)) - (1 - y) * torch.log(torch.sigmoid(-z))).mean()
    assert model.training_step(one, 0).item() == pytest.approx(by_hand.item(), rel=1e-5)


def test_rows_that_weigh_nothing_fill_a_batch_only() -> None:
    model = classifier("image")
    model.log = lambda *_, **__: None  # type: ignore[method-assign]
    one = batch("abd")
    whole = model.training_step(one, 0)
    filled = {
        key: torch.cat([value, value[:1]]) if isinstance(value, Tensor) else [*value, value[0]]
        for key, value in one.items()
    }
    filled["loss_weight"] = torch.tensor([4 / 3, 4 / 3, 4 / 3, 0.0])
    torch.testing.assert_close(model.training_step(filled, 0), whole)


class Oversampled(Data):
    """Shows positives three times as often as they are."""

    positive_oversampling = 3.0


def test_repeated_positives_shift_the_logits_as_weighted_ones_do() -> None:
    model = classifier("image", pos_weight=1.0)
    trainer().fit(model, datamodule=Oversampled())
    assert model.pos_weight == 1
    assert model.logit_shift.item() == pytest.approx(math.log(3))
    one = batch()
    torch.testing.assert_close(model(one), torch.sigmoid(model.logits(one) - math.log(3)))
    for weight in ("balanced", 2.0):
        with pytest.raises(ValueError, match="pos_weight must be 1 where class_sampling is"):
            trainer().fit(classifier("image", pos_weight=weight), datamodule=Oversampled())


class OtherPatients(Data):
    """Scores others than the split has."""

    def patients(self, part: str) -> tuple[str, ...]:
        return ("a", "b", "c", "e")


def test_patients_that_are_not_of_the_split_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must be the 4 of the split, got 4, 1 of them missing"):
        trainer().validate(classifier("image"), datamodule=OtherPatients(), verbose=False)
    trainer(limit_val_batches=1).validate(
        classifier("image"), datamodule=OtherPatients(), verbose=False
    )


@pytest.mark.parametrize("modality", ["image", "combined"])
def test_logits_of_a_mixed_precision_keep_their_digits(modality: str) -> None:
    model = classifier(modality).eval()
    one = batch()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = model.logits(one)
    assert mixed.dtype == torch.float32
    assert (mixed != mixed.bfloat16()).any(), "more than bfloat16 can tell"
    torch.testing.assert_close(mixed, model.logits(one), rtol=0.02, atol=0.02)


def test_a_combined_model_starts_from_an_image_and_a_video_model() -> None:
    image, video = classifier("image", pos_weight=2.0), classifier("video", pos_weight=3.0)
    states = {"image": image.state_dict(), "video": video.state_dict()}
    for state in states.values():
        state["encoder.scale"] = torch.randn(3)
    for head in (ConcatFusion, WeightedLogitFusion, AverageLogitFusion):
        model = CombinedClassifier(MeanEncoder(), MeanEncoder(), head)
        model.start_from(**states)
        assert torch.equal(model.image_encoder.scale, states["image"]["encoder.scale"])
        assert torch.equal(model.video_encoder.scale, states["video"]["encoder.scale"])
        if head is not ConcatFusion:
            assert torch.equal(model.head.video_head[1].weight, states["video"]["head.1.weight"])
        trained = [p.requires_grad for p in model.parameters()]
        assert not any(trained) if head is AverageLogitFusion else all(trained)
    assert model.head.image_shift.item() == pytest.approx(math.log(2))
    assert model.head.video_shift.item() == pytest.approx(math.log(3))
    with pytest.raises(RuntimeError, match="Missing key"):
        model.start_from(image={}, video={})


def test_probability_undoes_the_weight_of_the_loss() -> None:
    model = classifier("image", pos_weight=4.0)
    one = batch()
    expected = torch.sigmoid(model.logits(one) - math.log(4.0))
    torch.testing.assert_close(model(one), expected)
    assert "pos_weight" in model.state_dict()


def test_inner_figures_are_of_patients_not_of_rows() -> None:
    model, data = classifier("image", pos_weight=2.0), Data()
    (figures,) = trainer().validate(model, datamodule=data, verbose=False)
    rows = pd.DataFrame(
        {
            "patient": [p for b in data.batches for p in b["patient_id"]],
            "label": torch.cat([b["label"] for b in data.batches]),
            "logit": torch.cat([model.logits(b).detach() for b in data.batches]),
        }
    )
    patients = rows.groupby("patient").mean()
    p = 1 / (1 + (-(patients["logit"] - math.log(2.0))).map(math.exp))
    y = patients["label"]
    bce = -(y * p.map(math.log) + (1 - y) * (1 - p).map(math.log)).mean()
    above = (patients["logit"][y == 0] < patients["logit"][y == 1].iloc[0]).mean()
    assert figures["inner_bce"] == pytest.approx(bce, rel=1e-5)
    assert figures["inner_auroc"] == pytest.approx(above)


def test_inner_auroc_of_one_class_is_nan() -> None:
    data = Data(labels=[0, 0, 0, 0])
    (figures,) = trainer().validate(classifier("image"), datamodule=data, verbose=False)
    assert math.isnan(figures["inner_auroc"])
    assert math.isfinite(figures["inner_bce"])


def test_encoder_and_head_have_rates_and_decay_of_their_own_and_warm_up() -> None:
    model = classifier("image", encoder_lr=1e-4, head_lr=1e-2, weight_decay=0.1, warmup=0.5)
    done = trainer(max_epochs=2)
    done.fit(model, datamodule=Data())
    groups = done.optimizers[0].param_groups
    found = {(g["initial_lr"], g["weight_decay"], len(g["params"])) for g in groups}
    assert found == {(1e-4, 0.0, 1), (1e-2, 0.1, 1), (1e-2, 0.0, 1)}
    factor = done.lr_scheduler_configs[0].scheduler.lr_lambdas[0]
    assert [factor(s) for s in range(5)] == pytest.approx([1 / 3, 2 / 3, 1.0, 0.5, 0.0])


class BatchNormEncoder(MeanEncoder):
    """With running statistics of what it saw in training."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3, momentum=1.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(super().forward(x))


def test_what_is_absent_does_not_enter_batch_statistics() -> None:
    model = CombinedClassifier(BatchNormEncoder(), BatchNormEncoder(), ConcatFusion)
    one = batch()
    one["video"] += 5.0
    one["present_video"] = torch.tensor([False, True, False, True])
    one["video"][~one["present_video"]] = 0.0
    model.logits(one)
    mean = one["video"][one["present_video"]].mean((0, 2, 3, 4))
    torch.testing.assert_close(model.video_encoder.norm.running_mean, mean)
    mean = one["image"].mean((0, 2, 3))
    torch.testing.assert_close(model.image_encoder.norm.running_mean, mean)


def test_modality_dropout_shows_the_head_one_modality_of_a_share_of_the_rows() -> None:
    seen: list[Tensor] = []

    class Head(nn.Module):
        def forward(self, image: Tensor, video: Tensor, *present: Tensor) -> Tensor:
            seen.append(torch.stack(present))
            return image.sum(1) + video.sum(1)

    model = CombinedClassifier(
        MeanEncoder(), MeanEncoder(), lambda *_: Head(), modality_dropout=0.4
    )
    one = batch("a" * 4000)
    one["present_image"][:1000] = False  # these have one modality, and keep it
    model.logits(one)
    model.eval().logits(one)
    trained, scored = seen
    assert torch.equal(scored, torch.stack([one["present_image"], one["present_video"]]))
    assert trained.any(0).all()
    assert trained[1, :1000].all()
    kept = trained[:, 1000:].float().mean(1)
    assert kept.tolist() == pytest.approx([0.8, 0.8], abs=0.03)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_a_unimodal_loss_teaches_each_part_what_it_would_learn_alone(smoothing: float) -> None:
    both = CombinedClassifier(
        MeanEncoder(), MeanEncoder(), SumLogitFusion, unimodal_loss=1, label_smoothing=smoothing
    )
    one = batch()
    one["loss_weight"] = torch.tensor([1.0, 2.0, 0.5, 1.0])
    one["present_video"] = torch.tensor([True, False, True, True])
    both.training_step(one, 0).backward()
    assert not both.head.bias.grad  # or parts would make up for it, and their sum not
    for name, kind in (("image", ImageClassifier), ("video", VideoClassifier)):
        alone = kind(MeanEncoder(), label_smoothing=smoothing)
        head, part = alone.head[-1], getattr(both.head, f"{name}_head")[-1]
        head.load_state_dict(part.state_dict())
        rows = one[f"present_{name}"]
        alone.training_step(
            {k: v[rows] for k, v in one.items() if torch.is_tensor(v)}, 0
        ).backward()
        encoder = both.encoder_of(name)
        torch.testing.assert_close(encoder.scale.grad, alone.encoder.scale.grad)
        torch.testing.assert_close(part.weight.grad, head.weight.grad)


@pytest.mark.parametrize("pos_weight", [1.0, "balanced"])
def test_a_sum_of_parts_taught_alone_holds_the_share_of_positives_once(pos_weight: Any) -> None:
    model = CombinedClassifier(
        MeanEncoder(), MeanEncoder(), SumLogitFusion, unimodal_loss=1, pos_weight=pos_weight
    )
    trainer().fit(model, datamodule=Data())
    prior = math.log(2 / 6)
    expected = prior + (math.log(3) if pos_weight == "balanced" else 0.0)
    assert model.head.bias.item() == pytest.approx(expected, abs=1e-6)
    assert model.head.doubt.item() == 1 / 8


def test_a_sum_taught_as_one_does_not_ask_for_the_share_of_positives() -> None:
    data = Data()
    data.train_label_counts = lambda: (8, 0)  # type: ignore[method-assign]
    model = CombinedClassifier(MeanEncoder(), MeanEncoder(), SumLogitFusion, pos_weight=1)
    trainer().fit(model, datamodule=data)


def test_a_share_of_the_unimodal_loss_leaves_the_rest_to_both_together() -> None:
    model = CombinedClassifier(MeanEncoder(), MeanEncoder(), SumLogitFusion)
    one = batch()
    losses = {}
    for share in (0.0, 0.25, 1.0):
        model.unimodal_loss = share
        losses[share] = model.loss(model.encode(one), one)
    torch.testing.assert_close(losses[0.25], 0.75 * losses[0.0] + 0.25 * losses[1.0])


def test_each_modality_keeps_its_own_share_of_the_start() -> None:
    model = CombinedClassifier(
        MeanEncoder(), MeanEncoder(), SumLogitFusion, start_share={"image": 0.75, "video": 0.25}
    )
    shares = {name: model.share_of_start(name) for name, _ in model.named_parameters()}
    assert shares == {
        "image_encoder.scale": 0.75,
        "video_encoder.scale": 0.25,
        **{f"head.image_head.1.{p}": 0.75 for p in ("weight", "bias")},
        **{f"head.video_head.1.{p}": 0.25 for p in ("weight", "bias")},
        "head.bias": 0.5,
    }


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"start_share": {"image": 0.5}}, "start_share must be a number or one of image and of"),
        ({"start_share": {"image": 0.5, "video": 1}}, r"start_share must be in \[0, 1\), got 1"),
        ({"unimodal_loss": 1}, "unimodal_loss must be below 1 where ConcatFusion has to learn"),
        ({"unimodal_loss": None}, r"unimodal_loss must be in \[0, 1\], got None"),
        ({"modality_dropout": 1.1}, r"modality_dropout must be in \[0, 1\], got 1.1"),
    ],
)
def test_a_combined_setting_that_does_not_fit_is_refused(
    settings: dict[str, Any], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        classifier("combined", **settings)


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("pos_weight", 0.0, "> 0"),
        ("encoder_lr", 0.0, "> 0"),
        ("head_lr", -1.0, "> 0"),
        ("weight_decay", -0.1, ">= 0"),
        ("warmup", 1.0, r"in \[0, 1\)"),
        ("layer_decay", 0.0, r"in \(0, 1\]"),
    ],
)
def test_settings_out_of_range_are_refused(name: str, value: float, rule: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be {rule}, got {value}"):
        classifier("image", **{name: value})


def test_patients_are_means_on_the_logit_scale_each_row_once() -> None:
    first = {
        "row_key": ["x", "y", "z"],
        "item_id": ["i", "i", "j"],
        "patient_id": ["b", "b", "a"],
        "label": [1.0, 1.0, math.nan],
        "logit": [1.0, 2.0, 5.0],
    }
    repeated = {column: values[:1] for column, values in first.items()}
    scores = patient_scores(gather_rows([first, repeated]))
    assert scores["patient_id"].tolist() == ["a", "b"]
    assert scores["logit"].tolist() == [5.0, 1.5]
    assert scores["n_items"].tolist() == [1, 1]
    assert math.isnan(scores["label"][0])


def test_an_item_counts_once_however_many_windows_it_has() -> None:
    rows = {
        "row_key": ["i@0", "i@1", "i@2", "j@0", "k@0"],
        "item_id": ["i", "i", "i", "j", "j"],
        "patient_id": ["a", "a", "a", "a", "b"],
        "label": [1.0, 1.0, 1.0, 1.0, 0.0],
        "logit": [1.0, 2.0, 3.0, -4.0, 0.5],
    }
    scores = patient_scores(gather_rows([rows]))
    assert scores["logit"].tolist() == [(2.0 - 4.0) / 2, 0.5]  # over rows: 0.5
    assert scores["n_items"].tolist() == [2, 1]


class NormEncoder(MeanEncoder):
    """Batch norm before the channel means."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.norm(x))


@pytest.mark.parametrize("frozen", [False, True])
def test_frozen_batch_norm_keeps_the_statistics_that_it_came_with(frozen: bool) -> None:
    model = ImageClassifier(NormEncoder(), freeze_batch_norm=frozen)
    norm = model.encoder.norm
    norm.running_mean.fill_(0.25)
    before = norm.weight.detach().clone()
    trainer().fit(model, datamodule=Data())
    assert bool((norm.running_mean == 0.25).all()) is frozen
    assert not torch.equal(norm.weight, before)  # scale and shift are trained
    model.train()
    assert norm.training is not frozen


@pytest.mark.parametrize(
    ("smoothing", "low", "high"),
    [(0.2, 0.1, 0.9), ("platt", 1 / 8, 3 / 4)],  # of six patients and of two
)
def test_label_smoothing_moves_labels_towards_each_other(
    smoothing: float | str, low: float, high: float
) -> None:
    one = batch()
    model = classifier("image", pos_weight=1.0, label_smoothing=smoothing)
    trainer(max_steps=1, limit_val_batches=0).fit(model, datamodule=Data())
    model.log = lambda *_, **__: None  # type: ignore[method-assign]
    z = model.logits(one).detach()
    y = torch.where(one["label"] == 1, high, low)
    by_hand = -(y * torch.log(torch.sigmoid(z)) + (1 - y) * torch.log(torch.sigmoid(-z))).mean()
    assert model.training_step(one, 0).item() == pytest.approx(by_hand.item(), rel=1e-5)
    with pytest.raises(ValueError, match=r"label_smoothing must be in \[0, 1\), or platt, got 1"):
        classifier("image", label_smoothing=1)


def test_a_start_from_a_probe_is_shifted_by_the_weight_of_the_loss() -> None:
    model = classifier("image")
    rule = LinearRule({"image": np.zeros(3)}, {"image": 0.5}, 0.25, {"image": 1.0})
    model.start_from_rule(rule)
    trainer(max_steps=1, limit_val_batches=0).fit(model, datamodule=Data())
    assert model.logit_shift == pytest.approx(math.log(3))
    assert model.head[-1].bias.item() == pytest.approx(0.75 + math.log(3), abs=0.01)
