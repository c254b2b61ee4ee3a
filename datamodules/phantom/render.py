"""How a phantom patient looks: neck anatomy, B-mode speckle, and contrast arriving and leaving.

Everything is in millimetres (x to the right from the image's middle, y down from the skin), dB and
seconds; the result is 8-bit grey. Two things carry the latent scores and nothing else does:
`render_bmode(suspicion=...)` and `draw_perfusion(vascularity=...)`, both in 0..1.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.fft

Array = npt.NDArray[np.float32]
Frame = npt.NDArray[np.uint8]

# Point spread function (axial, lateral standard deviation) of a linear probe near 10 MHz.
_PSF_MM = (0.13, 0.24)

# Contrast modes receive at about half the frequency with longer pulses.
_CEUS_PSF_MM = (0.2, 0.36)

# Independent looks averaged (spatial compounding, persistence): a Rayleigh envelope for one look,
# a Nakagami envelope with m = looks for several.
_BMODE_LOOKS, _CEUS_LOOKS = 3, 2
_BMODE_RANGE_DB, _CEUS_RANGE_DB = 60.0, 45.0  # usual display settings; 0 dB is white
_TISSUE_LEAK_DB = -24.0  # tissue left over by the contrast mode, relative to B-mode
_NOISE_DB = -52.0  # electronic noise, below the CEUS display range
_MOTION_MM = 1.6  # bound on probe drift plus breathing, in each direction
_BUBBLE_SECONDS = 0.12  # speckle forgets itself as bubbles move through the resolution cell
_PLAIN_NODULE = 0.3  # how the nodule of every clip looks under the contrast, whoever the patient
REGIONS = ("carotid", "thyroid", "nodule", "muscle")


@dataclass(frozen=True)
class Ellipse:
    """An ellipse with a wavy margin: centre and half axes in mm, phases of the waves in rad."""

    x: float
    y: float
    a: float
    b: float
    phase: tuple[float, float] = (0.0, 0.0)

    def inside(
        self, x: Array, y: Array, *, edge_mm: float, lobes: float = 0.0, spicules: float = 0.0
    ) -> Array:
        """Soft mask 0..1 on the grid x (1, W), y (H, 1); waves are fractions of the radius."""
        dx, dy = (x - self.x) / self.a, (y - self.y) / self.b
        radius = np.hypot(dx, dy)
        limit = np.float32(1.0)
        if lobes or spicules:
            angle = np.arctan2(dy, dx)
            limit = (
                1
                + lobes * np.cos(3 * angle + self.phase[0])
                + spicules * np.cos(7 * angle + self.phase[1])
                + spicules * np.cos(11 * angle + 2 * self.phase[1])
            )
        scale = np.sqrt(self.a * self.b) / edge_mm
        return np.asarray(0.5 + 0.5 * np.tanh((limit - radius) * scale), np.float32)


@dataclass(frozen=True)
class Anatomy:
    """One transverse plane of the neck, centred on the lobe that holds the nodule."""

    side: float  # +1: carotid on the right of the image; -1: mirrored
    skin_mm: float
    strap_mm: float  # depth of the strap muscles' lower fascia
    lobe: Ellipse
    nodule: Ellipse
    carotid: Ellipse
    trachea: Ellipse


@dataclass(frozen=True)
class Bolus:
    """Enhancement of one region: peak in dB below white, times in seconds of the clip.

    The first pass of a bolus as a lognormal, the model that fitted contrast ultrasound best in
    Strouthos et al., "Indicator dilution models for the quantification of microvascular blood flow
    with bolus administration of ultrasound contrast agents", IEEE Trans. UFFC 57(6):1296-1310,
    2010, doi 10.1109/TUFFC.2010.1550. Written by its peak it is
    I(t) = I_peak exp(-ln²((t - t_arrival) / (t_peak - t_arrival)) / (2 sigma²)).
    """

    arrival_s: float
    peak_s: float
    peak_db: float
    sigma: float

    def intensity(self, seconds: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Linear intensity (1 is white) at times in seconds; 0 before arrival."""
        elapsed = np.asarray(seconds, np.float64) - self.arrival_s
        log_time = np.log(np.maximum(elapsed, 1e-6) / (self.peak_s - self.arrival_s))
        curve = 10 ** (self.peak_db / 10) * np.exp(-(log_time**2) / (2 * self.sigma**2))
        return np.where(elapsed > 0, curve, 0.0)


