"""Random fields: scatterers, the speckle they make, smooth textures. Deviations are in pixels."""

import numpy as np
import numpy.typing as npt
import scipy.fft

Array = npt.NDArray[np.float32]


def gaussian(height: int, width: int, sigma_y: float, sigma_x: float) -> Array:
    """Frequency response of a Gaussian blur (standard deviations in pixels), unit noise gain."""
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None, :]
    response = np.exp(-2 * np.pi**2 * ((sigma_y * fy) ** 2 + (sigma_x * fx) ** 2))
    return np.asarray(response / np.sqrt(np.mean(response**2)), np.float32)


def blur(echo: npt.NDArray[np.complex64], response: Array) -> npt.NDArray[np.complex64]:
    """Echo (..., H, W) under a frequency response of `gaussian`; periodic at the edges."""
    spectrum = scipy.fft.fft2(echo, overwrite_x=True)
    spectrum *= response
    return np.asarray(scipy.fft.ifft2(spectrum, overwrite_x=True), np.complex64)


def scatterers(rng: np.random.Generator, *shape: int) -> npt.NDArray[np.complex64]:
    """Unresolved scatterers: circular complex Gaussian of mean power 1."""
    parts = rng.standard_normal((2, *shape), np.float32) * np.float32(np.sqrt(0.5))
    return np.asarray(parts[0] + 1j * parts[1], np.complex64)


def speckle(
    rng: np.random.Generator, shape: tuple[int, ...], sigma_y: float, sigma_x: float
) -> npt.NDArray[np.complex64]:
    """Fully developed speckle (..., H, W): Rayleigh envelope, mean power 1."""
    response = gaussian(shape[-2], shape[-1], sigma_y, sigma_x)
    return blur(scatterers(rng, *shape), response)


def texture(
    rng: np.random.Generator, shape: tuple[int, int], sigma_y: float, sigma_x: float
) -> Array:
    """Smooth Gaussian random field of variance 1."""
    spectrum = scipy.fft.fft2(rng.standard_normal(shape, np.float32))
    field = scipy.fft.ifft2(spectrum * gaussian(*shape, sigma_y, sigma_x)).real
    return np.asarray(field, np.float32)
