"""Which frames of a video are not what was recorded, as far as its decoder can tell."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import av.logging

# What FFmpeg says of errors is read here; nothing of it is to reach the terminal.
av.logging.set_level(av.logging.ERROR)
av.logging.set_skip_repeated(False)
logging.getLogger("libav").addHandler(logging.NullHandler())
logging.getLogger("libav").propagate = False


class Damage:
    """Follows decoding, packet by packet.

    A frame that depends on one that could not be decoded is as wrong as that one: what comes from a
    refused packet on counts as damaged up to the next key frame, pictures that are shown before
    that key frame included.

    Args:
        intra_only: Whether every frame of the codec stands for itself.
    """

    def __init__(self, *, intra_only: bool) -> None:
        self._intra_only = intra_only
        self._read = 0
        self._refused: set[int] = set()
        self._damaged: set[int] = set()
        self._ongoing = False
        self._shown_from: int | None = None  # time of the key frame that ended it
        self._complaints: list[str] = []
        self.at_end = False

    @property
    def count(self) -> int:
        """Damaged frames so far."""
        return len(self._damaged)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the decoder said of packets that it did not refuse."""
        if not self._complaints:
            return ()
        return (f"decoder complains at {len(self._complaints)} frames: {self._complaints[0]:.60}",)

    @contextmanager
    def decoding(self, packet: "av.Packet[av.VideoStream]") -> Iterator[None]:
        """To decode one packet in; an error of the decoder ends here."""
        number = self._begin(packet)
        with av.logging.Capture() as said:
            try:
                yield
            except av.FFmpegError:
                self._refused.add(number)
                self._damaged.add(number)
                self._ongoing = not self._intra_only
                self.at_end = True
            else:
                if packet.size:  # the last one only flushes what the decoder held back
                    self.at_end = False
                self._complaints += [text.strip() for *_, text in said[:1]]

    def touches(self, frame: av.VideoFrame) -> bool:
        """Whether a frame is damaged."""
        number: Any = frame.opaque
        if frame.is_corrupt:
            self._damaged.add(number)
        elif frame.key_frame and number not in self._refused:
            # Indexes that call no frame a key frame are common; the decoder knows better.
            self._ongoing = False
            self._damaged -= {n for n in self._damaged - self._refused if n >= number}
        return number in self._damaged

    def _begin(self, packet: "av.Packet[av.VideoStream]") -> int:
        number = self._read
        if not packet.size:
            return number
        self._read += 1
        packet.opaque = number  # handed on to the frame
        shown = packet.pts
        if packet.is_keyframe or self._intra_only:
            self._shown_from = shown if self._ongoing else None
            self._ongoing = False
        elif self._ongoing or (
            self._shown_from is not None and shown is not None and shown < self._shown_from
        ):
            self._damaged.add(number)
        return number
