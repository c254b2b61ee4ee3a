"""From packets of clips to frames, by whatever decodes best on this machine.

Every decoder is called alike: packets of any clips in, one after another, frames out in that order.
`choose_decoder` picks one; on a device it is tried first on a small clip whose frames are known,
against PyAV on the CPU, while the device is busy with other work.

Rules for decoding on a GPU, in the process that uses the device, never in a forked one:

- All that is done to frames, repeats and black ones included, is queued on the decoder's own stream
  before the thread that reads waits for it: what it hands on is finished, for any stream.
- torchcodec decodes on the current stream, into torch's memory.
- decord 0.6 decodes into memory of its own, allocated for each frame, and copies on the default
  stream; frames are copied into torch's pool at once. It leaves its device the current one. At the
  end of a stream it polls for the last frames instead of waiting (`__init__.py`): under load it is
  what fails, and so the second choice.

Frames come at their stored size: decord on CUDA resizes without antialias.
"""

import logging
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from importlib import import_module
from typing import Any, Literal

import decord
import numpy as np
import torch

from datamodules.errors import DataError
from datamodules.store.avi import splice
from datamodules.store.codec import ClipWriter, open_packets, pictures
from datamodules.store.slots import Slots

Decode = Literal["auto", "cpu", "decord", "cuda"]
_HOW_TO = "For decoding on the GPU: install ceus[gpu], or `make decord-cuda`."
_PROBE_SIZE = 128  # pixels; some NVIDIA decoders refuse less
_PROBE_FRAMES = 8  # each unlike the others
_PROBE_CALLS, _PROBE_REPEATS = 4, 16  # of each thread; of the probe's clip in a call
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
    def decode(
        self, packets: Sequence[bytes], *, canvas: int, places: Sequence[int] | None = None
    ) -> torch.Tensor:
        """Frames of packets that each hold one picture of its own.

        Args:
            packets: 1 or more, H.264 with start codes.
            canvas: Side of the frames, pixels.
            places: For each of the N frames to return the number of its packet, or -1 for a black
                one. By default each packet's, in order.

        Returns:
            uint8 (N, canvas, canvas, 3), RGB, contiguous; on a device nothing of it is still to be
            done by any stream.
        """


def put_in_place(frames: torch.Tensor, places: Sequence[int] | None) -> torch.Tensor:
    """Frames (M, H, W, 3) at the places of `FrameDecoder.decode`, on the current stream."""
    if places is None:
        return frames
    numbers = torch.tensor(places, device=frames.device)
    placed = frames[numbers.clamp(min=0)]
    return placed if min(places) >= 0 else placed.mul_((numbers >= 0).view(-1, 1, 1, 1))


class OnCpu(FrameDecoder):
    """A decoder that takes one core a call.

    Args:
        pinned: Whether frames are to be uploaded to a CUDA device.
    """

    device, max_threads = torch.device("cpu"), 64

    def __init__(self, *, pinned: bool = False) -> None:
        self._slots = Slots(pinned=pinned)

    def decode(
        self, packets: Sequence[bytes], *, canvas: int, places: Sequence[int] | None = None
    ) -> torch.Tensor:
        """See the base class."""
        frames = self._slots.take(len(packets), canvas, canvas, 3)
        count = -1
        for count, picture in enumerate(self._pictures(packets, canvas)):
            if count < len(frames):
                frames[count] = picture
        if count + 1 != len(packets):
            raise DataError(
                f"{len(packets)} packets must decode to as many frames, got {count + 1}. "
                "Run `ceus prepare` into a new store."
            )
        return put_in_place(frames, places)

    @abstractmethod
    def _pictures(self, packets: Sequence[bytes], canvas: int) -> Iterable[torch.Tensor]:
        """The frames (canvas, canvas, 3), in order; each is used before the next is asked for."""


