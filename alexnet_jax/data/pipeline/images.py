"""From an image in any form to a square of pixels (§2): shorter side to `size`, then the center.

Files, encoded bytes, Pillow images and arrays all come through `decode`: the same image gives the same pixels in each
of these forms.
"""

import functools
import io
import math
import os
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8

from alexnet_jax import files
from alexnet_jax.data.pipeline import pillow
from alexnet_jax.data.pipeline.pillow import PIXEL_LIMIT
from alexnet_jax.errors import DataError
from alexnet_jax.specs import Exif

#: Part of the name of every cached decode: raise it when `decode` gives other pixels.
VERSION = 2
#: Output rows made at once: their intermediates then stay in the cache of the processor.
_STRIP = 64


def decode(
    source: Any,
    size: int,
    *,
    exif: Exif = "ignore",
    name: str | None = None,
    out: np.ndarray | None = None,
    limit: int = PIXEL_LIMIT,
) -> UInt8[np.ndarray, "size size 3"]:
    """Decode a path, encoded bytes, a Pillow image, or an array uint8 [h w 3], [h w 4], [h w 1] or [h w].

    An image whose shorter side is `size` keeps its pixels. Transparency becomes white. Gray values of 16 bits keep
    their upper 8; those of another depth are scaled by the depth that the file declares. Color profiles are ignored,
    and so are all frames of an animation but the first. Values without a defined white are refused: float, signed,
    32 bits, and arrays other than uint8.

    Args:
        exif: Whether the camera's orientation turns the image ('apply') or not ('ignore', as the ImageNet baselines
            do). TIFF, HEIC and AVIF files are always turned upright.
        name: Name of the source in errors, if it is not a path.
        out: Array for the pixels, which is returned; a JPEG of that size is decoded right into it.
        limit: Most pixels of a file that Pillow decodes, at up to 20 bytes a pixel; JPEG takes 3 to 6.

    Raises:
        DataError: The image cannot be decoded, or is cut off.
    """
    pixels = _decode(source, exif, name, out, limit)
    if pixels is out:
        return pixels
    square = central_square(pixels, size)
    if out is None:
        return square
    out[:] = square
    return out


def is_image(source: Any) -> bool:
    """Whether `source` is one image, by its type; an array is one if it has 2 or 3 axes."""
    if isinstance(source, str | os.PathLike | bytes | bytearray | memoryview) or _is_pillow(source):
        return True
    return hasattr(source, "__array__") and np.ndim(source) in (2, 3)


def _decode(
    source: Any, exif: Exif, name: str | None, out: np.ndarray | None, limit: int
) -> UInt8[np.ndarray, "h w 3"]:
    """Decode at the original size; returns `out` itself if the image was decoded into it."""
    if isinstance(source, str | os.PathLike):
        title = os.fsdecode(source)
        try:
            with files.open_regular(source) as file:
                return _decode_bytes(file.read(), exif, title, out, limit)
        except OSError as error:
            raise DataError(f"cannot read {title}: {error.strerror}") from None
        except ValueError as error:  # a NUL in the path
            raise DataError(f"cannot read {title!r}: {error}") from None
    if isinstance(source, bytes | bytearray | memoryview):
        return _decode_bytes(bytes(source), exif, name or "image", out, limit)
    if _is_pillow(source):
        title = os.fsdecode(getattr(source, "filename", "") or name or "image")
        with pillow.decode_errors(title):
            return pillow.decode_image(source, exif, title, limit)
    name = name or "image"
    if not hasattr(source, "__array__"):
        raise DataError(
            f"{name} is of the type {type(source).__name__}; an image is a path, the bytes of a file, "
            "a Pillow image, or an array uint8 [h w 3]"
        )
    return _checked_array(source, name, limit)


def _is_pillow(source: Any) -> bool:
    return hasattr(source, "getexif") and hasattr(source, "convert")


def _checked_array(source: Any, name: str, limit: int) -> UInt8[np.ndarray, "h w 3"]:
    """Convert an array, or what can become one. Raises DataError."""
    try:
        pixels = np.asarray(source)
    except Exception as error:  # a tensor on another device, say
        raise DataError(
            f"{name} does not become an array: {' '.join(str(error).split())}"
        ) from None
    is_shaped = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (1, 3, 4))
    if pixels.dtype != np.uint8 or not is_shaped or not pixels.size:
        if pixels.dtype == np.uint16:
            remedy = "; of 16-bit values give (pixels >> 8).astype(np.uint8)"
        elif pixels.dtype == bool:
            remedy = "; give 255 * pixels.astype(np.uint8)"
        elif pixels.dtype.kind == "f":
            remedy = "; of values from 0 to 1 give np.rint(255 * pixels).astype(np.uint8)"
        elif pixels.ndim == 3 and pixels.shape[0] in (1, 3, 4):
            remedy = "; channels come last: pixels.transpose(1, 2, 0)"
        else:
            remedy = ""
        raise DataError(
            f"{name}: pixels are uint8 [h w 3] from 0 to 255 (or [h w], [h w 1], or [h w 4] with alpha), "
            f"not {pixels.dtype} {list(pixels.shape)}{remedy}"
        )
    pillow.check_size(pixels.shape[1], pixels.shape[0], name, limit)
    if pixels.ndim == 3 and pixels.shape[2] == 4:
        return pillow.to_rgb(pillow.module().fromarray(np.ascontiguousarray(pixels)))
    return pillow.three_channels(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels)


