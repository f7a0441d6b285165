"""From an image file to a square of pixels (§2): shorter side to `size`, then the center."""

import functools
import io
import math
import os
import warnings

import numpy as np

from alexnet_jax.errors import DataError

_STRIP = 64
"""Output rows made at once: their intermediates then stay in the cache of the processor."""
FORMATS = {
    "JPEG": (".jpg", ".jpeg"),
    "PNG": (".png",),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
}
"""What is read, by content and whatever the suffix; no parser of another format ever sees a file."""
PIXEL_LIMIT = 89_478_485
"""Checked before decoding; where Pillow begins to warn of files that are made to exhaust memory."""
VERSION = 1
"""Part of the name of every cached decode: raise it when `decode` gives other pixels."""


def decode(source, size: int, *, name: str | None = None) -> np.ndarray:
    """uint8 [size size 3] from a path, encoded bytes or pixels (uint8 [h w] or [h w 3]).

    An image whose shorter side is `size` keeps its pixels. EXIF orientation is ignored, as the
    ImageNet baselines do, and so are color profiles; of an animation the first frame counts.
    `name` stands for the bytes in errors. Raises DataError, also for a file that is cut short.
    """
    if isinstance(source, np.ndarray):
        return central_square(_three_channels(source), size)
    if isinstance(source, bytes):
        encoded, title = source, name or "image"
    else:
        title = os.fspath(source)
        try:
            with open(source, "rb") as file:
                encoded = file.read()
        except OSError as error:
            raise DataError(f"cannot read {title}: {error.strerror}") from None
    pixels = _decode_jpeg(encoded, title)
    if pixels is None:
        pixels = _decode_any(encoded, title)
    return central_square(pixels, size)


def central_square(pixels: np.ndarray, size: int) -> np.ndarray:
    """The central square of uint8 [h w 3] as [size size 3]: bicubic if larger, else area averages.

    The same as resizing the shorter side and then cropping the center (§2; cuda-convnet2's
    make-data.py has these two filters), without resizing what the crop throws away.
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


def _area_averages(pixels: np.ndarray, top: float, left: float, side: int, size: int) -> np.ndarray:
    """uint8 [size size 3]: means of equal parts of the square; pixels cut in two count by parts."""
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


def _weighted_sum(pixels: np.ndarray, places: np.ndarray, weights: np.ndarray) -> np.ndarray:
    total = pixels[places[0]] * weights[0]
    for place, weight in zip(places[1:], weights[1:], strict=True):
        total += pixels[place] * weight
    return total


@functools.lru_cache(maxsize=1024)
def _taps(length: int, start: float, side: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """What the `size` stretches of `side` cover of `length` pixels: places [k size] and weights."""
    edges = np.linspace(start, start + side, size + 1)
    number = math.ceil(side / size) + 1
    places = np.floor(edges[:-1]).astype(np.intp) + np.arange(number)[:, None]
    covered = np.minimum(places + 1, edges[1:]) - np.maximum(places, edges[:-1])
    weights = np.clip(covered, 0, None) * (size / side)
    used = weights.max(axis=1) > 0
    return np.minimum(places, length - 1)[used], weights[used].astype(np.float32)[:, :, None, None]


@functools.cache
def _simplejpeg():
    """The module, or None where it is not installed: Pillow gives the same pixels, slower."""
    try:
        import simplejpeg
    except ImportError:
        return None
    return simplejpeg


def _decode_jpeg(encoded: bytes, name: str) -> np.ndarray | None:
    """uint8 [h w 3], or None for what simplejpeg does not take; Pillow then decides.

    So the verdict on a damaged file is the same with and without simplejpeg. Raises DataError.
    """
    library = _simplejpeg()
    if library is None or encoded[:2] != b"\xff\xd8":
        return None
    try:
        height, width, colors, _ = library.decode_jpeg_header(encoded)
        _check_size(int(width), int(height), name)
        if colors not in ("YCbCr", "Gray", "RGB"):
            return None  # CMYK: Pillow knows that Adobe stores it inverted
        return library.decode_jpeg(encoded, colorspace="RGB", strict=True)
    except ValueError:
        return None


@functools.cache
def _pillow():
    """PIL.Image. Its warning of huge images becomes an error; on metadata, not used here, it is silent."""
    from PIL import Image

    # Once for the process: warnings.catch_warnings is not safe among threads.
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
    warnings.simplefilter("error", Image.DecompressionBombWarning)
    return Image


def _decode_any(encoded: bytes, name: str) -> np.ndarray:
    """uint8 [h w 3] of the first frame by Pillow. Raises DataError with the file and the fault."""
    if not encoded:
        raise DataError(f"{name} is empty; remove or replace it")
    library = _pillow()
    try:
        with library.open(io.BytesIO(encoded), formats=tuple(FORMATS)) as image:
            _check_size(*image.size, name)
            image.load()
            return _to_rgb(image)
    except library.UnidentifiedImageError:
        raise DataError(
            f"{name} is not an image ({', '.join(FORMATS)}); remove or replace it"
        ) from None
    except (library.DecompressionBombWarning, library.DecompressionBombError):
        raise _too_large(name) from None
    except (OSError, SyntaxError, ValueError, IndexError, EOFError) as error:
        raise DataError(f"cannot decode {name}: {error}; remove or replace it") from None


def _check_size(width: int, height: int, name: str) -> None:
    if width * height > PIXEL_LIMIT:
        raise _too_large(name)


def _too_large(name: str) -> DataError:
    return DataError(f"{name} has more than {PIXEL_LIMIT:,} pixels; remove it or make it smaller")


def _to_rgb(image) -> np.ndarray:
    """uint8 [h w 3] of a Pillow image. Transparency shows white; 16 bits lose their lower 8.

    Raises ValueError for signed, 32-bit and float values, which do not say what is white.
    """
    library = _pillow()
    if image.mode == "F" or (image.mode == "I" and image.format != "PPM"):
        raise ValueError("its values are neither 8 nor 16 bits without sign")
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _three_channels((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        # RGBa and La have premultiplied colors, which convert() to RGB only by way of RGBA
        image = image.convert("LA" if image.mode == "La" else "RGBA").convert("RGBA")
        white = library.new("RGBA", image.size, "white")
        image = library.alpha_composite(white, image)
    return np.asarray(image.convert("RGB"))


def _three_channels(pixels: np.ndarray) -> np.ndarray:
    return np.repeat(pixels[..., None], 3, axis=-1) if pixels.ndim == 2 else pixels
