"""Decoding of images to square pixel arrays (§2): resize the shorter side to `size`, then crop the center.

`decode` takes files, encoded bytes, Pillow images and arrays; the same image gives the same pixels in each form.
"""

import functools
import io
import math
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from alexnet_jax import files
from alexnet_jax.data.pipeline import pillow
from alexnet_jax.data.pipeline.pillow import PIXEL_LIMIT
from alexnet_jax.errors import DataError, one_line
from alexnet_jax.specs import Exif

if TYPE_CHECKING:
    from scipy.sparse import csr_array

#: Part of the key of every cached decode: increase it when a change alters the pixels that `decode` returns.
VERSION = 2
#: Rows reduced at once: few enough for the intermediate arrays to stay in the CPU cache.
_ROWS = 96


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

    An image whose shorter side is `size` is only cropped. Transparent pixels become white. 16-bit gray values keep
    their upper 8 bits; other depths are scaled by the depth that the file declares. Color profiles are ignored. Only
    the first frame of an animation is used. Types without a defined white are refused: float, signed and 32-bit
    files, and arrays other than uint8.

    Args:
        exif: 'apply' rotates the image by its EXIF orientation; 'ignore' does not, as in the ImageNet baselines.
            TIFF, HEIC and AVIF files are always rotated upright.
        name: Name of the source in errors, if it is not a path.
        out: Output array, which is then returned; a JPEG of exactly that size is decoded into it without a copy.
        limit: Maximum number of pixels for Pillow, which needs up to 20 bytes per pixel; simplejpeg needs 3 to 6.

    Raises:
        DataError: The image cannot be decoded, or the file is truncated.
    """
    pixels = _decode(source, exif, name, out, limit)
    if pixels is out:
        return pixels
    square = central_square(pixels, size)
    if out is None:
        return square
    out[:] = square
    return out


class Job(NamedTuple):
    """An image to decode.

    Attributes:
        row: Its place in the output.
        name: As in `decode`.
        source: As in `decode`, or a function without arguments that returns it; may raise DataError.
    """

    row: int
    name: str | None
    source: Any


def decode_all(
    jobs: Iterable[Job], out: UInt8[np.ndarray, "n size size 3"], exif: Exif
) -> list[tuple[int, str]]:
    """Decode images into rows of `out`; return (row, fault) of those that cannot be decoded, which become zeros."""
    faults = []
    for row, name, source in jobs:
        try:
            found = source() if callable(source) else source
            decode(found, out.shape[1], exif=exif, name=name, out=out[row])
        except DataError as error:
            out[row] = 0
            faults.append((row, str(error)))
    return faults


def load_libraries() -> None:
    """Import the library that decodes JPEGs; the first image to reduce imports SciPy."""
    _simplejpeg()


def is_image(source: Any) -> bool:
    """Whether the type of `source` is that of a single image; an array must have 2 or 3 axes."""
    if isinstance(source, str | os.PathLike | bytes | bytearray | memoryview) or _is_pillow(source):
        return True
    return hasattr(source, "__array__") and np.ndim(source) in (2, 3)


def _decode(
    source: Any, exif: Exif, name: str | None, out: np.ndarray | None, limit: int
) -> UInt8[np.ndarray, "h w 3"]:
    """Decode at the original size; return `out` itself if the image was decoded into it."""
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
    """Convert an object with `__array__`. Raises DataError for other types and shapes than `decode` accepts."""
    try:
        pixels = np.asarray(source)
    except Exception as error:  # for example, a torch tensor on a GPU
        raise DataError(f"{name} cannot be converted to an array: {one_line(error)}") from None
    is_shaped = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (1, 3, 4))
    if pixels.dtype != np.uint8 or not is_shaped or not pixels.size:
        if pixels.dtype == np.uint16:
            remedy = "; convert 16-bit values with (pixels >> 8).astype(np.uint8)"
        elif pixels.dtype == bool:
            remedy = "; convert with 255 * pixels.astype(np.uint8)"
        elif pixels.dtype.kind == "f":
            remedy = "; convert values from 0 to 1 with np.rint(255 * pixels).astype(np.uint8)"
        elif pixels.ndim == 3 and pixels.shape[0] in (1, 3, 4):
            remedy = "; channels come last: pixels.transpose(1, 2, 0)"
        else:
            remedy = ""
        raise DataError(
            f"{name}: pixels must be uint8 [h w 3] from 0 to 255 (or [h w], [h w 1], or [h w 4] with alpha), "
            f"not {pixels.dtype} {list(pixels.shape)}{remedy}"
        )
    pillow.check_size(pixels.shape[1], pixels.shape[0], name, limit)
    if pixels.ndim == 3 and pixels.shape[2] == 4:
        return pillow.to_rgb(pillow.image_module().fromarray(np.ascontiguousarray(pixels)))
    return pillow.three_channels(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels)


def _decode_bytes(
    encoded: bytes, exif: Exif, name: str, out: np.ndarray | None, limit: int
) -> UInt8[np.ndarray, "h w 3"]:
    """Decode with simplejpeg, or with Pillow where simplejpeg cannot."""
    orientation = _jpeg_orientation(encoded) if exif == "apply" else 1
    pixels = _decode_jpeg(encoded, name, out if orientation == 1 else None)
    if pixels is None:
        return pillow.decode_encoded(encoded, exif, name, limit)
    return pillow.apply_orientation(pixels, orientation)


def _jpeg_orientation(encoded: bytes) -> int:
    """Return the EXIF orientation of a JPEG, and 1 for other files; Pillow opens it only if it has an APP1 segment."""
    if encoded[:2] != b"\xff\xd8":
        return 1
    i = 2
    while encoded[i : i + 1] == b"\xff" and encoded[i + 1 : i + 2] != b"\xe1":  # not APP1
        if encoded[i + 1 : i + 2] == b"\xda":  # start of scan: no metadata follows
            return 1
        i += 2 + int.from_bytes(encoded[i + 2 : i + 4], "big")
    try:
        with pillow.image_module().open(io.BytesIO(encoded), formats=("JPEG",)) as image:
            return pillow.orientation(image)
    except Exception:  # decoding reports the damage
        return 1


def central_square(
    pixels: UInt8[np.ndarray, "h w 3"], size: int
) -> UInt8[np.ndarray, "size size 3"]:
    """Crop the central square and resize it: bicubic to enlarge, area averages to reduce.

    Equal to resizing the shorter side and then cropping the center (§2), but cheaper. The two filters are those of
    cuda-convnet2's make-data.py.
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
    """Average over size x size equal cells of the square; a pixel on a border counts by its share in the cell."""
    offset = int(left)
    pixels = pixels[:, offset : offset + side + 1]
    ((covered, columns),) = _averages(pixels.shape[1], left - offset, side, size, size)
    pixels = pixels[:, covered]
    width = pixels.shape[1]
    square = np.empty((size, size * 3), np.uint8)
    start = 0
    strip = max(_ROWS * size // side, 1)
    for covered, rows in _averages(pixels.shape[0], top, side, size, strip):
        narrow = _product(rows, pixels[covered].reshape(-1, width * 3).astype(np.float32))
        turned = np.ascontiguousarray(narrow.T).reshape(width, -1)
        small = _product(columns, turned)
        stop = start + len(narrow)
        square[start:stop] = np.rint(small, out=small).astype(np.uint8).reshape(size * 3, -1).T
        start = stop
    return square.reshape(size, size, 3)


@functools.lru_cache(maxsize=1024)
def _averages(
    length: int, start: float, side: int, size: int, strip: int
) -> list[tuple[slice, "csr_array"]]:
    """Return matrices of weights float32 [strip, covered] for averages along an axis of `length` pixels.

    The `size` outputs divide `side` pixels equally, from `start` on. Each matrix is for the next `strip` outputs and
    comes with the pixels that they cover.
    """
    from scipy.sparse import csr_array

    edges = np.linspace(start, start + side, size + 1)
    taps = np.arange(math.ceil(side / size) + 1)
    indices = np.floor(edges[:-1, None]).astype(np.int32) + taps.astype(np.int32)
    shares = np.minimum(indices + 1, edges[1:, None]) - np.maximum(indices, edges[:-1, None])
    weights = (np.clip(shares, 0, None) * (size / side)).astype(np.float32)
    indices = np.minimum(indices, length - 1)
    matrices = []
    for i in range(0, size, strip):
        used = weights[i : i + strip] > 0
        chosen = indices[i : i + strip][used]
        first, stop = int(chosen[0]), int(chosen[-1]) + 1
        ends = np.concatenate([[0], used.sum(axis=1).cumsum()]).astype(np.int32)
        entries = (weights[i : i + strip][used], chosen - first, ends)
        matrices.append((slice(first, stop), csr_array(entries, (len(used), stop - first))))
    return matrices


def _product(matrix: "csr_array", values: Float[np.ndarray, "m n"]) -> Float[np.ndarray, "k n"]:
    """Multiply; the sums have the same bits on every machine."""
    return matrix @ values if _rounds_products() else _slow_product(matrix, values)


def _slow_product(
    matrix: "csr_array", values: Float[np.ndarray, "m n"]
) -> Float[np.ndarray, "k n"]:
    counts = np.diff(matrix.indptr)
    total = np.zeros((len(counts), values.shape[1]), np.float32)
    for tap in range(counts.max()):
        rows = np.flatnonzero(counts > tap)
        entries = matrix.indptr[rows] + tap
        total[rows] += values[matrix.indices[entries]] * matrix.data[entries, None]
    return total


@functools.cache
def _rounds_products() -> bool:
    """Whether the installed SciPy rounds a product before it is added; builds with FMA instructions do not."""
    ((_, matrix),) = _averages(37, 0.0, 37, 16, 16)
    values = np.random.default_rng(0).uniform(0, 255, (37, 64)).astype(np.float32)
    return np.array_equal(matrix @ values, _slow_product(matrix, values))


@functools.cache
def _simplejpeg() -> Any:
    """Return the module simplejpeg, or None if it is not installed: Pillow is slower but gives the same pixels."""
    try:
        import simplejpeg
    except ImportError:
        return None
    return simplejpeg


def _decode_jpeg(
    encoded: bytes, name: str, out: np.ndarray | None = None
) -> UInt8[np.ndarray, "h w 3"] | None:
    """Decode with simplejpeg, into `out` if its shape fits; return None if Pillow must decode the file instead.

    Files that simplejpeg rejects go to Pillow, too, which decides whether they are damaged. Raises DataError for a
    file with too many pixels.
    """
    library = _simplejpeg()
    if library is None or encoded[:2] != b"\xff\xd8":
        return None
    try:
        height, width, color_space, _ = library.decode_jpeg_header(encoded)
        pillow.check_size(int(width), int(height), name)
        if color_space not in ("YCbCr", "Gray", "RGB"):
            return None  # CMYK: Pillow handles the inverted values of Adobe files
        if out is not None and out.shape == (height, width, 3) and out.flags.c_contiguous:
            library.decode_jpeg(encoded, colorspace="RGB", strict=True, buffer=out)
            return out
        return library.decode_jpeg(encoded, colorspace="RGB", strict=True)
    except ValueError:
        return None
