"""`ceus sweep --plan`: what a sweep would do, and what that would take; nothing is written."""

import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from datamodules.cores import LIMIT, cores
from experiments.config.run import Run
from experiments.launchers.check import check_runs
from experiments.launchers.slots import Slot, slots
from experiments.launchers.slurm import queued
from experiments.processes import start
from experiments.run_folder.lock import is_locked
from experiments.run_folder.status import read_status
from experiments.sweeps.expand import Sweep

_BUDGET_SECONDS = 15.0
_LIMIT_SECONDS = 180.0
_MARKS = {"done": "✓", "running": "▸", "queued": "q", "start": "·", "again": "✗"}
Cell = tuple[str, str]


@dataclass(frozen=True)
class Timing:
    """What a cell was found to take on one device, while others of it ran as a sweep's runs do.

    Attributes:
        train_batches: Steps of an epoch.
        val_batches: Batches of inner validation, scored after each epoch.
        predict_batches: Batches of all parts, scored at the end.
        start_seconds: Until the first step.
        step_seconds: A training step, its data read while the one before it ran.
        eval_seconds: A batch of evaluation.
        steps: How many were timed.
        kept_bytes: Of `best.ckpt`.
        resume_bytes: Of `last.ckpt`, which goes when the run is done.
        device: On which it was timed.
        gpu_bytes: Most memory in use at once; None on a CPU.
    """

    train_batches: int
    val_batches: int
    predict_batches: int
    start_seconds: float
    step_seconds: float
    eval_seconds: float
    steps: int
    kept_bytes: int
    resume_bytes: int
    device: str
    gpu_bytes: int | None

    def hours(self, epochs: int, devices: int) -> float:
        """Hours of a run that takes all its epochs, its rows shared by devices."""
        epoch = self.train_batches * self.step_seconds + self.val_batches * self.eval_seconds
        scored = self.predict_batches * self.eval_seconds
        return (self.start_seconds + (epochs * epoch + scored) / devices) / 3600


def plan(sweep: Sweep) -> RenderableType:
    """The runs of a sweep as they stand, their needs, and an estimate of hours and disk.

    A few steps of each kind of cell that would start are trained in a child process, with the
    real configuration and store.

    Raises:
        ConfigError: If a configuration does not fit, squeue does not answer, or more GPUs are
            asked for than there are.
    """
    states = _states(sweep)
    left = [run for run in sweep.runs if states[run.run_id] in ("start", "again")]
    local = slots(sweep.launcher, sweep.runs) if sweep.launcher.kind != "slurm" else None
    timings = _time(left, local or [Slot(None, cores())])
    return Group(
        _table(sweep, states, timings),
        *(Text(line) for line in _lines(sweep, states, left, timings, len(local or ()))),
    )


def _states(sweep: Sweep) -> dict[str, str]:
    tasks = queued(sweep.folder)
    states = {}
    for run in sweep.runs:
        status = read_status(run.folder)
        if status.state == "done":
            states[run.run_id] = "done"
        elif is_locked(run.folder):
            states[run.run_id] = "running"
        elif run.run_id in tasks:
            states[run.run_id] = "queued"
        else:
            states[run.run_id] = "again" if status.attempts else "start"
    return states


def _time(runs: Sequence[Run], at_once: Sequence[Slot]) -> dict[Cell, Timing | str]:
    """A timing of each cell, or why there is none.

    As many processes train it at once as the sweep will have: alone none would wait for readers,
    for the store or for a GPU that it shares.
    """
    kinds = {_cell(run): run for run in reversed(runs)}
    context = check_runs(list(kinds.values()))
    timings: dict[Cell, Timing | str] = {}
    for cell, run in reversed(kinds.items()):
        children = [_start(context, run.config, slot) for slot in at_once]
        deadline = time.monotonic() + _LIMIT_SECONDS
        answers = [_answer(ours, deadline) for ours, _ in children]
        for _, process in children:
            process.kill()
            process.join()
        complaints = [answer for answer in answers if isinstance(answer, str)]
        timings[cell] = complaints[0] if complaints else _slowest(answers)  # type: ignore[arg-type]
    return timings


def _start(
    context: ForkServerContext, config: dict[str, Any], slot: Slot
) -> tuple[Connection, BaseProcess]:
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(theirs, config, slot))
    start(process)
    theirs.close()
    return ours, process


def _answer(ours: Connection, deadline: float) -> Timing | str:
    """What a child found; else why it found nothing."""
    try:
        if not ours.poll(max(0.0, deadline - time.monotonic())):
            return f"no two steps in {_LIMIT_SECONDS:.0f} s"
        answer = ours.recv()
    except EOFError:
        return "died (out of memory?)"
    return Timing(**answer) if isinstance(answer, dict) else str(answer)


def _slowest(timings: Sequence[Timing]) -> Timing:
    return replace(
        timings[0],
        start_seconds=max(timing.start_seconds for timing in timings),
        step_seconds=max(timing.step_seconds for timing in timings),
        eval_seconds=max(timing.eval_seconds for timing in timings),
        steps=min(timing.steps for timing in timings),
    )


def _child(answer: Connection, config: dict[str, Any], slot: Slot) -> None:
    import logging

    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    os.environ.update(slot.environment() | {LIMIT: str(slot.threads)})
    os.environ["SLURM_JOB_NAME"] = "interactive"  # for Lightning: one process, whatever the job is
    import torch

    from datamodules.store.pseudonyms import concealer
    from experiments.training.timing import time_cell

    logging.disable(logging.CRITICAL)
    torch.set_num_threads(slot.threads)
    try:
        answer.send(time_cell(config, budget_seconds=_BUDGET_SECONDS))
    except Exception as error:  # noqa: BLE001  an estimate that fails says so, and the plan goes on
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        answer.send(concealer(config["study"]["store"])(reason)[:200])


