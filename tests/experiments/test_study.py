"""One optimisation step of every cell of the real study: full-size networks, small input."""

from pathlib import Path

import pytest
import torch

from experiments.build import build
from experiments.compose import compose
from experiments.sweep import read_sweep

STUDY = read_sweep(Path(__file__).parents[2] / "experiments" / "sweep" / "study.yaml")
# Weights are random, for hubs are not reached from a test; sizes the least that suit all ten nets.
SMALL = [
    "study.image_encoder.init_args.pretrained=false",
    "study.video_encoder.init_args.pretrained=false",
    "image_size=96",
    "video_size=64",
    "num_frames=8",
    "batch_size=2",
    "trainer.precision=32-true",
    "trainer.accelerator=cpu",
    "trainer.max_epochs=1",
]


@pytest.mark.parametrize("modality", STUDY.axes["modality"])
@pytest.mark.parametrize("architecture", STUDY.axes["architecture"])
def test_a_full_cell_takes_a_step(
    store: Path, tmp_path: Path, architecture: str, modality: str
) -> None:
    cell = [f"architecture={architecture}", f"modality={modality}", f"profile={STUDY.profile}"]
    config = compose([*cell, *SMALL, f"store={store}"])
    config["trainer"] |= {"max_steps": 1, "limit_val_batches": 0}
    trainer, model, data = build(config, root=tmp_path)
    before = [p.detach().clone() for p in model.parameters()]
    trainer.fit(model, datamodule=data)
    moved = [not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)]
    assert trainer.global_step == 1
    # timm starts residual branches at zero, so half of a ResNet-50 has no gradient at first.
    assert sum(moved) > 0.5 * len(moved)
