"""From packets of clips to frames, by whatever decodes best on this machine.

Every decoder is called alike: packets of any clips in, one after another, frames out in that order.
`choose_decoder` picks one; on a device it is tried first on a small clip whose frames are known,
against decord on the CPU.

Rules for decoding on a GPU, from decord's source: in the process that uses the device, never in a
forked one; a decoder made anew for each call, its memory outside torch's pool, so frames are copied
into the pool at once; decord works on the default stream and leaves its device the current one.
Frames come at their stored size: decord on CUDA resizes without antialias.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from importlib import import_module
from typing import Any, Literal

import decord
import numpy as np
import torch

from datamodules.errors import DataError
from datamodules.store.avi import splice
from datamodules.store.codec import ClipWriter, open_packets
from datamodules.store.slots import Slots

Decode = Literal["auto", "cpu", "cuda"]
_HOW_TO = "For decoding on the GPU: `make decord-cuda`, or install ceus[gpu] and FFmpeg."
_PROBE_SIZE = 128  # pixels; some NVIDIA decoders refuse less
_MOST_OFF = 4.0  # of 255, mean over a frame; BT.709 taken for BT.601 is off by 10 on the probe
_log = logging.getLogger(__name__)


class FrameDecoder(ABC):
    """Decodes packets, in order.

    Attributes:
        name: For logs and tables.
        device: Where the frames are.
        max_threads: How many threads may call it at a time to any use.
    """

    name: str
    device: torch.device
    max_threads: int

    @abstractmethod
    def decode(self, packets: Sequence[bytes], *, canvas: int) -> torch.Tensor:
        """Frames of packets that each hold one picture of its own.

        Args:
            packets: N of them, 1 or more, H.264 with start codes.
            canvas: Side of the frames, pixels.

        Returns:
            uint8 (N, canvas, canvas, 3), RGB, contiguous.
        """


class DecordCpu(FrameDecoder):
    """decord on one core a call."""

    name, device, max_threads = "decord", torch.device("cpu"), 64

    def __init__(self) -> None:
        self._slots = Slots()

    def decode(self, packets: Sequence[bytes], *, canvas: int) -> torch.Tensor:
        """See the base class."""
        reader = open_packets(packets, canvas=canvas)
        frames = self._slots.take(len(packets), canvas, canvas, 3)
        for frame in frames:
            # `to_dlpack` hands memory over; decord's bridge would be set for one thread only.
            frame.copy_(torch.utils.dlpack.from_dlpack(reader.next().to_dlpack()))
        return frames


class _OnDevice(FrameDecoder):
    """A decoder on a CUDA device (or, for tests, one that is called like it on the CPU)."""

    max_threads = 2

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream: torch.cuda.Stream | None = None

    def decode(self, packets: Sequence[bytes], *, canvas: int) -> torch.Tensor:
        """See the base class."""
        if self.device.type == "cpu":
            return self._frames(packets, canvas)
        if self._stream is None:
            self._stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        # The device is set back on leaving: decord calls cudaSetDevice.
        with torch.cuda.device(self.device), torch.cuda.stream(self._stream):
            frames = self._frames(packets, canvas)
            self._stream.wait_stream(torch.cuda.default_stream(self.device))
            copy = frames.clone()
            # This thread waits, so that the decoder may use its memory again; a step never does.
            self._stream.synchronize()
            return copy

    @abstractmethod
    def _frames(self, packets: Sequence[bytes], canvas: int) -> torch.Tensor:
        """As `decode`, in the decoder's own memory."""


class DecordCuda(_OnDevice):
    """decord built with CUDA (`make decord-cuda`); no wheel has it."""

    name = "decord on CUDA"

    def _frames(self, packets: Sequence[bytes], canvas: int) -> torch.Tensor:
        context = decord.gpu(self.device.index or 0)
        batch = open_packets(packets, canvas=canvas, context=context).get_batch(range(len(packets)))
        frames: torch.Tensor = torch.utils.dlpack.from_dlpack(batch.to_dlpack())
        return frames


