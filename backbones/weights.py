"""Pretrained weights from a local file or a download, loaded strictly or not at all."""

import pickle
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from backbones.errors import EncoderError, first_line

_SHOWN = 4  # keys named in a message
_PARALLEL = "module."  # what torch's DataParallel puts before every name
_WRAPPERS = ("state_dict", "model", "model_state")  # what training scripts wrap weights in


def read_state_dict(path: Path | None) -> dict[str, Tensor]:
    """Weights by name from a `.safetensors`, `.pth`, `.pt` or `.bin` file, on the CPU.

    Pickle files are read with `weights_only=True`: a file can hold tensors but cannot run code.

    Raises:
        EncoderError: the file is missing, unreadable, of another kind, or holds no weights.
    """
    if path is None or not path.is_file():
        raise EncoderError(
            f"pretrained must be true, false or an existing file, got "
            f"{'nothing' if path is None else repr(str(path))}. "
            "Give the path of a .safetensors or .pth file."
        )
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings():  # torch's on what it then refuses
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpicklers and zip readers raise many kinds for a bad file
        # torch would have the file run what it likes (`weights_only=False`): not to be repeated.
        other = isinstance(error, pickle.UnpicklingError)
        reason = "it holds objects beside tensors, or is damaged" if other else first_line(error)
        raise EncoderError(
            f"pretrained must be a .safetensors or .pth file of weights, got {str(path)!r} "
            f"({reason}). "
            "Save it as a plain state dict: torch.save(net.state_dict(), path)."
        ) from error
    for wrapper in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not (
        isinstance(content, dict)
        and content
        and all(isinstance(value, Tensor) for value in content.values())
    ):
        raise EncoderError(
            f"pretrained must hold tensors by name, got {type(content).__name__} ({path}). "
            "Save it as a plain state dict: torch.save(net.state_dict(), path)."
        )
    if all(name.startswith(_PARALLEL) for name in content):
        content = {name.removeprefix(_PARALLEL): value for name, value in content.items()}
    return dict(content)


def download(fetch: Callable[[], dict[str, Tensor]], *, name: str) -> dict[str, Tensor]:
    """The weights that `fetch` downloads.

    Raises:
        EncoderError: the download failed, whatever the reason; says how to go on without a network.
    """
    try:
        return fetch()
    except Exception as error:  # hub clients raise many kinds; each means there are no weights
        raise EncoderError(
            f"pretrained weights of {name} could not be downloaded "
            f"({first_line(error)}). "
            "Fetch them on a machine with a network, ceus weights SWEEP --to FOLDER, and set "
            "weights=FOLDER; or pass `pretrained: /path/file`, or `pretrained: false` to train "
            "from scratch."
        ) from error


def load_strictly(
    net: nn.Module, state: dict[str, Tensor], *, heads: tuple[str, ...], name: str
) -> None:
    """Load `state` into `net`; only keys of classifier `heads` may be left over.

    Args:
        net: the network, its classifier already removed.
        state: weights by name.
        heads: prefixes of the classifier's keys (`fc`, `head.fc`).
        name: of the network, for messages.

    Raises:
        EncoderError: a key is missing, left over or of another shape; names the first few.
    """
    wanted = net.state_dict()
    given = {
        key: value
        for key, value in state.items()
        if key in wanted or not any(key.startswith(f"{head}.") for head in heads)
    }
    problems = [
        f"{key} is {tuple(given[key].shape)} in the file and {tuple(wanted[key].shape)} in the net"
        for key in wanted
        if key in given and given[key].shape != wanted[key].shape
    ]
    if not problems:
        problems = [
            f"{key} holds values that are not finite"
            for key, value in given.items()
            if value.is_floating_point() and not value.isfinite().all()
        ]
        problems += [
            f"{key} is of {str(value.dtype).removeprefix('torch.')}, not of floating point"
            for key, value in given.items()
            if key in wanted and wanted[key].is_floating_point() and not value.is_floating_point()
        ]
    if not problems:
        result = net.load_state_dict(given, strict=False)
        problems = [f"{key} is missing" for key in result.missing_keys]
        problems += [f"{key} is unexpected" for key in result.unexpected_keys]
    if problems:
        more = f" and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise EncoderError(
            f"pretrained weights must fit {name}: {'; '.join(problems[:_SHOWN])}{more}. "
            "Check that the file and model_args belong to this network."
        )


def init_linear_layers(net: nn.Module) -> None:
    """Draw the linear layers of a network without pretrained weights anew (Glorot & Bengio 2010).

    timm's and torchvision's transformers start them at a standard deviation of 0.02, which suits
    widths near 768; at the width of a light member, 32, it leaves the blocks silent for epochs.
    """
    for module in net.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
