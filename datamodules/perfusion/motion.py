"""How far the tissue in a clip has moved, frame by frame: rigid, in pixels of the stored frames.

A contrast clip brightens a hundredfold and its speckle is new every tenth of a second. So frames
are compared by their structure on the logarithmic scale of the display, where wash-in adds a
constant that a band-pass takes away, and not with one frame but with the mean of those already
aligned, in which speckle averages out and which keeps up with the enhancement.
"""

import numpy as np
import numpy.typing as npt
from scipy import fft, ndimage

Grey = npt.NDArray[np.float32]

_SIDE = 128  # pixels at which motion is sought: finer is speckle
_FINE, _COARSE = 1.0, 5.0  # standard deviations of the band-pass, of these pixels
_REACH = 1 / 8  # of the frame's side: tissue moves no further and stays in view
_MEMORY_SECONDS = 3.0  # of the running mean
_LEAST = 0.15  # correlation with the running mean from which a frame is taken for aligned
_NOISE, _GRAIN = 4.0, 8.0  # or, of a small field, so many deviations of noise; pixels of its grain


class Tracker:
    """Follows the tissue away from a reference frame, over frames that are given in order.

    Args:
        reference: Grey values (S, S) of the reference.
        fps: Frames per second, above 0.
        field: (S, S) bool, where the picture is: bars around it do not move.

    Attributes:
        lost: Frames so far whose structure was not found again; each was left where the frame
            before it was.
    """

    def __init__(self, reference: Grey, *, fps: float, field: npt.NDArray[np.bool_]) -> None:
        self._step = max(1, len(reference) // _SIDE)
        self._field = self._small(field.astype(np.float32))
        self._weights = [
            np.maximum(ndimage.gaussian_filter(self._field, sigma), 1e-3)
            for sigma in (_FINE, _COARSE)
        ]
        self._window = self._field * ndimage.gaussian_filter(self._field, 2.0)
        side = len(self._window)
        # A shift is a turn of phases, by these for a pixel.
        self._phase_y = 2j * np.pi * fft.fftfreq(side)[:, None]
        self._phase_x = 2j * np.pi * fft.rfftfreq(side)[None, :]
        self._least = max(_LEAST, _NOISE * float(np.sqrt(_GRAIN / max(self._window.sum(), 1))))
        reach = int(_REACH * side)
        self._near = np.r_[-reach : reach + 1]
        self._keep = float(np.exp(-1 / (fps * _MEMORY_SECONDS)))
        self._mean = self._structure(reference)
        self._shift = np.zeros(2)  # y, x in the pixels at which motion is sought
        self.lost = 0

    def __call__(self, grey: Grey) -> npt.NDArray[np.float64]:
        """How far the tissue of the next frame lies from its place in the reference, (y, x)."""
        found = self._structure(grey)
        product = fft.irfft2(found * self._mean.conj(), s=self._window.shape)
        near = product[np.ix_(self._near, self._near)]
        y, x = np.unravel_index(int(near.argmax()), near.shape)
        energy = np.sqrt(self._energy(found) * self._energy(self._mean))
        edge = len(self._near) - 1
        if near[y, x] < self._least * energy or y in (0, edge) or x in (0, edge):
            self.lost += 1
            return self._step * self._shift
        self._shift = np.array(
            [
                self._near[y] + _vertex(near[y - 1 : y + 2, x]),
                self._near[x] + _vertex(near[y, x - 1 : x + 2]),
            ]
        )
        turn = np.exp(self._phase_y * self._shift[0] + self._phase_x * self._shift[1])
        self._mean = self._keep * self._mean + (1 - self._keep) * found * turn
        return self._step * self._shift

    def _small(self, image: Grey) -> Grey:
        height, width = (side // self._step * self._step for side in image.shape)
        blocks = image[:height, :width].reshape(
            height // self._step, self._step, width // self._step, self._step
        )
        return np.asarray(blocks.mean(axis=(1, 3)), np.float32)

    def _structure(self, grey: Grey) -> npt.NDArray[np.complex64]:
        small = self._small(grey) * self._field
        # Means over the field alone: its edge against black bars would be a structure that stands.
        fine, coarse = (
            ndimage.gaussian_filter(small, sigma) / weight
            for sigma, weight in zip((_FINE, _COARSE), self._weights, strict=True)
        )
        return np.asarray(fft.rfft2((fine - coarse) * self._window), np.complex64)

    def _energy(self, spectrum: npt.NDArray[np.complex64]) -> float:
        return float(np.square(fft.irfft2(spectrum, s=self._window.shape)).sum())


def _vertex(values: npt.NDArray[np.floating]) -> float:
    """Of the parabola through three values at -1, 0 and 1, of which the middle one is largest."""
    before, at, after = (float(value) for value in values)
    bend = before - 2 * at + after
    return 0.5 * (before - after) / bend if bend < 0 else 0.0