class PyavCpu(OnCpu):
    """FFmpeg's decoder through PyAV.

    Its pixels are decord's, whose own is FFmpeg's, too, for less time: no file is opened and there
    is no filter graph on the way (benchmarks/RESULTS.md, "Reading frames").
    """

    name = "PyAV"

    def _pictures(self, packets: Sequence[bytes], canvas: int) -> Iterable[torch.Tensor]:  # noqa: ARG002
        return map(torch.from_numpy, pictures(packets))


class DecordCpu(OnCpu):
    """decord on the CPU."""

    name = "decord"

    def _pictures(self, packets: Sequence[bytes], canvas: int) -> Iterable[torch.Tensor]:
        reader = open_packets(packets, canvas=canvas)
        for _ in packets:
            # `to_dlpack` hands memory over; decord's bridge would be set for one thread only.
            yield torch.utils.dlpack.from_dlpack(reader.next().to_dlpack())


class _OnDevice(FrameDecoder):
    """A decoder on a CUDA device (or, for tests, one that is called like it on the CPU)."""

    max_threads = 4

    def __init__(self, device: torch.device) -> None:
        self.device = device
        # As many as threads ever called at once, used again: torch's pool keeps memory by stream.
        self._streams: deque[torch.cuda.Stream] = deque()

    def decode(
        self, packets: Sequence[bytes], *, canvas: int, places: Sequence[int] | None = None
    ) -> torch.Tensor:
        """See the base class."""
        if self.device.type == "cpu":
            return put_in_place(self._frames(packets, canvas), places)
        try:
            stream = self._streams.pop()
        except IndexError:
            stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        try:
            # The device is set back on leaving: decord calls cudaSetDevice.
            with torch.cuda.device(self.device), torch.cuda.stream(stream):
                frames = put_in_place(self._frames(packets, canvas), places)
                # The thread that reads waits, and nobody after it needs to.
                stream.synchronize()
                return frames
        finally:
            self._streams.append(stream)

    @abstractmethod
    def _frames(self, packets: Sequence[bytes], canvas: int) -> torch.Tensor:
        """Frames of packets in order, in torch's memory, queued on the current stream."""


class DecordCuda(_OnDevice):
    """decord built with CUDA (`make decord-cuda`); no wheel has it."""

    name = "decord on CUDA"

    def _frames(self, packets: Sequence[bytes], canvas: int) -> torch.Tensor:
        context = decord.gpu(self.device.index or 0)
        batch = open_packets(packets, canvas=canvas, context=context).get_batch(range(len(packets)))
        stream = torch.cuda.current_stream(self.device)
        stream.wait_stream(torch.cuda.default_stream(self.device))
        copy = torch.utils.dlpack.from_dlpack(batch.to_dlpack()).clone()
        stream.synchronize()  # decord frees its own memory as `batch` goes
        return copy


