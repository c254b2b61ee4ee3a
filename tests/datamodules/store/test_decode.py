"""Decoders behind one interface, and how one is chosen."""

import itertools
import logging
import re
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from datamodules.batches.device import DeviceStage
from datamodules.errors import DataError
from datamodules.store.codec import ClipWriter, decode_with_pyav
from datamodules.store.decode import (
    DecordCpu,
    DecordCuda,
    FrameDecoder,
    PyavCpu,
    Torchcodec,
    choose_decoder,
    compare_frames,
    first_that_decodes,
    probe,
)

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
SIZE = 64


@pytest.fixture(scope="module")
def clip() -> tuple[list[bytes], np.ndarray]:
    """Packets of 20 frames of coloured blocks, and PyAV's decode of them."""
    blocks = np.random.default_rng(1).integers(0, 256, (20, 8, 8, 3), dtype=np.uint8)
    writer = ClipWriter(canvas=SIZE)
    for frame in blocks.repeat(8, axis=1).repeat(8, axis=2):
        writer.add(frame)
    packets = writer.finish()
    return packets, decode_with_pyav(packets)


def needs_torchcodec() -> None:
    try:
        import torchcodec  # noqa: F401
    except (ImportError, OSError, RuntimeError) as error:
        pytest.skip(f"torchcodec or FFmpeg's libraries are not installed: {error!s:.60}")


@pytest.fixture(
    params=[
        "PyAV",
        "decord",
        "torchcodec",
        pytest.param("decord-cuda", marks=pytest.mark.gpu),
        pytest.param("torchcodec-cuda", marks=pytest.mark.gpu),
    ]
)
def decoder(request: pytest.FixtureRequest) -> FrameDecoder:
    name = request.param
    if name.startswith("torchcodec"):
        needs_torchcodec()
    if name.endswith("cuda") and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    made = {
        "PyAV": PyavCpu,
        "decord": DecordCpu,
        "torchcodec": lambda: Torchcodec(CPU),
        "decord-cuda": lambda: DecordCuda(CUDA),
        "torchcodec-cuda": lambda: Torchcodec(CUDA),
    }[name]()
    if name.endswith("cuda") and (reason := probe(made)):
        pytest.skip(f"{made.name}: {reason}")
    return made


def test_frames_are_those_of_the_packets(decoder: FrameDecoder, clip: tuple) -> None:
    packets, expected = clip
    order = [7, 3, 3, 19, 0]
    frames = decoder.decode([packets[i] for i in order], canvas=SIZE)
    assert (frames.dtype, frames.shape) == (torch.uint8, (5, SIZE, SIZE, 3))
    assert frames.is_contiguous()
    assert frames.device == decoder.device
    assert np.abs(frames.cpu().numpy().astype(int) - expected[order]).max() <= 4
    assert probe(decoder) == ""


def test_pyav_and_decord_give_the_very_same_pixels(clip: tuple) -> None:
    packets, _ = clip
    ours, decords = (decoder.decode(packets, canvas=SIZE) for decoder in (PyavCpu(), DecordCpu()))
    assert torch.equal(ours, decords)


def test_frames_are_repeated_and_black_as_asked(decoder: FrameDecoder, clip: tuple) -> None:
    packets, _ = clip
    frames = decoder.decode(packets[:3], canvas=SIZE)
    placed = decoder.decode(packets[:3], canvas=SIZE, places=[2, -1, 2, 0])
    assert placed.device == decoder.device
    assert torch.equal(placed[[0, 2, 3]], frames[[2, 2, 0]])
    assert not placed[1].any()


def test_frames_live_on(decoder: FrameDecoder, clip: tuple) -> None:
    """Memory that is used again is never one that somebody still looks at."""
    packets, _ = clip
    kept = [decoder.decode(packets[i : i + 3], canvas=SIZE) for i in range(10)]
    views = [frames[1:].permute(0, 3, 1, 2) for frames in kept]
    before = [view.clone() for view in views]
    del kept
    for _ in range(10):
        decoder.decode(packets[::-1], canvas=SIZE)
    assert all(map(torch.equal, views, before))


def test_what_is_not_a_picture_is_an_error(decoder: FrameDecoder, clip: tuple) -> None:
    packets, _ = clip
    with pytest.raises(Exception):  # noqa: B017, PT011  each library has its own
        decoder.decode([packets[0], b"\0\0\0\1" + bytes(200), packets[1]], canvas=SIZE)


def _broken(frames: torch.Tensor) -> torch.Tensor:
    raise RuntimeError("no such codec\nand a long story")


_calls = itertools.count()


def _rare(frames: torch.Tensor) -> torch.Tensor:
    """Once in many calls the last frame of a stream is the one before."""
    frames[127] = frames[126] if next(_calls) == 9 else frames[127]
    return frames


def _torn(frames: torch.Tensor) -> torch.Tensor:
    frames[9, 60:] = frames[8, 60:]
    return frames


def _placed_wrong(frames: torch.Tensor) -> torch.Tensor:
    frames[-2] = frames[-1]
    return frames


