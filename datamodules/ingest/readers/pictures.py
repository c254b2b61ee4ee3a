"""Single pictures: read from a file, cropped, fitted to the store's canvas."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar

import av
import numpy as np
import numpy.typing as npt
from av.video.reformatter import Interpolation, VideoReformatter
from PIL import Image, ImageOps, UnidentifiedImageError

from datamodules.errors import DataError

T = TypeVar("T")
Picture = npt.NDArray[np.uint8]
MIN_SIDE, MAX_SIDE = 8, 8192  # pixels; less or more is a slip or a bomb
MAX_AREA = 2**23  # pixels of a clip's frame, of which several are held: a little over 3840×2160
MAX_FRAMES = 20_000  # of a clip: a quarter of an hour at 20 a second
_MAX_CLIP_BYTES = 2**36
MAX_DAMAGED = 0.05  # share of a clip's frames; one with more is refused
# FFmpeg's. Not "careful" and "aggressive": they refuse the slips of well-known encoders.
STRICT = {"err_detect": "crccheck+bitstream+buffer+explode"}
_LITTLE_USED = 3  # bits that no pixel sets: the picture has fewer than its file says
_LARGEST_RATIO = 32
REFUSED = "JPEG data that a strict decoder refuses, may be damaged"
# What is opened at all, by content: Pillow would start Ghostscript for an EPS, whatever its name.
_FORMATS = ("BMP", "DIB", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
_WHITE_IS_ZERO = (262, 0)  # TIFF's Photometric Interpretation


class Spread(Generic[T]):
    """Of things offered one after another between `count` and twice as many, evenly spaced."""

    def __init__(self, count: int) -> None:
        self._count, self._step, self._offered = count, 1, 0
        self.numbers: list[int] = []
        self.values: list[T] = []

    def offer(self, value: T) -> None:
        """The next one."""
        if self._offered % self._step == 0:
            self.numbers.append(self._offered)
            self.values.append(value)
        self._offered += 1
        if len(self.values) == 2 * self._count:
            self._step *= 2
            self.numbers, self.values = self.numbers[::2], self.values[::2]


class MediaError(DataError):
    """What is wrong with one file, without its name: who knows the row adds it."""


def check_clip(count: int, shape: tuple[int, ...]) -> None:
    """Refuses a clip that unfolds to more than any ultrasound, before it is decoded.

    Args:
        count: Frames.
        shape: Height and width of each, pixels, then whatever else.

    Raises:
        MediaError: If it is too large, too long, or both.
    """
    height, width = shape[:2]
    if count > 1 and height * width > MAX_AREA:
        raise MediaError(
            f"frames of a clip must be of at most {MAX_AREA / 1e6:.1f} million pixels, got "
            f"{width}×{height}"
        )
    size = 3 * count * height * width
    if count > MAX_FRAMES or size > _MAX_CLIP_BYTES:
        raise MediaError(
            f"clip must unfold to at most {MAX_FRAMES} frames and {_MAX_CLIP_BYTES >> 30} GiB, "
            f"got {count} of {width}×{height} ({size / 2**30:.1f} GiB); cut it"
        )


class Notes:
    """What is odd about the picture of a file, or about those of a series together."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._used = Use()

    def add(self, text: str) -> None:
        """An oddity, in words; of several pictures it is said once."""
        self._texts.append(text)

    def add_use(self, brightest: int, *, bits: int) -> None:
        """The highest value in a picture that may hold so many bits."""
        self._used.add(brightest, bits=bits)

    def warnings(self) -> tuple[str, ...]:
        """All of them, in words."""
        return (*dict.fromkeys(self._texts), *self._used.warnings("16 bits a pixel"))


class Use:
    """How much of their range pixels use: 12 bits in 16 are black to all who know of 16 alone."""

    def __init__(self) -> None:
        self._unused: int | None = None

    def add(self, brightest: int, *, bits: int) -> None:
        """The highest value in a picture that may hold so many bits."""
        unused = bits - brightest.bit_length()
        self._unused = unused if self._unused is None else min(unused, self._unused)

    def warnings(self, what: str) -> tuple[str, ...]:
        """That little is used, if so; `what` has the range."""
        if (self._unused or 0) < _LITTLE_USED:
            return ()
        return (f"{what}: only 1/{2 ** (self._unused or 0)} of their range is used",)


