"""What the tissues of a phantom patient send back, and how much contrast each holds."""

import numpy as np
import numpy.typing as npt

from datamodules.phantom.anatomy import Anatomy, Array, Ellipse
from datamodules.phantom.fields import speckle, texture

_GRAIN_MM = (0.17, 0.34)  # standard deviations, down and across; across the beam echoes are wider


def tissue_levels(
    rng: np.random.Generator, anatomy: Anatomy, x: Array, y: Array, pixels_per_mm: float
) -> tuple[Array, Array]:
    """Backscatter (dB below white) and excess attenuation (dB/mm, negative: through transmission).

    Levels are the usual visual ranking: skin and fascia > thyroid > fat > muscle > blood.
    """
    shape = (y.size, x.size)
    fibres = texture(rng, shape, 0.12 * pixels_per_mm, 2.5 * pixels_per_mm)
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


def add_foci(
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


def perfused(
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
    shape = (y.size, x.size)
    bed_db = 1.5 * texture(rng, shape, 0.9 * pixels_per_mm, 0.9 * pixels_per_mm)
    # Vessels too fine to see leave grains and gaps that stay where they are as bubbles pass.
    grain = speckle(rng, (2, *shape), *(sigma * pixels_per_mm for sigma in _GRAIN_MM))
    shares[1:] *= 10 ** (bed_db / 10) * (grain.real**2 + grain.imag**2).mean(axis=0)
    # Muscle is nearly empty but for vessels along its fibres.
    shares[3] *= 10 ** (0.8 * texture(rng, shape, 0.4 * pixels_per_mm, 1.2 * pixels_per_mm) - 0.8)
    shares[3] *= 0.5 + 0.5 * np.tanh((y - anatomy.lobe.y) / 2)
    return np.asarray(shares, np.float32)


def regions(anatomy: Anatomy, x: Array, y: Array) -> list[tuple[str, npt.NDArray[np.bool_]]]:
    """Lesion and parenchyma (H, W), within their margins and clear of vessel and airway."""

    def radius(shape: Ellipse) -> Array:
        return np.asarray(np.hypot((x - shape.x) / shape.a, (y - shape.y) / shape.b), np.float32)

    beside = (radius(anatomy.carotid) > 1.4) & (radius(anatomy.trachea) > 1.2)
    lesion = radius(anatomy.nodule)
    thyroid = (radius(anatomy.lobe) < 0.9) & (lesion > 1.25) & beside
    return [("lesion", lesion < 0.8), ("parenchyma", thyroid)]
