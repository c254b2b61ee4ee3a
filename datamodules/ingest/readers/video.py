"""Any video of a hospital, decoded once, in order, and checked.

Reading a source file at random is never done: on many of these formats decoders then give wrong
frames silently. Here a file is decoded from start to end by PyAV (FFmpeg), strictly, in the order
of presentation; rotation, pixel shape, colour matrix and range are applied.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import av
from av.sidedata.sidedata import Type as SideDataType
from av.stream import Disposition
from av.video.reformatter import VideoReformatter

from datamodules.ingest.readers.clip import ClipSource
from datamodules.ingest.readers.display import apply_display_matrix, to_rgb
from datamodules.ingest.readers.integrity import check_whole
from datamodules.ingest.readers.pictures import MAX_SIDE, MediaError, Picture
from datamodules.ingest.readers.timing import Timing, constant_rate

# What is opened at all. Pictures (`png_pipe`), text and playlists, which may point at other files,
# are FFmpeg formats too and stay closed.
_CONTAINERS = "avi,mov,matroska,mpeg,mpegvideo,mpegts,asf,gif,apng,flv,ogg,dv,h264,hevc,m4v,mjpeg"

# Not "careful" and "aggressive": they refuse the slips of well-known encoders.
_STRICT = {"err_detect": "crccheck+bitstream+buffer+explode"}
_MAX_DAMAGED = 0.05  # share of frames; a clip with more is refused


class Video(ClipSource):
    """One video file.

    Raises:
        MediaError: If the file is not a video, is cut off, or too much of it is damaged. The first
            two are found when it is opened, where its format allows; in the others, see `facts`.
            Damage that still is a valid stream, as arithmetic coding makes of most, is not seen.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
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
        self._refused = self._corrupt = 0
        self._ends_damaged = False
        if len(streams) > 1:
            self._warnings.append(f"first of {len(streams)} video streams taken")
        self._reformatter = VideoReformatter()  # a frame's own would be set up anew every time
        self._codec = self._stream.codec_context.name

    def __exit__(self, *_: object) -> None:
        self._container.close()

    @property
    def promised(self) -> int:
        """Frames that the header promises, 0 where it does not."""
        if self._stream.frames:
            return self._stream.frames
        rate = self._stream.average_rate or self._stream.guessed_rate
        return round((self.header_seconds or 0) * float(rate or 0))

    @property
    def header_seconds(self) -> float | None:
        """Length that the header promises, None where it does not."""
        return self._container.duration / av.time_base if self._container.duration else None

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
        """See the base class; damaged frames that decoding strictly refuses are left out."""
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
                if (self._count - 1) % step == 0:
                    yield self._picture(frame)
        if interlaced:
            self._warnings.append(f"{interlaced} interlaced frames, taken as they are")

    def _timing(self, fps: float | None) -> Timing:
        self._check_damage()
        times: Sequence[float | None] = self._times
        if self._format == "avi":
            # An AVI has times of decoding only. Frames come out in the order of presentation,
            # so the k-th one shown has the k-th time.
            times = sorted(time for time in times if time is not None)
            times = times if len(times) == self._count else self._times
        rate = self._stream.average_rate or self._stream.guessed_rate
        timing = constant_rate(times, header_fps=float(rate or fps or 0))
        self._check_promise(timing)
        return timing

    def _check_damage(self) -> None:
        """Refuses a file of which too much is damaged, or its last frame: it may be cut off."""
        self._concealed = max(self._refused, self._corrupt)  # one frame may be both
        if not self._count:
            raise MediaError("file must hold frames, got none that can be decoded")
        if self._ends_damaged:
            raise MediaError(
                f"file must be whole, got one cut off: its last frame, after {self._count}, is "
                "damaged"
            )
        if self._concealed > _MAX_DAMAGED * self._count:
            raise MediaError(
                f"frames must decode without errors, got {self._concealed} damaged of {self._count}"
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
                    f"file must be whole, got a read error after frame {self._count} "
                    f"({error.strerror})"
                ) from error
            yield packet

    def _picture(self, frame: av.VideoFrame) -> Picture:
        picture, self._colours = to_rgb(frame, self._reformatter)
        aspect = float(self._stream.sample_aspect_ratio or 1)
        if not 0.25 <= aspect <= 4:  # such a value is a slip of the writer
            aspect = 1.0
        matrix = cast("Mapping[Any, Any]", frame.side_data).get(SideDataType.DISPLAYMATRIX)
        if matrix is not None:
            picture, turned = apply_display_matrix(picture, bytes(matrix))
            aspect = 1 / aspect if turned else aspect
        if not self._shape:
            self.aspect = aspect
            if aspect != 1:
                self._warnings.append(f"pixels are {aspect:.3f} times as wide as high, corrected")
        return self._of_one_size(picture)

    def _check_promise(self, timing: Timing) -> None:
        """Refuses a file whose header announces clearly more than could be decoded."""
        stream = self._stream
        count, promised = self._count, 0
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
