"""When memory does not suffice: a smaller micro-batch where that is the same work, else advice."""

import copy
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from experiments.errors import ConfigError

_OF_A_DEVICE = re.compile(
    r"(cuda|hip|nccl|cublas|cudnn|cusparse|cufft|cusolver)[^\n]*"
    r"(out of memory|out_of_memory|alloc_failed)",
    re.IGNORECASE,
)


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or one that led to it, is a device's want of memory."""
    while error is not None:
        if isinstance(error, torch.OutOfMemoryError):
            return True
        # Kernels (AcceleratorError), NCCL (DistBackendError), cuBLAS and cuDNN say it in words.
        if isinstance(error, RuntimeError) and _OF_A_DEVICE.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def halved(config: Mapping[str, Any], halvings: int) -> dict[str, Any]:
    """The configuration with the micro-batch halved and the accumulation doubled so many times.

    An optimisation step sees the same rows. Evaluation batches, which decide nothing, shrink alike.

    Args:
        config: As `experiments.config.compose.compose` gives it; left as it is.
        halvings: 0 for the configuration itself.

    Raises:
        ConfigError: If the batch cannot be halved so often.
    """
    changed = copy.deepcopy(dict(config))
    if not halvings:
        return changed
    settings = changed["data"].get("init_args", {})
    batch_size, factor = settings.get("batch_size"), 2**halvings
    if not isinstance(batch_size, int) or batch_size % factor:
        raise ConfigError(
            f"batch_size must be a multiple of {factor} to be halved {halvings} times, got "
            f"{batch_size!r} (data.init_args). {ADVICE}"
        )
    settings["batch_size"] = batch_size // factor
    if isinstance(settings.get("eval_batch_size"), int):
        settings["eval_batch_size"] = max(1, settings["eval_batch_size"] // factor)
    trainer = changed["trainer"]
    trainer["accumulate_grad_batches"] = (trainer.get("accumulate_grad_batches") or 1) * factor
    return changed


ADVICE = (
    "Lower study.batch_size or study.eval_batch_size (and raise trainer.accumulate_grad_batches by "
    "as much), lower the input size, or set trainer.precision=bf16-mixed."
)


def micro_batch(config: Mapping[str, Any]) -> str:
    """Rows a device and step, as `4 x 2`: micro-batch times accumulation."""
    rows = config["data"].get("init_args", {}).get("batch_size")
    return f"{rows} x {config['trainer'].get('accumulate_grad_batches') or 1}"


def batch_statistics(model: nn.Module) -> str | None:
    """The first module that computes with the statistics of the batch; None if none does.

    To such a network half a micro-batch is another computation, not the same one in two parts.
    """
    if getattr(model, "freeze_batch_norm", False):
        return None
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            return f"{name} ({type(module).__name__})"
    return None
