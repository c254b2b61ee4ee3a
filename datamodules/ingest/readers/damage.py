"""Which frames of a video are not what was recorded, as far as its decoder can tell."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import av.logging

# What FFmpeg says of errors is read here; nothing of it is to reach the terminal.
av.logging.set_level(av.logging.ERROR)
av.logging.set_skip_repeated(False)
logging.getLogger("libav").addHandler(logging.NullHandler())
logging.getLogger("libav").propagate = False


@dataclass(eq=False)
class _Mark:
    """What a packet bears and its frame bears, too. PyAV tells such objects by their identity."""

    number: int


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
        self._marks: list[_Mark] = []  # kept, so that no other object has their identity
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
        """What was said of packets that were not refused."""
        if not self._complaints:
            return ()
        return (f"decoder complains {len(self._complaints)} times: {self._complaints[0]:.60}",)

    def note(self, said: Sequence[str]) -> None:
        """What the container's reader said."""
        self._complaints += said

    def lose(self, packets: int) -> None:
        """Packets that gave no frame: as damaged as those that are refused."""
        self._damaged |= {-number for number in range(1, packets + 1)}

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
        mark: Any = frame.opaque
        number = mark.number if isinstance(mark, _Mark) else len(self._marks)
        if frame.is_corrupt:
            self._damaged.add(number)
        elif frame.key_frame and number not in self._refused:
            # Indexes that call no frame a key frame are common; the decoder knows better.
            self._ongoing = False
            self._damaged -= {n for n in self._damaged - self._refused if n >= number}
        return number in self._damaged

    def _begin(self, packet: "av.Packet[av.VideoStream]") -> int:
        number = len(self._marks)
        if not packet.size:
            return number
        self._marks.append(_Mark(number))
        packet.opaque = self._marks[-1]  # handed on to the frame
        shown = packet.pts
        if packet.is_keyframe or self._intra_only:
            self._shown_from = shown if self._ongoing else None
            self._ongoing = False
        elif self._ongoing or (
            self._shown_from is not None and shown is not None and shown < self._shown_from
        ):
            self._damaged.add(number)
        if packet.is_corrupt:  # a transport stream that lost some of its packets
            self._refused.add(number)
            self._damaged.add(number)
            self._ongoing = not self._intra_only
        return number
