"""`ceus export`: a trained model for programs that know neither this framework nor Python."""

import hashlib
import io
import json
import logging
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from datamodules.files import write_atomic
from evaluation.records.listing import FILE as LISTING
from experiments.errors import ConfigError
from experiments.predicting.deployed import find_deployed
from experiments.predicting.facts import limits_of
from experiments.predicting.onnx import FILE, described
from experiments.predicting.reference import reference_of
from experiments.predicting.scoring import load_model
from experiments.training.trained import Trained, load_trained

_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
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
    lacking = [name for name in _PACKAGES if find_spec(name) is None]
    if lacking:
        raise ConfigError(
            f"packages {', '.join(_PACKAGES)} must be installed to export, got none of "
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
    program, onnx = _exported(trained)
    _write(trained, out / "model.pt2", program, _run_program)
    _write(trained, out / "model.onnx", onnx, run_onnx)
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
        path, content = out / f"seed{model.run.seed}.onnx", _exported(model.trained)[1]
        _write(model.trained, path, content, run_onnx)
        networks.append(
            {
                "run_id": model.run.run_id,
                "file": path.name,
                "sha256": hashlib.sha256(content).hexdigest(),
                "sampling_seed": model.data.seed,
            }
        )
    inputs = _inputs(models[0].trained)
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


class Scorer(nn.Module):
    """A classifier whose inputs come one by one and whose logits have the loss's weighting undone.

    Args:
        trained: Whose model.
    """

    def __init__(self, trained: Trained) -> None:
        super().__init__()
        self.model = trained.model
        self._names = names_of(trained)

    def forward(self, *rows: Tensor) -> Tensor:
        """Log-odds `(B,)` of inputs in the order of `names_of`."""
        batch = dict(zip(self._names, rows, strict=True))
        if len(batch) == 1:
            return self.model.logits(batch) - self.model.logit_shift
        # Nothing is put in the place of absent rows, which only training needs: ONNX cannot sort.
        pixels = {name: given for name, given in batch.items() if given.is_floating_point()}
        features = self.model.encode(pixels)
        return self.model.head_logits(features, batch) - self.model.logit_shift


def names_of(trained: Trained) -> tuple[str, ...]:
    """Names of the inputs in order; with two modalities those that say whether each is there."""
    keys = tuple(trained.data.inputs)
    return keys if len(keys) == 1 else (*keys, *(f"present_{key}" for key in keys))


def example(trained: Trained, *, rows: int = 3) -> tuple[Tensor, ...]:
    """Rows of the shapes that the model takes, of random normalised grey levels.

    Of two modalities the first row lacks the first and the second the second.
    """
    generator = torch.Generator().manual_seed(0)
    found = []
    for key, settings in trained.data.inputs.items():
        frames = (trained.data.eval_sampling.num_frames,) if key == "video" else ()
        shape = (rows, 3, *frames, settings.size, settings.size)
        found.append(torch.randn(shape, generator=generator))
    if len(found) == 1:
        return tuple(found)
    present = [torch.arange(rows) != lacking for lacking in range(len(found))]
    return (*found, *present)


def run_onnx(path: Path, rows: tuple[Tensor, ...]) -> Tensor:
    """Log-odds `(B,)` of rows by ONNX Runtime on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    (given,) = session.run(None, dict(zip(names, (row.numpy() for row in rows), strict=True)))
    return torch.from_numpy(given)


def _run_program(path: Path, rows: tuple[Tensor, ...]) -> Tensor:
    given: Tensor = torch.export.load(path).module()(*rows)
    return given.detach()


def log_odds(trained: Trained, rows: tuple[Tensor, ...]) -> Tensor:
    """Log-odds `(B,)` of rows as the model is scored."""
    batch = dict(zip(names_of(trained), rows, strict=True))
    with torch.no_grad():
        return trained.model.logits(batch) - trained.model.logit_shift


def _exported(trained: Trained) -> tuple[bytes, bytes]:
    """The program of torch.export, and the ONNX model made of it; any number of rows."""
    scorer, rows = Scorer(trained).eval(), example(trained)
    batch = torch.export.Dim("batch", min=1)
    logs = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [log.level for log in logs]
    try:
        for log in logs:
            log.setLevel(logging.ERROR)
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.export.export(
                scorer, rows, dynamic_shapes={"rows": tuple({0: batch} for _ in rows)}
            )
            content = io.BytesIO()
            torch.export.save(program, content)
            names = [*scorer._names]
            made: Any = torch.onnx.export(
                program, dynamo=True, verbose=False, input_names=names, output_names=["log_odds"]
            )
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)
    return content.getvalue(), made.model_proto.SerializeToString()


def _inputs(trained: Trained) -> dict[str, Any]:
    """How to make the inputs."""
    inputs: dict[str, Any] = {}
    for key, settings in trained.data.inputs.items():
        inputs[key] = {
            "shape": ["batch", 3, settings.size, settings.size],
            "type": "float32",
            "colours": "RGB",
            "resize": "bilinear, antialias, of the store's square frames, to whole grey levels",
            "size": settings.size,
            "mean": list(settings.mean),
            "std": list(settings.std),
            "normalise": "(grey / 255 - mean) / std",
            "absent": 0.0,
        }
        if key == "video":
            sampling = trained.data.eval_sampling
            inputs[key]["shape"].insert(2, sampling.num_frames)
            kind = type(sampling)
            inputs[key]["sampling"] = {
                "class_path": f"{kind.__module__}.{kind.__qualname__}",
                "init_args": asdict(sampling),
            }
    for name in names_of(trained)[len(inputs) :]:
        inputs[name] = {"shape": ["batch"], "type": "bool"}
    return inputs


def _described(trained: Trained) -> Mapping[str, Any]:
    """What stands in the JSON file: how to make the inputs, and what to do with the output."""
    return {
        "format": FORMAT,
        "run": dict(trained.identity),
        "inputs": _inputs(trained),
        "output": {
            "name": "log_odds",
            "shape": ["batch"],
            "of": "the positive class; the weighting of the loss is undone",
            "patient": "mean over an item's windows, then over the patient's items",
            "probability": "1 / (1 + exp(-log_odds))",
        },
    }
