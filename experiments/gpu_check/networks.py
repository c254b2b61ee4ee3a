"""Steps that run networks: their numbers, how fast they are, and what the host waits for."""

import time
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning import Callback, Trainer
from torch import nn
from torch.profiler import ProfilerActivity, profile

from experiments.config.compose import compose
from experiments.gpu_check.pixels import datamodule
from experiments.gpu_check.runs import ARCHITECTURES, settings_of
from experiments.gpu_check.step import FailedError, Where
from experiments.training.build import build

_MOST_OFF = 2e-3  # of the root mean square of the features; convolutions add up in another order
_WARM_UP, _COUNTED = 3, 5
_SECONDS = 1.0


def _config(where: Where, architecture: str, modality: str, *settings: str) -> dict[str, Any]:
    profile = "study" if where.is_full else "demo"
    return compose(
        [f"architecture={architecture}", f"modality={modality}", f"profile={profile}",
         "finetune=full", *settings_of(where), *settings]
    )  # fmt: skip


def _model(where: Where, architecture: str, modality: str, *settings: str) -> Any:
    _, model, _ = build(_config(where, architecture, modality, *settings), root=where.folder)
    return model


def features(where: Where) -> None:
    """Features of random pixels by every encoder, float32, without TF32."""
    torch.backends.cudnn.allow_tf32 = False
    worst: dict[str, float] = {}
    for architecture in ARCHITECTURES if where.is_full else ARCHITECTURES[:1]:
        for modality in ("image", "video"):
            model = _model(where, architecture, modality, "matmul_precision=highest").eval()
            pixels = torch.randn(_shape(where, architecture, modality, batch=2))
            with torch.no_grad():
                expected = model.encoder(pixels)
                got = model.encoder.to(where.device)(pixels.to(where.device)).cpu()
            scale = expected.square().mean().sqrt()
            worst[f"{architecture} {modality}"] = ((got - expected).abs().max() / scale).item()
            where.tell(most_off_of_rms=worst)
    if bad := [name for name, off in worst.items() if not off <= _MOST_OFF]:
        raise FailedError(f"features differ from the CPU's: {bad}")


def _shape(where: Where, architecture: str, modality: str, *, batch: int) -> tuple[int, ...]:
    study = _config(where, architecture, modality)["study"]
    if modality == "image":
        return (batch, 3, study["image_size"], study["image_size"])
    return (batch, 3, study["num_frames"], study["video_size"], study["video_size"])


