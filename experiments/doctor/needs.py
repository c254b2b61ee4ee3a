"""What an encoder needs of a device: counted on tensors without values."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jsonargparse import ArgumentParser
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from experiments.doctor.study import Need


def count(encoder: Mapping[str, Any], shape: Sequence[int]) -> Need:
    """Count an encoder, from random weights.

    Args:
        encoder: Class path and arguments, as `study.video_encoder`.
        shape: Of one input, as (3, T, H, W).
    """
    made: Any = _made(encoder).to("meta", torch.bfloat16).train()
    for module in made.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()  # freeze_batch_norm
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, nn.Parameter):
            storage = tensor.untyped_storage()
            kept[storage._cdata] = storage
        return tensor

    inputs = torch.empty((1, *shape), device="meta", dtype=torch.bfloat16)
    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with FlopCounterMode(display=False) as flops, hooks:
        output = made(inputs)
    del output
    return Need(
        tflop=flops.get_total_flops() / 1e12,
        kept=sum(storage.nbytes() for storage in kept.values()),
        parameters=sum(parameter.numel() for parameter in made.parameters()),
    )


def count_all(
    encoders: Mapping[str, tuple[Mapping[str, Any], Sequence[int]]],
) -> dict[str, Need | str]:
    """Count several encoders; of one that cannot be counted the reason."""
    needs: dict[str, Need | str] = {}
    for name, (encoder, shape) in encoders.items():
        try:
            needs[name] = count(encoder, shape)
        except Exception as error:  # noqa: BLE001  a user's own may do anything
            needs[name] = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
    return needs


def _made(encoder: Mapping[str, Any]) -> nn.Module:
    arguments = dict(encoder.get("init_args", {}))
    if "pretrained" in arguments:
        arguments["pretrained"] = False
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(nn.Module, "encoder")
    node = parser.parse_object({"encoder": {**encoder, "init_args": arguments}})
    try:
        with torch.device("meta"):  # filling them with random numbers would take seconds
            made: nn.Module = parser.instantiate(node).encoder
    except Exception:  # noqa: BLE001  its constructor looks at values
        made = parser.instantiate(node).encoder
    return made
