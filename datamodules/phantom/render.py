"""How a phantom patient looks in B-mode, and in contrast mode as the bolus arrives and leaves.

Everything is in millimetres (x to the right from the image's middle, y down from the skin), dB and
seconds; the result is 8-bit grey. Two things carry the latent scores and nothing else does:
`render_bmode(suspicion=...)` and `perfusion.draw_perfusion(vascularity=...)`, both in 0..1.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from datamodules.phantom.anatomy import Anatomy, Array
from datamodules.phantom.fields import blur, gaussian, scatterers, speckle, texture
from datamodules.phantom.perfusion import REGIONS, Bolus
from datamodules.phantom.tissue import add_foci, perfused, regions, tissue_levels

Frame = npt.NDArray[np.uint8]

# Point spread function (axial, lateral standard deviation) of a linear probe near 10 MHz.
_PSF_MM = (0.13, 0.24)

# Independent looks averaged (spatial compounding, persistence): a Rayleigh envelope for one look,
# a Nakagami envelope with m = looks for several.
_BMODE_LOOKS, _CEUS_LOOKS = 3, 2
_BMODE_RANGE_DB, _CEUS_RANGE_DB = 60.0, 50.0  # usual display settings; 0 dB is white
_NEAR_DB, _NEAR_MM = -36.0, 2.2  # layers of skin and fat under contrast, how deep they show
_LEAK_DB = -10.0  # of the square of the tissue's echo
_FACE_MM = 0.15  # of the bright line where the probe touches the skin
_NOISE_DB = -52.0  # electronic noise, below the CEUS display range
_MOTION_MM = 1.6  # bound on probe drift plus breathing, in each direction
_BUBBLE_SECONDS = 0.12  # speckle forgets itself as bubbles move through the resolution cell
_PLAIN_NODULE = 0.3  # how the nodule of every clip looks under the contrast, whoever the patient


@dataclass(frozen=True)
class Rendered:
    """A clip.

    Attributes:
        frames: (height, width), uint8, in order, each made when it is asked for.
        masks: Lesion and parenchyma in a frame of this number, as a reader draws them: white on
            black, (height, width), uint8.
    """

    frames: Iterator[Frame]
    masks: Callable[[int], dict[str, Frame]]


def render_bmode(
    rng: np.random.Generator,
    anatomy: Anatomy,
    *,
    suspicion: float,
    size: tuple[int, int],
    depth_mm: float,
) -> Frame:
    """One B-mode still (height, width), uint8.

    Args:
        rng: Source of the speckle and of the operator's gain.
        anatomy: Where everything lies.
        suspicion: 0..1; with it the nodule goes from nearly isoechoic, even and smooth to markedly
            hypoechoic and coarse with punctate bright foci and a spiculated margin.
        size: (width, height) in pixels.
        depth_mm: Depth shown; pixels are square.
    """
    echo = _echo(rng, anatomy, suspicion=suspicion, size=size, depth_mm=depth_mm)
    level = 10 * np.log10(echo + 1e-9) + rng.uniform(-1, 1)
    return _to_grey(level, _BMODE_RANGE_DB)


def render_ceus(
    rng: np.random.Generator,
    anatomy: Anatomy,
    boluses: dict[str, Bolus],
    *,
    frames: int,
    fps: float,
    size: tuple[int, int],
    depth_mm: float,
) -> Rendered:
    """One clip in contrast mode.

    Speckle, vascular pattern and motion come from `rng`, which must not be drawn from until the
    last frame is made; `boluses` has one for each of REGIONS; the other arguments are those of
    `render_bmode`.
    """
    width, height = size
    pixels_per_mm = height / depth_mm
    pad = int(np.ceil(_MOTION_MM * pixels_per_mm)) + 1
    # Drawn wider than shown, so that the probe has something to drift to.
    wide = (width + 2 * pad, height + 2 * pad)
    offset_mm = pad / pixels_per_mm
    grid = _grid(wide, pixels_per_mm, anatomy.side, top_mm=-offset_mm)
    vessels = perfused(rng, anatomy, *grid, pixels_per_mm)
    echo = _echo(
        rng,
        anatomy,
        suspicion=_PLAIN_NODULE,
        size=wide,
        depth_mm=wide[1] / pixels_per_mm,
        top_mm=-offset_mm,
    )
    # Contrast modes leave of the tissue what harmonics its strong echoes make.
    leak = np.float32(10 ** (_LEAK_DB / 10)) * np.square(echo)
    seconds = np.arange(frames) / fps
    tic = np.stack([boluses[region].intensity(seconds) for region in REGIONS]).astype(np.float32)
    shifts = pad + pixels_per_mm * _motion(rng, seconds)

    sigmas = (sigma * pixels_per_mm for sigma in _PSF_MM)
    fields = speckle(rng, (4, _CEUS_LOOKS, height, width), *sigmas)
    keep = np.float32(np.exp(-1 / (fps * _BUBBLE_SECONDS)))
    renew = np.float32(np.sqrt(1 - keep**2))
    field = fields[0]
    streaks_db = 7 * texture(rng, echo.shape, 0.12 * pixels_per_mm, 0.6 * pixels_per_mm)
    layers = np.asarray(10 ** ((np.float32(_NEAR_DB) + streaks_db) / 10), np.float32)
    # How deep they show, and the probe's face, are the probe's: tissue moves below.
    depth = _grid(size, pixels_per_mm, 1.0, top_mm=0.0)[1]
    near = 0.5 - 0.5 * np.tanh((depth - _NEAR_MM) / 0.7)
    floor = np.exp(-((depth / _FACE_MM) ** 2)) + np.float32(10 ** (_NOISE_DB / 10))

    def rendered() -> Iterator[Frame]:
        nonlocal field
        for frame in range(frames):
            # An unseen part of a periodic field is as good as a new one, and twenty times cheaper.
            turn = (int(rng.integers(height)), int(rng.integers(width)))
            field = keep * field + renew * np.roll(fields[1 + frame % 3], turn, axis=(1, 2))
            bubbles = np.einsum("r,rij->ij", tic[:, frame], vessels)
            power = (field.real**2 + field.imag**2).mean(axis=0)
            intensity = _window(bubbles, shifts[frame], height, width)
            intensity += _window(layers, shifts[frame], height, width) * near
            intensity *= power
            intensity += _window(leak, shifts[frame], height, width) + floor
            yield _to_grey(10 * np.log10(intensity), _CEUS_RANGE_DB)

    def masks(frame: int) -> dict[str, Frame]:
        top, left = np.rint(shifts[frame]).astype(int)
        seen = (slice(top, top + height), slice(left, left + width))
        return {name: 255 * mask[seen].astype(np.uint8) for name, mask in regions(anatomy, *grid)}

    return Rendered(rendered(), masks)


def _to_grey(level_db: Array, range_db: float) -> Frame:
    grey = (level_db + np.float32(range_db)) * np.float32(255 / range_db)
    return np.asarray(np.clip(grey, 0, 255), np.uint8)


def _grid(
    size: tuple[int, int], pixels_per_mm: float, side: float, *, top_mm: float
) -> tuple[Array, Array]:
    """Pixel centres in mm, x (1, W) and y (H, 1); x is mirrored where `side` is -1."""
    width, height = size
    x = side * (np.arange(width) - (width - 1) / 2) / pixels_per_mm
    y = (np.arange(height) + 0.5) / pixels_per_mm + top_mm
    return x.astype(np.float32)[None, :], y.astype(np.float32)[:, None]


def _window(image: Array, corner: npt.NDArray[np.float64], height: int, width: int) -> Array:
    """The (height, width) part of `image` at a fractional (y, x) corner, bilinear."""
    y, x = (int(value) for value in corner)
    fy, fx = (np.float32(value % 1) for value in corner)
    rows = image[y : y + height + 1, x : x + width + 1]
    rows = rows[:-1] * (1 - fy) + rows[1:] * fy
    return np.asarray(rows[:, :-1] * (1 - fx) + rows[:, 1:] * fx)


def _motion(rng: np.random.Generator, seconds: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(frames, 2) y, x displacement in mm: breathing mostly up and down, drift in both."""
    u = rng.uniform
    breath = np.sin(2 * np.pi * (seconds / u(3.0, 5.0) + u()))  # 12-20 breaths a minute
    drift = np.sin(2 * np.pi * (seconds / (seconds[-1] + 20) * u(0.3, 0.7) + u()))
    return np.stack([u(0.2, 0.5) * breath + u(-0.9, 0.9) * drift, 0.1 * breath + drift], axis=1)


