"""Sequential decoding: what is refused, what is corrected, what is said."""

import struct
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import ModuleType, SimpleNamespace

import av
import numpy as np
import pytest
from av.video.reformatter import ColorRange, Colorspace
from PIL import Image

from datamodules.ingest.readers.clip import VideoFacts
from datamodules.ingest.readers.display import apply_display_matrix
from datamodules.ingest.readers.pictures import (
    Letterbox,
    MediaError,
    crop_picture,
    letterbox,
    read_picture,
)
from datamodules.ingest.readers.timing import constant_rate
from datamodules.ingest.readers.video import Video

WHOLE = ["mpeg4-b-avi", "h264-mp4", "h264-ts", "mpeg2-ps", "mpeg2-ts", "open-gop-mkv", "wmv",
         "gif", "mjpeg-avi"]  # fmt: skip


def decode(path: Path) -> tuple[list[np.ndarray], VideoFacts]:
    with Video(path) as video:
        return list(video.frames()), video.facts()


@pytest.mark.parametrize("name", WHOLE)
def test_cut_in_half(tmp_path: Path, media: ModuleType, name: str) -> None:
    path = media.write_video(tmp_path / "clip", media.KINDS[name])
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(MediaError, match=r"file must be (a )?whole"):
        decode(path)


def test_transport_stream_cut_between_packets(tmp_path: Path, media: ModuleType) -> None:
    """Whole packets only: the last picture is damaged, and tells."""
    path = media.write_video(tmp_path / "clip", media.KINDS["mpeg2-ts"])
    packets = path.stat().st_size // 188
    path.write_bytes(path.read_bytes()[: packets // 2 * 188])
    with pytest.raises(MediaError, match=r"got one cut off: its last frame, after \d+, is damaged"):
        decode(path)


def test_movie_in_front_of_cut_data(tmp_path: Path, media: ModuleType) -> None:
    path = tmp_path / "fast.mp4"
    whole = media.write_video(tmp_path / "clip", media.KINDS["h264-mp4"])
    options = {"movflags": "faststart"}
    with av.open(str(whole)) as source, av.open(str(path), "w", options=options) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    assert decode(path)[1].timing.warnings == ()
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(MediaError, match=r"got one cut off or torn: its mov structure does"):
        decode(path)


def test_header_promises_more(tmp_path: Path, media: ModuleType) -> None:
    path = media.write_video(tmp_path / "clip", media.KINDS["mjpeg-avi"])
    data = path.read_bytes()
    at = data.index(b"strh") + 8 + 32  # dwLength of the stream header
    path.write_bytes(data[:at] + struct.pack("<I", 400) + data[at + 4 :])
    with pytest.raises(MediaError, match=r"got 40 frames where its header promises 400"):
        decode(path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("text.mp4", b"This is no video.\n" * 99),
        ("text.txt", b"This is no video.\n" * 99),  # FFmpeg would draw it as a terminal
        ("list.m3u8", b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n"),
        ("list.txt", b"ffconcat version 1.0\nfile a.avi\n"),
        ("zeros.avi", bytes(4096)),
    ],
)
def test_not_a_video(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(MediaError, match=r"file must be a whole video, got one that does not open"):
        Video(tmp_path / name)


def test_picture_and_sound_are_no_videos(tmp_path: Path, media: ModuleType) -> None:
    Image.fromarray(media.numbered_frame(1)).save(tmp_path / "still.png")
    with pytest.raises(MediaError, match=r"file must be a whole video"):
        Video(tmp_path / "still.png")
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=48000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 48000
        container.mux([*stream.encode(frame), *stream.encode(None)])
    with pytest.raises(MediaError, match=r"got one without pictures"):
        Video(tmp_path / "sound.mp4")


@pytest.mark.parametrize(("name", "spread"), [("mjpeg-avi", 7), ("h264-mp4", 12), ("wmv", 7)])
def test_a_glance_gives_key_frames_of_all_the_clip(
    tmp_path: Path, media: ModuleType, name: str, spread: int
) -> None:
    path = media.write_video(tmp_path / "clip", media.KINDS[name], numbers=range(60))
    with Video(path) as video:
        frames = [letterbox(frame, canvas=media.WIDTH) for frame in video.glance(step=7)]
    seen = [media.read_number(frame) for frame in frames]
    assert seen == sorted(set(seen))
    assert seen[0] == 0
    assert max(np.diff([*seen, 60])) <= 2 * spread


def test_no_frames(tmp_path: Path, media: ModuleType) -> None:
    path = media.write_video(tmp_path / "clip", media.KINDS["h264-mp4"])
    data = path.read_bytes()
    start, end = data.index(b"mdat") + 4, data.index(b"moov") - 4
    path.write_bytes(data[:start] + bytes(end - start) + data[end:])
    with pytest.raises(MediaError, match=r"file must hold frames, got none"):
        decode(path)


def test_damage_is_counted_and_refused_when_much(tmp_path: Path, media: ModuleType) -> None:
    path = media.write_video(tmp_path / "clip", media.KINDS["mjpeg-avi"], numbers=range(60))
    data = path.read_bytes()
    with av.open(str(path)) as container:
        packets = [(p.pos, p.size) for p in container.demux(video=0) if p.pos is not None]

    def damage(frames: list[int]) -> None:
        broken, rng = bytearray(data), np.random.default_rng(0)
        for pos, size in (packets[frame] for frame in frames):
            for at in rng.integers(pos + size // 2, pos + size, size // 10):
                broken[at] ^= 1 << rng.integers(7)
        path.write_bytes(broken)

    damage([30])
    frames, facts = decode(path)
    assert facts.concealed == 1
    assert facts.timing.warnings[0] == "1 damaged frames, concealed"
    assert len(frames) == 59
    shown = np.insert(np.arange(59), 30, 29)  # the frame before stands in its place
    np.testing.assert_array_equal(facts.timing.order, shown)
    damage([10, 20, 30, 40])
    with pytest.raises(MediaError, match=r"got 4 damaged of 60"):
        decode(path)


def test_read_error(tmp_path: Path, media: ModuleType) -> None:
    """A disk that fails amid the file: stood in for by a container that does."""

    def demux() -> Iterator[object]:
        raise OSError(5, "Input/output error")
        yield

    with Video(media.write_video(tmp_path / "clip", media.KINDS["mjpeg-avi"])) as video:
        container, video._container = video._container, SimpleNamespace(demux=demux)
        with pytest.raises(MediaError, match=r"got a read error after frame 0 \(Input/output"):
            list(video.frames())
        video._container = container


def test_frame_size_changes(tmp_path: Path, media: ModuleType) -> None:
    kind = media.KINDS["mpeg2-ts"]
    first = media.write_video(tmp_path / "a", kind)
    second = media.write_video(
        tmp_path / "b", kind, frame=lambda number: media.numbered_frame(number)[:64]
    )
    first.write_bytes(first.read_bytes() + second.read_bytes())
    with pytest.raises(MediaError, match=r"frames must be of one size"):
        decode(first)


def _flat(rgb: tuple[int, int, int], matrix: Colorspace, *, full: bool) -> av.VideoFrame:
    """A yuv420p frame of one colour, by the matrix coefficients of ITU-R BT.601 and BT.709."""
    kr, kb = (0.2126, 0.0722) if matrix == Colorspace.ITU709 else (0.299, 0.114)
    red, green, blue = (value / 255 for value in rgb)
    luma = kr * red + (1 - kr - kb) * green + kb * blue
    chroma = (blue - luma) / (2 - 2 * kb), (red - luma) / (2 - 2 * kr)
    scale, black, swing = (255, 0, 255) if full else (219, 16, 224)
    frame = av.VideoFrame(64, 64, "yuv420p")
    for plane, value in zip(
        frame.planes, (black + scale * luma, *(128 + swing * c for c in chroma)), strict=True
    ):
        plane.update(bytes([round(value)]) * plane.buffer_size)
    return frame


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", [Colorspace.ITU709, Colorspace.SMPTE170M, None])
def test_colours_follow_the_tags(tmp_path: Path, matrix: Colorspace | None, full: bool) -> None:
    path, colours = tmp_path / "clip.mp4", [(200, 60, 30), (30, 180, 90), (40, 60, 220)]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"qp": "1"})
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        stream.codec_context.color_range = ColorRange.JPEG if full else ColorRange.MPEG
        if matrix is not None:
            stream.codec_context.colorspace = matrix
        for number, colour in enumerate(colours):
            frame = _flat(colour, matrix or Colorspace.SMPTE170M, full=full)
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    frames, facts = decode(path)
    name = "BT.709" if matrix == Colorspace.ITU709 else "BT.601"
    assert facts.colours.startswith(f"{name} {'full' if full else 'limited'}")
    assert facts.colours.endswith("(untagged)") == (matrix is None)
    for frame, colour in zip(frames, colours, strict=True):
        assert np.abs(frame.reshape(-1, 3).astype(int) - colour).max() <= 4


def test_transparent_gif_is_over_black(tmp_path: Path) -> None:
    pictures = []
    for number in range(4):
        pixels = np.zeros((32, 32, 4), np.uint8)
        pixels[4:12, 4 * number : 4 * number + 8] = (250, 250, 250, 255)
        pictures.append(Image.fromarray(pixels))
    pictures[0].save(
        tmp_path / "clip.gif", save_all=True, append_images=pictures[1:], duration=100, disposal=2
    )
    frames, facts = decode(tmp_path / "clip.gif")
    assert (len(frames), facts.timing.fps) == (4, pytest.approx(10))
    for number, frame in enumerate(frames):
        assert frame[8, 4 * number + 4].min() > 240
        assert frame[20:].max() == 0


def test_wide_pixels(tmp_path: Path, media: ModuleType) -> None:
    path = tmp_path / "clip.mpg"
    with av.open(str(path), "w", format="vob") as container:
        stream = container.add_stream("mpeg2video", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 96, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)
        for number in range(10):
            picture = Image.fromarray(media.numbered_frame(number)).resize((96, 96))
            container.mux(stream.encode(av.VideoFrame.from_image(picture)))
        container.mux(stream.encode(None))
    with Video(path) as video:
        frames = [letterbox(frame, canvas=64, aspect=video.aspect) for frame in video.frames()]
        facts = video.facts()
    assert "pixels are 1.333 times as wide as high, corrected" in facts.timing.warnings
    assert [media.read_number(frame) for frame in frames] == list(range(10))


# Timing


def test_even_times_keep_their_frames() -> None:
    timing = constant_rate(np.arange(30) / 25 + 7.0, header_fps=99)
    assert (timing.resampled, timing.fps) == (False, pytest.approx(25))
    np.testing.assert_array_equal(timing.order, np.arange(30))
    jitter = np.random.default_rng(0).uniform(-0.01, 0.01, 30)
    assert not constant_rate(np.arange(30) / 25 + jitter, header_fps=0).resampled


def test_uneven_times_are_resampled() -> None:
    timing = constant_rate([0.0, 0.1, 0.2, 0.5, 0.6, 0.61, 0.71], header_fps=0)
    assert (timing.resampled, timing.fps) == (True, pytest.approx(10))
    np.testing.assert_array_equal(timing.order, [0, 1, 2, 2, 2, 3, 5, 6])
    assert timing.warnings == ("variable frame rate, resampled to 10.000 fps",)


@pytest.mark.parametrize(
    ("times", "warning"),
    [
        ([0.0], "a single frame (12.000 fps) taken"),
        ([0.0, None, 0.2], "times missing or not rising, header's rate (12.000 fps) taken"),
        ([0.0, 0.2, 0.1], "times missing or not rising, header's rate (12.000 fps) taken"),
    ],
)
def test_times_that_do_not_help(times: list[float | None], warning: str) -> None:
    timing = constant_rate(times, header_fps=12)
    assert timing.warnings == (warning,)
    assert len(timing.order) == len(times)
    with pytest.raises(MediaError, match=r"frames must have times or a rate, got neither"):
        constant_rate(times, header_fps=0)


def test_times_that_leap() -> None:
    with pytest.raises(MediaError, match=r"got a leap of 99\.8 s"):
        constant_rate([0.0, 0.1, 0.2, 100.0, 100.1], header_fps=0)


# Pictures


def test_slanted_matrix() -> None:
    slanted = struct.pack("=9i", 46341, 46341, 0, -46341, 46341, 0, 0, 0, 1 << 30)
    with pytest.raises(MediaError, match=r"rotation must be by 0, 90, 180 or 270 degrees"):
        apply_display_matrix(np.zeros((4, 6, 3), np.uint8), slanted)


def test_pictures_of_all_sorts(tmp_path: Path) -> None:
    ramp = np.tile(np.arange(0, 256, 4, dtype=np.uint8), (16, 1))
    expected = np.repeat(ramp[..., None], 3, axis=2)
    Image.fromarray(ramp).save(tmp_path / "grey.png")
    Image.fromarray(ramp.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    Image.fromarray(ramp).convert("P").save(tmp_path / "palette.bmp")
    alpha = np.dstack([expected, np.full_like(ramp, 255)])
    alpha[:, 32:, 3] = 0
    Image.fromarray(alpha).save(tmp_path / "alpha.png")
    for name in ("grey.png", "deep.png", "palette.bmp"):
        np.testing.assert_array_equal(read_picture(tmp_path / name), expected)
    expected[:, 32:] = 0
    np.testing.assert_array_equal(read_picture(tmp_path / "alpha.png"), expected)


def test_picture_is_turned_by_exif(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned right
    Image.new("RGB", (40, 20)).save(tmp_path / "turned.jpg", exif=exif)
    assert read_picture(tmp_path / "turned.jpg").shape == (40, 20, 3)


def test_bad_pictures(tmp_path: Path, media: ModuleType) -> None:
    good, path = tmp_path / "good.png", tmp_path / "bad.png"
    Image.fromarray(media.numbered_frame(1, noise=20)).save(good)
    path.write_bytes(good.read_bytes()[:-1000])
    with pytest.raises(MediaError, match=r"file must be a whole picture"):
        read_picture(path)
    path.write_bytes(b"no picture")
    with pytest.raises(MediaError, match=r"file must be a whole picture, .*UnidentifiedImageError"):
        read_picture(path)
    clip = media.write_video(tmp_path / "clip", media.KINDS["gif"])
    with pytest.raises(MediaError, match=r"file must be a single picture, got several"):
        read_picture(clip)
    clip = media.write_video(tmp_path / "clip", media.KINDS["mpeg4-mp4"])
    with pytest.raises(MediaError, match=r"file must be a whole picture"):
        read_picture(clip)
    Image.fromarray(np.ones((8, 8), np.float32)).save(tmp_path / "float.tiff")
    with pytest.raises(MediaError, match=r"picture must be of 8 or 16 bits, got Pillow mode 'F'"):
        read_picture(tmp_path / "float.tiff")


def test_decompression_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("L", (200, 200)).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 30000)
    with pytest.raises(MediaError, match=r"at most 8192 pixels a side, got more"):
        read_picture(tmp_path / "large.png")


def test_crop() -> None:
    picture = np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)
    assert crop_picture(picture, None) is picture
    np.testing.assert_array_equal(crop_picture(picture, (2, 1, 6, 5)), picture[1:6, 2:8])
    with pytest.raises(MediaError, match=r"crop must lie in the 8×6 frame, got x,y,w,h = 2,1,7,5"):
        crop_picture(picture, (2, 1, 7, 5))


@pytest.mark.parametrize(
    ("height", "width", "canvas", "aspect"),
    [
        (96, 128, 64, 1.0),
        (767, 1023, 256, 1.0),
        (600, 800, 256, 1.0),
        (50, 40, 128, 1.0),
        (60, 90, 48, 1.5),
        (64, 4000, 64, 1.0),
    ],
)
def test_letterbox_of_clips_is_that_of_stills(
    height: int, width: int, canvas: int, aspect: float
) -> None:
    rng = np.random.default_rng(height)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    picture = np.clip(smooth + rng.integers(-20, 21, smooth.shape), 0, 255).astype(np.uint8)
    picture[: height // 3, : width // 3] = (255, 0, 0)  # which a way through YUV darkens
    of_clip = Letterbox(canvas=canvas)(picture, aspect=aspect).astype(int)
    of_still = letterbox(picture, canvas=canvas, aspect=aspect).astype(int)
    difference = of_clip - of_still
    assert np.sqrt((difference**2).mean()) <= 2
    assert difference.mean((0, 1)) == pytest.approx(0, abs=0.05)
    red = (of_still == (255, 0, 0)).all(2)
    assert np.abs(difference[red]).max(initial=0) <= 1
    np.testing.assert_array_equal(of_clip.any(2).any(0), of_still.any(2).any(0))


def test_letterbox_keeps_shape_and_mean() -> None:
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (100, 200, 3), dtype=np.uint8)
    boxed = letterbox(picture, canvas=64)
    assert boxed.shape == (64, 64, 3)
    assert boxed[:16].max() == boxed[48:].max() == 0
    assert boxed[16:48].mean() == pytest.approx(picture.mean(), abs=0.5)
    assert boxed[16:48].std() < picture.std() / 2  # antialiased: noise is averaged, not picked
    np.testing.assert_array_equal(letterbox(picture[:64, :64], canvas=64), picture[:64, :64])
    assert letterbox(picture[:10, :10], canvas=64)[:, 0].any()  # small ones are enlarged