def draw_anatomy(rng: np.random.Generator) -> Anatomy:
    """Positions and sizes of one patient's neck (mm): nuisance, independent of every score."""
    u = rng.uniform

    def phase() -> tuple[float, float]:
        return u(0, 2 * np.pi), u(0, 2 * np.pi)

    lobe = Ellipse(u(-0.5, 0.5), u(12.4, 13.0), u(10.0, 11.0), u(7.8, 8.4), phase())
    nodule = Ellipse(lobe.x + u(-1, 1), lobe.y + u(-0.7, 0.7), u(6.0, 7.2), u(5.5, 6.3), phase())
    carotid_radius = u(2.8, 3.4)
    return Anatomy(
        side=1.0 if u() < 0.5 else -1.0,
        skin_mm=u(1.0, 1.4),
        strap_mm=u(4.0, 4.6),
        lobe=lobe,
        nodule=nodule,
        carotid=Ellipse(u(11.6, 12.6), u(13.0, 15.0), carotid_radius, carotid_radius),
        trachea=Ellipse(u(-15.5, -14.5), u(10.0, 11.0), 6.5, 6.5),
    )


def draw_perfusion(
    rng: np.random.Generator, *, vascularity: float, time_scale: float
) -> dict[str, Bolus]:
    """Boluses of the REGIONS: carotid first, then thyroid and nodule, then muscle.

    Args:
        rng: Source of what differs between injections (circulation time, dose).
        vascularity: 0..1; the nodule's peak rises with it from 14 dB below the thyroid's to 14 dB
            above, it fills earlier and faster, and empties later.
        time_scale: 1 for real time; 0.3 makes the bolus run 1/0.3 times faster.
    """
    u = rng.uniform
    arrival, dose = u(7.0, 11.0), u(-1.5, 1.5)
    step = 2 * vascularity - 1

    def bolus(delay: float, rise: float, peak_db: float, sigma: float) -> Bolus:
        start = arrival + delay
        return Bolus(start * time_scale, (start + rise) * time_scale, peak_db + dose, sigma)

    thyroid_db = u(-17.0, -16.0)
    return {
        "carotid": bolus(0.0, u(3.5, 4.5), -5.0, 0.75),
        "thyroid": bolus(u(1.5, 2.0), u(7.0, 8.0), thyroid_db, 0.95),
        "nodule": bolus(
            1.75 - 1.2 * step,
            7.5 - 2.0 * step,
            thyroid_db + 14 * step + u(-0.5, 0.5),
            0.95 + 0.15 * step,
        ),
        "muscle": bolus(u(3.0, 4.0), u(9.0, 11.0), -36.0, 0.95),
    }


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
) -> Iterator[Frame]:
    """The frames (height, width), uint8, of one clip in contrast mode, in order.

    Args:
        rng: Source of the speckle, the vascular pattern and the motion.
        anatomy: Where everything lies.
        boluses: One for each of REGIONS.
        frames: Number of frames.
        fps: Frames per second.
        size: (width, height) in pixels.
        depth_mm: Depth shown; pixels are square.
    """
    width, height = size
    pixels_per_mm = height / depth_mm
    pad = int(np.ceil(_MOTION_MM * pixels_per_mm)) + 1
    # Drawn wider than shown, so that the probe has something to drift to.
    wide = (width + 2 * pad, height + 2 * pad)
    offset_mm = pad / pixels_per_mm
    grid = _grid(wide, pixels_per_mm, anatomy.side, top_mm=-offset_mm)
    vessels = _perfused(rng, anatomy, *grid, pixels_per_mm)
    echo = _echo(
        rng,
        anatomy,
        suspicion=_PLAIN_NODULE,
        size=wide,
        depth_mm=wide[1] / pixels_per_mm,
        top_mm=-offset_mm,
    )
    leak = echo * np.float32(10 ** (_TISSUE_LEAK_DB / 10))
    seconds = np.arange(frames) / fps
    tic = np.stack([boluses[region].intensity(seconds) for region in REGIONS]).astype(np.float32)
    shifts = pad + pixels_per_mm * _motion(rng, seconds)

    fields = _speckle(rng, (4, _CEUS_LOOKS, height, width), pixels_per_mm)
    keep = np.float32(np.exp(-1 / (fps * _BUBBLE_SECONDS)))
    renew = np.float32(np.sqrt(1 - keep**2))
    field = fields[0]
    noise = np.float32(10 ** (_NOISE_DB / 10))
    for frame in range(frames):
        # An unseen part of a periodic field is as good as a new one, and twenty times cheaper.
        turn = (int(rng.integers(height)), int(rng.integers(width)))
        field = keep * field + renew * np.roll(fields[1 + frame % 3], turn, axis=(1, 2))
        bubbles = np.einsum("r,rij->ij", tic[:, frame], vessels)
        speckle = (field.real**2 + field.imag**2).mean(axis=0)
        intensity = _window(bubbles, shifts[frame], height, width) * speckle
        intensity += _window(leak, shifts[frame], height, width) + noise
        yield _to_grey(10 * np.log10(intensity), _CEUS_RANGE_DB)


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


