"""What the framework costs beside the network, and what lies between the runs of a sweep."""

import copy
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch.nn.functional import binary_cross_entropy_with_logits

from benchmarks.measure import Section, verdict
from datamodules.ingest.prepare import prepare
from datamodules.phantom.make import make_phantom
from datamodules.store.splits import make_split
from experiments.config.compose import compose
from experiments.training.build import build

_PATIENTS, _EPOCHS, _ROUNDS = 120, 8, 3
_STUDY = "the study's ResNet, small clips"
_CACHED = "the demo's MViT, frames cached in memory"
_CELLS = {
    "the demo's ResNet": ["architecture=resnet"],
    "the demo's MViT": ["architecture=mvit"],
    _CACHED: ["architecture=mvit", "cache=ram"],
    # A step of the real size takes minutes on two cores.
    _STUDY: ["architecture=resnet", "study.size=full", "video_size=112", "num_frames=8",
             "batch_size=2", "study.video_encoder.init_args.pretrained=false",
             "trainer.limit_train_batches=3", "trainer.max_epochs=9"],
}  # fmt: skip


class Stamps(Callback):
    """Writes when a run's first process began to train, was through with it, and had scored.

    Args:
        path: A file that lines of JSON are added to.
    """

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._steps = 0

    def on_train_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,  # noqa: ARG002
        batch: Any,  # noqa: ARG002
        batch_idx: int,  # noqa: ARG002
    ) -> None:
        """The first step begins."""
        self._steps += 1
        if self._steps == 1:
            self._stamp(trainer, "first step")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """The last step has ended."""
        self._stamp(trainer, "trained", steps=self._steps)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """The device has nothing more to do for this run; before training it computes features."""
        if self._steps:
            self._stamp(trainer, "scored")

    def _stamp(self, trainer: Trainer, event: str, **more: Any) -> None:
        if trainer.is_global_zero:
            with self._path.open("a") as file:
                file.write(json.dumps({"event": event, "time": time.time(), **more}) + "\n")


def run(folder: Path) -> Section:
    """Times steps in the full stack, starts, gaps and two processes."""
    for package in ("pytorch", "fabric"):
        logging.getLogger(f"lightning.{package}").setLevel(logging.ERROR)
    store = _store(folder)
    rows, overheads = [], {}
    for name, cell in _CELLS.items():
        full, bare, ratio = _overhead(store, *cell)
        overheads[name] = 100 * (ratio - 1)
        text = f"{1e3 * full:.0f} ms, bare {1e3 * bare:.0f} ms, {ratio:.2f} times"
        rows.append((f"a step of {name}", text))
    rounds = [_sweep(store, devices=1, modality="image") for _ in range(_ROUNDS)]
    start = statistics.median(first for first, _, _ in rounds)
    gap = statistics.median(gap for _, gaps, _ in rounds for gap in gaps)
    rows.append(("from `ceus sweep` to the first step", f"{start:.1f} s"))
    rows.append(("from one run's last prediction to the next run's first step", f"{gap:.2f} s"))
    pairs = [
        [_sweep(store, devices=devices, modality="video") for devices in (1, 2)]
        for _ in range(_ROUNDS)
    ]
    wide_gap = statistics.median(gap for _, (_, gaps, _) in pairs for gap in gaps)
    scaling = statistics.median(two / one for (_, _, one), (_, _, two) in pairs)
    rows.append(("the same where each run has two processes", f"{wide_gap:.1f} s"))
    rows.append(("rows a second of two processes / of one", f"{scaling:.2f}"))
    targets = [
        verdict("The stack's overhead a step of the study's ResNet, %", overheads[_STUDY], most=5),
        verdict("The same of the demo's MViT, frames cached, %", overheads[_CACHED], most=5),
        verdict("The same, the worst of all, %", max(overheads.values()), most=5),
        verdict("Idle between runs of one device, s", gap, most=2),
        verdict("Idle between runs of several devices, s", wide_gap, most=10),
    ]
    return Section(
        title="Sweeps",
        about="Steps of video runs through DataModule, LightningModule and Trainer, reading, "
        "decoding and augmenting clips included, against a plain loop over the very same tensors, "
        "epoch by epoch in turn. And sweeps of four short runs one after another: start, gaps, "
        "and DDP with two processes of one thread each against one.",
        columns=("what", "found"),
        rows=rows,
        targets=targets,
    )