class Torchcodec(_OnDevice):
    """torchcodec, whose wheel decodes on CUDA by NVDEC, without FFmpeg's own CUDA code.

    It opens files by the libraries of FFmpeg 4 to 9: those of the system, or PyAV's own, which a
    process must be started for (docs/how-to/speed.md).
    """

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
        decode: `cpu`, by PyAV; `decord`, on the CPU, too; `cuda`, or an error; `auto`, which takes
            CUDA where the batches go there and a decoder passes the probe, and else the CPU, and
            says in one log line why.
        device: Where the batches go.

    Raises:
        DataError: If it must be CUDA and cannot be.
    """
    if decode == "decord":
        return DecordCpu(pinned=device.type == "cuda")
    if decode == "cpu" or (decode == "auto" and device.type != "cuda"):
        return PyavCpu(pinned=device.type == "cuda")
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
    return PyavCpu(pinned=True)


@lru_cache
def _probed(device: torch.device) -> tuple[FrameDecoder | None, str]:
    """The first decoder that passes on this device, once a process; else why none does."""
    decoder, reason = first_that_decodes(Torchcodec(device), DecordCuda(device))
    if decoder is None:
        _log.warning("Clips are decoded on the CPU (%s). %s", reason, _HOW_TO)
    else:
        _log.info("Clips are decoded by %s.", decoder.name)
    return decoder, reason


def first_that_decodes(*candidates: FrameDecoder) -> tuple[FrameDecoder | None, str]:
    """The first candidate that gives a known clip's frames as PyAV on the CPU does.

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
    """Why a decoder is not to be used, in a few words; "" if it gives the right frames.

    As readers call it: from all its threads at once, over and over, clips with repeats and black
    frames, while another stream of the device is kept busy.
    """
    packets = _probe_clip()
    expected = PyavCpu().decode(packets, canvas=_PROBE_SIZE)
    threads = min(decoder.max_threads, 4)
    try:
        if reason := _probe_once(decoder, packets, expected, 0):
            return reason
        with kept_busy(decoder.device), ThreadPoolExecutor(threads) as pool:
            calls = [
                pool.submit(_probe_once, decoder, packets, expected, seed)
                for seed in range(1, 1 + _PROBE_CALLS * threads)
            ]
            reasons = [call.result() for call in calls]
    except Exception as error:  # noqa: BLE001  whatever ails it, it is not used
        return (str(error).strip() or type(error).__name__).splitlines()[0][:120]
    return next(filter(None, reasons), "")


def _probe_once(
    decoder: FrameDecoder, packets: Sequence[bytes], expected: torch.Tensor, seed: int
) -> str:
    rng = np.random.default_rng(seed)
    order = [int(i) for _ in range(_PROBE_REPEATS) for i in rng.permutation(_PROBE_FRAMES)]
    shown = [packets[i] for i in order]
    # The last frame again, a black one, the first again: gathered by the decoder, too.
    places = [*range(len(order)), len(order) - 1, -1, 0]
    decoded = decoder.decode(shown, canvas=_PROBE_SIZE, places=places).cpu()
    shape = (len(places), *expected.shape[1:])
    if decoded.shape != shape:
        return f"frames of {tuple(decoded.shape)}, not of {shape}"
    clips, (last, black, first) = decoded[: len(order)], decoded[len(order) :]
    some = slice(4, None, 8)  # of the rows and columns: enough of a block, or of a torn frame
    for start in range(0, len(order), _PROBE_FRAMES):
        part = slice(start, start + _PROBE_FRAMES)
        reason = compare_frames(clips[part, some, some], expected[order[part]][:, some, some])
        if reason:
            return reason
    if black.any() or not (torch.equal(last, clips[-1]) and torch.equal(first, clips[0])):
        return "repeated or black frames that are others"
    return ""


@contextmanager
def kept_busy(device: torch.device) -> Iterator[None]:
    """Meanwhile a stream of the device computes, as that of a training does."""
    if device.type != "cuda":
        yield
        return
    done = threading.Event()
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    with torch.cuda.stream(stream):
        matrix = torch.zeros((2048, 2048), device=device)
        product = torch.empty_like(matrix)

    def compute() -> None:
        with torch.cuda.stream(stream):
            while not done.is_set():
                for _ in range(20):
                    torch.mm(matrix, matrix, out=product)
                stream.synchronize()

    worker = threading.Thread(target=compute, name="ceus-probe")
    worker.start()
    try:
        yield
    finally:
        done.set()
        worker.join()


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
    """Frames of coloured blocks, each unlike the others."""
    rng = np.random.default_rng(0)
    side = _PROBE_SIZE // 4
    blocks = rng.integers(0, 256, (_PROBE_FRAMES, 4, 4, 3), dtype=np.uint8)
    writer = ClipWriter(canvas=_PROBE_SIZE)
    for frame in blocks.repeat(side, axis=1).repeat(side, axis=2):
        writer.add(frame)
    return tuple(writer.finish())