def _echo(
    rng: np.random.Generator,
    anatomy: Anatomy,
    *,
    suspicion: float,
    size: tuple[int, int],
    depth_mm: float,
    top_mm: float = 0.0,
) -> Array:
    """Echo power (H, W), 1 is white: each tissue's scatterers blurred by the PSF, compounded."""
    pixels_per_mm = size[1] / depth_mm
    axial, lateral = (sigma * pixels_per_mm for sigma in _PSF_MM)
    # The blur is periodic: what wraps round falls on a margin that is cut off.
    margin = int(np.ceil(4 * lateral))
    width, height = size[0] + 2 * margin, size[1] + 2 * margin
    top_mm -= margin / pixels_per_mm
    x, y = _grid((width, height), pixels_per_mm, anatomy.side, top_mm=top_mm)
    level, loss = tissue_levels(rng, anatomy, x, y, pixels_per_mm)
    nodule = anatomy.nodule.inside(
        x, y, edge_mm=0.3 + 0.4 * suspicion, lobes=0.05, spicules=0.1 * suspicion
    )
    coarse = texture(rng, (height, width), 0.5 * pixels_per_mm, 0.5 * pixels_per_mm)
    target = -25 - 22 * suspicion + 3.5 * suspicion * coarse
    level = level + nodule * (target - level)
    level = level - np.cumsum(loss, axis=0) / pixels_per_mm
    echoes = scatterers(rng, _BMODE_LOOKS, height, width) * 10 ** (level / 20)
    add_foci(rng, echoes, anatomy, suspicion=suspicion, pixels_per_mm=pixels_per_mm, top_mm=top_mm)
    echo = blur(echoes, gaussian(height, width, axial, lateral))
    inner = (slice(None), slice(margin, -margin), slice(margin, -margin))
    return np.asarray((echo.real**2 + echo.imag**2)[inner].mean(axis=0), np.float32)
