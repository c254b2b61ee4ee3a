"""No step makes the host wait for the device: counted on tensors without values."""

import contextlib
from typing import Any

import pytest
import torch
from torch import nn

from backbones import SumLogitFusion
from datamodules import Augment
from datamodules.batches.finish import finish
from datamodules.batches.inputs import Input
from lightning_modules import CombinedClassifier
from tests.waits import META, Waits

INPUTS = {key: Input(24, (0.4, 0.5, 0.6), (0.2, 0.2, 0.3)) for key in ("image", "video")}
AUGMENT = Augment(tgc=0.1, shadow=0.1, speckle=0.05)


def raw_batch() -> dict[str, Any]:
    """Four rows as they are uploaded."""
    drawn = torch.empty((4, 6 + 6 + 4 + 64**2), device=META)
    return {
        "image": torch.empty((4, 1, 3, 32, 32), dtype=torch.uint8, device=META),
        "video": torch.empty((4, 5, 3, 32, 32), dtype=torch.uint8, device=META),
        "image_augment": drawn,
        "video_augment": drawn,
        "present_image": torch.empty(4, dtype=torch.bool, device=META),
        "present_video": torch.empty(4, dtype=torch.bool, device=META),
        "label": torch.empty(4, device=META),
        "loss_weight": torch.empty(4, device=META),
        **{key: list("abcd") for key in ("row_key", "item_id", "patient_id")},
    }


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.tolist(),
        lambda x: x.new_tensor([1.0, 2.0]),
        lambda x: torch.tensor([1.0], device=x.device),
        lambda x: x.sum().item(),
        lambda x: bool(x.any()),
        lambda x: x[x > 0],
        lambda x: x.masked_fill_(x > 0, 0)[torch.zeros(4, dtype=torch.bool)],
        lambda x: torch.ones(4).to(x.device),
        lambda x: x.cpu(),
    ],
)  # fmt: skip
def test_the_count_sees_what_waits(wait: Any) -> None:
    # There are no values to give.
    with Waits() as waits, contextlib.suppress(NotImplementedError, RuntimeError):
        wait(torch.empty(4, device=META))
    assert len(waits.seen) >= 1


def test_a_batch_is_finished_without_a_wait() -> None:
    finish(raw_batch(), INPUTS, AUGMENT)  # what is uploaded once
    with Waits() as waits:
        done = finish(raw_batch(), INPUTS, AUGMENT)
    assert (done["video"].device, done["video"].shape) == (META, (4, 3, 5, 24, 24))
    assert waits.seen == []


def test_a_step_trains_and_scores_without_a_wait() -> None:
    net: Any = nn.Sequential(nn.Flatten(), nn.Linear(3 * 24 * 24, 8))
    net.num_features = 8
    clip_net: Any = nn.Sequential(nn.Flatten(), nn.Linear(3 * 5 * 24 * 24, 8))
    clip_net.num_features = 8
    with META:
        model = CombinedClassifier(
            net.to_empty(device=META), clip_net.to_empty(device=META), SumLogitFusion,
            modality_dropout=0.2, unimodal_loss=0.5, unit_features=True, mirror_views=True,
            label_smoothing=0.1, pos_weight=1,
        )  # fmt: skip
    # torch.autocast knows no such device.
    model.score = lambda head, *inputs: head(*inputs)  # type: ignore[method-assign]
    model.log = lambda *_, **__: None  # type: ignore[method-assign]
    optimizer = torch.optim.AdamW(model.parameters(), foreach=True)
    finish(raw_batch(), INPUTS, AUGMENT)
    with Waits() as waits:
        batch = finish(raw_batch(), INPUTS, AUGMENT)
        model.training_step(batch, 0).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            model.validation_step(batch, 0)
            model.predict_step(batch, 0)
    assert waits.seen == []
