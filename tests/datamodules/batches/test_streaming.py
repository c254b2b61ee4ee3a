"""Threads, caches, epochs and Lightning change nothing in what is read."""

import gc
import os
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from datamodules import Augment, TimedWindow
from datamodules.store.decode import PyavCpu
from tests.datamodules.streams import every_kind, expected_keys, make, of_rank, rows_of, same


@every_kind
def test_on_a_cpu_batches_are_finished_while_they_are_read(kind: str, stream_store: Path) -> None:
    raw = make(kind, stream_store, augment=Augment())
    finished = of_rank(make(kind, stream_store, augment=Augment(), num_threads=2), 0, 1)
    for loader, other in zip(
        [raw.train_dataloader(), *raw.predict_dataloader()],
        [finished.train_dataloader(), *finished.predict_dataloader()],
        strict=True,
    ):
        expected = rows_of(raw.on_after_batch_transfer(batch, 0) for batch in loader)
        assert all(map(same, expected, rows_of(other)))
        batch = next(iter(other))
        after = finished.on_after_batch_transfer(batch, 0)  # Lightning calls it all the same
        assert all(after[key] is value for key, value in batch.items())


@every_kind
@pytest.mark.parametrize("num_threads", [1, 3])
def test_threads_change_nothing(kind: str, stream_store: Path, num_threads: int) -> None:
    alone = make(kind, stream_store, augment=Augment())
    threaded = make(kind, stream_store, augment=Augment(), num_threads=num_threads)
    for epoch in (0, 1):
        loaders = [alone.train_dataloader(), threaded.train_dataloader()]
        for loader in loaders:
            loader.sampler.set_epoch(epoch)
        one, other = map(rows_of, loaders)
        assert len(one) == len(other)
        assert all(map(same, one, other))


def test_nothing_is_parsed_in_threads(stream_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = make("combined", stream_store, num_threads=2)
    loaders = [module.train_dataloader(), *module.predict_dataloader()]

    def refuse(*_: object) -> None:
        raise AssertionError("ast.parse fails at random in threads on Python 3.11")

    monkeypatch.setattr("ast.parse", refuse)
    assert all(len(list(loader)) == len(loader) for loader in loaders)


@pytest.mark.parametrize("cache", ["disk", "ram", False])
@pytest.mark.parametrize("kind", ["video", "combined"])
def test_a_cache_changes_nothing(kind: str, stream_store: Path, cache: Any) -> None:
    plain = make(kind, stream_store, augment=Augment())
    cached = make(kind, stream_store, augment=Augment(), cache=cache, num_threads=2)
    for epoch in (0, 1):
        for module in (plain, cached):
            module.finished = []
            for loader in (module.train_dataloader(), *module.predict_dataloader()):
                loader.sampler.set_epoch(epoch)
                module.finished += [module.on_after_batch_transfer(raw, 0) for raw in loader]
        assert all(map(same, rows_of(plain.finished), rows_of(cached.finished)))
    folder = cached._cache.path if cached._cache else None
    cached.teardown("fit")
    assert folder is None or folder.exists()  # scoring comes after it
    cached.teardown("predict")
    assert folder is None or folder.exists() == (cache == "disk")
    assert next(iter(cached.train_dataloader()))["label"].shape == (4,)  # and it can start anew
    cached.teardown("predict")


def test_memory_stays_flat_over_epochs(stream_store: Path) -> None:
    module = make("video", stream_store, num_threads=2, augment=Augment())
    loader = module.train_dataloader()

    def epochs(count: int) -> int:
        for epoch in range(count):
            loader.sampler.set_epoch(epoch)
            for batch in loader:
                module.on_after_batch_transfer(batch, 0)
        gc.collect()
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    before = epochs(10)
    assert epochs(50) - before < 20e6  # a leak of its frames alone would be 60 MB


class Recorder(L.LightningModule):
    """A network of one weight that keeps what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: dict[str, list[Any]] = {"fit": [], "validate": [], "predict": []}

    def _logits(self, batch: dict[str, Any], stage: str) -> torch.Tensor:
        self.seen[stage].append((self.current_epoch, batch["row_key"], batch.keys()))
        inputs = [batch[key].flatten(1).mean(1) for key in ("image", "video") if key in batch]
        return self.weight * sum(inputs)

    def training_step(self, batch: dict[str, Any]) -> torch.Tensor:
        logits = self._logits(batch, "fit")
        return torch.nn.functional.binary_cross_entropy_with_logits(logits, batch["label"])

    def validation_step(self, batch: dict[str, Any]) -> None:
        self._logits(batch, "validate")

    def predict_step(self, batch: dict[str, Any], batch_idx: int, dataloader_idx: int) -> Any:
        del batch_idx, dataloader_idx
        self._logits(batch, "predict")
        return batch["patient_id"], batch["label"]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@every_kind
def test_lightning_fits_and_predicts(kind: str, stream_store: Path, tmp_path: Path) -> None:
    module, network = make(kind, stream_store, num_threads=2, augment=Augment()), Recorder()
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=1,
        default_root_dir=tmp_path,
    )
    trainer.fit(network, datamodule=module)
    predictions = trainer.predict(network, datamodule=module)
    for stage, seen in network.seen.items():
        weight = {"loss_weight"} if stage == "fit" else set()
        assert all(keys == expected_keys(kind) | weight for *_, keys in seen)
    assert [len(part) for part in predictions] == [len(x) for x in module.predict_dataloader()]
    for part, batches in zip(module.predict_parts, predictions, strict=True):
        assert {p for patients, _ in batches for p in patients} == set(module.patients(part))
    orders = [[keys for e, keys, _ in network.seen["fit"] if e == epoch] for epoch in (0, 1)]
    assert len(orders[0]) == len(orders[1]) == len(module.train_dataloader())
    assert orders[0] != orders[1], "Lightning called set_epoch"
    assert network.weight != 0


@every_kind
def test_a_run_on_the_cpu_opens_no_device(
    kind: str, stream_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pinned memory takes a context of the device; where there is none, pinning raises."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for cache in ("off", "ram"):
        module = of_rank(make(kind, stream_store, num_threads=1, cache=cache), 0, 1)
        for loader in (module.train_dataloader(), *module.predict_dataloader()):
            assert len(list(loader)) == len(loader)
        module.teardown("predict")


class _Remembering(PyavCpu):
    """The real decoder, remembering the memory of all that it gave."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[torch.Tensor] = []

    def decode(self, packets: Any, **settings: Any) -> torch.Tensor:
        self.given.append(super().decode(packets, **settings))
        return self.given[-1]


@pytest.mark.parametrize("kind", ["video", "combined"])
def test_frames_stay_where_the_decoder_put_them(kind: str, stream_store: Path) -> None:
    """A decoder on a device waits for its own stream: what a reader did after would be unordered.

    Rows of the combined kind lack clips, and windows of a short clip show frames twice.
    """
    window = TimedWindow(num_frames=4, clip_seconds=0.3, start="random")
    module = make(kind, stream_store, train_sampling=window)
    module.setup()
    decoder = _Remembering()
    module._reader._decoder = module._reader._cpu = decoder
    kept = [batch["video"] for batch in module.train_dataloader()]
    places = {frames.untyped_storage().data_ptr() for frames in decoder.given}
    decoded = [video for video in kept if video.any()]
    assert len(decoded) > 1
    assert all(video.untyped_storage().data_ptr() in places for video in decoded)
    if kind == "combined":
        assert any(not row.any() for video in decoded for row in video)
