"""The heads: an absent modality has no say, and what is there is learned."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from backbones import (
    AverageLogitFusion,
    ConcatFusion,
    EncoderError,
    GatedFusion,
    SumLogitFusion,
    WeightedLogitFusion,
)

HEADS = [ConcatFusion, GatedFusion, SumLogitFusion, WeightedLogitFusion]
YES, NO = torch.tensor([True]), torch.tensor([False])


@pytest.fixture(params=[*HEADS, AverageLogitFusion], ids=lambda head: head.__name__)
def head(request: pytest.FixtureRequest) -> Any:
    head = request.param(6, 10).eval()
    for parameter in head.parameters():  # biases far from zero: they must not speak for the absent
        nn.init.normal_(parameter)
    return head


def test_one_logit_a_patient(head: Any) -> None:
    present = torch.ones(4, dtype=torch.bool)
    logit = head(torch.randn(4, 6), torch.randn(4, 10), present, present)
    assert logit.shape == (4,)
    assert logit.isfinite().all()


@pytest.mark.parametrize("content", [0.0, 1e30, float("nan"), float("inf")])
def test_absent_modality_has_no_influence(head: Any, content: float) -> None:
    image, video = torch.randn(1, 6), torch.randn(1, 10)
    without_video = head(image, torch.randn(1, 10), YES, NO)
    without_image = head(torch.randn(1, 6), video, NO, YES)
    assert torch.equal(head(image, torch.full((1, 10), content), YES, NO), without_video)
    assert torch.equal(head(torch.full((1, 6), content), video, NO, YES), without_image)
    both = head(image, video, YES, YES)
    assert both not in (without_video, without_image)
    assert without_video != without_image


def test_patients_of_a_batch_are_scored_each_on_their_own(head: Any) -> None:
    image, video = torch.randn(3, 6), torch.randn(3, 10)
    present_image, present_video = (
        torch.tensor([True, True, False]),
        torch.tensor([True, False, True]),
    )
    together = head(image, video, present_image, present_video)
    alone = [head(image[[i]], video[[i]], present_image[[i]], present_video[[i]]) for i in range(3)]
    torch.testing.assert_close(together, torch.cat(alone))


def test_gradient_passes_the_present_only(head: Any) -> None:
    image = torch.randn(2, 6, requires_grad=True)
    video = torch.full((2, 10), float("nan"))
    video[0] = torch.randn(10)
    video.requires_grad_()
    present_video = torch.tensor([True, False])
    head(image, video, torch.ones(2, dtype=torch.bool), present_video).sum().backward()
    assert image.grad is not None
    assert video.grad is not None
    assert (image.grad != 0).any(dim=1).all()
    assert video.grad[0].any()
    assert not video.grad[1].any()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("head_class", HEADS)
def test_head_learns_from_both_modalities(head_class: Any) -> None:
    patients = 256
    image, video = torch.randn(patients, 6), torch.randn(patients, 10)
    label = (image[:, 0] + video[:, 0] > 0).float()
    present_image = torch.rand(patients) > 0.2
    present_video = ~present_image | (torch.rand(patients) > 0.2)
    head = head_class(6, 10, **{} if head_class is SumLogitFusion else {"dropout": 0.0})
    optimizer = torch.optim.Adam(head.parameters(), lr=0.02)
    for _ in range(150):
        optimizer.zero_grad()
        logit = head(image, video, present_image, present_video)
        nn.functional.binary_cross_entropy_with_logits(logit, label).backward()
        optimizer.step()
    right = (head(image, video, present_image, present_video) > 0) == label.bool()
    assert right[present_image & present_video].float().mean() > 0.9
    assert right[present_image ^ present_video].float().mean() > 0.65  # 0.75 is the best there is


@pytest.mark.parametrize("doubt", [0.0, 0.05])
def test_a_sum_believes_no_modality_beyond_its_doubt(doubt: float) -> None:
    head = SumLogitFusion(1, 1)
    weights = {name: torch.zeros_like(value) for name, value in head.state_dict().items()}
    weights |= {f"{name}_head.1.weight": torch.ones(1, 1) for name in ("image", "video")}
    if doubt:
        weights["doubt"].fill_(doubt)
    else:  # as weights of before had none
        del weights["doubt"]
    head.load_state_dict(weights)
    evidence = torch.tensor([[-40.0], [-2.0], [0.0], [1.0], [3.0], [40.0]])
    there, lacking = torch.ones(6, dtype=torch.bool), torch.zeros(6, dtype=torch.bool)
    torch.testing.assert_close(head(evidence, evidence, there, there), 2 * evidence[:, 0])
    odds = evidence[:, 0].double().exp()
    expected = torch.log(((1 - doubt) * odds + doubt) / ((1 - doubt) + doubt * odds)).float()
    torch.testing.assert_close(head.eval()(evidence, evidence, there, lacking), expected)
    torch.testing.assert_close(head(evidence, evidence, there, there), 2 * expected)


@pytest.mark.parametrize("head_class", [WeightedLogitFusion, AverageLogitFusion])
def test_lone_modality_keeps_its_own_logit(head_class: Any) -> None:
    head = head_class(6, 10).eval()
    image, video = torch.randn(1, 6), torch.randn(1, 10)
    own: list[Tensor] = [head.image_head(image)[0], head.video_head(video)[0]]
    torch.testing.assert_close(head(image, video, YES, NO), own[0])
    torch.testing.assert_close(head(image, video, NO, YES), own[1])
    torch.testing.assert_close(head(image, video, YES, YES), (own[0] + own[1]) / 2)


def test_the_average_takes_off_what_each_modality_was_shifted_by() -> None:
    head = AverageLogitFusion(6, 10)
    head.image_shift.fill_(1.5)
    head.video_shift.fill_(-0.5)
    image, video = torch.randn(1, 6), torch.randn(1, 10)
    own = [head.image_head(image)[0] - 1.5, head.video_head(video)[0] + 0.5]
    torch.testing.assert_close(head(image, video, YES, NO), own[0])
    torch.testing.assert_close(head(image, video, NO, YES), own[1])
    torch.testing.assert_close(head(image, video, YES, YES), (own[0] + own[1]) / 2)


def test_heads_run_in_half_precision(head: Any) -> None:
    head = head.to(torch.bfloat16)
    image, video = torch.randn(1, 6).bfloat16(), torch.full((1, 10), float("nan")).bfloat16()
    assert head(image, video, YES, NO).isfinite().all()


@pytest.mark.parametrize("shapes", [((1, 5), (1, 10)), ((1, 6), (1, 9)), ((1, 6, 1), (1, 10))])
def test_features_of_another_width_are_refused(head: Any, shapes: Any) -> None:
    image, video = (torch.zeros(shape) for shape in shapes)
    with pytest.raises(EncoderError, match=r"must be of width 6 \(image\) and 10 \(video\), got"):
        head(image, video, YES, YES)


@pytest.mark.parametrize("head_class", [h for h in HEADS if h is not SumLogitFusion])
@pytest.mark.parametrize("dropout", [-0.1, 1.0, float("nan")])
def test_dropout_out_of_range_is_refused(head_class: Any, dropout: float) -> None:
    with pytest.raises(EncoderError, match=f"dropout must be from 0 to below 1, got {dropout}"):
        head_class(6, 10, dropout=dropout)


@pytest.mark.parametrize("head_class", [ConcatFusion, GatedFusion])
def test_hidden_layer_without_units_is_refused(head_class: Any) -> None:
    with pytest.raises(EncoderError, match=r"hidden must be at least 1, got 0"):
        head_class(6, 10, hidden=0)
