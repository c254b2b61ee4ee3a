"""Whether training waits for video: the demo's video run, and memory over many epochs."""

import gc
import logging
import tempfile
from pathlib import Path

from lightning.pytorch.profilers import SimpleProfiler

from benchmarks.measure import Section, memory_mib, verdict
from datamodules.ingest.prepare import prepare
from datamodules.phantom.make import make_phantom
from datamodules.store.splits import make_split
from experiments.config.compose import compose
from experiments.training.build import build

_PATIENTS, _EPOCHS, _RUN_EPOCHS = 40, 50, 6


def run(folder: Path) -> Section:
    """Times the run's parts as Lightning's profiler sees them."""
    store = _store(folder)
    rows = []
    shares = []
    for architecture in ("resnet", "mvit"):
        share, step = _waiting(store, architecture)
        shares.append(share)
        rows.append((architecture, f"{step * 1e3:.0f}", f"{share * 100:.2f} %"))
    first, last = _memory(store)
    rows.append((f"memory, epoch 5 → {_EPOCHS}", f"{first:.0f} → {last:.0f} MiB", "–"))
    return Section(
        title="Training does not wait",
        about="Video runs as `experiments/yaml/sweep/demo.yaml` has them, on a smaller cohort: the "
        "time in which the loop waits for its next batch, after the very first, as a share of the "
        "time of its steps. And the memory of the loader alone over epochs.",
        columns=("run", "ms a step", "waiting"),
        rows=rows,
        targets=[
            verdict("Waiting / step, the worst of them, %", 100 * max(shares), most=2),
            verdict(f"Memory after {_EPOCHS} epochs, MiB more", last - first, most=10),
        ],
    )


def _store(folder: Path) -> Path:
    store = folder / "demo"
    if not (store / "splits").exists():
        with tempfile.TemporaryDirectory(dir=folder) as place:
            cohort = make_phantom(Path(place) / "c", patients=_PATIENTS, seed=0, progress=False)
            prepare(cohort, store, canvas=128, as_is=True, progress=False)
        make_split(store, num_folds=2)
    return store


def _config(store: Path, architecture: str) -> dict[str, object]:
    cell = [f"architecture={architecture}", "modality=video", "profile=demo", f"store={store}"]
    return compose([*cell, f"trainer.max_epochs={_RUN_EPOCHS}"])


def _waiting(store: Path, architecture: str) -> tuple[float, float]:
    """Waiting over the time of steps, and the time of a step, seconds."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as place:
        trainer, model, data = build(_config(store, architecture), root=Path(place))
        profiler = SimpleProfiler()
        trainer.profiler = profiler  # type: ignore[attr-defined]
        trainer.fit(model, datamodule=data)
    took = profiler.recorded_durations
    (waits,) = (v for k, v in took.items() if k.endswith("train_dataloader_next"))
    steps = took["run_training_batch"]
    return sum(waits[1:]) / sum(steps[1:]), sum(steps) / len(steps)


def _memory(store: Path) -> tuple[float, float]:
    _, _, data = build(_config(store, "resnet"))
    loader = data.train_dataloader()
    memory_by_epoch = []
    for epoch in range(_EPOCHS):
        loader.sampler.set_epoch(epoch)
        for batch in loader:
            data.on_after_batch_transfer(batch, 0)
        gc.collect()
        memory_by_epoch.append(memory_mib())
    return memory_by_epoch[4], memory_by_epoch[-1]