def _table(sweep: Sweep, states: Mapping[str, str], timings: Mapping[Cell, Timing | str]) -> Table:
    folds = list(dict.fromkeys(str(run.study.fold) for run in sweep.runs))
    repeats = list(dict.fromkeys(run.study.repeat for run in sweep.runs))
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("cell", overflow="fold")
    if len(repeats) > 1:
        table.add_column("repeat")
    for fold in folds:
        table.add_column(f"fold {fold}" if fold == folds[0] else fold, overflow="fold")
    for name in ("s/step", "a run", "GB"):
        table.add_column(name, justify="right", no_wrap=True)
    by_cell: dict[Cell, list[Run]] = {}
    for run in sweep.runs:
        by_cell.setdefault(_cell(run), []).append(run)
    for cell, runs in by_cell.items():
        timing = timings.get(cell)
        figures = ("", "", "") if timing is None else ("-", "-", "-")
        if isinstance(timing, Timing):
            hours = timing.hours(*_epochs_and_devices(runs[0]))
            gigabytes = timing.kept_bytes / 1e9
            figures = (f"{timing.step_seconds:.3f}", _span(hours), _short(gigabytes))
        for repeat in repeats:
            marks = (
                "".join(
                    _MARKS[states[run.run_id]]
                    for run in runs
                    if (str(run.study.fold), run.study.repeat) == (fold, repeat)
                )
                for fold in folds
            )
            first = repeat == repeats[0]
            table.add_row(
                " ".join(cell) if first else "",
                *([str(repeat)] if len(repeats) > 1 else []),
                *marks,
                *(figures if first else ("", "", "")),
            )
    return table


def _lines(
    sweep: Sweep,
    states: Mapping[str, str],
    left: Sequence[Run],
    timings: Mapping[Cell, Timing | str],
    parallel: int,
) -> list[str]:
    each_state = list(states.values())
    counts = [
        f"{len(sweep.runs)} runs: {each_state.count('done')} done {_MARKS['done']}",
        f"{each_state.count('running')} running {_MARKS['running']}",
        f"{each_state.count('queued')} queued {_MARKS['queued']}",
        f"{each_state.count('start')} to start {_MARKS['start']}",
        f"{each_state.count('again')} to start again {_MARKS['again']}",
    ]
    lines = [", ".join(counts) + "; a mark is a seed.", *_needs(sweep)]
    lines += [f"Not timed: {' '.join(c)}: {t}" for c, t in timings.items() if isinstance(t, str)]
    known = {cell: timing for cell, timing in timings.items() if isinstance(timing, Timing)}
    timed = [(run, known[_cell(run)]) for run in left if _cell(run) in known]
    if not timed:
        return lines
    hours = [timing.hours(*_epochs_and_devices(run)) for run, timing in timed]
    kept = sum(timing.kept_bytes for _, timing in timed) / 1e9
    resume = max(timing.resume_bytes for _, timing in timed) / 1e9
    steps = min(timing.steps for timing in known.values())
    devices = " and ".join(sorted({timing.device for timing in known.values()}))
    longest = max(*hours, sum(hours) / parallel) if parallel else 0
    at_once = f", {parallel} at a time" if parallel > 1 else ""
    share = f", {_span(longest)} with {parallel} at a time" if parallel else ""
    chosen = any(run.study.selection in ("inner_bce", "refit") for run, _ in timed)
    bound = ": an upper bound, for early stopping ends runs before their last epoch"
    lines.append(
        f"{'At most' if chosen else 'About'} {_span(sum(hours))} of runs{share}, from {steps} or "
        f"more steps of each kind timed on {devices}{at_once}{bound if chosen else ''}; another "
        "machine takes other times."
    )
    where = next(p for p in (sweep.folder, *sweep.folder.absolute().parents) if p.is_dir())
    free = shutil.disk_usage(where).free / 1e9
    lines.append(
        f"{_short(kept)} GB of checkpoints, and while it runs at most {_short(resume)} GB more for "
        f"each run; {_short(free)} GB are free in {where}."
    )
    if memory := [timing.gpu_bytes for timing in known.values() if timing.gpu_bytes]:
        lines.append(f"GPU memory of a run: {min(memory) / 1e9:.1f} to {max(memory) / 1e9:.1f} GB.")
    lines.append("Nothing was started or written.")
    return lines


def _needs(sweep: Sweep) -> list[str]:
    cells = {run.run_id: _cell(run) for run in sweep.runs}
    needs_by_cell: dict[Cell, dict[str, None]] = {}
    for name, needs in sweep.needs.items():
        waits = needs_by_cell.setdefault(cells[name], {})
        waits |= {" ".join(cells.get(need, (need, ""))).strip(): None for need in needs}
    return [
        f"{' '.join(cell)} starts after {', '.join(needs)}."
        for cell, needs in needs_by_cell.items()
    ]


def _cell(run: Run) -> Cell:
    return run.study.architecture, run.study.modality


def _epochs_and_devices(run: Run) -> tuple[int, int]:
    trainer = run.config["trainer"]
    devices = trainer["devices"] if isinstance(trainer["devices"], int) else 1
    return trainer["max_epochs"], devices * trainer.get("num_nodes", 1)


def _span(hours: float) -> str:
    if hours >= 1:
        return f"{_short(hours)} h"
    return f"{hours * 60:.0f} min" if hours * 60 >= 1 else f"{hours * 3600:.0f} s"


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.2g}" if value >= 0.01 else "<0.01"
