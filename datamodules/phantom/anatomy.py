"""The neck of a phantom patient, in millimetres: x to the right from the middle, y down."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]


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
