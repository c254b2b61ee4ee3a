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
import av.logging
from av.codec.context import Flags
from av.sidedata.sidedata import Type as SideDataType
from av.stream import Disposition

from datamodules.ingest.readers.clip import ClipSource
from datamodules.ingest.readers.damage import Damage
from datamodules.ingest.readers.display import Colours, apply_display_matrix
from datamodules.ingest.readers.integrity import check_whole, has_edit_list, walk_avi
from datamodules.ingest.readers.pictures import (
    MAX_AREA,
    MAX_DAMAGED,
    MAX_SIDE,
    MIN_SIDE,
    STRICT,
    MediaError,
    Picture,
)
from datamodules.ingest.readers.timing import Timing, constant_rate

# What is opened at all. Pictures (`png_pipe`), text and playlists, which may point at other files,
# are FFmpeg formats too and stay closed.
_CONTAINERS = "avi,mov,matroska,mpeg,mpegvideo,mpegts,asf,gif,apng,flv,ogg,dv,h264,hevc,m4v,mjpeg"

_SILENT_PACKETS = {"vp8", "vp9", "av1"}  # have packets whose picture is shown later or never
_RATES_DIFFER = 0.1  # share by which the header's rate may differ from that of the times


class Video(ClipSource):
    """One video file.

    Raises:
        MediaError: If the file is not a video, is cut off, or too much of it is damaged. The first
            two are found when it is opened, where its format allows; in the others, see `facts`.
            Damage that still is a valid stream, as arithmetic coding makes of most, is not seen.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        try:
            # "file:" keeps a colon or a percent sign in a name from having a meaning.
            self._container = av.open(
                f"file:{path}", options={"format_whitelist": _CONTAINERS}, metadata_errors="replace"
            )
        except (av.FFmpegError, OSError) as error:
            raise MediaError(
                f"file must be a whole video, got one that does not open ({error.strerror})"
            ) from error
        try:
            self._stream = self._choose_stream()
            check_whole(path, self._format)
        except MediaError:
            self._container.close()
            raise
        context = self._stream.codec_context
        context.thread_count = 1
        context.options = {**STRICT, "max_pixels": str(MAX_AREA)}
        context.flags |= Flags.copy_opaque  # a frame says of which packet it is
        self._codec = context.name
        self._damage = Damage(intra_only=context.codec.intra_only)
        self._colours_of = Colours(transparent=self._codec in {"gif", "apng"})
        self._packets_read = self._hidden = 0
        self._ends: dict[int, float] = {}  # seconds at which each stream ends, as far as it is read

    def _choose_stream(self) -> "av.VideoStream":
        self._format = self._container.format.name.split(",")[0]
        streams = [
            stream
            for stream in self._container.streams.video
            if not stream.disposition & Disposition.attached_pic  # the cover of an album
        ]
        if not streams:
            raise MediaError("file must be a video, got one without pictures")
        if len(streams) > 1:
            self._warnings.append(f"first of {len(streams)} video streams taken")
        if streams[0].codec_context is None:
            raise MediaError("video must be of a codec that FFmpeg knows, got one of another")
        width, height = streams[0].width, streams[0].height
        if min(width, height) < MIN_SIDE:
            raise MediaError(
                f"frames must be of at least {MIN_SIDE} pixels a side, got {width}×{height}"
            )
        if max(width, height) > MAX_SIDE or width * height > MAX_AREA:
            raise MediaError(
                f"frames of a clip must be of at most {MAX_SIDE} pixels a side and {MAX_AREA} in "
                f"all, got {width}×{height}"
            )
        return streams[0]

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
                    for frame in self._stream.decode(packet):
                        self._times.append(frame.time)
                        yield self._picture(frame)

    def frames(self, *, step: int = 1) -> Iterator[Picture]:
        """See the base class; damaged frames are left out, the one before stands in their place."""
        interlaced = 0
        for packet in self._packets():
            if self._codec == "rawvideo" and packet.size:
                self._check_raw(packet.size)
            decoded: list[av.VideoFrame] = []
            with self._damage.decoding(packet):
                decoded = self._stream.decode(packet)
            for frame in decoded:
                if self._damage.touches(frame):
                    continue
                interlaced += frame.interlaced_frame
                self._times.append(frame.time)
                if (self._count - 1) % step == 0:
                    yield self._picture(frame)
        if interlaced:
            self._warnings.append(f"{interlaced} interlaced frames, taken as they are")

    def _timing(self, fps: float | None) -> Timing:
        if self._codec not in _SILENT_PACKETS:
            seen = self._count + self._damage.count + self._hidden
            if self._packets_read - seen > 2:  # MPEG-4 has packets that stand for no picture
                self._damage.lose(self._packets_read - seen)
        self._check_damage()
        times: Sequence[float | None] = self._times
        if self._format == "avi":
            # An AVI has times of decoding only. Frames come out in the order of presentation,
            # so the k-th one shown has the k-th time.
            times = sorted(time for time in times if time is not None)
            times = times if len(times) == self._count else self._times
        rate = self._stream.average_rate or self._stream.guessed_rate
        timing = constant_rate(times, header_fps=float(rate or fps or 0))
        if rate and not timing.resampled and abs(float(rate) / timing.fps - 1) > _RATES_DIFFER:
            self._warnings.append(
                f"times say {timing.fps:.3f} fps, the header {float(rate):.3f}: which is right?"
            )
        self._check_promise(timing)
        self._warnings += [*self._damage.warnings, *self._colours_of.warnings]
        return timing

    def _check_damage(self) -> None:
        """Refuses a file of which too much is damaged, or its last frame: it may be cut off."""
        self._concealed = self._damage.count
        total = self._count + self._concealed
        if not self._count:
            raise MediaError("file must hold frames, got none that can be decoded")
        if self._damage.at_end:
            raise MediaError(
                f"file must be whole, got one cut off: its last frame, after {self._count}, is "
                "damaged"
            )
        if self._concealed > MAX_DAMAGED * total:
            raise MediaError(
                f"frames must decode without errors, got {self._concealed} damaged of {total}"
            )

    def _packets(self) -> Iterator["av.Packet[av.VideoStream]"]:
        """The stream's packets, the last one empty; notes where all streams end."""
        packets = self._container.demux()
        while True:
            try:
                with av.logging.Capture() as said:
                    packet = next(packets, None)
            except (av.FFmpegError, OSError) as error:
                raise MediaError(
                    f"file must be whole, got a read error after frame {self._count} "
                    f"({error.strerror})"
                ) from error
            texts = [text.strip() for *_, text in said]
            if any("prematurely" in text for text in texts):
                raise MediaError(
                    f"file must be whole, got one cut off: it ends amid a packet, after frame "
                    f"{self._count}"
                )
            self._damage.note(texts)
            if packet is None:
                return
            if packet.pts is not None and packet.time_base is not None:
                end = float((packet.pts + (packet.duration or 0)) * packet.time_base)
                self._ends[packet.stream_index] = max(end, self._ends.get(packet.stream_index, 0))
            # One that is empty, at a stream's end, bears the number 0 whatever its stream.
            index = packet.stream_index if packet.size else packet.stream.index
            if index != self._stream.index:
                continue
            if packet.size:
                self._packets_read += 1
                self._hidden += packet.is_discard
            yield cast("av.Packet[av.VideoStream]", packet)

    def _picture(self, frame: av.VideoFrame) -> Picture:
        picture, self._colours = self._colours_of.to_rgb(frame)
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
        count = self._count + self._concealed
        if self._format == "avi":
            empty, torn = walk_avi(self._path)
            if torn is not None and not self._stream.codec_context.codec.intra_only:
                raise MediaError(
                    f"file must be whole, got an AVI that is torn at byte {torn}: what comes after "
                    "depends on frames that are lost"
                )
            if torn is not None:
                self._warnings.append(f"AVI torn at byte {torn}, frames are lost there")
            self._check_count(count + empty, self._stream.frames)
        elif self._format == "mov":
            promised = max(self._stream.frames, self._packets_read)
            if not timing.guessed and has_edit_list(self._path):
                # What is hidden and before a key frame is not even read.
                self._hidden += promised - self._packets_read
            if self._hidden and timing.guessed:
                raise MediaError(
                    f"file must show all of its {promised} frames, got {count}: its table of times "
                    "or its edit list is damaged"
                )
            self._check_count(count + self._hidden, promised)
            if self._hidden:
                self._warnings.append(
                    f"{self._hidden} of {promised} frames hidden by the file's edit list, left out"
                )
        elif self._format in {"matroska", "asf", "flv"}:
            length = self.header_seconds or 0
            self._check_length(max(self._ends.values(), default=0), length, fps=timing.fps)
            own = self._ends.get(self._stream.index, 0)
            if length - own > 0.1 * length + 2 / timing.fps:
                self._warnings.append(f"pictures end at {own:.2f} s, the file at {length:.2f} s")
            first = self._stream.start_time or 0
            start = float(first * (self._stream.time_base or 0))
            if self._format == "matroska" and start > 2 / timing.fps:
                self._warnings.append(f"pictures begin at {start:.2f} s")

    def _check_count(self, count: int, promised: int) -> None:
        if promised - count > 2 + 0.02 * count:  # headers count a few frames that are not there
            raise MediaError(
                f"file must be whole, got {count} frames where its header promises {promised}"
            )
        if promised > count:
            self._warnings.append(f"{promised - count} frames fewer than the header promises")

    def _check_length(self, end: float, promised: float, *, fps: float) -> None:
        if promised - end > 2 / fps + 0.02 * end:
            raise MediaError(
                f"file must be whole, got one that ends at {end:.2f} s where its header promises "
                f"{promised:.2f} s"
            )
        if promised - end > 1.5 / fps:
            self._warnings.append(f"ends at {end:.2f} s, by its header at {promised:.2f} s")

    def _check_raw(self, size: int) -> None:
        """Refuses packets that hold another number of pixels than the header's width and height."""
        context = self._stream.codec_context
        bits = av.VideoFormat(context.pix_fmt, 8, 8).padded_bits_per_pixel if context.pix_fmt else 0
        exact = context.width * context.height * bits // 8
        if bits and size > exact + 4 * context.height * 4:  # rows may end at whole words
            raise MediaError(
                f"frames must be of the header's {context.width}×{context.height} pixels, got "
                f"packets of {size} bytes where that takes {exact}"
            )
