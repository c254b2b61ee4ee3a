"""Blocks of networks, memory order, frozen encoders: what fine-tuning needs."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.demos.boring_classes import BoringModel
from torch import Tensor, nn
from torch.utils.data import DataLoader

from backbones import TimmImageEncoder, TorchvisionVideoEncoder
from lightning_modules import FreezeEncoders, ImageClassifier, SyncBatchNorm, WeightAverage
from lightning_modules.layers import blocks, use_channels_last
from tests.waits import META, Waits


class SmallEncoder(nn.Module):
    """Three blocks: a stem with a norm, a list of one, a projection."""

    num_features = 2

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU())
        self.body = nn.ModuleList([nn.TransformerEncoderLayer(4, 1, 4, dropout=0.0)])
        self.last = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).mean(2)
        return self.last(self.body[0](x[:, None]).squeeze(1))


class Data(L.LightningDataModule):
    """Four rows, twice an epoch."""

    def __init__(self) -> None:
        super().__init__()
        pixels = torch.randn(4, 3, 4, 4, generator=torch.Generator().manual_seed(0))
        names = list("abcd")
        row = {"image": pixels, "label": torch.tensor([0.0, 0, 0, 1])}
        self.rows = [row | {"row_key": names, "item_id": names, "patient_id": names}] * 2

    def train_label_counts(self) -> tuple[int, int]:
        return 3, 1

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.rows, batch_size=None)  # type: ignore[arg-type]

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.rows, batch_size=None)  # type: ignore[arg-type]


def trainer(*callbacks: L.Callback, **settings: Any) -> L.Trainer:
    return L.Trainer(
        accelerator="cpu",
        logger=False,
        callbacks=list(callbacks),
        enable_checkpointing=any(isinstance(c, ModelCheckpoint) for c in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **settings,
    )


def model(**settings: Any) -> ImageClassifier:
    torch.manual_seed(1)
    return ImageClassifier(SmallEncoder(), **settings)


def test_blocks_are_those_that_papers_count() -> None:
    resnet = TimmImageEncoder("resnet50", pretrained=False)
    assert [len(block) for block in blocks(resnet)][:3] == [3, 12, 9]
    assert len(blocks(resnet)) == 1 + 16
    r3d = TorchvisionVideoEncoder("r3d_18", pretrained=False, video_size=32, num_frames=4)
    assert len(blocks(r3d)) == 1 + 8
    for network in (resnet, r3d, SmallEncoder()):
        found = [id(p) for block in blocks(network) for p in block]
        assert sorted(found) == sorted(id(p) for p in network.parameters())


def test_rates_rise_from_the_first_block_to_the_last() -> None:
    fine = model(encoder_lr=1e-3, head_lr=1e-2, layer_decay=0.01, warmup=0.0)
    done = trainer(max_steps=1)
    done.fit(fine, datamodule=Data())
    rate = {
        id(p): group["initial_lr"]
        for group in done.optimizers[0].param_groups
        for p in group["params"]
    }
    stem, body, last = (rate[id(block[0])] for block in blocks(fine.encoder))
    assert (stem, body, last) == pytest.approx((1e-5, 1e-4, 1e-3))
    assert {rate[id(p)] for p in fine.head.parameters()} == {1e-2}


def test_channels_last_changes_memory_and_not_values() -> None:
    plain, laid_out = model(), model(channels_last=True)
    use_channels_last(laid_out)
    convolution = laid_out.encoder.stem[0]
    assert convolution.weight.is_contiguous(memory_format=torch.channels_last)
    clip = nn.Conv3d(3, 8, 3)
    use_channels_last(clip)
    assert clip.weight.is_contiguous(memory_format=torch.channels_last_3d)
    seen = []
    convolution.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    (batch,) = Data().rows[:1]
    torch.testing.assert_close(plain.logits(batch), laid_out.logits(batch))
    assert seen[0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_fused_optimiser_steps_as_the_other_with_clipping(precision: Any) -> None:
    weights = []
    for fused in (False, True):
        fine = model(fused_optimizer=fused)
        done = trainer(max_steps=2, precision=precision, gradient_clip_val=0.1)
        done.fit(fine, datamodule=Data())
        assert bool(done.optimizers[0].param_groups[0]["fused"]) is fused
        weights.append(torch.cat([p.detach().flatten() for p in fine.parameters()]))
    torch.testing.assert_close(*weights)


def test_encoders_are_compiled_where_a_backend_is_named() -> None:
    plain, compiled = model(), model(compile_backend="eager")
    for one in (plain, compiled):
        trainer(max_steps=1).fit(one, datamodule=Data())
    assert compiled.encoder._compiled_call_impl is not None
    assert plain.encoder._compiled_call_impl is None
    assert compiled.state_dict().keys() == plain.state_dict().keys()
    torch.testing.assert_close(dict(compiled.named_parameters()), dict(plain.named_parameters()))


class Watch(L.Callback):
    """Notes by epoch whether the stem has moved, and its batch norm's statistics."""

    def __init__(self) -> None:
        self.stem: dict[int, Tensor] = {}
        self.mean: dict[int, Tensor] = {}

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.stem[trainer.current_epoch] = pl_module.encoder.stem[0].weight.detach().clone()
        self.mean[trainer.current_epoch] = pl_module.encoder.stem[1].running_mean.clone()


