"""`ceus export`: a trained model for programs that know neither this framework nor Python."""

import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from datamodules.files import write_atomic
from evaluation.records.listing import FILE as LISTING
from experiments.errors import ConfigError
from experiments.exporting.program import (
    PACKAGES,
    example,
    inputs_of,
    lacking_packages,
    log_odds,
    onnx_of,
    program_of,
    run_onnx,
)
from experiments.predicting.deployed import find_deployed
from experiments.predicting.facts import limits_of
from experiments.predicting.network import described_network
from experiments.predicting.onnx import FILE, described
from experiments.predicting.reference import reference_of
from experiments.predicting.scoring import load_model
from experiments.training.trained import Trained, load_trained

_CLOSE = 1e-4
FORMAT = 2
"""Of the JSON file."""


def export(
    folder: Path, *, cell: str = "", out: Path | None = None, store: Path | None = None
) -> int:
    """Write a run's model as ONNX and by torch.export, or a cell's deployed models for --onnx.

    Each is held against the model before it counts: logits must agree to 1e-4.

    Args:
        folder: Folder of a run or of a sweep.
        cell: Which cell of a sweep, as swin-combined: its models of fold `all`, one a seed, and all
            that `ceus predict --onnx` needs besides.
        out: Folder for the files, by default FOLDER/exported, of a cell FOLDER/exported/CELL.
        store: The sweep's store, if it was moved; needed where nothing was predicted yet.
    """
    if lacking := lacking_packages():
        raise ConfigError(
            f"packages {', '.join(PACKAGES)} must be installed to export, got none of "
            f"{', '.join(lacking)}. Install them: pip install 'ceus[export]'"
        )
    is_run = (folder / "config.yaml").is_file()
    if not is_run and (cell or (folder / LISTING).is_file()):
        return _export_cell(folder, cell, out or folder / "exported" / cell, store)
    if cell or store:
        raise ConfigError(
            f"--cell and --store must be of a sweep, got the folder of a run ({folder}). Leave "
            "them out, or name the sweep's folder."
        )
    trained = load_trained(folder)
    out = out or folder / "exported"
    out.mkdir(parents=True, exist_ok=True)
    program, content = program_of(trained), io.BytesIO()
    torch.export.save(program, content)
    _write(trained, out / "model.pt2", content.getvalue(), _run_program)
    _write(trained, out / "model.onnx", onnx_of(trained, program), run_onnx)
    write_atomic(out / "model.json", json.dumps(_described(trained), indent=1))
    print(out / "model.json")
    return 0


def _export_cell(folder: Path, cell: str, out: Path, store: Path | None) -> int:
    deployed = find_deployed(folder, cell)
    models = [load_model(deployed, run, accelerator="cpu") for run in deployed.runs]
    facts = reference_of(deployed, models[0], store).facts
    limits = limits_of(facts, tuple(models[0].data.inputs))
    out.mkdir(parents=True, exist_ok=True)
    networks = []
    for model in models:
        path = out / f"seed{model.run.seed}.onnx"
        content = onnx_of(model.trained, program_of(model.trained))
        _write(model.trained, path, content, run_onnx)
        networks.append(described_network(model.run.run_id, path, content, model.data.seed))
    inputs = inputs_of(models[0].trained)
    write_atomic(out / FILE, described(deployed.ensemble, inputs, networks, limits))
    print(out / FILE)
    return 0


def _write(
    trained: Trained, path: Path, content: bytes, run: Callable[[Path, tuple[Tensor, ...]], Tensor]
) -> None:
    """Write a model's file and hold it against the model; where it differs it does not stay."""
    write_atomic(path, content)
    rows = example(trained)
    difference = float((run(path, rows) - log_odds(trained, rows)).abs().max())
    if not difference <= _CLOSE:
        path.unlink()
        raise ConfigError(
            f"{path.name} must give the model's logits to {_CLOSE:g}, got a difference of "
            f"{difference:.2g} ({trained.folder.name}). The file was removed; export with the "
            "versions of constraints.txt."
        )
    print(path, flush=True)


def _described(trained: Trained) -> Mapping[str, Any]:
    """What stands in the JSON file: how to make the inputs, and what to do with the output."""
    return {
        "format": FORMAT,
        "run": dict(trained.identity),
        "inputs": inputs_of(trained),
        "output": {
            "name": "log_odds",
            "shape": ["batch"],
            "of": "the positive class; the weighting of the loss is undone",
            "patient": "mean over an item's windows, then over the patient's items",
            "probability": "1 / (1 + exp(-log_odds))",
        },
    }


def _run_program(path: Path, rows: tuple[Tensor, ...]) -> Tensor:
    given: Tensor = torch.export.load(path).module()(*rows)
    return given.detach()
