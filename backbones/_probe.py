"""What a network makes of an input shape, found on the meta device: no memory, no arithmetic."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call

from backbones.errors import EncoderError, first_line

_LARGEST_SIZE = 512  # where the search for the smallest usable size gives up, pixels


def output_shape(net: nn.Module, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that `net` gives in evaluation mode for an input of `shape`.

    Raises:
        RuntimeError, AssertionError, ValueError, IndexError: whatever the network raises when the
            input does not fit.
    """
    tensors = {
        name: torch.empty_like(tensor, device="meta")
        for name, tensor in [*net.named_parameters(), *net.named_buffers()]
    }
    was_training = net.training
    net.eval()
    try:
        # The context covers tensors that a forward makes for itself (position tables, masks).
        with torch.no_grad(), torch.device("meta"):
            output: Tensor = functional_call(net, tensors, (torch.empty(shape),))
    finally:
        net.train(was_training)
    return tuple(output.shape)


def feature_width(
    net: nn.Module,
    shape_at: Callable[[int], tuple[int, ...]],
    *,
    size: int,
    name: str,
    setting: str,
) -> int:
    """Width of the features of `net` for a square input of `size` pixels.

    Args:
        net: a network without its classifier.
        shape_at: the input shape for a size in pixels, batch of 1.
        size: pixels.
        name: of the network, for messages.
        setting: the name of the size setting, for messages (`image_size`, `video_size`).

    Raises:
        EncoderError: the input is too small for the network, or what comes out is not `(B, F)`.
    """
    check_length(setting, size, name=name)
    try:
        shape = output_shape(net, shape_at(size))
    except (RuntimeError, AssertionError, ValueError, IndexError) as error:
        smallest = _smallest_size(net, shape_at)
        frames = " or num_frames" if len(shape_at(size)) == 5 else ""
        remedy = (
            f"Use {smallest} px or more."
            if smallest
            else f"Raise it{frames}, or change model_args."
        )
        raise EncoderError(
            f"{setting} must be large enough for {name}, got {size} "
            f"(input of shape {shape_at(size)}: {first_line(error)}). {remedy}"
        ) from error
    if len(shape) != 2:
        raise EncoderError(
            f"{name} must give one feature vector per input, got an output of shape {shape}. "
            "Leave its global pooling in place (no `global_pool: ''` in model_args)."
        )
    return shape[1]


def _smallest_size(net: nn.Module, shape_at: Callable[[int], tuple[int, ...]]) -> int | None:
    """The smallest size in pixels that passes, by bisection; None if none up to 512 does."""

    def fits(size: int) -> bool:
        try:
            output_shape(net, shape_at(size))
        except (RuntimeError, AssertionError, ValueError, IndexError):
            return False
        return True

    if not fits(_LARGEST_SIZE):
        return None
    low, high = 0, _LARGEST_SIZE
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high


def check_length(setting: str, length: int, *, name: str) -> None:
    """Refuse a size in pixels or a number of frames that is not positive.

    Raises:
        EncoderError: names the setting.
    """
    if length < 1:
        raise EncoderError(f"{setting} must be at least 1, got {length} ({name}).")


def check_input(x: Tensor, expected: tuple[int | None, ...], *, layout: str, who: str) -> None:
    """Refuse a batch that is not of the `expected` shape; None stands for any length.

    Raises:
        EncoderError: names the expected and the given shape.
    """
    if x.ndim == len(expected) and all(
        e in (None, n) for e, n in zip(expected, x.shape, strict=True)
    ):
        return
    lengths = ", ".join(
        letter.strip() if e is None else str(e)
        for letter, e in zip(layout.split(","), expected, strict=True)
    )
    raise EncoderError(
        f"input of {who} must be of shape ({lengths}), got {tuple(x.shape)}. "
        "Make the sizes of the datamodule and of the encoder agree."
    )
