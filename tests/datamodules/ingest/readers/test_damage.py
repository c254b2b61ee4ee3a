"""Frames that are not what was recorded are counted, left out, or the file is refused."""

import struct
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import ModuleType

import av
import numpy as np
import pytest
from PIL import Image

from datamodules.ingest.item import ingest
from datamodules.ingest.readers.clip import VideoFacts
from datamodules.ingest.readers.pictures import MediaError, letterbox
from datamodules.ingest.readers.video import Video
from datamodules.ingest.task import Task


def decode(path: Path) -> tuple[list[np.ndarray], VideoFacts]:
    with Video(path) as video:
        frames = [letterbox(frame, canvas=128) for frame in video.frames()]
        return frames, video.facts()


def damage_packets(path: Path, numbers: list[int]) -> None:
    """Zeroes the inside of packets, numbered as they lie in the file."""
    with av.open(str(path)) as container:
        places = [(p.pos, p.size) for p in container.demux(video=0) if p.pos is not None]
    data = bytearray(path.read_bytes())
    for pos, size in (places[number] for number in numbers):
        data[pos + size // 3 : pos + size] = bytes(size - size // 3)
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["h264-mp4", "h264-avi", "open-gop-mkv", "mpeg4-b-avi", "wmv"])
def test_what_follows_a_refused_frame_is_damaged_up_to_the_next_key_frame(
    tmp_path: Path, media: ModuleType, name: str
) -> None:
    """Right before the second last key frame of 240: few frames depend on it."""
    path = media.write_video(tmp_path / "clip", media.KINDS[name], numbers=range(240))
    whole, _ = decode(path)
    with av.open(str(path)) as container:
        keys = [n for n, p in enumerate(container.demux(video=0)) if p.size and p.is_keyframe]
    damage_packets(path, [keys[-2] - 2])
    frames, facts = decode(path)
    assert 1 <= facts.concealed <= 12
    assert f"{facts.concealed} damaged frames, concealed" in facts.timing.warnings
    assert len(frames) + facts.concealed >= 236
    shown = [frames[k] for k in facts.timing.order]
    numbers = [media.read_number(frame) for frame in shown]
    expected = [media.read_number(frame) for frame in whole]
    assert max(abs(a - b) for a, b in zip(numbers, expected, strict=False)) <= 12
    for frame in frames:  # never a green or a torn one
        original = whole[media.read_number(frame) - media.read_number(whole[0])]
        assert np.abs(frame.astype(int) - original).mean() < 1
    damage_packets(path, [key + 1 for key in keys[2:-3]])
    with pytest.raises(MediaError, match=r"got \d+ damaged of 2\d\d"):
        decode(path)


def _set(data: bytes, box: tuple[bytes, ...], at: int, value: int, media: ModuleType) -> bytes:
    start, _ = media._find(data, *box)
    at += start + 8
    return data[:at] + struct.pack(">I", value) + data[at + 4 :]


STTS = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stts")


@pytest.mark.parametrize(
    ("box", "at", "value"),
    [
        (STTS, 8, 1),  # times of one frame only
        (STTS, 12, 0),  # all at once
        (STTS, 12, 0x7FFFFFFF),
        ((b"moov", b"trak", b"mdia", b"mdhd"), 12, 0xFFFFFFFF),  # ticks a second
    ],
)
def test_tables_of_times_that_lie(
    tmp_path: Path, media: ModuleType, box: tuple[bytes, ...], at: int, value: int
) -> None:
    path = media.write_video(tmp_path / "clip", media.KINDS["h264-mp4"])
    path.write_bytes(_set(path.read_bytes(), box, at, value, media))
    with suppress(MediaError):  # else all of them, never a few
        assert len(decode(path)[0]) == 40


