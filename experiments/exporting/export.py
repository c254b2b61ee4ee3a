"""`ceus export`: a trained model for programs that know neither this framework nor Python."""

import io
import json
import logging
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from datamodules.files import write_atomic
from experiments.errors import ConfigError
from experiments.training.trained import Trained, load_trained

_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_CLOSE = 1e-4
FORMAT = 1
"""Of the JSON file."""


def export(folder: Path, *, out: Path | None = None) -> int:
    """Write a run's model as ONNX and by torch.export, with what it wants and gives in a JSON.

    Each is held against the model before it counts: logits must agree to 1e-4.

    Args:
        folder: Folder of a run.
        out: Folder for the files, by default FOLDER/exported.
    """
    lacking = [name for name in _PACKAGES if find_spec(name) is None]
    if lacking:
        raise ConfigError(
            f"packages {', '.join(_PACKAGES)} must be installed to export, got none of "
            f"{', '.join(lacking)}. Install them: pip install 'ceus[export]'"
        )
    trained = load_trained(folder)
    out = out or folder / "exported"
    out.mkdir(parents=True, exist_ok=True)
    rows = example(trained)
    program, onnx = _exported(Scorer(trained).eval(), rows)
    expected = log_odds(trained, rows)
    for name, content, run in (
        ("model.pt2", program, _run_program),
        ("model.onnx", onnx, run_onnx),
    ):
        write_atomic(out / name, content)
        difference = float((run(out / name, rows) - expected).abs().max())
        if not difference <= _CLOSE:
            (out / name).unlink()
            raise ConfigError(
                f"{name} must give the model's logits to {_CLOSE:g}, got a difference of "
                f"{difference:.2g} ({folder.name}). The file was removed; export with the versions "
                "of constraints.txt."
            )
        print(out / name)
    write_atomic(out / "model.json", json.dumps(_described(trained), indent=1))
    print(out / "model.json")
    return 0


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


def _exported(scorer: Scorer, rows: tuple[Tensor, ...]) -> tuple[bytes, bytes]:
    """The program of torch.export, and the ONNX model made of it; any number of rows."""
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


def _described(trained: Trained) -> Mapping[str, Any]:
    """What stands in the JSON file: how to make the inputs, and what to do with the output."""
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
            inputs[key]["sampling"] = {"class": type(sampling).__name__, **asdict(sampling)}
    for name in names_of(trained)[len(inputs) :]:
        inputs[name] = {"shape": ["batch"], "type": "bool"}
    return {
        "format": FORMAT,
        "run": dict(trained.identity),
        "inputs": inputs,
        "output": {
            "name": "log_odds",
            "shape": ["batch"],
            "of": "the positive class; the weighting of the loss is undone",
            "patient": "mean over an item's windows, then over the patient's items",
            "probability": "1 / (1 + exp(-log_odds))",
        },
    }
