"""ClipReader and the files it reads."""

import multiprocessing
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import av
import numpy as np
import pytest
import torch

from datamodules.errors import DataError
from datamodules.ingest.item import check_exact
from datamodules.ingest.prepare import prepare
from datamodules.ingest.readers.pictures import MediaError
from datamodules.ingest.readers.video import Video
from datamodules.store.clip_file import read_index, read_packets, write_clip
from datamodules.store.clips import ClipReader
from datamodules.store.codec import ClipWriter, decode_packets, decode_with_pyav
from datamodules.store.decode import FrameDecoder, PyavCpu
from datamodules.store.folder import Store

FRAMES = 50
OTHER = range(100, 120)  # what a second clip shows


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, media: ModuleType) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    media.write_video(folder / "clip", media.KINDS["h264-mp4"], numbers=range(FRAMES))
    media.write_video(folder / "other", media.KINDS["h264-mp4"], numbers=OTHER)
    table = folder / "cohort.csv"
    table.write_text("patient_id,label,modality,path\np,1,ceus,clip.mp4\nq,0,ceus,other.mp4\n")
    return prepare(table, folder / "store", canvas=64, as_is=True, progress=False, workers=1)


@pytest.fixture
def clip(made: Path, tmp_path: Path) -> tuple[ClipReader, str, Path]:
    """A reader, its clip, and the clip's path without suffix."""
    store = Store(Path(shutil.copytree(made, tmp_path / "store")))
    item_id = store.items["item_id"][0]
    return ClipReader(store), item_id, store.path / "items" / item_id


@pytest.mark.parametrize(
    "indices",
    [[0], [FRAMES - 1], [4, 0, 4], range(FRAMES), np.arange(FRAMES)[::-3], [7] * 40],
    ids=["first", "last", "repeats", "all", "backwards", "one-often"],
)
def test_result_follows_indices(clip: tuple, media: ModuleType, indices: list[int]) -> None:
    reader, item_id, _ = clip
    frames = reader.read(item_id, indices)
    assert frames.shape == (len(indices), 3, 64, 64)
    assert frames.dtype == torch.uint8
    shown = [media.read_number(frame) for frame in frames.permute(0, 2, 3, 1).numpy()]
    assert shown == list(indices)


def test_several_clips_are_read_as_one(clip: tuple, media: ModuleType) -> None:
    reader, first, stem = clip
    second = Store(stem.parents[1]).items["item_id"][1]
    requests = [(second, [3, 0]), (first, [9, 9, 2]), (second, np.array([19, 3]))]
    frames = reader.read_many(requests)
    shown = [media.read_number(frame) for frame in frames.permute(0, 2, 3, 1).numpy()]
    assert shown == [103, 100, 9, 9, 2, 119, 103]
    apart = torch.cat([reader.read(*request) for request in requests])
    assert torch.equal(frames, apart)


def test_black_frames_are_read_as_asked(clip: tuple, media: ModuleType) -> None:
    reader, item_id, _ = clip
    frames = reader.read_many([(None, range(2)), (item_id, [9, 4]), (None, range(2))])
    assert not frames[[0, 1, 4, 5]].any()
    assert torch.equal(frames[2:4], reader.read(item_id, [9, 4]))
    assert not reader.read_many([(None, range(3))]).any()


class Flaky(FrameDecoder):
    """A decoder of a device that fails at every second call, or at what is no picture."""

    name, device, max_threads = "flaky on CUDA", torch.device("cpu"), 2

    def __init__(self) -> None:
        self.calls, self._real = 0, PyavCpu()

    def decode(self, packets: Any, **settings: Any) -> torch.Tensor:
        self.calls += 1
        if self.calls % 2 == 0:
            raise RuntimeError("CUDA error: unspecified launch failure")
        return self._real.decode(packets, **settings)