@pytest.mark.parametrize("factor", [0, 0.5, 2, 50])
@pytest.mark.parametrize("name", ["mpeg4-b-avi", "mjpeg-avi"])
def test_a_chunk_s_length_that_lies(
    tmp_path: Path, media: ModuleType, name: str, factor: float
) -> None:
    path = media.write_video(tmp_path / "clip", media.KINDS[name], numbers=range(100))
    whole, _ = decode(path)
    data = path.read_bytes()
    at = len(data) // 2 + data[len(data) // 2 :].index(b"00dc") + 4
    (length,) = struct.unpack("<I", data[at : at + 4])
    path.write_bytes(data[:at] + struct.pack("<I", int(length * factor)) + data[at + 4 :])
    with suppress(MediaError):  # else right frames only, and what is lost is said
        frames, facts = decode(path)
        numbers = [media.read_number(frame) for frame in frames]
        for frame, number in zip(frames, numbers, strict=True):
            original = whole[number - media.read_number(whole[0])]
            assert np.abs(frame.astype(int) - original).mean() < 1
        assert len(frames) == len(whole) or facts.timing.warnings


def test_hidden_by_an_edit_list_is_said(tmp_path: Path, media: ModuleType) -> None:
    path = media.write_video(tmp_path / "clip", media.KINDS["mpeg4-mp4"])
    path.write_bytes(media.trim_by_edit_list(path.read_bytes(), skip=0.4, keep=0.8))
    frames, facts = decode(path)
    assert 19 <= len(frames) <= 21
    assert any("hidden by the file's edit list" in text for text in facts.timing.warnings)


def test_metadata_in_latin1(tmp_path: Path, media: ModuleType) -> None:
    path = media.write_video(tmp_path / "clip", media.KINDS["mjpeg-avi"])
    data = path.read_bytes()
    assert b"Lavf" in data
    path.write_bytes(data.replace(b"Lavf", b"M\xfcl\xff", 1))
    assert len(decode(path)[0]) == 40


@pytest.mark.parametrize("name", ["h264-mp4", "mjpeg-avi"])
def test_codec_that_nobody_knows(tmp_path: Path, media: ModuleType, name: str) -> None:
    path = media.write_video(tmp_path / "clip", media.KINDS[name])
    tag = b"avc1" if name == "h264-mp4" else b"MJPG"
    path.write_bytes(path.read_bytes().replace(tag, b"QqQq"))
    with pytest.raises(MediaError, match="video must be of a codec that FFmpeg knows"):
        Video(path)


def test_empty_chunks_repeat_the_frame_before(tmp_path: Path, media: ModuleType) -> None:
    ticks = [0, 1, 2, 5, 6, 7, 8, 11, 12, 13, 14, 15]
    path = media.write_video(
        tmp_path / "clip", media.KINDS["mjpeg-avi"], numbers=range(12), ticks=ticks
    )
    frames, facts = decode(path)
    assert len(frames) == 12
    assert facts.timing.fps == pytest.approx(25)
    np.testing.assert_array_equal(
        facts.timing.order, [0, 1, 2, 2, 2, 3, 4, 5, 6, 6, 6, 7, 8, 9, 10, 11]
    )


def _write_alpha(path: Path, codec: str, pix_fmt: str, frames: list[np.ndarray]) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pix_fmt  # type: ignore[attr-defined]
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(frame, format="rgba").reformat(format=pix_fmt)
            container.mux(stream.encode(picture))  # type: ignore[attr-defined]
        container.mux(stream.encode(None))  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt"),
    [
        ("raw.avi", "rawvideo", "bgra"),
        ("png.avi", "png", "rgba"),
        ("rle.mov", "qtrle", "argb"),
        ("ffv1.mkv", "ffv1", "bgra"),
        ("huff.avi", "ffvhuff", "bgra"),
    ],
)
def test_alpha_of_zero_everywhere_says_nothing(
    tmp_path: Path, name: str, codec: str, pix_fmt: str
) -> None:
    black, bright = (np.zeros((48, 64, 4), np.uint8) for _ in range(2))
    bright[..., :3] = (200, 90, 30)
    path = tmp_path / name
    _write_alpha(path, codec, pix_fmt, [black, bright, bright])
    frames, facts = decode(path)
    assert frames[1][64, 64].tolist() == [200, 90, 30]
    assert "alpha is 0 everywhere, ignored" in facts.timing.warnings
    bright[:, :32, 3] = 255  # now it says something
    _write_alpha(path, codec, pix_fmt, [bright, bright])
    frames, facts = decode(path)
    assert frames[0][64, 32].tolist() == [200, 90, 30]
    assert frames[0][64, 96].max() == 0
    assert "alpha is 0 everywhere, ignored" not in facts.timing.warnings


