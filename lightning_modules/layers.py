"""What the classifiers need to know of the inside of any network: its blocks, its convolutions."""

import torch
from torch import nn

_LISTS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


def blocks(network: nn.Module) -> list[list[nn.Parameter]]:
    """A network's parameters by block, from input to output, each once.

    A block is a part of the network that is no mere list of parts; single layers in a row, as a
    convolution and its norm, are one block. So ResNet-50 has its stem and 16 residual blocks.
    """
    groups: list[list[nn.Parameter]] = []
    seen: set[int] = set()
    after_layer = False
    for part, single in _parts(network):
        own = [p for p in part if id(p) not in seen]  # a shared one belongs where it is used first
        seen |= {id(p) for p in own}
        if single and after_layer:
            groups[-1] += own
        elif own:
            groups.append(own)
        after_layer = single
    return groups


def _parts(module: nn.Module) -> list[tuple[list[nn.Parameter], bool]]:
    """Parameters of each part in order, and whether it is a single layer."""
    own = list(module.parameters(recurse=False))
    groups = [(own, True)] if own else []
    children = [child for child in module.children() if next(child.parameters(), None) is not None]
    for child in children:
        single = next(child.children(), None) is None
        if not single and (isinstance(child, _LISTS) or len(children) == 1):
            groups += _parts(child)
        else:
            groups.append((list(child.parameters()), single))
    return groups


def channels_last_format(ndim: int) -> torch.memory_format:
    """The memory order with channels innermost of images (4) or clips (5 dimensions)."""
    return _FORMATS[ndim]


def use_channels_last(network: nn.Module) -> None:
    """Lay out the weights of 2D and 3D convolutions with channels innermost, in place."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            weight = module.weight.data
            module.weight.data = weight.contiguous(memory_format=_FORMATS[weight.ndim])
