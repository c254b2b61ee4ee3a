"""How frames are read elsewhere: each reader as its own documentation shows it.

All give uint8 (T, 3, 224, 224), resized with antialias on the CPU by the same function.
"""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from benchmarks.material import SIZE, Indices

Read = Callable[[Path, Indices], torch.Tensor]


def shrink(frames: torch.Tensor) -> torch.Tensor:
    """(T, 3, H, W) to (T, 3, 224, 224)."""
    return F.interpolate(frames, size=(SIZE, SIZE), mode="bilinear", antialias=True)


def _from_hwc(frames: npt.NDArray[np.uint8]) -> torch.Tensor:
    return shrink(torch.from_numpy(frames).permute(0, 3, 1, 2))


def by_decord(path: Path, indices: Indices) -> torch.Tensor:
    """The documentation's `get_batch`."""
    import decord

    return _from_hwc(decord.VideoReader(str(path)).get_batch(indices).asnumpy())


def by_torchcodec(path: Path, indices: Indices, *, seek_mode: str) -> torch.Tensor:
    """The documentation's `get_frames_at`."""
    decoders: Any = import_module("torchcodec.decoders")
    decoder = decoders.VideoDecoder(str(path), seek_mode=seek_mode)
    return shrink(decoder.get_frames_at(indices.tolist()).data)


def by_torchcodec_approximate(path: Path, indices: Indices) -> torch.Tensor:
    """The key frames are guessed from the header."""
    return by_torchcodec(path, indices, seek_mode="approximate")


def by_torchcodec_exact(path: Path, indices: Indices) -> torch.Tensor:
    """The file is scanned first."""
    return by_torchcodec(path, indices, seek_mode="exact")


def by_pyav(path: Path, indices: Indices) -> torch.Tensor:
    """PyAV: seek to the key frame before each frame, decode up to it."""
    import av

    frames = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.time_base is not None
        assert stream.average_rate is not None
        tick = 1 / (stream.average_rate * stream.time_base)
        for index in indices.tolist():
            container.seek(int(index * tick), stream=stream)
            for frame in container.decode(stream):
                if frame.pts is not None and frame.pts >= int(index * tick):
                    frames.append(frame.to_ndarray(format="rgb24"))
                    break
    return _from_hwc(np.stack(frames).astype(np.uint8, copy=False))


def by_opencv(path: Path, indices: Indices) -> torch.Tensor:
    """OpenCV: the whole clip is decoded, frames are taken from it (as EchoNet-Dynamic does)."""
    import cv2

    capture = cv2.VideoCapture(str(path))
    wanted, frames, number = set(indices.tolist()), [], 0
    while True:
        is_read, frame = capture.read()
        if not is_read:
            break
        if number in wanted:
            frames.append(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
        number += 1
    capture.release()
    return _from_hwc(np.stack(frames).astype(np.uint8, copy=False))


def readers() -> tuple[dict[str, Read], list[str]]:
    """Those that are installed, by name; and of the others, why not."""
    readers_by_name: dict[str, Read] = {"decord": by_decord, "PyAV, seeking": by_pyav}
    skipped = []
    for module, named in {
        "torchcodec": {
            "torchcodec, approximate": by_torchcodec_approximate,
            "torchcodec, exact": by_torchcodec_exact,
        },
        "cv2": {"OpenCV, whole clip": by_opencv},
    }.items():
        try:
            import_module(module)
        except (ImportError, OSError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0][:80]
            skipped.append(f"{module} ({reason}); `pip install 'ceus[bench]'`, and FFmpeg")
        else:
            readers_by_name |= named
    return readers_by_name, skipped
