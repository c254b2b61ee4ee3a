"""Whether maps lie in the phantom's nodule, where the label is: `python -m benchmarks.explaining`.

    python -m benchmarks.explaining runs/demo data/phantom-demo

Prints, for every network and map of fold 0, the share of what speaks for the positive class inside
the nodule over the nodule's share of the area: of the patients scored highest and lowest, and of
both with random weights, of which the sign means nothing: the mean of either.
"""

import itertools
import json
import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jsonargparse import auto_cli

from datamodules.batches.loader import Batch
from datamodules.batches.rows import Row
from datamodules.phantom.anatomy import draw_anatomy
from datamodules.phantom.render import _grid
from experiments.training.trained import load_trained
from lightning_modules import PatientClassifier
from lightning_modules.attribution import Method, attribute, randomised

_PATIENTS, _DRAWS = 6, 2  # of either kind, of random weights
_METHODS: tuple[Method, ...] = ("grad_cam", "occlusion", "gradients")
_DEPTH = {"image": "depth_mm", "video": "clip_depth_mm"}


def measure(runs: Path, cohort: Path) -> None:
    """Print a row a network and modality.

    Args:
        runs: A demo sweep's folder.
        cohort: The folder of its phantom.
    """
    torch.set_num_threads(1)
    for modality in _DEPTH:
        columns = list(itertools.product(_METHODS, ("high", "low", "random")))
        print(modality, *(f"| {method}, {who}" for method, who in columns))
        for folder in sorted(runs.glob(f"*-{modality}-fold0-*")):
            found = of_run(folder, cohort, modality, _METHODS)
            means = (f"| {statistics.mean(found[column]):.2f}" for column in columns)
            print(folder.name.split("-")[0], *means, flush=True)


def of_run(
    folder: Path, cohort: Path, modality: str, methods: Sequence[Method]
) -> dict[tuple[Method, str], list[float]]:
    """`concentration` by map and by `high`, `low` or `random`, a value a patient and draw.

    Args:
        folder: Of a run.
        cohort: The folder of its phantom.
        modality: `image` or `video`.
        methods: Which maps.
    """
    settings = json.loads((cohort / "truth.json").read_text())["settings"]
    model, rows = scored(folder)
    found = defaultdict(list)
    for who, some in (("high", rows[-_PATIENTS:]), ("low", rows[:_PATIENTS])):
        for (row, batch), method in itertools.product(some, methods):
            side, depth = batch[modality].shape[-1], settings[_DEPTH[modality]]
            inside = nodule(row.patient_id, side, seed=settings["seed"], depth_mm=depth)
            found[method, who].append(concentration(_map(method, model, batch, modality), inside))
            for draw in range(_DRAWS):
                with randomised(model, seed=draw):
                    one = _map(method, model, batch, modality)
                either = (concentration(one, inside), concentration(-one, inside))
                found[method, "random"].append(statistics.mean(either))
    return found


def _map(method: Method, model: PatientClassifier, batch: Batch, modality: str) -> torch.Tensor:
    found = attribute(method, model, batch, modality, rows=8)
    assert found is not None  # each of the study's networks has a layer that is a map
    return found


def scored(folder: Path) -> tuple[PatientClassifier, list[tuple[Row, Batch]]]:
    """A run's model and its out-of-fold rows, each a batch, from the lowest score on."""
    trained = load_trained(folder)
    rows = trained.data.evaluation_rows(trained.data.patients("oof"))
    batches = [(row, trained.data.read_finished([row])) for row in rows]
    with torch.no_grad():
        batches.sort(key=lambda each: float(trained.model.logits(each[1])))
    return trained.model, batches


def nodule(patient: str, side: int, *, seed: int, depth_mm: float) -> torch.Tensor:
    """Where the phantom has drawn the nodule, bool `(side, side)`."""
    number = int(patient.removeprefix("P"))
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(1, number)))
    anatomy = draw_anatomy(rng)
    x, y = _grid((side, side), side / depth_mm, anatomy.side, top_mm=0.0)
    return torch.from_numpy(anatomy.nodule.inside(x, y, edge_mm=0.3) > 0.5)


def concentration(found: torch.Tensor, inside: torch.Tensor) -> float:
    """Share of what speaks for the class inside the nodule, over the nodule's share of the area."""
    energy = found.clamp(min=0).sum(0)
    return float(energy[inside].sum() / energy.sum().clamp(min=1e-9) / inside.float().mean())


if __name__ == "__main__":
    auto_cli(measure)