def test_where_the_device_fails_the_cpu_decodes_and_it_is_said(
    clip: tuple, caplog: pytest.LogCaptureFixture
) -> None:
    """A batch that the device cannot decode under load is no fault of the store's."""
    plain, item_id, stem = clip
    decoder = Flaky()
    reader = ClipReader(stem.parents[1], decoder=decoder)
    requests = [(item_id, [3, 3, 8]), (None, range(1))]
    expected = plain.read_many(requests)
    for _ in range(8):
        assert torch.equal(reader.read_many(requests), expected)
    assert (decoder.calls, reader.fallbacks) == (8, 4)
    (record,) = caplog.records  # the first, the tenth, the hundredth: no flood
    text = record.getMessage()
    assert "flaky on CUDA failed at a batch (CUDA error: unspecified launch failure)" in text
    assert "the CPU decoded it; so far 1 times" in text


@pytest.mark.parametrize("decoder", [PyavCpu, Flaky])
def test_a_frame_that_does_not_decode_is_named(clip: tuple, decoder: Any) -> None:
    _, item_id, stem = clip
    packets = read_packets(
        stem.with_suffix(".h264"), read_index(stem.with_suffix(".idx")), frames=range(FRAMES)
    )
    packets[7] = b"\0\0\0\1" + bytes(300)  # written so: its hash is right
    write_clip(stem, packets, levels=np.arange(FRAMES), order=np.arange(FRAMES), fps=25)
    reader = ClipReader(stem.parents[1], decoder=decoder())
    reader.read(item_id, [6, 8])
    with pytest.raises(DataError, match=rf"frame must decode, got .*{item_id}.h264, frame 7; PyAV"):
        reader.read(item_id, range(5, 9))


def test_frames_outlive_everything(clip: tuple) -> None:
    reader, item_id, stem = clip
    frames = ClipReader(stem.parents[1]).read(item_id, [3, 1])
    copy = frames.clone()
    for _ in range(20):
        reader.read(item_id, range(30))
    assert torch.equal(frames, copy)


def test_times(clip: tuple) -> None:
    reader, item_id, _ = clip
    np.testing.assert_allclose(reader.index(item_id)["pts"], np.arange(FRAMES) / 25)


def test_many_threads(clip: tuple) -> None:
    reader, item_id, _ = clip
    rng = np.random.default_rng(1)
    wanted = [rng.integers(0, FRAMES, 8) for _ in range(40)]
    whole = reader.read(item_id, range(FRAMES))
    with ThreadPoolExecutor(4) as pool:
        for indices, frames in zip(
            wanted, pool.map(lambda indices: reader.read(item_id, indices), wanted), strict=True
        ):
            assert torch.equal(frames, whole[torch.from_numpy(indices)])


def _read_in_child(reader: ClipReader, item_id: str, sums: "multiprocessing.Queue[int]") -> None:
    sums.put(int(reader.read(item_id, [5, 9]).sum()))


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")  # 3.12 and later
def test_forked_process(clip: tuple) -> None:
    reader, item_id, _ = clip
    expected = int(reader.read(item_id, [5, 9]).sum())
    context = multiprocessing.get_context("fork")
    sums = context.Queue()
    child = context.Process(target=_read_in_child, args=(reader, item_id, sums))
    child.start()
    assert sums.get(timeout=30) == expected
    child.join(30)
    assert child.exitcode == 0


@pytest.mark.parametrize("indices", [[-1], [FRAMES], [0, 99]])
def test_out_of_range(clip: tuple, indices: list[int]) -> None:
    reader, item_id, _ = clip
    with pytest.raises(DataError, match=rf"indices must be in 0..{FRAMES - 1}, got .*{item_id}"):
        reader.read(item_id, indices)


@pytest.mark.parametrize("indices", [[], [0.5], [[1, 2]]])
def test_not_indices(clip: tuple, indices: list) -> None:
    reader, item_id, _ = clip
    with pytest.raises(DataError, match=r"non-empty list of whole numbers"):
        reader.read(item_id, indices)


