"""The last step of a batch's way: on the device, beside the training step, without a wait."""

from collections.abc import Callable
from typing import Any

import torch

Batch = dict[str, Any]


class DeviceStage:
    """Uploads a batch and finishes it on a stream of its own.

    The host only queues work: while the device is busy with step n, the loader is asked for batch
    n + 1, and its upload, resize and augmentation run beside the step. Memory is double buffered by
    torch's own pools: host memory is pinned and not used again before its upload is done; device
    memory not before the consumer's stream has passed (`record_stream`).

    Args:
        device: A CUDA device.
        finish: What to do with the batch on the device.
    """

    def __init__(self, device: torch.device, finish: Callable[[Batch], Batch]) -> None:
        self._device, self._finish = device, finish
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def __call__(self, batch: Batch) -> Batch:
        """The batch, in order with what the consumer's current stream does next."""
        consumer = torch.cuda.current_stream(self._device)
        with torch.cuda.device(self._device), torch.cuda.stream(self._stream):
            uploaded = {
                key: value.to(self._device, non_blocking=True)
                if isinstance(value, torch.Tensor)
                else value
                for key, value in batch.items()
            }
            done = self._finish(uploaded)
        consumer.wait_stream(self._stream)
        for value in (*uploaded.values(), *done.values()):
            if isinstance(value, torch.Tensor):
                value.record_stream(self._stream)  # frames decoded on the device come from another
                value.record_stream(consumer)
        return done


def pin(batch: Batch) -> Batch:
    """Host tensors in pinned memory, to be uploaded without waiting; it opens the device."""
    return {
        key: value.pin_memory()
        if isinstance(value, torch.Tensor) and value.device.type == "cpu" and not value.is_pinned()
        else value
        for key, value in batch.items()
    }