def test_recording_with_sound_cut_in_half(tmp_path: Path, media: ModuleType) -> None:
    path = tmp_path / "clip.mkv"
    with av.open(str(path), "w") as container:
        video = container.add_stream("mjpeg", rate=25)
        video.width, video.height, video.pix_fmt = media.WIDTH, media.HEIGHT, "yuvj420p"
        sound = container.add_stream("aac", rate=8000)
        for number in range(40):
            picture = av.VideoFrame.from_ndarray(media.numbered_frame(number), format="rgb24")
            container.mux(video.encode(picture))
            samples = av.AudioFrame.from_ndarray(np.zeros((1, 320), np.float32), "fltp", "mono")
            samples.sample_rate = 8000
            container.mux(sound.encode(samples))
        for stream in (video, sound):
            container.mux(stream.encode(None))
    assert len(decode(path)[0]) == 40
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(MediaError, match="file must be whole"):
        decode(path)


def test_few_frames_that_share_a_time(tmp_path: Path, media: ModuleType) -> None:
    kind = media.KINDS["mjpeg-avi"]
    path = media.write_video(tmp_path / "clip", kind, numbers=range(21))
    with Video(path) as video:
        list(video.frames())
        video._times[10] = video._times[9]
        timing = video.facts().timing
    assert timing.warnings == ("1 frames bear the time of the one before, put between",)
    np.testing.assert_array_equal(timing.order, range(21))


@pytest.mark.parametrize("as_is", [False, True])
@pytest.mark.parametrize(
    "make",
    [
        lambda media, path: _without_data(media.write_video(path, media.KINDS["h264-mp4"])),
        lambda media, path: media.write_video(
            path, media.KINDS["mjpeg-avi"], frame=lambda _: np.zeros((8, 8, 3), np.uint8)
        ),
    ],
    ids=["no frame decodes", "8 pixels"],
)
def test_a_worker_always_answers(
    tmp_path: Path, media: ModuleType, make: Callable[..., Path], as_is: bool
) -> None:
    path = make(media, tmp_path / "clip")
    task = Task(2, path, "p", "ceus", None, 64, tmp_path, frozenset(), as_is=as_is)
    outcome = ingest(task)
    assert outcome.facts or outcome.reason.startswith(("file must", "frames must"))
    assert not outcome.trace
    assert not list(tmp_path.glob("2-*"))


def _without_data(path: Path) -> Path:
    data = path.read_bytes()
    start, end = data.index(b"mdat") + 4, data.index(b"moov") - 4
    path.write_bytes(data[:start] + bytes(end - start) + data[end:])
    return path


def test_frames_beyond_all_measure(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "wall.avi"), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 8000, 8000, "yuvj420p"
        container.mux(stream.encode(av.VideoFrame(8000, 8000, "yuvj420p")))
        container.mux(stream.encode(None))
    with pytest.raises(MediaError, match=r"at most 8192 pixels a side and 8388608 in all"):
        Video(tmp_path / "wall.avi")


def _remux(source: Path, target: Path, *, without: Callable[[int], bool], **options: str) -> Path:
    with av.open(str(source)) as one, av.open(str(target), "w", options=dict(options)) as other:
        stream = other.add_stream_from_template(one.streams.video[0])
        for number, packet in enumerate(one.demux(video=0)):
            if packet.dts is not None and not without(number):
                packet.stream = stream
                other.mux(packet)
    return target