FAULTS = {
    "late": lambda frames: frames.roll(1, 0),
    "short": lambda frames: frames[:-1],
    "swapped": lambda frames: frames.flip(-1),
    # Limited range taken for full.
    "range": lambda frames: torch.where(frames > 0, frames * (219 / 255) + 16, 0).to(torch.uint8),
    "rare": _rare,
    "torn": _torn,
    "places": _placed_wrong,
    "broken": _broken,
}


class Wrong(PyavCpu):
    """A decoder with a known fault, as GPU decoders have had them."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.name, self._fault = fault, FAULTS[fault]

    def decode(
        self, packets: Sequence[bytes], *, canvas: int, places: Sequence[int] | None = None
    ) -> torch.Tensor:
        return self._fault(super().decode(packets, canvas=canvas, places=places))


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("late", r"frames in the order \["),
        ("short", r"frames of \(130, 128, 128, 3\), not of \(131"),
        ("rare", r"frames in the order \["),
        ("torn", "colours off|frames in the order"),
        ("places", "repeated or black frames that are others"),
        ("swapped", "frames in the order|colours off"),
        ("range", r"colours off by \d"),
        ("broken", r"^no such codec$"),
    ],
)
def test_the_probe_finds_faults(fault: str, reason: str) -> None:
    assert re.search(reason, probe(Wrong(fault)))


def test_rounding_is_no_fault() -> None:
    frames = torch.randint(0, 256, (4, 8, 8, 3), dtype=torch.uint8)
    assert compare_frames((frames.int() + 2).clamp(max=255).to(torch.uint8), frames) == ""


def test_the_first_that_decodes_is_taken() -> None:
    good = PyavCpu()
    decoder, reason = first_that_decodes(Wrong("late"), good, Wrong("broken"))
    assert decoder is good
    assert reason.startswith("late: frames in the order")
    decoder, reason = first_that_decodes(Wrong("range"), Wrong("broken"))
    assert decoder is None
    assert "; broken: no such codec" in reason


def test_without_a_device_it_is_the_cpu_and_nothing_is_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO):
        assert isinstance(choose_decoder("auto", CPU), PyavCpu)
        assert isinstance(choose_decoder("cpu", CPU), PyavCpu)
        assert isinstance(choose_decoder("cpu", CUDA), PyavCpu)
        assert isinstance(choose_decoder("decord", CPU), DecordCpu)
    assert not caplog.records
    with pytest.raises(DataError, match=r"decode must be auto or cpu .* got 'cuda' .* to cpu"):
        choose_decoder("cuda", CPU)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_failed_probe_falls_back_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    """A device that this machine lacks: torch, decord and torchcodec refuse, each in its way."""
    device = torch.device("cuda", 7)
    for _ in range(2):
        assert isinstance(choose_decoder("auto", device), PyavCpu)
    (record,) = caplog.records
    text = record.getMessage()
    assert "\n" not in text
    assert text.index("torchcodec: ") < text.index("decord on CUDA: ")
    assert "make decord-cuda" in text
    with pytest.raises(DataError, match=r"no decoder works on CUDA, got 'cuda' .*torchcodec"):
        choose_decoder("cuda", device)


@pytest.mark.gpu
def test_repeated_and_black_frames_are_done_when_they_are_handed_on(
    decoder: FrameDecoder, clip: tuple
) -> None:
    """The stage reads them on a stream of its own while the reader's thread has nothing to do."""
    if decoder.device.type != "cuda":
        pytest.skip("of decoders on the device")
    packets, _ = clip
    places = [*range(20), -1, *range(20)] * 8
    stage = DeviceStage(CUDA, finish=lambda batch: {"video": batch["video"].clone()})
    plain = decoder.decode(packets, canvas=SIZE)
    expected = torch.cat([plain, torch.zeros_like(plain[:1])])[torch.tensor(places)]
    busy = torch.randn(4096, 4096, device=CUDA)
    for _ in range(30):
        busy = (busy @ busy).clamp(-1, 1)  # on the default stream, where gathering once was queued
        staged = stage({"video": decoder.decode(packets, canvas=SIZE, places=places)})
        assert torch.equal(staged["video"], expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_stage_never_waits_and_never_mixes_batches() -> None:
    stage = DeviceStage(CUDA, finish=lambda batch: {"video": batch["video"].float() * 2})
    batches = [
        {"video": torch.full((1 << 22,), i, dtype=torch.uint8).pin_memory()} for i in range(64)
    ]
    busy = torch.randn(4096, 4096, device=CUDA)
    sums = []
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in batches:
            done = stage(batch)
            busy = (busy @ busy).clamp(-1, 1)
            sums.append(done["video"].mean())
            del done
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert [int(value) for value in sums] == [2 * i for i in range(64)]


@pytest.mark.gpu
def test_no_leak_over_a_thousand_clips(decoder: FrameDecoder, clip: tuple) -> None:
    if decoder.device.type != "cuda":
        pytest.skip("of decoders on the device")
    packets, _ = clip
    for _ in range(50):
        decoder.decode(packets, canvas=SIZE)
    free = torch.cuda.mem_get_info()[0]
    for _ in range(1000):
        decoder.decode(packets, canvas=SIZE)
    assert free - torch.cuda.mem_get_info()[0] < 64e6
