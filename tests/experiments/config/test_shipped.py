"""One optimisation step of every cell of the real study: full-size networks, small input."""

from collections.abc import Iterator
from pathlib import Path

import lightning as L
import pytest
import torch
from torch import nn

from experiments.config.compose import compose
from experiments.sweeps.file import read_sweep
from experiments.training.build import build

STUDY = read_sweep(Path(__file__).parents[3] / "experiments" / "yaml" / "sweep" / "study.yaml")

# Weights are random, for hubs are not reached from a test; sizes the least that suit all ten nets.
SMALL = [
    "study.image_encoder.init_args.pretrained=false",
    "study.video_encoder.init_args.pretrained=false",
    "image_size=96",
    "video_size=64",
    "num_frames=8",
    "batch_size=2",
    "trainer.accelerator=cpu",
    "trainer.max_epochs=1",
]


@pytest.fixture(autouse=True)
def matmul_precision() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


def step(store: Path, folder: Path, *overrides: str) -> L.Trainer:
    config = compose([f"profile={STUDY.profile}", *SMALL, f"store={store}", *overrides])
    config["trainer"] |= {"max_steps": 1, "limit_val_batches": 0, "enable_checkpointing": False}
    trainer, model, data = build(config, root=folder)
    before = [p.detach().clone() for p in model.parameters()]
    trainer.fit(model, datamodule=data)
    moved = [not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)]
    assert trainer.global_step == 1
    # timm starts residual branches at zero, so half of a ResNet-50 has no gradient at first.
    assert sum(moved) > 0.5 * len(moved)
    assert all(group["fused"] for group in trainer.optimizers[0].param_groups)
    order = {4: torch.channels_last, 5: torch.channels_last_3d}
    convolutions = [m.weight for m in model.modules() if isinstance(m, nn.Conv2d | nn.Conv3d)]
    assert all(w.is_contiguous(memory_format=order[w.ndim]) for w in convolutions)
    return trainer


@pytest.mark.parametrize("modality", STUDY.axes["modality"])
@pytest.mark.parametrize("architecture", STUDY.axes["architecture"])
def test_a_full_cell_takes_a_step(
    store: Path, tmp_path: Path, architecture: str, modality: str
) -> None:
    cell = [f"architecture={architecture}", f"modality={modality}"]
    step(store, tmp_path, *cell, "trainer.precision=32-true")  # others are slow on a CPU


def test_the_profile_is_made_for_tensor_cores(store: Path, tmp_path: Path) -> None:
    trainer = step(store, tmp_path, "architecture=resnet", "modality=image")
    assert trainer.precision == "bf16-mixed"
    assert torch.get_float32_matmul_precision() == "high"
