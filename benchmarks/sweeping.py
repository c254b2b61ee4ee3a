"""What the framework costs beside the network, and what lies between the runs of a sweep."""

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
from datamodules.phantom import make_phantom
from datamodules.prepare import prepare
from datamodules.splits import make_split
from experiments.build import build
from experiments.compose import compose

_PATIENTS, _EPOCHS, _ROUNDS = 120, 8, 3


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
        """The device has nothing more to do for this run."""
        self._stamp(trainer, "scored")

    def _stamp(self, trainer: Trainer, event: str, **more: Any) -> None:
        if trainer.is_global_zero:
            with self._path.open("a") as file:
                file.write(json.dumps({"event": event, "time": time.time(), **more}) + "\n")


def run(folder: Path) -> Section:
    """Times steps in the full stack, starts, gaps and two processes."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    store = _store(folder)
    rows, targets, overheads = [], [], []
    for architecture in ("resnet", "mvit"):
        bare, full = _overhead(store, architecture)
        overheads.append(100 * (full / bare - 1))
        text = f"{1e3 * full:.0f} ms, bare {1e3 * bare:.0f} ms"
        rows.append((f"a step of {architecture} on clips", text))
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
        verdict("The stack's overhead a step, the worse of them, %", max(overheads), most=5),
        verdict("Idle between runs of one device, s", gap, most=2),
        verdict("Idle between runs of several devices, s", wide_gap, most=10),
    ]
    return Section(
        title="Sweeps",
        about="Steps of the demo's video runs through DataModule, LightningModule and Trainer "
        "(reading clips included), against a bare loop over the same tensors in memory; and sweeps "
        "of four short runs one after another: start, gaps, and DDP with two processes of one "
        "thread each against one.",
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


def _overhead(store: Path, architecture: str) -> tuple[float, float]:
    """Seconds a step, bare and in the full stack: medians of interleaved rounds."""
    cell = [f"architecture={architecture}", "modality=video", "trainer.limit_val_batches=0"]
    config = compose(_cell(store, *cell))
    bare, full = [], []
    for number in range(_ROUNDS + 1):
        with tempfile.TemporaryDirectory() as place:
            stamps = Path(place) / "stamps"
            trainer, model, data = build(config, root=Path(place), callbacks=[Stamps(str(stamps))])
            trainer.fit(model, datamodule=data)
            first, last = _read(stamps)
        # The first round warms the page cache and the allocator.
        if number:
            full.append((last["time"] - first["time"]) / last["steps"])
            bare.append(_bare(model, data))
    return statistics.median(bare), statistics.median(full)


def _bare(model: Any, data: Any) -> float:
    """Seconds a step of the same training on batches that lie in memory."""
    loader = data.train_dataloader()
    batches = []
    for epoch in range(_EPOCHS):
        loader.sampler.set_epoch(epoch)
        batches += [data.on_after_batch_transfer(batch, 0) for batch in loader]
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=model.fused_optimizer)
    start = time.perf_counter()
    for batch in batches:
        optimizer.zero_grad()
        loss = binary_cross_entropy_with_logits(model.logits(batch), batch["label"])
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return (time.perf_counter() - start) / len(batches)


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
        found = _read(stamps)
    runs = [found[at : at + 3] for at in range(0, len(found), 3)]
    gaps = [after[0]["time"] - before[2]["time"] for before, after in pairwise(runs)]
    speeds = [
        devices * trained["steps"] / (trained["time"] - first["time"]) for first, trained, _ in runs
    ]
    return runs[0][0]["time"] - begun, gaps, statistics.median(speeds)


def _read(stamps: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stamps.read_text().splitlines()]