class _Census(Callback):
    """Over five steps, after three: where the host waits, and what the device does."""

    def __init__(self, device: str) -> None:
        self._on_device = device == "cuda"
        self.waits: Counter[str] = Counter()
        self.wall = self.busy = 0.0
        self._seen: Any = None
        self._profile: Any = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Begin after the warm-up, end five steps later."""
        del trainer, pl_module, outputs, batch
        if batch_idx == _WARM_UP - 1:
            self._begin()
        elif batch_idx == _WARM_UP + _COUNTED - 1:
            self._end()

    def _begin(self) -> None:
        self._seen = warnings.catch_warnings(record=True)
        self._caught = self._seen.__enter__()
        warnings.simplefilter("always")
        activities = [ProfilerActivity.CPU]
        if self._on_device:
            activities.append(ProfilerActivity.CUDA)
            torch.cuda.synchronize()
        self._profile = profile(activities=activities)
        self._profile.__enter__()
        if self._on_device:
            torch.cuda.set_sync_debug_mode("warn")
        self._begun = time.perf_counter()

    def _end(self) -> None:
        if self._on_device:
            torch.cuda.set_sync_debug_mode("default")
            torch.cuda.synchronize()
        self.wall = time.perf_counter() - self._begun
        self._profile.__exit__(None, None, None)
        self._seen.__exit__(None, None, None)
        for warning in self._caught:
            if "synchronizing CUDA operation" in str(warning.message):
                self.waits[f"{warning.filename}:{warning.lineno}"] += 1
        spans = sorted(
            (event.time_range.start, event.time_range.end)
            for event in self._profile.events()
            if self._on_device and event.device_type.name == "CUDA"
        )
        end = 0.0
        for start, stop in spans:  # of all streams together, in microseconds
            self.busy += max(0.0, stop - max(start, end)) / 1e6
            end = max(end, stop)


def waits(where: Where) -> None:
    """Five real steps of a combined cell, with EMA: no step makes the host wait."""
    rows = 3 if where.is_full else 1  # an epoch is to have more steps than are counted
    config = _config(where, "resnet", "combined", "fold=all", f"batch_size={rows}")
    config["trainer"] |= {"max_epochs": 1, "limit_val_batches": 0, "gradient_clip_val": 1.0}
    from lightning_modules import WeightAverage

    census = _Census(where.device)
    trainer, model, data = build(
        config, callbacks=[WeightAverage(decay=0.9), census], root=where.folder
    )
    trainer.fit(model, datamodule=data)
    idle = 1 - census.busy / census.wall if census.wall and where.is_full else None
    where.tell(
        steps=_COUNTED,
        waits=dict(census.waits.most_common(20)),
        seconds_a_step=census.wall / _COUNTED,
        share_idle=idle,
    )
    if not census.wall:
        raise FailedError("the epoch had too few steps to count")
    of_ours = [place for place in census.waits if "site-packages" not in place]
    if of_ours:
        raise FailedError(f"the host waits in {of_ours}")


def pace(where: Where) -> None:
    """Clips a second: of the loader alone, and for each video encoder resident and end to end."""
    names = ARCHITECTURES if where.is_full else ARCHITECTURES[:1]
    batch = 8 if where.is_full else 2
    loader = {}
    for cache in ("off", "ram"):
        for threads in (4, 8, 14) if where.is_full else (1,):
            data = datamodule(
                where, names[0], "video", where.device, "decode=cpu", f"cache={cache}",
                f"num_threads={threads}", f"batch_size={batch}",
            )  # fmt: skip
            rate = _rate(lambda b: len(b["label"]), data)
            loader[f"{threads} threads, cache={cache}"] = round(rate, 1)
            where.tell(loader=loader)
            data.teardown("predict")
    for name in names:
        told: dict[str, Any] = {}
        for channels_last in (True, False):
            for benchmark in (False, True):
                with _benchmark(benchmark):
                    key = f"channels_last={channels_last}, benchmark={benchmark}"
                    told[key] = _resident(where, name, batch, channels_last=channels_last)
                where.tell(**{name: told})
        told["end_to_end"] = _end_to_end(where, name, batch)
        where.tell(**{name: told})


class _Training:
    """A network and its optimiser; a call is a step."""

    def __init__(self, where: Where, name: str, *, channels_last: bool) -> None:
        model = _model(where, name, "video", f"channels_last={str(channels_last).lower()}")
        model.setup("predict")
        self._device = where.device
        self._model: nn.Module = model.to(where.device).train()
        self._optimizer = torch.optim.AdamW(
            self._model.parameters(), lr=1e-5, fused=where.is_full or None
        )

    def __call__(self, batch: Any) -> int:
        with torch.autocast(self._device, torch.bfloat16):
            loss = self._model.logits(batch).float().square().mean()  # type: ignore[operator]
        loss.backward()
        self._optimizer.step()
        self._optimizer.zero_grad()
        return len(batch["video"])


def _resident(where: Where, name: str, batch: int, *, channels_last: bool) -> dict[str, float]:
    """Of a batch that is on the device already."""
    step = _Training(where, name, channels_last=channels_last)
    pixels = torch.randn(_shape(where, name, "video", batch=batch), device=where.device)
    for _ in range(_WARM_UP):
        step({"video": pixels})
    _synchronise(where)
    if where.is_full:
        torch.cuda.reset_peak_memory_stats()
    begun, done = time.perf_counter(), 0
    while time.perf_counter() - begun < _SECONDS:
        done += step({"video": pixels})
        _synchronise(where)
    seconds = time.perf_counter() - begun
    peak = torch.cuda.max_memory_allocated() / 1e9 if where.is_full else 0.0
    return {"clips_per_second": round(done / seconds, 1), "peak_gb": round(peak, 2)}


def _end_to_end(where: Where, name: str, batch: int) -> float:
    """With its loader, as many threads as `num_threads=auto` takes."""
    data = datamodule(where, name, "video", where.device, f"batch_size={batch}")
    return round(_rate(_Training(where, name, channels_last=True), data), 1)


def _rate(use: Any, data: Any) -> float:
    """Rows a second over epochs, after the first, in which readers begin and kernels are chosen."""
    begun, rows, epoch = 0.0, 0, 0
    loader = data.train_dataloader()
    while not begun or time.perf_counter() - begun < 2 * _SECONDS:
        loader.sampler.set_epoch(epoch)
        for batch in loader:
            rows += use(batch)
        if data._device.type == "cuda":
            torch.cuda.synchronize()
        if epoch == 0:
            begun, rows = time.perf_counter(), 0
        epoch += 1
    return rows / (time.perf_counter() - begun)


def _synchronise(where: Where) -> None:
    if where.is_full:
        torch.cuda.synchronize()


@contextmanager
def _benchmark(on: bool) -> Iterator[None]:
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = on
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before