def _gaussian(height: int, width: int, sigma_y: float, sigma_x: float) -> Array:
    """Frequency response of a Gaussian blur (standard deviations in pixels), unit noise gain."""
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None, :]
    response = np.exp(-2 * np.pi**2 * ((sigma_y * fy) ** 2 + (sigma_x * fx) ** 2))
    return np.asarray(response / np.sqrt(np.mean(response**2)), np.float32)


def _blur(echo: npt.NDArray[np.complex64], response: Array) -> npt.NDArray[np.complex64]:
    spectrum = scipy.fft.fft2(echo, overwrite_x=True)
    spectrum *= response
    return np.asarray(scipy.fft.ifft2(spectrum, overwrite_x=True), np.complex64)


def _scatterers(rng: np.random.Generator, *shape: int) -> npt.NDArray[np.complex64]:
    """Unresolved scatterers: circular complex Gaussian of mean power 1."""
    parts = rng.standard_normal((2, *shape), np.float32) * np.float32(np.sqrt(0.5))
    return np.asarray(parts[0] + 1j * parts[1], np.complex64)


def _speckle(
    rng: np.random.Generator, shape: tuple[int, ...], pixels_per_mm: float
) -> npt.NDArray[np.complex64]:
    """Fully developed speckle (..., H, W): Rayleigh envelope, mean power 1."""
    axial, lateral = _CEUS_PSF_MM
    response = _gaussian(shape[-2], shape[-1], axial * pixels_per_mm, lateral * pixels_per_mm)
    return _blur(_scatterers(rng, *shape), response)


def _texture(
    rng: np.random.Generator, shape: tuple[int, int], sigma_y: float, sigma_x: float
) -> Array:
    """Smooth Gaussian random field of variance 1."""
    spectrum = scipy.fft.fft2(rng.standard_normal(shape, np.float32))
    field = scipy.fft.ifft2(spectrum * _gaussian(*shape, sigma_y, sigma_x)).real
    return np.asarray(field, np.float32)


def _perfused(
    rng: np.random.Generator, anatomy: Anatomy, x: Array, y: Array, pixels_per_mm: float
) -> Array:
    """(region, H, W) share of each region's blood in each pixel, with an uneven vascular bed."""
    trachea = anatomy.trachea.inside(x, y, edge_mm=0.3)
    carotid = anatomy.carotid.inside(x, y, edge_mm=0.2)
    open_tissue = (1 - trachea) * (1 - carotid)
    lobe = anatomy.lobe.inside(x, y, edge_mm=0.3, lobes=0.03) * open_tissue
    nodule = anatomy.nodule.inside(x, y, edge_mm=0.5, lobes=0.05) * lobe
    # Behind the trachea's air there is no echo, contrast or not.
    sounded = 0.5 + 0.5 * np.tanh((np.abs(x - anatomy.trachea.x) - 6) / 0.5)
    sounded = np.where(y > anatomy.trachea.y, sounded, 1)
    muscle = (1 - lobe) * open_tissue * (y > anatomy.skin_mm) * sounded
    shares = np.stack([carotid, lobe - nodule, nodule, muscle])
    bed_db = 1.5 * _texture(rng, (y.size, x.size), 0.9 * pixels_per_mm, 0.9 * pixels_per_mm)
    shares[1:] *= 10 ** (bed_db / 10)
    return np.asarray(shares, np.float32)


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
    level, loss = _tissue_levels(rng, anatomy, x, y, pixels_per_mm)
    nodule = anatomy.nodule.inside(
        x, y, edge_mm=0.3 + 0.4 * suspicion, lobes=0.05, spicules=0.1 * suspicion
    )
    coarse = _texture(rng, (height, width), 0.5 * pixels_per_mm, 0.5 * pixels_per_mm)
    target = -25 - 22 * suspicion + 3.5 * suspicion * coarse
    level = level + nodule * (target - level)
    level = level - np.cumsum(loss, axis=0) / pixels_per_mm
    scatterers = _scatterers(rng, _BMODE_LOOKS, height, width) * 10 ** (level / 20)
    _add_foci(
        rng, scatterers, anatomy, suspicion=suspicion, pixels_per_mm=pixels_per_mm, top_mm=top_mm
    )
    echo = _blur(scatterers, _gaussian(height, width, axial, lateral))
    inner = (slice(None), slice(margin, -margin), slice(margin, -margin))
    return np.asarray((echo.real**2 + echo.imag**2)[inner].mean(axis=0), np.float32)


