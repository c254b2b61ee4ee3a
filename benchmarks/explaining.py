"""Whether maps lie in the phantom's nodule, where the label is: `python -m benchmarks.explaining`.

    python -m benchmarks.explaining runs/demo data/phantom-demo

Prints, for every network and map of fold 0, the share of what speaks for the positive class inside
the nodule over the nodule's share of the area: of the patients scored highest and lowest, and of
both with random weights.
"""

import itertools
import json
import statistics
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from jsonargparse import auto_cli

from datamodules.phantom.anatomy import draw_anatomy
from datamodules.phantom.render import _grid
from experiments.training.trained import load_trained
from lightning_modules.attribution import Method, attribute, randomised

_PATIENTS = 4
_METHODS: tuple[Method, ...] = ("grad_cam", "occlusion", "gradients")
_DEPTH = {"image": "depth_mm", "video": "clip_depth_mm"}


def measure(runs: Path, cohort: Path) -> None:
    """Print a row a network and modality.

    Args:
        runs: A demo sweep's folder.
        cohort: The folder of its phantom.
    """
    torch.set_num_threads(1)
    settings = json.loads((cohort / "truth.json").read_text())["settings"]
    for modality, depth in _DEPTH.items():
        columns = list(itertools.product(_METHODS, ("high", "low", "random")))
        print(modality, *(f"| {method}, {who}" for method, who in columns))
        for folder in sorted(runs.glob(f"*-{modality}-fold0-*")):
            found = _of_run(folder, modality, settings["seed"], settings[depth])
            means = (f"| {statistics.mean(found[column]):.2f}" for column in columns)
            print(folder.name.split("-")[0], *means)


def _of_run(folder: Path, modality: str, seed: int, depth_mm: float) -> dict[object, list[float]]:
    trained = load_trained(folder)
    model, data = trained.model, trained.data
    rows = list(data.evaluation_rows(data.patients("oof")))
    with torch.no_grad():
        rows.sort(key=lambda row: float(model.logits(data.read_finished([row]))))
    found: dict[object, list[float]] = defaultdict(list)
    for who, some in (("high", rows[-_PATIENTS:]), ("low", rows[:_PATIENTS])):
        for row in some:
            batch = data.read_finished([row])
            inside = nodule(row.patient_id, batch[modality].shape[-1], seed=seed, depth_mm=depth_mm)
            for method in _METHODS:
                one = attribute(method, model, batch, modality, rows=8)
                found[method, who].append(concentration(one, inside))
                with randomised(model):
                    other = attribute(method, model, batch, modality, rows=8)
                found[method, "random"].append(concentration(other, inside))
    return found


def nodule(patient: str, side: int, *, seed: int, depth_mm: float) -> torch.Tensor:
    """Where the phantom has drawn the nodule, bool `(side, side)`."""
    number = int(patient.removeprefix("P"))
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(1, number)))
    anatomy = draw_anatomy(rng)
    x, y = _grid((side, side), side / depth_mm, anatomy.side, top_mm=0.0)
    return torch.from_numpy(anatomy.nodule.inside(x, y, edge_mm=0.3) > 0.5)


def concentration(found: torch.Tensor | None, inside: torch.Tensor) -> float:
    """Share of what speaks for the class inside the nodule, over the nodule's share of the area."""
    assert found is not None
    energy = found.clamp(min=0).sum(0)
    return float(energy[inside].sum() / energy.sum().clamp(min=1e-9) / inside.float().mean())


if __name__ == "__main__":
    auto_cli(measure)
