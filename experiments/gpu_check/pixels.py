"""Steps that hold pixels of the device against the CPU's, and time readers."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count, islice
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from datamodules import PatientDataModule
from datamodules.store.clips import ClipReader
from datamodules.store.decode import (
    DecordCpu,
    DecordCuda,
    FrameDecoder,
    PyavCpu,
    Torchcodec,
    kept_busy,
    probe,
)
from datamodules.store.folder import Store
from experiments.config.compose import compose
from experiments.gpu_check.runs import settings_of, store_of
from experiments.gpu_check.step import FailedError, SkipError, Where
from experiments.training.build import build

_MOST_LEVELS = 1.0
_DECODED_LEVELS = 4  # decoders round colours in their own ways, see codec.py


def datamodule(where: Where, architecture: str, modality: str, device: str, *settings: str) -> Any:
    """That of a cell, its batches for a device; and the standard deviations it divides by."""
    profile = "study" if where.is_full else "demo"
    config = compose(
        [f"architecture={architecture}", f"modality={modality}", f"profile={profile}",
         *settings_of(where), f"trainer.accelerator={'gpu' if device == 'cuda' else 'cpu'}",
         "finetune=full", *settings]
    )  # fmt: skip
    _, _, data = build(config, root=where.folder)
    strategy = SimpleNamespace(root_device=torch.device(device, 0) if device == "cuda" else
                               torch.device("cpu"))  # fmt: skip
    data.trainer = SimpleNamespace(global_rank=0, world_size=1, strategy=strategy)  # type: ignore[assignment]
    return data


def stage(where: Where) -> None:
    """Batches of training, epoch after epoch, as the device and as the CPU finish them."""
    wanted = 100 if where.is_full else 6
    modules: list[PatientDataModule] = [
        datamodule(where, "resnet", "combined", device, "decode=cpu", "cache=off", "batch_size=4")
        for device in (where.device, "cpu")
    ]
    inputs = modules[0].inputs
    worst = dict.fromkeys(inputs, 0.0)
    compared = 0
    with kept_busy(torch.device(where.device)):
        pairs = zip(*map(_batches, modules), strict=True)
        for ours, theirs in islice(pairs, wanted):
            for key, settings in inputs.items():
                std = torch.tensor(settings.std).view(-1, *[1] * (theirs[key].ndim - 2))
                off = (ours[key].cpu() - theirs[key]).abs() * std * 255
                worst[key] = max(worst[key], off.max().item())
            compared += 1
            where.tell(batches=compared, most_grey_levels_off=worst)
    if max(worst.values()) > _MOST_LEVELS:
        raise FailedError(f"the device's batches are off by up to {worst} grey levels")


def _batches(module: PatientDataModule) -> Any:
    for epoch in count():
        loader = module.train_dataloader()
        loader.sampler.set_epoch(epoch)
        yield from loader


def decode(where: Where) -> None:
    """Each decoder under load against the CPU's, and its rate by the number of threads."""
    store = Store(store_of(where))
    requests = _requests(store, frames=32)
    expected = [ClipReader(store).read_many(request) for request in requests]
    device = torch.device(where.device, 0) if where.is_full else torch.device("cpu")
    candidates: dict[str, FrameDecoder] = {
        "PyAV": PyavCpu(pinned=where.is_full),
        "decord": DecordCpu(pinned=where.is_full),
        "torchcodec": Torchcodec(device),
    }
    if where.is_full:
        candidates["decord on CUDA"] = DecordCuda(device)
    usable, wrong = [], []
    for name, decoder in candidates.items():
        told: dict[str, Any] = {"probe": probe(decoder)}
        if not told["probe"]:
            usable.append(name)
            reader = ClipReader(store, decoder=decoder)
            with kept_busy(device), ThreadPoolExecutor(4) as pool:
                read = list(pool.map(reader.read_many, requests))
            pairs = list(zip(read, expected, strict=True))
            off = max((a.cpu().int() - b.int()).abs().max().item() for a, b in pairs)
            told |= {"most_levels_off": off, "fallbacks": reader.fallbacks}
            if off > _DECODED_LEVELS or reader.fallbacks:
                wrong.append(name)
            told["clips_per_second"] = {
                str(threads): round(
                    clips_per_second(reader.read_many, requests, threads=threads), 1
                )
                for threads in (1, 2, 4)
            }
        where.tell(**{name: told})
    if wrong:
        raise FailedError(f"frames are others than the CPU's, or fell back to it: {wrong}")
    if usable == ["decord"]:
        raise SkipError("no decoder works on the device; the reasons are under `probe`")


def _requests(store: Store, *, frames: int) -> list[list[Any]]:
    """Batches of four clips, one of them missing in every third, frames shown twice in many."""
    clips = store.items[store.items["modality"] == "ceus"]
    rng = np.random.default_rng(0)
    batches = []
    for number in range(24):
        chosen = clips.sample(4, random_state=number, replace=True)
        batch: list[Any] = [
            (item, np.sort(rng.integers(0, length, frames)))
            for item, length in zip(chosen["item_id"], chosen["frames"].astype(int), strict=True)
        ]
        if number % 3 == 0:
            batch[1] = (None, range(frames))
        batches.append(batch)
    return batches


def clips_per_second(
    read: Callable[[Any], Any],
    requests: Sequence[Sequence[Any]],
    *,
    threads: int,
    seconds: float = 1.5,
) -> float:
    """How fast so many threads read, each a request at a time, over and over.

    Args:
        read: Reads one of the requests.
        requests: Of several clips each.
        threads: That read at once.
        seconds: To go on for.
    """
    deadline = time.perf_counter() + seconds
    begun = time.perf_counter()

    def work(first: int) -> int:
        done = 0
        for request in islice(_round(requests, first), 100_000):
            if time.perf_counter() > deadline:
                return done
            read(request)
            done += len(request)
        return done

    with ThreadPoolExecutor(threads) as pool:
        done = sum(pool.map(work, range(threads)))
    return done / (time.perf_counter() - begun)


def _round(requests: Sequence[Any], first: int) -> Any:
    return (requests[(first + i) % len(requests)] for i in count())