class Torchcodec(_OnDevice):
    """torchcodec, whose wheel decodes on CUDA; needs FFmpeg's libraries on the system."""

    name = "torchcodec"

    def _frames(self, packets: Sequence[bytes], canvas: int) -> torch.Tensor:
        decoders: Any = import_module("torchcodec.decoders")  # an extra
        decoder = decoders.VideoDecoder(
            splice(packets, canvas),
            dimension_order="NHWC",
            device=self.device,
            seek_mode="approximate",  # the splice has a frame a packet at a constant rate
        )
        frames: torch.Tensor = decoder.get_frames_in_range(0, len(packets)).data
        if self.device.type == "cuda" and decoder.cpu_fallback:
            raise DataError(
                f"torchcodec must decode on {self.device}, got its fallback to the CPU "
                f"({decoder.cpu_fallback}). Set decode=cpu."
            )
        return frames


def choose_decoder(decode: Decode, device: torch.device) -> FrameDecoder:
    """The decoder for batches that go to a device.

    Args:
        decode: `cpu`; `cuda`, or an error; `auto`, which takes CUDA where the batches go there and
            a decoder passes the probe, and else says in one log line why not.
        device: Where the batches go.

    Raises:
        DataError: If it must be CUDA and cannot be.
    """
    if decode == "cpu" or (decode == "auto" and device.type != "cuda"):
        return DecordCpu()
    if device.type != "cuda":
        raise DataError(
            f"decode must be auto or cpu where there is no CUDA device, got {decode!r} (batches go "
            f"to {device.type}). Set decode=auto."
        )
    decoder, reason = _probed(device)
    if decoder is not None:
        return decoder
    if decode == "cuda":
        raise DataError(
            f"decode must be auto or cpu where no decoder works on CUDA, got {decode!r} ({reason})."
            f" {_HOW_TO}"
        )
    return DecordCpu()


@lru_cache
def _probed(device: torch.device) -> tuple[FrameDecoder | None, str]:
    """The first decoder that passes on this device, once a process; else why none does."""
    decoder, reason = first_that_decodes(DecordCuda(device), Torchcodec(device))
    if decoder is None:
        _log.warning("Clips are decoded on the CPU (%s). %s", reason, _HOW_TO)
    else:
        _log.info("Clips are decoded by %s.", decoder.name)
    return decoder, reason


def first_that_decodes(*candidates: FrameDecoder) -> tuple[FrameDecoder | None, str]:
    """The first candidate that gives a known clip's frames as decord on the CPU does.

    Returns:
        It, or None, and why each before it does not.
    """
    reasons: list[str] = []
    for candidate in candidates:
        reason = probe(candidate)
        if not reason:
            return candidate, "; ".join(reasons)
        reasons.append(f"{candidate.name}: {reason}")
    return None, "; ".join(reasons)


def probe(decoder: FrameDecoder) -> str:
    """Why a decoder is not to be used, in a few words; "" if it gives the right frames."""
    packets = _probe_clip()
    expected = DecordCpu().decode(packets, canvas=_PROBE_SIZE)
    try:
        decoded = decoder.decode(packets, canvas=_PROBE_SIZE).cpu()
    except Exception as error:  # noqa: BLE001  whatever ails it, it is not used
        return (str(error).strip() or type(error).__name__).splitlines()[0][:120]
    return compare_frames(decoded, expected)


def compare_frames(decoded: torch.Tensor, expected: torch.Tensor) -> str:
    """How frames differ from those expected, in a few words; "" if only by rounding.

    Args:
        decoded: uint8 (N, H, W, 3).
        expected: uint8 (N, H, W, 3), each frame unlike the others.
    """
    if decoded.shape != expected.shape or decoded.dtype != expected.dtype:
        return f"frames of {tuple(decoded.shape)}, not of {tuple(expected.shape)}"
    distances = torch.stack([(decoded.float() - frame).abs().mean((1, 2, 3)) for frame in expected])
    nearest = distances.argmin(0).tolist()
    if nearest != list(range(len(expected))):
        return f"frames in the order {nearest}"
    off = distances.diagonal().max().item()
    return f"colours off by {off:.1f} of 255" if off > _MOST_OFF else ""


@lru_cache
def _probe_clip() -> tuple[bytes, ...]:
    """Eight frames of coloured blocks, each unlike the others."""
    rng = np.random.default_rng(0)
    side = _PROBE_SIZE // 4
    blocks = rng.integers(0, 256, (8, 4, 4, 3), dtype=np.uint8)
    writer = ClipWriter(canvas=_PROBE_SIZE)
    for frame in blocks.repeat(side, axis=1).repeat(side, axis=2):
        writer.add(frame)
    return tuple(writer.finish())
