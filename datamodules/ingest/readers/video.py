"""Any video of a hospital, decoded once, in order, and checked.

Reading a source file at random is never done: on many of these formats decoders then give wrong
frames silently. Here a file is decoded from start to end by PyAV (FFmpeg), strictly, in the order
of presentation; rotation, pixel shape, colour matrix and range are applied.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
from av.sidedata.sidedata import Type as SideDataType
from av.stream import Disposition
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

from datamodules.ingest.readers.clip import Box, Timing, VideoFacts, constant_rate, stated_rate
from datamodules.ingest.readers.integrity import check_whole
from datamodules.ingest.readers.pictures import MAX_SIDE, MediaError, Picture

# What is opened at all. Pictures (`png_pipe`), text and playlists, which may point at other files,
# are FFmpeg formats too and stay closed.
_CONTAINERS = "avi,mov,matroska,mpeg,mpegvideo,mpegts,asf,gif,apng,flv,ogg,dv,h264,hevc,m4v,mjpeg"

# Not "careful" and "aggressive": they refuse the slips of well-known encoders.
_STRICT = {"err_detect": "crccheck+bitstream+buffer+explode"}
_MAX_DAMAGED = 0.05  # share of frames; a clip with more is refused

_COLOUR_NAMES = {
    Colorspace.ITU709: "BT.709",
    Colorspace.FCC: "FCC",
    Colorspace.ITU624: "BT.601",
    Colorspace.SMPTE170M: "BT.601",
    Colorspace.SMPTE240M: "SMPTE 240M",
    Colorspace.BT2020: "BT.2020",
}


class Video:
    """One video file, to be decoded once from start to end.

    `frames()` gives RGB uint8 (height, width, 3) in order of presentation; when it is exhausted,
    `facts()` tells what was found. `aspect` is the width of a pixel over its height.

    Raises:
        MediaError: if the file is not a video, is cut off, or too much of it is damaged. The first
            two are found when it is opened, where its format allows; in the others, see `facts`.
            Damage that still is a valid stream, as arithmetic coding makes of most, is not seen.
    """

    def __init__(self, path: Path) -> None:
        try:
            # "file:" keeps a colon or a percent sign in a name from having a meaning.
            self._container = av.open(f"file:{path}", options={"format_whitelist": _CONTAINERS})
        except (av.FFmpegError, OSError) as error:
            raise MediaError(
                f"file must be a whole video, got one that does not open ({error.strerror})"
            ) from error
        self._format = self._container.format.name.split(",")[0]
        streams = [
            stream
            for stream in self._container.streams.video
            if not stream.disposition & Disposition.attached_pic  # the cover of an album
        ]
        if not streams:
            self._container.close()
            raise MediaError("file must be a video, got one without pictures")
        try:
            check_whole(path, self._format)
        except MediaError:
            self._container.close()
            raise
        self._stream = streams[0]
        if max(self._stream.width, self._stream.height) > MAX_SIDE:
            self._container.close()
            raise MediaError(
                f"frames must be of at most {MAX_SIDE} pixels a side, got {self._stream.width}×"
                f"{self._stream.height}"
            )
        self._stream.codec_context.thread_count = 1
        self._stream.codec_context.options = dict(_STRICT)
        self._times: list[float | None] = []
        self._refused = self._corrupt = 0
        self._ends_damaged = False
        self._shape: tuple[int, ...] = ()
        self._colours = ""
        self._warnings = []
        if len(streams) > 1:
            self._warnings.append(f"first of {len(streams)} video streams taken")
        self._reformatter = VideoReformatter()  # a frame's own would be set up anew every time
        self.aspect = 1.0

    def __enter__(self) -> "Video":
        return self

    def __exit__(self, *_: object) -> None:
        self._container.close()

    @property
    def promised(self) -> int:
        """Frames that the header promises, 0 where it does not."""
        if self._stream.frames:
            return self._stream.frames
        rate = self._stream.average_rate or self._stream.guessed_rate
        return round((self.header_seconds or 0) * float(rate or 0))

    def glance(self, *, step: int) -> Iterator[Picture]:
        """The first key frame in each `step` frames, in order: quick, and not for facts."""
        wanted = 0
        for number, packet in enumerate(self._packets()):
            if not packet.size or (packet.is_keyframe and number >= wanted):
                wanted = (number // step + 1) * step
                with suppress(av.FFmpegError):
                    for frame in packet.decode():
                        self._times.append(frame.time)
                        yield self._picture(frame)

    def frames(self, *, step: int = 1) -> Iterator[Picture]:
        """Decodes every frame; damaged ones that decoding strictly refuses are left out.

        Args:
            step: give each step-th only.
        """
        interlaced = 0
        for packet in self._packets():
            try:
                decoded = packet.decode()
            except av.FFmpegError:
                self._refused += 1
                self._ends_damaged = True
                continue
            if packet.size:  # the last one only flushes what the decoder held back
                self._ends_damaged = False
            for frame in decoded:
                self._corrupt += frame.is_corrupt
                interlaced += frame.interlaced_frame
                self._times.append(frame.time)
                if (len(self._times) - 1) % step == 0:
                    yield self._picture(frame)
        if interlaced:
            self._warnings.append(f"{interlaced} interlaced frames, taken as they are")

    regions: tuple[Box, ...] = ()
    """Where the file says that ultrasound is: only DICOM does."""

    @property
    def header_seconds(self) -> float | None:
        """Length that the header promises, None where it does not."""
        return self._container.duration / av.time_base if self._container.duration else None

    def facts(self, fps: float | None = None) -> VideoFacts:
        """What was found; call it when `frames` is exhausted.

        Args:
            fps: frames per second to take in place of the file's own times.

        Raises:
            MediaError: no frame, fewer than the header promises, the last one damaged, or more than
                5 % of them.
        """
        count = len(self._times)
        damaged = max(self._refused, self._corrupt)  # one frame may be both
        if not count:
            raise MediaError("file must hold frames, got none that can be decoded")
        if self._ends_damaged:
            raise MediaError(
                f"file must be whole, got one cut off: its last frame, after {count}, is damaged"
            )
        if damaged > _MAX_DAMAGED * count:
            raise MediaError(f"frames must decode without errors, got {damaged} damaged of {count}")
        warnings = list(self._warnings)
        if damaged:
            warnings.append(f"{damaged} damaged frames, concealed")
        times: Sequence[float | None] = self._times
        if self._format == "avi":
            # An AVI has times of decoding only. Frames come out in the order of presentation,
            # so the k-th one shown has the k-th time.
            times = sorted(time for time in times if time is not None)
            times = times if len(times) == count else self._times
        rate = self._stream.average_rate or self._stream.guessed_rate
        timing = constant_rate(times, header_fps=float(rate or fps or 0))
        self._check_promise(timing)
        timing = stated_rate(timing, count=count, fps=fps)
        height, width = self._shape[:2]
        return VideoFacts(
            width=width,
            height=height,
            codec=self._stream.codec_context.name,
            colours=self._colours,
            concealed=damaged,
            timing=Timing(
                timing.order, timing.fps, timing.resampled, (*warnings, *timing.warnings)
            ),
        )

    def _packets(self) -> Iterator["av.Packet[av.VideoStream]"]:
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except (av.FFmpegError, OSError) as error:
                raise MediaError(
                    f"file must be whole, got a read error after frame {len(self._times)} "
                    f"({error.strerror})"
                ) from error
            yield packet

    def _picture(self, frame: av.VideoFrame) -> Picture:
        picture, self._colours = _to_rgb(frame, self._reformatter)
        aspect = float(self._stream.sample_aspect_ratio or 1)
        if not 0.25 <= aspect <= 4:  # such a value is a slip of the writer
            aspect = 1.0
        matrix = cast("Mapping[Any, Any]", frame.side_data).get(SideDataType.DISPLAYMATRIX)
        if matrix is not None:
            picture, turned = apply_display_matrix(picture, bytes(matrix))
            aspect = 1 / aspect if turned else aspect
        if not self._shape:
            self._shape, self.aspect = picture.shape, aspect
            if aspect != 1:
                self._warnings.append(f"pixels are {aspect:.3f} times as wide as high, corrected")
        if picture.shape != self._shape:
            raise MediaError(
                f"frames must be of one size, got {self._shape[:2]} and {picture.shape[:2]} "
                f"(height, width; frame {len(self._times) - 1})"
            )
        return picture

    def _check_promise(self, timing: Timing) -> None:
        """Refuses a file whose header announces clearly more than could be decoded."""
        stream = self._stream
        count, promised = len(self._times), 0
        if self._format == "avi":
            promised = stream.frames
        elif self._format in {"matroska", "asf", "flv"} and len(self._container.streams) == 1:
            count = len(timing.order)
            promised = round((self._container.duration or 0) / av.time_base * timing.fps)
        # Headers round, and count a few frames that are not there.
        if promised - count > 2 + 0.02 * count:
            raise MediaError(
                f"file must be whole, got {count} frames where its header promises {promised}"
            )


def apply_display_matrix(picture: Picture, matrix: bytes) -> tuple[Picture, bool]:
    """Turns and mirrors a picture as its display matrix says.

    Args:
        picture: (H, W, 3).
        matrix: nine native 32-bit integers; (a b / c d) in 16.16 are words 0, 1, 3, 4; the point
            (x, y) is shown at (a x + c y, b x + d y) (ISO/IEC 14496-12, 8.3.2).

    Returns:
        the picture, and whether rows became columns.

    Raises:
        MediaError: if the turn is not by a right angle.
    """
    a, b, _, c, d = struct.unpack("=5i", matrix[:20])
    if (a and b) or (c and d) or not (a or b) or not (c or d):
        raise MediaError("rotation must be by 0, 90, 180 or 270 degrees, got another matrix")
    turned = not a
    across, down = (c, b) if turned else (a, d)
    if turned:
        picture = picture.transpose(1, 0, 2)
    picture = picture[:: -1 if down < 0 else 1, :: -1 if across < 0 else 1]
    return np.ascontiguousarray(picture), turned


def _to_rgb(frame: av.VideoFrame, reformatter: VideoReformatter) -> tuple[Picture, str]:
    """RGB by the frame's own colour tags, and those in words.

    Untagged matrices are BT.601, and BT.709 from 720 lines or 1280 columns on, as players do.
    """
    name = frame.format.name
    if frame.format.is_rgb or name.startswith("pal"):
        if any(component.is_alpha for component in frame.format.components) or name == "pal8":
            pixels = reformatter.reformat(frame, format="rgba").to_ndarray().astype(np.uint16)
            return (pixels[..., :3] * pixels[..., 3:] // 255).astype(np.uint8), "RGB"
        return _pixels(reformatter.reformat(frame, format="rgb24")), "RGB"
    matrix = frame.colorspace
    tagged = matrix in _COLOUR_NAMES
    if not tagged:
        large = frame.height >= 720 or frame.width >= 1280
        matrix = Colorspace.ITU709 if large else Colorspace.SMPTE170M
    full = frame.color_range == ColorRange.JPEG or name.startswith("yuvj")
    full |= name.startswith("gray") and frame.color_range == ColorRange.UNSPECIFIED
    rgb = reformatter.reformat(
        frame,
        format="rgb24",
        src_colorspace=matrix,
        src_color_range=ColorRange.JPEG if full else ColorRange.MPEG,
        dst_color_range=ColorRange.JPEG,
        threads=1,
    )
    words = f"{_COLOUR_NAMES[Colorspace(matrix)]} {'full' if full else 'limited'}"
    return _pixels(rgb), words if tagged else f"{words} (untagged)"


def _pixels(frame: av.VideoFrame) -> Picture:
    return frame.to_ndarray().astype(np.uint8, copy=False)
