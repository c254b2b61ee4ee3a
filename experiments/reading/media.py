"""Pictures and clips of a store as a browser shows them: the very pixels that the models saw."""

import io
from fractions import Fraction

import av
import numpy as np
import numpy.typing as npt
from av.video.stream import VideoStream
from PIL import Image

from datamodules.store.clip_file import read_index, read_packets
from datamodules.store.folder import Store

_TICKS = 90_000  # a second, as is usual for H.264


def png_of(pixels: npt.NDArray[np.uint8]) -> bytes:
    """An image, uint8 (3, H, W), as PNG that holds nothing but the pixels."""
    content = io.BytesIO()
    Image.fromarray(pixels.transpose(1, 2, 0)).save(content, "png", optimize=True)
    return content.getvalue()


def mp4_of(store: Store, item_id: str) -> bytes:
    """A clip of the store as MP4: the same packets at the same times, nothing is encoded again.

    Each is a picture of its own, so that a browser steps to any frame exactly.

    Raises:
        DataError: If the clip is damaged.
    """
    index = read_index(store.item_path(item_id, ".idx"))
    numbers = list(range(len(index)))
    packets = read_packets(store.item_path(item_id, ".h264"), index, frames=numbers)
    starts = np.rint(index["pts"] * _TICKS).astype(np.int64).tolist()
    last = starts[-1] - starts[-2] if len(starts) > 1 else _TICKS
    content = io.BytesIO()
    with (
        av.open(io.BytesIO(b"".join(packets)), "r", format="h264") as source,
        av.open(content, "w", format="mp4") as target,
    ):
        stream = target.add_stream_from_template(source.streams.video[0])
        assert isinstance(stream, VideoStream)
        stream.time_base = Fraction(1, _TICKS)
        shown = (packet for packet in source.demux(video=0) if packet.size)
        for packet, start, end in zip(shown, starts, [*starts[1:], starts[-1] + last], strict=True):
            packet.stream, packet.time_base = stream, Fraction(1, _TICKS)
            packet.pts = packet.dts = start
            packet.duration = end - start
            target.mux(packet)
    return content.getvalue()