def _store(folder: Path) -> Path:
    store = folder / f"demo-{_PATIENTS}"
    if not (store / "splits").exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as place:
            cohort = make_phantom(Path(place) / "c", patients=_PATIENTS, seed=0, progress=False)
            prepare(cohort, store, canvas=128, as_is=True, progress=False)
        make_split(store, num_folds=2)
    return store


def _cell(store: Path, *overrides: str) -> list[str]:
    return ["profile=demo", f"store={store}", f"trainer.max_epochs={_EPOCHS}", *overrides]


class Bare(Callback):
    """After each epoch the same steps again in a plain loop, over the very tensors it was given.

    Attributes:
        rounds: Of each epoch but the first, seconds a step in the full stack, from the end of the
            epoch before, and in the loop.
    """

    def __init__(self) -> None:
        self.rounds: list[tuple[float, float]] = []
        self._batches: list[Any] = []
        self._begun = self._ended = 0.0
        self._twin: Any = None

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:  # noqa: ARG002
        """A network of its own for the loop."""
        self._twin = copy.deepcopy(pl_module)
        fused = pl_module.fused_optimizer
        self._optimizer = torch.optim.AdamW(self._twin.parameters(), lr=1e-4, fused=fused)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int  # noqa: ARG002
    ) -> None:  # fmt: skip
        """Keep the tensors; they are on the device, resized and augmented."""
        self._batches.append(batch)

    def on_train_batch_end(self, *_: Any) -> None:
        """The time of the last one counts."""
        self._ended = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:  # noqa: ARG002
        """The same steps in the loop."""
        full = (self._ended - self._begun) / len(self._batches)
        start = time.perf_counter()
        for batch in self._batches:
            self._optimizer.zero_grad()
            logits = self._twin.logits(batch)
            loss = binary_cross_entropy_with_logits(logits, batch["label"])
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(self._twin.parameters(), 1.0)
            self._optimizer.step()
        bare = (time.perf_counter() - start) / len(self._batches)
        if trainer.current_epoch:  # the first warms the page cache and the allocator
            self.rounds.append((full, bare))
        self._batches.clear()
        self._begun = time.perf_counter()


def _overhead(store: Path, *cell: str) -> tuple[float, float, float]:
    """Seconds a step, bare and in the full stack, and the ratio: medians over epochs."""
    # Once an epoch, not once a step, and the demo's epochs have five: no part of what is asked.
    off = ["trainer.limit_val_batches=0", "trainer.enable_checkpointing=false"]
    many = "trainer.max_epochs=20"  # for single epochs tell little on a busy machine
    config = compose(_cell(store, "modality=video", many, *off, *cell))
    bare = Bare()
    with tempfile.TemporaryDirectory() as place:
        trainer, model, data = build(config, root=Path(place), callbacks=[bare])
        trainer.fit(model, datamodule=data)
    fulls, bares = zip(*bare.rounds, strict=True)
    ratios = [full / plain for full, plain in bare.rounds]
    return statistics.median(fulls), statistics.median(bares), statistics.median(ratios)


def _sweep(store: Path, *, devices: int, modality: str) -> tuple[float, list[float], float]:
    """Seconds to the first step, seconds between runs, and rows a second of training."""
    with tempfile.TemporaryDirectory() as place:
        stamps = Path(place) / "stamps"
        stamping = {"class_path": "benchmarks.sweeping.Stamps", "init_args": {"path": str(stamps)}}
        file = Path(place) / "sweep.yaml"
        axes = {"architecture": ["resnet", "mvit"], "modality": [modality], "fold": [0, 1]}
        content = {
            "name": "timed",
            "profile": "demo",
            "axes": axes,
            "launcher": {"parallel": 1, "devices_per_run": devices},
            "analysis": {"primary": None},
        }
        file.write_text(json.dumps(content))  # which is YAML
        settings = _cell(store, f"runs={place}", f"trainer.callbacks=[{json.dumps(stamping)}]")
        command = [sys.executable, "-m", "experiments", "sweep", str(file), *settings[1:]]
        begun = time.time()
        subprocess.run(
            command,
            check=True,
            capture_output=True,
            env=os.environ | {"WANDB_MODE": "offline", "OMP_NUM_THREADS": "1"},
        )
        times = _read(stamps)
    runs = [times[at : at + 3] for at in range(0, len(times), 3)]
    gaps = [after[0]["time"] - before[2]["time"] for before, after in pairwise(runs)]
    speeds = [
        devices * trained["steps"] / (trained["time"] - first["time"]) for first, trained, _ in runs
    ]
    return runs[0][0]["time"] - begun, gaps, statistics.median(speeds)


def _read(stamps: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stamps.read_text().splitlines()]
