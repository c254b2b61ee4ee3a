"""A trained model as a program of torch.export and as ONNX, and how its inputs are made."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from experiments.errors import ConfigError
from experiments.training.trained import Trained

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
"""What it takes."""


def lacking_packages() -> list[str]:
    """Those of `PACKAGES` that are not installed."""
    return [name for name in PACKAGES if find_spec(name) is None]


class Scorer(nn.Module):
    """A classifier whose inputs come one by one and whose logits have the loss's weighting undone.

    Args:
        trained: Whose model.
        features: Inputs whose features are given, too.
    """

    def __init__(self, trained: Trained, features: Sequence[str] = ()) -> None:
        super().__init__()
        self.model = trained.model
        self._names, self._features = names_of(trained), features

    def forward(self, *rows: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Log-odds `(B,)` of inputs in the order of `names_of`, and features `(B, F)`, if any."""
        batch = dict(zip(self._names, rows, strict=True))
        # Nothing is put in the place of absent rows, which only training needs: ONNX cannot sort.
        pixels = {name: given for name, given in batch.items() if given.is_floating_point()}
        features = self.model.encode(pixels)
        scores = self.model.head_logits(features, batch) - self.model.logit_shift
        return (scores, *(features[name] for name in self._features)) if self._features else scores


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
    given = session.run(None, dict(zip(names, (row.numpy() for row in rows), strict=True)))[0]
    return torch.from_numpy(given)


def log_odds(trained: Trained, rows: tuple[Tensor, ...]) -> Tensor:
    """Log-odds `(B,)` of rows as the model is scored."""
    batch = dict(zip(names_of(trained), rows, strict=True))
    with torch.no_grad():
        return trained.model.logits(batch) - trained.model.logit_shift


def program_of(trained: Trained, features: Sequence[str] = ()) -> torch.export.ExportedProgram:
    """The program of a model, for any number of rows; what `Scorer` gives."""
    scorer, rows = Scorer(trained, features).eval(), example(trained)
    batch = torch.export.Dim("batch", min=1)
    with _silent():
        return torch.export.export(
            scorer, rows, dynamic_shapes={"rows": tuple({0: batch} for _ in rows)}
        )


def onnx_of(
    trained: Trained, program: torch.export.ExportedProgram, features: Sequence[str] = ()
) -> bytes:
    """The ONNX model of a program: `log_odds`, and `image_features` and `video_features`."""
    with _silent():
        made: Any = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            input_names=list(names_of(trained)),
            output_names=["log_odds", *(f"{name}_features" for name in features)],
        )
    model = made.model_proto
    for graph in (model.graph, *model.functions):
        for node in graph.node:
            del node.metadata_props[:]  # where in which file of this machine it was written
    content: bytes = model.SerializeToString()
    return content


@contextmanager
def _silent() -> Iterator[None]:
    """Without gradients, and without what the exporters tell of themselves."""
    logs = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [log.level for log in logs]
    try:
        for log in logs:
            log.setLevel(logging.ERROR)
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)


def as_network(trained: Trained) -> tuple[bytes, dict[str, Any]]:
    """The ONNX model that gives the features of encoders, too, and how its inputs are made.

    Raises:
        ConfigError: If it cannot be had, or could not score as the run was scored.
        Exception: What encoders and exporters raise.
    """
    if lacking := lacking_packages():
        raise ConfigError(f"not installed: {', '.join(lacking)}")
    if trained.trainer.precision != "32-true":
        raise ConfigError(f"the run was scored in {trained.trainer.precision}")
    pixels = dict(zip(trained.data.inputs, example(trained), strict=False))
    with torch.no_grad():
        features = [name for name, given in trained.model.encode(pixels).items() if given.ndim == 2]
    return onnx_of(trained, program_of(trained, features), features), inputs_of(trained)


def inputs_of(trained: Trained) -> dict[str, Any]:
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