def is_sound_jpeg(data: bytes) -> bool:
    """Whether FFmpeg at its strictest decodes a JPEG: libjpeg fills damage without a word."""
    context = av.CodecContext.create("mjpeg", "r")
    context.options = dict(STRICT)
    context.thread_count = 1
    try:
        frames = [*context.decode(av.Packet(data)), *context.decode(None)]
    except av.FFmpegError:
        return False
    return len(frames) == 1 and not frames[0].is_corrupt


def read_picture(path: Path, notes: Notes | None = None) -> Picture:
    """A still picture, RGB uint8 (H, W, 3); EXIF rotation applied, transparency over black.

    Args:
        path: The file.
        notes: Takes what is odd about it.

    Raises:
        MediaError: If the file is not a picture, is cut off, holds several, or is of a depth with
            no known range.
    """
    notes = notes or Notes()
    with opened_picture(path) as opened:
        if getattr(opened, "is_animated", False):
            if opened.format != "MPO":
                raise MediaError(
                    "file must be a single picture, got several in one; is its modality `ceus`?"
                )
            notes.add("first of the pictures in a camera's MPO taken")  # the others are previews
        if opened.format in {"JPEG", "MPO"} and not is_sound_jpeg(path.read_bytes()):
            notes.add(REFUSED)
        return as_rgb(opened, notes)