def fit(path: Path, *more: L.Callback, resume: Path | None = None) -> tuple[Watch, ImageClassifier]:
    watch, fine = Watch(), model(encoder_lr=1e-2)
    keep = ModelCheckpoint(dirpath=path, filename="{epoch}", save_top_k=-1)
    done = trainer(FreezeEncoders(2), *more, watch, keep, max_epochs=4)
    done.fit(fine, datamodule=Data(), ckpt_path=resume, weights_only=True)
    return watch, fine


def test_encoders_thaw_at_their_epoch_and_frozen_batch_norm_keeps_its_statistics(
    tmp_path: Path,
) -> None:
    watch, _ = fit(tmp_path)
    start = model().encoder.stem
    for epoch in (0, 1):
        assert torch.equal(watch.stem[epoch], start[0].weight)
        assert torch.equal(watch.mean[epoch], start[1].running_mean)
    for epoch in (2, 3):
        assert not torch.equal(watch.stem[epoch], watch.stem[epoch - 1])
        assert not torch.equal(watch.mean[epoch], watch.mean[epoch - 1])


@pytest.mark.parametrize("averaged", [False, True])
def test_a_resumed_run_thaws_as_the_one_that_was_not_killed(tmp_path: Path, averaged: bool) -> None:
    def more() -> list[L.Callback]:
        return [WeightAverage(decay=0.5)] if averaged else []

    _, whole = fit(tmp_path / "whole", *more())
    for epoch in (0, 2):  # killed while frozen, and after the thaw
        at = tmp_path / "whole" / f"epoch={epoch}.ckpt"
        watch, resumed = fit(at.parent, *more(), resume=at)
        assert set(watch.stem) == set(range(epoch + 1, 4))
        torch.testing.assert_close(resumed.state_dict(), whole.state_dict())


def test_freezing_refuses_what_it_cannot_do() -> None:
    with pytest.raises(ValueError, match="freeze_epochs must be at least 1, got 0"):
        FreezeEncoders(0)
    with pytest.raises(ValueError, match=r"must go with a model that has encoders\(\), got Boring"):
        trainer(FreezeEncoders(1), max_steps=1).fit(BoringModel())


class Steps(L.Callback):
    """The weights after each step, and where the average of them is."""

    def __init__(self) -> None:
        self.weights: list[dict[str, Tensor]] = []

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *_: Any) -> None:
        self.weights.append({k: v.clone() for k, v in pl_module.state_dict().items()})


def test_the_average_is_that_of_the_steps() -> None:
    steps, average = Steps(), WeightAverage(decay=0.9)
    fine = model(encoder_lr=1e-2)
    trainer(steps, average, max_epochs=3).fit(fine, datamodule=Data())
    expected, *others = (dict(weights) for weights in steps.weights)
    for weights in others:
        for name, value in weights.items():
            expected[name] = (0.9 * expected[name] + 0.1 * value).to(value.dtype)
    assert len(others) > 3
    torch.testing.assert_close(fine.state_dict(), expected)


def test_the_average_is_made_on_the_device_and_updated_without_a_wait() -> None:
    average = WeightAverage(decay=0.9)
    strategy = SimpleNamespace(root_device=META)
    average.setup(SimpleNamespace(strategy=strategy), model(), "fit")  # type: ignore[arg-type]
    made = average._average_model
    assert made is not None
    assert {value.device for value in made.module.state_dict().values()} == {META}
    assert made.n_averaged.device.type == "cpu"
    trained = model().to(META)
    with Waits() as waits:
        for _ in range(3):
            made.update_parameters(trained)
    assert (waits.seen, int(made.n_averaged)) == ([], 3)


class OwnNorm(nn.BatchNorm2d):
    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        return super().forward(input).abs()


@pytest.mark.parametrize("name", ["densenet121", "inception_v3"])
def test_synchronised_batch_norm_keeps_the_activation_it_holds(name: str) -> None:
    """In evaluation mode it computes on the CPU, too, and must give what it gave."""
    torch.manual_seed(0)
    network = nn.Sequential(TimmImageEncoder(name, pretrained=False)).eval()
    images = torch.randn(2, 3, 96, 96)
    kinds = {key: type(module) for key, module in network.named_modules()}
    expected = network(images)
    plugin = SyncBatchNorm()
    synced = plugin.apply(network)
    assert sum(isinstance(module, nn.SyncBatchNorm) for module in synced.modules()) > 50
    torch.testing.assert_close(synced(images), expected)
    assert not any(type(module) is nn.BatchNorm2d for module in synced.modules())
    synced.to(torch.float64)  # as a move to a device does: statistics are other tensors then
    back = plugin.revert(synced).to(torch.float32)
    assert {key: type(module) for key, module in back.named_modules()} == kinds
    torch.testing.assert_close(back(images), expected)


def test_the_trainer_takes_our_way_of_synchronising() -> None:
    done = L.Trainer(
        accelerator="cpu", devices=2, strategy="ddp", sync_batchnorm=True, logger=False,
        plugins=[SyncBatchNorm()],
    )  # fmt: skip
    assert type(done.strategy._layer_sync) is SyncBatchNorm  # type: ignore[attr-defined]


def test_a_batch_norm_of_an_unknown_kind_is_not_synchronised() -> None:
    with pytest.raises(ValueError, match=r"must be torch's or timm's .* got OwnNorm \(1\)"):
        SyncBatchNorm().apply(nn.Sequential(nn.Conv2d(3, 4, 1), OwnNorm(4)))
