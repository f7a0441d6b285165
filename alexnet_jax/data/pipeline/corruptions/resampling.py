"""Convolution and bilinear resampling of batches of images [b s s c] in float32."""

import numpy as np
from jaxtyping import Float32


def convolve(
    images: Float32[np.ndarray, "b s s c"], kernels: Float32[np.ndarray, "*b k k"]
) -> Float32[np.ndarray, "b s s c"]:
    """Convolve images with one kernel, or each with its own, of an odd size; borders are mirrored."""
    from scipy import fft

    size, radius = images.shape[1], kernels.shape[-1] // 2
    width = ((0, 0), (radius, radius), (radius, radius), (0, 0))
    padded = np.pad(images, width, mode="symmetric").transpose(0, 3, 1, 2)
    shape = (fft.next_fast_len(padded.shape[-1], real=True),) * 2
    kernels = np.reshape(kernels, (-1, 1, *kernels.shape[-2:]))
    spectra = [np.asarray(fft.rfft2(one, shape)) for one in (padded, kernels)]
    made = np.asarray(fft.irfft2(spectra[0] * spectra[1], shape))
    valid = slice(2 * radius, 2 * radius + size)  # what wraps around lies outside of it
    return made[:, :, valid, valid].transpose(0, 2, 3, 1)


def smooth(images: np.ndarray, sigma: float) -> np.ndarray:
    """Blur images [b s s] or [b s s c] with a Gaussian; borders are mirrored."""
    from scipy import ndimage

    return ndimage.gaussian_filter(images, sigma, axes=(1, 2), mode="reflect", truncate=3)


def zoom(images: Float32[np.ndarray, "b s s *c"], factor: float) -> Float32[np.ndarray, "b s s *c"]:
    """Enlarge the center of images by `factor` >= 1, bilinearly."""
    center = (images.shape[1] - 1) / 2
    places = center + (np.arange(images.shape[1]) - center) / factor
    return _along(_along(images, places, 1), places, 2)


def _along(images: np.ndarray, places: np.ndarray, axis: int) -> np.ndarray:
    """Interpolate linearly at `places` along an axis."""
    low = np.minimum(places.astype(int), images.shape[axis] - 2)
    shape = [-1 if i == axis else 1 for i in range(images.ndim)]
    share = (places - low).astype(np.float32).reshape(shape)
    return images.take(low, axis) * (1 - share) + images.take(low + 1, axis) * share


def sample(
    images: Float32[np.ndarray, "b s s c"], places: Float32[np.ndarray, "b s s 2"]
) -> Float32[np.ndarray, "b s s c"]:
    """Interpolate images bilinearly at `places` (row, column), each image at its own; borders are mirrored."""
    size = images.shape[1]
    places = np.abs(places)  # mirrored at the first pixel and at the last one
    places = np.clip((size - 1) - np.abs((size - 1) - places), 0, size - 1)
    low = np.minimum(places.astype(np.int64), max(size - 2, 0))
    shares = (places - low).astype(np.float32)
    flat = images.reshape(len(images), size * size, -1)
    made = np.zeros_like(images)
    for down in (0, 1):
        for right in (0, 1):
            weight = np.abs(1 - down - shares[..., 0]) * np.abs(1 - right - shares[..., 1])
            index = (low[..., 0] + down) * size + low[..., 1] + right
            corner = np.take_along_axis(flat, index.reshape(len(images), -1, 1), axis=1)
            made += weight[..., None] * corner.reshape(images.shape)
    return made