def _tissue_levels(
    rng: np.random.Generator, anatomy: Anatomy, x: Array, y: Array, pixels_per_mm: float
) -> tuple[Array, Array]:
    """Backscatter (dB below white) and excess attenuation (dB/mm, negative: through transmission).

    Levels are the usual visual ranking: skin and fascia > thyroid > fat > muscle > blood.
    """
    shape = (y.size, x.size)
    fibres = _texture(rng, shape, 0.12 * pixels_per_mm, 2.5 * pixels_per_mm)
    # Layers bend with the neck.
    depth = y + 0.004 * (x - anatomy.lobe.x) ** 2
    level = -34 + 4 * fibres  # muscle, also deep to the gland (longus colli)
    fat = (depth > anatomy.skin_mm) & (depth < anatomy.skin_mm + 1.0)
    level = np.where(fat, -30 + 4 * fibres, level)
    level = np.where(depth < anatomy.skin_mm, -14 + 1.5 * fibres, level)

    def layer(at: float, peak_db: float, thickness_mm: float) -> None:
        nonlocal level
        line = np.exp(-(((depth - at) / thickness_mm) ** 2))
        level = level + line * np.maximum(peak_db - level, 0)

    layer(anatomy.skin_mm + 1.1, -16, 0.18)
    layer(anatomy.strap_mm, -18, 0.18)
    layer(anatomy.lobe.y + anatomy.lobe.b + 2.5, -20, 0.3)

    lobe = anatomy.lobe.inside(x, y, edge_mm=0.2, lobes=0.03)
    level = level + lobe * (-21 - level)
    level = level + 4 * lobe * (1 - lobe) * 6  # capsule
    loss = np.zeros(shape, np.float32)

    carotid = anatomy.carotid.inside(x, y, edge_mm=0.2)
    # A wall shines where the beam meets it squarely.
    facing = np.abs(y - anatomy.carotid.y) / np.hypot(x - anatomy.carotid.x, y - anatomy.carotid.y)
    level = level + carotid * (-58 - level) + 4 * carotid * (1 - carotid) * 22 * facing
    loss -= 0.9 * carotid

    trachea = anatomy.trachea.inside(x, y, edge_mm=0.25)
    # Air behind the wall: reverberations that fade into the shadow.
    inward = anatomy.trachea.a - np.hypot(x - anatomy.trachea.x, y - anatomy.trachea.y)
    rings = 8 * np.cos(2 * np.pi * inward / 1.3) * np.exp(-np.maximum(inward, 0) / 2)
    level = level + trachea * (-28 + rings - level)
    level = level + 4 * trachea * (1 - trachea) * 14 * (y < anatomy.trachea.y + 1)
    loss += 3.0 * trachea
    return np.asarray(level, np.float32), loss


def _add_foci(
    rng: np.random.Generator,
    scatterers: npt.NDArray[np.complex64],
    anatomy: Anatomy,
    *,
    suspicion: float,
    pixels_per_mm: float,
    top_mm: float,
) -> None:
    """Punctate echogenic foci (microcalcifications), their number rising with `suspicion`."""
    number = round(14 * max(suspicion - 0.4, 0.0))
    width = scatterers.shape[-1]
    radius, angle = 0.75 * np.sqrt(rng.uniform(size=20)), rng.uniform(0, 2 * np.pi, 20)
    x = anatomy.nodule.x + anatomy.nodule.a * radius * np.cos(angle)
    y = anatomy.nodule.y + anatomy.nodule.b * radius * np.sin(angle)
    column = np.rint(anatomy.side * x * pixels_per_mm + (width - 1) / 2).astype(int)[:number]
    row = np.rint((y - top_mm) * pixels_per_mm).astype(int)[:number]
    # A point stays a point however fine the pixels: its echo scales with the pixel count.
    scatterers[:, row, column] += np.complex64(0.3 * pixels_per_mm)