@contextmanager
def opened_picture(path: Path) -> Iterator[Image.Image]:
    """A picture file, opened; whatever goes wrong inside is one MediaError.

    Raises:
        MediaError: If the file is not a whole picture, or decompresses to more than it should.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # Pillow warns of a decompression bomb
            with Image.open(path, formats=_FORMATS) as opened:
                if opened.format == "PNG":  # of its checksums decoding leaves out those of pixels
                    with Image.open(path, formats=["PNG"]) as checked:
                        checked.verify()
                yield opened
    except MediaError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise MediaError(
            f"picture must be of at most {MAX_SIDE} pixels a side, got more"
        ) from error
    except UnidentifiedImageError as error:
        known = ", ".join(_FORMATS)
        raise MediaError(
            f"file must be a whole picture, one of {known}, got another ({type(error).__name__})"
        ) from error
    except Exception as error:  # Pillow's readers let struct, zlib, Syntax... errors through
        raise MediaError(
            f"file must be a whole picture, got one that does not open ({type(error).__name__})"
        ) from error


def as_rgb(opened: Image.Image, notes: Notes) -> Picture:
    """RGB uint8 (H, W, 3) of any picture, upright, transparency over black.

    Args:
        opened: A picture, or a page; it is loaded here, once its size is known to be sane.
        notes: Takes what is odd about it.

    Raises:
        MediaError: If it is too large, or of a depth with no known range.
    """
    width, height = opened.size
    if not (MIN_SIDE <= width <= MAX_SIDE and MIN_SIDE <= height <= MAX_SIDE):
        raise MediaError(
            f"picture must be of {MIN_SIDE} to {MAX_SIDE} pixels a side, got {width}×{height}"
        )
    tiles = getattr(opened, "tile", None)
    raw_mode = str(tiles[0].args) if tiles else ""
    tag, white_is_zero = _WHITE_IS_ZERO
    inverted = getattr(opened, "tag_v2", {}).get(tag) == white_is_zero
    opened.load()
    picture = ImageOps.exif_transpose(opened)
    if picture.mode.startswith("I;16"):
        full = 4095 if "I;12" in raw_mode else 65535
        values = np.asarray(picture).astype(np.uint16, copy=False)
        notes.add_use(int(values.max()), bits=full.bit_length())
        table = np.round(np.arange(full + 1) * (255 / full)).astype(np.uint8)
        table = table[::-1] if inverted else table  # Pillow turns those of 8 bits
        return np.repeat(table[np.minimum(values, full)][..., None], 3, axis=-1)
    if picture.mode in {"I", "F"}:
        raise MediaError(f"picture must be of 8 or 16 bits, got Pillow mode {picture.mode!r}")
    if picture.has_transparency_data:
        if "RGBa" in raw_mode and picture.getchannel("A").getextrema() == (0, 0):
            raise MediaError("alpha must not be 0 everywhere, got colours multiplied by it")
        picture = picture.convert("RGBA")
        if picture.getchannel("A").getextrema() == (0, 0):
            notes.add("alpha 0 everywhere, taken as unused")
        else:
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "black"), picture)
    rgb = np.array(picture.convert("RGB"))
    if ";16" in raw_mode:
        notes.add_use(int(rgb.max()), bits=8)
    return rgb


def crop_picture(picture: Picture, crop: tuple[int, int, int, int] | None) -> Picture:
    """Cuts (x, y, w, h), pixels, out of a (H, W, 3) picture.

    Raises:
        MediaError: If it is not inside.
    """
    if crop is None:
        return picture
    x, y, w, h = crop
    height, width = picture.shape[:2]
    if x + w > width or y + h > height:
        raise MediaError(
            f"crop must lie in the {width}×{height} frame, got x,y,w,h = {x},{y},{w},{h}"
        )
    return picture[y : y + h, x : x + w]


def letterbox(picture: Picture, *, canvas: int, aspect: float = 1.0) -> Picture:
    """Fits a picture into a square with black bars, aspect ratio kept.

    The filter is Pillow's bicubic, widened when shrinking (antialias): it keeps the mean, as a
    time-intensity curve needs, and is the filter that torchvision resizes with later. It works on
    RGB: a resize in YUV mixes colours across edges.

    Args:
        picture: (H, W, 3).
        canvas: Side of the square, pixels.
        aspect: Width of a source pixel over its height.

    Returns:
        (canvas, canvas, 3).
    """
    return _letterbox(picture, canvas, aspect, _resize)


def letterbox_mask(mask: Picture, *, canvas: int, aspect: float = 1.0) -> Picture:
    """As `letterbox`, of a mask: each pixel is that of its nearest, none is between two."""
    return _letterbox(mask, canvas, aspect, partial(_resize, filter_=Image.Resampling.NEAREST))


class Letterbox:
    """`letterbox` for the frames of a clip, in half the time: FFmpeg's bicubic on R, G and B.

    Its kernel is a little sharper (a = -0.6; Pillow's is -0.5): on speckle the two differ by at
    most 2 grey levels in the root mean square and by 0.05 in the mean (held by a test).

    Args:
        canvas: Side of the square, pixels.
    """

    def __init__(self, *, canvas: int) -> None:
        self._canvas = canvas
        self._reformatter = VideoReformatter()  # a frame's own would be set up anew every time

    def __call__(self, picture: Picture, *, aspect: float = 1.0) -> Picture:
        """As `letterbox`."""
        return _letterbox(picture, self._canvas, aspect, self._resize)

    def _resize(self, picture: Picture, size: tuple[int, int]) -> Picture:
        if max(picture.shape[:2]) > _LARGEST_RATIO * min(size):  # FFmpeg's filters are this long
            return _resize(picture, size)
        resized = self._reformatter.reformat(
            av.VideoFrame.from_numpy_buffer(np.ascontiguousarray(picture), format="rgb24"),
            width=size[0],
            height=size[1],
            format="gbrp",  # planes that are scaled each for itself, with no way through YUV
            interpolation=Interpolation.BICUBIC | Interpolation.ACCURATE_RND,
            threads=1,
        )
        return resized.to_ndarray().astype(np.uint8, copy=False)


def _letterbox(
    picture: Picture,
    canvas: int,
    aspect: float,
    resize: Callable[[Picture, tuple[int, int]], Picture],
) -> Picture:
    height, width = picture.shape[0], picture.shape[1] * aspect
    scale = canvas / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    if size != picture.shape[1::-1]:
        picture = resize(picture, size)
    boxed = np.zeros((canvas, canvas, 3), np.uint8)
    left, top = (canvas - size[0]) // 2, (canvas - size[1]) // 2
    boxed[top : top + size[1], left : left + size[0]] = picture
    return boxed


def _resize(
    picture: Picture, size: tuple[int, int], filter_: Image.Resampling = Image.Resampling.BICUBIC
) -> Picture:
    return np.asarray(Image.fromarray(picture).resize(size, filter_))
