"""Where in a network there still is a map of the picture, whatever its kind: convolutions, tokens.

All of this looks at one row of a batch at a time.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

_SMALLEST_SIDE = 6  # cells; a cell of a coarser map is larger than what is looked for


def as_map(output: Any) -> tuple[Tensor, Callable[[Tensor], Tensor]] | None:
    """What a layer gave for one row, as a map `(1, C, T, H, W)`, and the way back; None if none.

    Convolutions give `(1, C, T, H, W)`, `(1, C, H, W)`, or `(T, C, H, W)` where frames go one by
    one; Swin the same with the channels last; MViT tokens `(1, N, C)` with the map's lengths, one
    token more where it has one for the class. Height and width must be alike, which tells them from
    the channels.

    Args:
        output: The module's output.
    """
    if isinstance(output, tuple) and len(output) == 2 and isinstance(output[0], Tensor):
        return _of_tokens(*output)
    if not isinstance(output, Tensor) or output.ndim not in (4, 5):
        return None
    channels_last = output.shape[-1] != output.shape[-2] == output.shape[-3]
    if not channels_last and output.shape[-1] != output.shape[-2]:
        return None

    def first(x: Tensor) -> Tensor:
        return x.movedim(-1, 1) if channels_last else x

    def last(x: Tensor) -> Tensor:
        return x.movedim(1, -1) if channels_last else x

    if output.ndim == 5:
        return first(output), last
    return first(output).transpose(0, 1)[None], lambda x: last(x[0].transpose(0, 1))


def _of_tokens(tokens: Tensor, lengths: Any) -> tuple[Tensor, Callable[[Tensor], Tensor]] | None:
    if tokens.ndim != 3 or not isinstance(lengths, tuple | list):
        return None
    size = (1, *(int(length) for length in lengths))[-3:]
    extra = tokens.shape[1] - size[0] * size[1] * size[2]
    if extra not in (0, 1) or len(tokens) != 1:
        return None
    cells = tokens[:, extra:].transpose(1, 2).reshape(1, -1, *size)
    return cells, lambda x: torch.cat([tokens[:, :extra], x.flatten(2).transpose(1, 2)], 1)


def find_map_layer(run: Callable[[], Tensor], encoder: nn.Module) -> nn.Module | None:
    """The last block of an encoder whose output is a map of at least 6 cells a side.

    Where all are coarser, the finest. Blocks whose map has no say in the result do not count: after
    the last block of a transformer only the token of the class is read.

    Args:
        run: Gives the logit of one row, with gradients, through the encoder.
        encoder: Any encoder.

    Returns:
        The module; None where no block gives a map.
    """
    given: list[tuple[nn.Module, Any]] = []

    def note(module: nn.Module, _inputs: Any, output: Any) -> None:
        given.append((module, output))

    handles = [block.register_forward_hook(note) for block in _blocks(encoder)]
    try:
        with torch.enable_grad():
            logit = run()
    finally:
        for handle in handles:
            handle.remove()
    best, finest = None, 0
    for module, output in given:
        if (shown := as_map(output)) is None:
            continue
        tokens, *lengths = output if isinstance(output, tuple) else (output,)
        side = shown[0].shape[-1]
        if side < min(finest, _SMALLEST_SIDE):
            continue
        (slope,) = torch.autograd.grad(logit.sum(), tokens, retain_graph=True, allow_unused=True)
        there = None if slope is None else as_map((slope, *lengths) if lengths else slope)
        if there is not None and there[0].any():
            best, finest = module, max(side, finest)
    return best


@contextmanager
def tapped(layer: nn.Module) -> Iterator[nn.Module]:
    """Meanwhile a module stands behind a layer whose output is the layer's as a map.

    What is changed there goes on through the network in the layer's own form.
    """
    tap = nn.Identity()

    def through(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        found = as_map(output)
        assert found is not None  # as when the layer was chosen
        cells, back = found
        # A copy: a network may change its own in place.
        shown = back(tap(cells.clone()).clone())
        return (shown, *output[1:]) if isinstance(output, tuple) else shown

    handle = layer.register_forward_hook(through)
    try:
        yield tap
    finally:
        handle.remove()


def _blocks(network: nn.Module) -> Iterator[nn.Module]:
    """The parts that what a network sees passes one after the other: lists of them are entered."""
    children = list(network.children())
    # An encoder around a network; a single layer is a block.
    while len(children) == 1 and not _is_list(children[0]) and [*children[0].children()]:
        children = list(children[0].children())
    for child in children:
        yield from _entered(child)


def _entered(part: nn.Module) -> Iterator[nn.Module]:
    if not _is_list(part):
        yield part
        return
    for child in part.children():
        yield from _entered(child)


def _is_list(part: nn.Module) -> bool:
    return isinstance(part, nn.ModuleList) or type(part).forward is nn.Sequential.forward
