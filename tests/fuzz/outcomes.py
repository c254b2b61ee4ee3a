"""What becomes of mutated files, each in a process of its own."""

import json
import multiprocessing
import random
import resource
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydicom import dcmread

from datamodules.ingest.item import ingest
from datamodules.ingest.task import Task
from datamodules.store.clip_file import read_index, read_packets
from datamodules.store.codec import decode_with_pyav
from tests.fuzz.mutations import Case, make_sources, mutate
from tests.fuzz.tables import table_outcome

CANVAS = 128
LONGEST, MOST_MEMORY = 60, 2e9
OUTCOMES = ("named error", "recovered with a warning", "right", "cannot be told",
            "wrong in silence", "crash", "hang", "memory")  # fmt: skip
FAULTS = OUTCOMES[4:]


def fuzz(
    folder: Path, seed: int, count: int, real: Path | None = None
) -> tuple[Counter[tuple[str, str]], list[str]]:
    """Outcomes by kind of file, and a line for every fault."""
    rng = random.Random(seed)
    sources = make_sources(folder / "sources", real)
    counted: Counter[tuple[str, str]] = Counter()
    faults = []
    cases = []
    for number in range(count):
        kind = rng.choices(("video", "dicom", "picture", "table"), (6, 3, 2, 1))[0]
        if kind == "table":
            outcome, what = table_outcome(folder, rng)
            counted[kind, outcome] += 1
            faults += [f"table: {what}: {outcome}"] if outcome in FAULTS else []
        else:
            cases.append((kind, mutate(kind, rng.choice(sources[kind]), folder, number, rng)))
    for (kind, case), (outcome, detail) in zip(
        cases, run_all([case for _, case in cases], folder), strict=True
    ):
        counted[kind, outcome] += 1
        if outcome in FAULTS:
            faults.append(f"{kind}: {case.name} of {case.source.name}: {outcome}: {detail}")
    return counted, faults


def run_all(cases: Sequence[Case], folder: Path) -> Iterator[tuple[str, str]]:
    """Outcome and detail of each, two at a time, in processes of their own."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.fuzz.outcomes"])
    reference = _Reference(folder / "reference")
    started: list[tuple[Any, Path]] = []

    def start(case: Case) -> tuple[Any, Path]:
        work = folder / f"work-{case.path.stem}"
        work.mkdir()
        process = context.Process(target=_ingest, args=(case, work))
        process.start()
        return process, work

    for number, case in enumerate(cases):
        started += [start(later) for later in cases[len(started) : number + 2]]
        process, work = started[number]
        process.join(LONGEST)
        if process.is_alive():
            process.kill()
            yield "hang", f"over {LONGEST} s"
        elif process.exitcode:
            yield "crash", f"exit code {process.exitcode}"
        else:
            yield _judge(case, json.loads((work / "outcome").read_text()), work, reference)


def _ingest(case: Case, work: Path) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (6 * 2**30, 6 * 2**30))
    outcome = ingest(_task(case.path, case.modality, work))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    content = {"memory": memory, "reason": outcome.reason, "trace": outcome.trace,
               "facts": outcome.facts, "item": outcome.item_id}  # fmt: skip
    (work / "outcome").write_text(json.dumps(content))


def _task(path: Path, modality: str, work: Path) -> Task:
    # Where a file gives no rate the table does, as a user would after the first error.
    fps = 25.0 if path.suffix in {".dcm"} and not _has_rate(path) else None
    return Task(2, path, "p", modality, None, CANVAS, work, frozenset(), as_is=True, fps=fps,
                stall_seconds=LONGEST)  # fmt: skip


def _has_rate(path: Path) -> bool:
    with suppress(Exception):
        ds = dcmread(path, stop_before_pixels=True)
        return any(name in ds for name in ("FrameTime", "FrameTimeVector", "CineRate"))
    return True


class _Reference:
    """Frames and warnings of the undamaged sources."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[Path, tuple[np.ndarray, dict[str, Any]]] = {}

    def of(self, case: Case) -> tuple[np.ndarray, dict[str, Any]]:
        if case.source not in self._known:
            self._folder.mkdir(exist_ok=True)
            outcome = ingest(_task(case.source, case.modality, self._folder))
            assert outcome.facts, (case.source.name, outcome.reason)
            frames = _frames(self._folder / outcome.item_id, case.modality)
            self._known[case.source] = frames, outcome.facts
        return self._known[case.source]


def _frames(stem: Path, modality: str) -> np.ndarray:
    """(T, H, W, 3) as they were stored."""
    if modality == "image":
        return np.asarray(Image.open(stem.with_suffix(".png")))[None]
    index = read_index(stem.with_suffix(".idx"))
    return decode_with_pyav(
        read_packets(stem.with_suffix(".h264"), index, frames=range(len(index)))
    )


def _judge(
    case: Case, outcome: dict[str, Any], work: Path, reference: _Reference
) -> tuple[str, str]:
    if outcome["memory"] > MOST_MEMORY:
        return "memory", f"{outcome['memory'] / 1e9:.1f} GB"
    if outcome["trace"]:
        return "crash", outcome["trace"].strip().splitlines()[-1]
    if outcome["reason"]:
        ok = " must " in outcome["reason"] and ", got " in outcome["reason"]
        return ("named error", "") if ok else ("crash", outcome["reason"])
    frames, facts = reference.of(case)
    got, found = _frames(work / outcome["item"], case.modality), outcome["facts"]
    same_length = len(got) == len(frames)
    same_rate = facts["fps"] is None or abs(found["fps"] - facts["fps"]) < 0.01 * facts["fps"]
    off = (
        float(np.abs(got.astype(np.int16) - frames).mean(axis=(1, 2, 3)).max())
        if same_length
        else np.inf
    )
    if same_length and same_rate and off < 1:
        return "right", ""
    if set(found["warnings"]) - set(facts["warnings"]) - _of_contrast(found["warnings"]):
        return "recovered with a warning", ""
    detail = f"{len(got)} frames of {len(frames)}, {found['fps']} fps, off by {off:.1f}"
    return ("cannot be told" if same_length and not case.told else "wrong in silence"), detail


def _of_contrast(warnings: Sequence[str]) -> set[str]:
    """What is said of the curve does not tell damage."""
    return {text for text in warnings if "contrast" in text or "flash" in text or "jump" in text}