@pytest.mark.parametrize("suffix", [".mkv", ".ts", ".flv"])
def test_a_recording_that_starts_between_key_frames(
    tmp_path: Path, media: ModuleType, suffix: str
) -> None:
    kind = media.Kind(".mkv", "libx264", options={"x264-params": "bframes=0:keyint=30:scenecut=0"})
    whole = media.write_video(tmp_path / "whole", kind, numbers=range(60))
    path = _remux(whole, tmp_path / f"cut{suffix}", without=lambda number: number < 7)
    with pytest.raises(MediaError, match=r"got 2\d damaged of 53"):
        decode(path)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
@pytest.mark.parametrize("name", ["wmv", "live-mkv", "apng", "dv"])
def test_more_that_is_cut_off(tmp_path: Path, media: ModuleType, name: str, share: float) -> None:
    path = tmp_path / "clip"
    if name == "wmv":
        path = media.write_video(path, media.KINDS["wmv"], numbers=range(60))
    elif name == "live-mkv":
        whole = media.write_video(path, media.KINDS["h264-mp4"], numbers=range(60))
        path = _remux(whole, tmp_path / "live.mkv", without=lambda _: False, live="1")
        assert len(decode(path)[0]) == 60
    elif name == "apng":
        path = tmp_path / "clip.png"
        pictures = [Image.fromarray(media.numbered_frame(n, noise=9)) for n in range(20)]
        pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=40)
        assert len(decode(path)[0]) == 20
    else:
        path = tmp_path / "clip.dv"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("dvvideo", rate=25)
            stream.width, stream.height, stream.pix_fmt = 720, 576, "yuv420p"
            for _ in range(3):
                container.mux(stream.encode(av.VideoFrame(720, 576, "yuv420p")))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(MediaError, match=r"file must be whole|must decode without errors"):
        decode(path)


def test_lost_packets_of_a_transport_stream(tmp_path: Path, media: ModuleType) -> None:
    noisy = partial(media.numbered_frame, noise=60)
    path = media.write_video(
        tmp_path / "clip", media.KINDS["h264-ts"], numbers=range(120), frame=noisy
    )
    packets = [path.read_bytes()[at : at + 188] for at in range(0, path.stat().st_size, 188)]
    middle = len(packets) // 2
    path.write_bytes(b"".join(packets[:middle] + packets[middle + 10 :]))
    with pytest.raises(MediaError, match=r"got \d+ damaged of 1\d\d"):
        decode(path)


def test_raw_frames_of_another_size_than_the_header_s(tmp_path: Path, media: ModuleType) -> None:
    path = media.write_video(
        tmp_path / "clip", media.Kind(".avi", "rawvideo", pix_fmt="bgr24"), numbers=range(5)
    )
    data = bytearray(path.read_bytes())
    at = data.find(b"strf") + 8
    data[at + 4 : at + 12] = struct.pack("<II", 32, 96)
    path.write_bytes(data)
    with pytest.raises(MediaError, match=r"must be of the header's 32×96 pixels"):
        decode(path)


def test_trimmed_past_a_key_frame(tmp_path: Path, media: ModuleType) -> None:
    path = media.write_video(tmp_path / "clip", media.KINDS["h264-mp4"], numbers=range(60))
    path.write_bytes(media.trim_by_edit_list(path.read_bytes(), skip=1.0, keep=1.0))
    frames, facts = decode(path)
    assert media.read_number(frames[0]) == 25
    assert any("hidden by the file's edit list" in text for text in facts.timing.warnings)


def test_what_one_clip_bears_does_not_touch_the_next(tmp_path: Path, media: ModuleType) -> None:
    path = media.write_video(tmp_path / "clip", media.KINDS["h264-mp4"], numbers=range(60))
    for _ in range(3):
        readers = [Video(path) for _ in range(4)]
        streams = [reader.frames() for reader in readers]
        for stream, reader in zip(streams, readers, strict=True):
            next(stream)
            reader.__exit__()
        del readers, streams
        with Video(path) as video:
            assert len(list(video.frames())) == 60
            assert video.facts().concealed == 0