def test_changed_byte_is_found(clip: tuple) -> None:
    reader, item_id, stem = clip
    path, row = stem.with_suffix(".h264"), reader.index(item_id)[6]
    data = bytearray(path.read_bytes())
    data[row["offset"] + row["size"] // 2] ^= 1
    path.write_bytes(data)
    reader.read(item_id, [5, 7])
    with pytest.raises(DataError, match=rf"got others \(.*{item_id}.h264, frame 6\)"):
        reader.read(item_id, [5, 6])


def test_missing_and_damaged_files(clip: tuple) -> None:
    reader, item_id, stem = clip
    reader.index(item_id)
    stem.with_suffix(".h264").unlink()
    with pytest.raises(DataError, match=r"clip must be in the store, got No such file"):
        reader.read(item_id, [0])


def test_index_is_refused_unless_it_is_what_was_written(clip: tuple, tmp_path: Path) -> None:
    _, _, stem = clip
    good, path = stem.with_suffix(".idx").read_bytes(), tmp_path / "bad.idx"
    for damaged, match in (
        (b"", "must be of format 2, got another kind of file"),
        (b"\x93NUMPY" + good, "must be of format 2, got another kind of file"),
        (good[:8] + b"\1" + good[9:], r"must be of format 2, got 1 \(.*bad.idx\)"),
        (good[:-1], f"must hold the {FRAMES} rows that were written, got others"),
        (good[:-1] + b"\x55", f"must hold the {FRAMES} rows that were written, got others"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=match):
            read_index(path)
    with pytest.raises(DataError, match=r"index of a clip must be readable, got No such file"):
        read_index(tmp_path / "none.idx")


@pytest.fixture
def colourful() -> list[np.ndarray]:
    """Frames of coloured blocks: the worst case for two colour conversions to agree."""
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
    return list(blocks.repeat(8, axis=1).repeat(8, axis=2))


def test_decord_agrees_with_pyav_in_colour(colourful: list[np.ndarray]) -> None:
    writer = ClipWriter(canvas=64)
    for frame in colourful:
        writer.add(frame)
    packets = writer.finish()
    ours = decode_packets(packets[3:9], canvas=64).asnumpy().astype(int)
    assert np.abs(ours - decode_with_pyav(packets)[3:9]).max() <= 2
    inner = np.s_[:, 3::8, 3::8]  # away from edges, where 4:2:0 mixes colours
    assert np.abs(ours[inner] - np.stack(colourful[3:9])[inner]).mean() < 3


def _flat(colours: np.ndarray) -> list[np.ndarray]:
    """(N, 3) colours as 32-pixel frames."""
    return [np.tile(colour, (32, 32, 1)).astype(np.uint8) for colour in colours]


@pytest.mark.parametrize(
    ("colours", "mean", "most"),
    [
        # decord on the CPU cuts fractions off: -0.5 on average is what that costs, and all of it.
        (np.arange(16, 256)[:, None].repeat(3, 1), (-0.5, -0.5, -0.5), 1),
        (np.random.default_rng(0).integers(0, 256, (240, 3)), (-0.9, -1.5, -1.0), 3),
    ],
    ids=["greys", "colours"],
)
def test_flat_colours_come_back(colours: np.ndarray, mean: tuple[float, ...], most: int) -> None:
    writer = ClipWriter(canvas=32)
    for frame in _flat(colours):
        writer.add(frame)
    packets = writer.finish()
    # BT.601 limited range (ITU-R BT.601-7, table 3), as the planes were written.
    exact = (np.array([16, 128, 128]) + colours / 255 @ _BT601.T).clip(16, 240)
    decoder = av.CodecContext.create("h264", "r")
    frames = [f for packet in packets for f in decoder.decode(av.Packet(packet))]
    frames += decoder.decode(None)
    planes = [[np.frombuffer(p, np.uint8)[0] for p in frame.planes] for frame in frames]
    error = np.array(planes) - exact
    assert np.abs(error).max() <= 1.05  # half by rounding, half by the quantiser of crf 16
    assert np.abs(error.mean(0)).max() < 0.1  # rounded, not cut off
    off = decode_packets(packets, canvas=32).asnumpy().astype(float) - np.stack(_flat(colours))
    assert np.abs(off).max() <= most
    np.testing.assert_allclose(off.mean((0, 1, 2)), mean, atol=0.2)


_BT601 = np.array([[65.481, 128.553, 24.966], [-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]])


@pytest.mark.parametrize("pix_fmt", ["yuvj420p", "yuv420p"])
def test_grey_sources_are_not_darkened(tmp_path: Path, pix_fmt: str) -> None:
    """Planes set by hand: swscale's own way to full range writes grey with 127 for 128 in chroma,
    which alone costs 2 levels of red and blue and once passed for a fault of the store.
    """
    codec = "mjpeg" if pix_fmt == "yuvj420p" else "ffv1"
    path, levels = tmp_path / "flat.avi", range(16, 236, 8)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 64, pix_fmt
        for level in levels:
            frame = av.VideoFrame(64, 64, pix_fmt)
            for plane, value in zip(frame.planes, (level, 128, 128), strict=True):
                plane.update(bytes([value]) * plane.buffer_size)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    shown = np.array(levels) if codec == "mjpeg" else (np.array(levels) - 16) * 255 / 219
    with Video(path) as video:
        read = np.array([frame.mean((0, 1)) for frame in video.frames()])
    assert np.abs(read - shown[:, None]).max() <= 1


def test_every_packet_stands_alone_and_is_tagged(colourful: list[np.ndarray]) -> None:
    writer = ClipWriter(canvas=64)
    for frame in colourful:
        writer.add(frame)
    for packet, frame in zip(writer.finish(), colourful, strict=True):
        kinds = {
            packet[i + 3] & 31 for i in range(len(packet) - 4) if packet[i : i + 3] == b"\0\0\1"
        }
        assert {5, 7, 8} <= kinds  # a picture of its own, with both parameter sets
        assert np.abs(decode_with_pyav([packet])[0].astype(int) - frame).mean() < 8


def test_frames_shown_twice_are_stored_once(tmp_path: Path, colourful: list[np.ndarray]) -> None:
    writer = ClipWriter(canvas=64)
    for frame in colourful:
        writer.add(frame)
    packets = writer.finish()
    order = np.array([0, 0, 3, 3, 4])
    write_clip(tmp_path / "clip", packets, levels=writer.levels, order=order, fps=10)
    stored = (tmp_path / "clip.h264").read_bytes()
    assert stored == packets[0] + packets[3] + packets[4]
    index = read_index(tmp_path / "clip.idx")
    assert index["offset"].tolist() == [0, 0, *[len(packets[0])] * 2, len(packets[0] + packets[3])]
    np.testing.assert_allclose(index["pts"], [0, 0.1, 0.2, 0.3, 0.4])
    np.testing.assert_allclose(index["level"], [colourful[i].mean() for i in order])
    check_exact(tmp_path / "clip", canvas=64)


def test_clip_that_does_not_read_back_is_refused(
    tmp_path: Path, colourful: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = ClipWriter(canvas=64)
    for frame in colourful:
        writer.add(frame)
    packets = writer.finish()
    write_clip(tmp_path / "clip", packets, levels=writer.levels, order=np.arange(12), fps=10)
    # A decoder that is a frame late, as decord is on files of hospitals.
    monkeypatch.setattr(
        "datamodules.ingest.item.decode_packets",
        lambda packets, *, canvas: decode_packets([*packets[1:], packets[0]], canvas=canvas),
    )
    with pytest.raises(MediaError, match=r"clip must read back exactly, got frame 0 off by"):
        check_exact(tmp_path / "clip", canvas=64)
