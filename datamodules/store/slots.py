"""Memory for batches that is used again, instead of being asked of the system for each.

A batch of frames is too large for malloc to keep: each would be mapped anew, and touching new pages
was measured at a quarter of what decoding costs.
"""

import weakref
from collections import deque

import numpy as np
import numpy.typing as npt
import torch

_KEPT = 4  # buffers: three batches in reading and the one in use


class Slots:
    """Tensors whose memory comes back here when nobody refers to them any more.

    Safe to use from several threads.

    Args:
        pinned: Whether memory is to be uploaded to a CUDA device. Torch's own pool then does the
            same (it also waits for uploads that have not ended). Pinning opens the device.
    """

    def __init__(self, *, pinned: bool = False) -> None:
        self._pinned = pinned
        # No lock: finalizers run at any time, also in a thread that would hold it. deque's
        # operations are atomic.
        self._free: deque[npt.NDArray[np.uint8]] = deque(maxlen=_KEPT)

    def take(self, *shape: int) -> torch.Tensor:
        """A uint8 tensor; its content is anything."""
        if self._pinned:
            return torch.empty(shape, dtype=torch.uint8, pin_memory=True)
        size = int(np.prod(shape))
        buffer = np.empty(0, np.uint8)
        while buffer.size < size:  # smaller ones are dropped: it keeps the largest that was needed
            try:
                buffer = self._free.popleft()
            except IndexError:
                buffer = np.empty(size, np.uint8)
        lent = buffer[:size].reshape(shape)
        weakref.finalize(lent, self._free.append, buffer).atexit = False
        return torch.from_numpy(lent)