def _decode_bytes(
    encoded: bytes, exif: Exif, name: str, out: np.ndarray | None, limit: int
) -> UInt8[np.ndarray, "h w 3"]:
    """Decode an encoded image by simplejpeg or else by Pillow."""
    place = _jpeg_orientation(encoded) if exif == "apply" else 1
    pixels = _decode_jpeg(encoded, name, out if place == 1 else None)
    if pixels is None:
        return pillow.decode_encoded(encoded, exif, name, limit)
    return pillow.apply_orientation(pixels, place)


def _jpeg_orientation(encoded: bytes) -> int:
    """EXIF orientation of a JPEG file, 1 of any other; opened by Pillow only if there may be metadata."""
    if encoded[:2] != b"\xff\xd8":
        return 1
    place = 2
    while encoded[place : place + 1] == b"\xff" and encoded[place + 1 : place + 2] != b"\xe1":
        if encoded[place + 1 : place + 2] == b"\xda":  # the pixels begin
            return 1
        place += 2 + int.from_bytes(encoded[place + 2 : place + 4], "big")
    try:
        with pillow.module().open(io.BytesIO(encoded), formats=("JPEG",)) as image:
            return pillow.orientation(image)
    except Exception:  # decoding will report what is wrong with the file
        return 1


def central_square(
    pixels: UInt8[np.ndarray, "h w 3"], size: int
) -> UInt8[np.ndarray, "size size 3"]:
    """The central square, resized: bicubic if it grows, else area averages.

    Equal to resizing the shorter side and then cropping the center (§2; cuda-convnet2's make-data.py has these two
    filters), without resizing what the crop throws away.
    """
    height, width = pixels.shape[:2]
    side = min(height, width)
    if side == size:
        top, left = (height - side) // 2, (width - side) // 2
        return pixels[top : top + side, left : left + side]
    top, left = (height - side) / 2, (width - side) / 2
    if side < size:
        from PIL import Image

        box = (left, top, left + side, top + side)
        resized = Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC, box=box)
        return np.asarray(resized)
    return _area_averages(pixels, top, left, side, size)


def _area_averages(
    pixels: UInt8[np.ndarray, "h w 3"], top: float, left: float, side: int, size: int
) -> UInt8[np.ndarray, "size size 3"]:
    """Means over equal parts of the square; pixels on a border count in proportion."""
    begin = int(left)
    pixels = pixels[:, begin : begin + side + 1]
    rows, row_weights = _taps(pixels.shape[0], top, side, size)
    columns, column_weights = _taps(pixels.shape[1], left - begin, side, size)
    square = np.empty((size, size, 3), np.uint8)
    for start in range(0, size, _STRIP):
        strip = slice(start, start + _STRIP)
        narrow = _weighted_sum(pixels, rows[:, strip], row_weights[:, strip])
        turned = np.ascontiguousarray(narrow.swapaxes(0, 1))
        small = _weighted_sum(turned, columns, column_weights)
        square[strip] = np.rint(small, out=small).swapaxes(0, 1)
    return square


def _weighted_sum(
    pixels: UInt8[np.ndarray, "h w 3"],
    places: Int[np.ndarray, "k n"],
    weights: Float[np.ndarray, "k n 1 1"],
) -> Float[np.ndarray, "n w 3"]:
    total = pixels[places[0]] * weights[0]
    for place, weight in zip(places[1:], weights[1:], strict=True):
        total += pixels[place] * weight
    return total


@functools.lru_cache(maxsize=1024)
def _taps(
    length: int, start: float, side: int, size: int
) -> tuple[Int[np.ndarray, "k size"], Float[np.ndarray, "k size 1 1"]]:
    """(pixels, weights) of each of `size` equal parts of `side`, which begins at `start` of `length` pixels."""
    edges = np.linspace(start, start + side, size + 1)
    number = math.ceil(side / size) + 1
    places = np.floor(edges[:-1]).astype(np.intp) + np.arange(number)[:, None]
    covered = np.minimum(places + 1, edges[1:]) - np.maximum(places, edges[:-1])
    weights = np.clip(covered, 0, None) * (size / side)
    used = weights.max(axis=1) > 0
    return np.minimum(places, length - 1)[used], weights[used].astype(np.float32)[:, :, None, None]


@functools.cache
def _simplejpeg() -> Any:
    """The module simplejpeg, or None without it: Pillow gives the same pixels, slower."""
    try:
        import simplejpeg
    except ImportError:
        return None
    return simplejpeg


def _decode_jpeg(
    encoded: bytes, name: str, out: np.ndarray | None = None
) -> UInt8[np.ndarray, "h w 3"] | None:
    """Decode by simplejpeg, into `out` if it fits; None if it fails, so that Pillow decides what is damaged.

    Raises DataError for a file with too many pixels.
    """
    library = _simplejpeg()
    if library is None or encoded[:2] != b"\xff\xd8":
        return None
    try:
        height, width, colors, _ = library.decode_jpeg_header(encoded)
        pillow.check_size(int(width), int(height), name)
        if colors not in ("YCbCr", "Gray", "RGB"):
            return None  # CMYK: Pillow knows that Adobe stores it inverted
        if out is not None and out.shape == (height, width, 3) and out.flags.c_contiguous:
            library.decode_jpeg(encoded, colorspace="RGB", strict=True, buffer=out)
            return out
        return library.decode_jpeg(encoded, colorspace="RGB", strict=True)
    except ValueError:
        return None
