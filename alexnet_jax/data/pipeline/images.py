"""From an image in any form to a square of pixels (§2): shorter side to `size`, then the center.

Files, encoded bytes, Pillow images and arrays all come through `decode`: the same image gives the same pixels in each
of these forms.
"""

import contextlib
import ctypes
import ctypes.util
import functools
import glob
import importlib
import io
import logging
import math
import os
import struct
import warnings
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from alexnet_jax import files
from alexnet_jax.errors import DataError
from alexnet_jax.specs import Exif

_STRIP = 64
"""Output rows made at once: their intermediates then stay in the cache of the processor."""
FORMATS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png", ".apng"),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "AVIF": (".avif", ".avifs"),
    "HEIF": (".heic", ".heif", ".hif", ".heics", ".heifs"),
}
"""What is read, by content and whatever the suffix; no parser of another format ever sees a file.

AVIF needs a Pillow that was built with it, HEIF the package pillow-heif: without them such a file is an error that
names the remedy.
"""
PIXEL_LIMIT = 89_478_485
"""Checked before decoding; where Pillow begins to warn of files that are made to exhaust memory."""
VERSION = 2
"""Part of the name of every cached decode: raise it when `decode` gives other pixels."""
_AVIF_BRANDS = (b"avif", b"avis")
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_FAULTS = (
    OSError, SyntaxError, ValueError, LookupError, EOFError, RuntimeError, TypeError, ArithmeticError, AssertionError,
    MemoryError, struct.error, zlib.error,
)  # fmt: skip
"""What Pillow raises of damaged files."""
_ORIENTATION = 0x0112
_WHITE_IS_ZERO = 0
_BITS_PER_SAMPLE, _PHOTOMETRIC, _MAX_VALUE, _MAX_SAMPLE_VALUE = 258, 262, 281, 341


def decode(
    source: Any,
    size: int,
    *,
    exif: Exif = "ignore",
    name: str | None = None,
    out: np.ndarray | None = None,
    limit: int = PIXEL_LIMIT,
) -> np.ndarray:
    """uint8 [size size 3] of a path, encoded bytes, a Pillow image, or uint8 [h w 3], [h w 4], [h w 1] or [h w].

    An image whose shorter side is `size` keeps its pixels. Transparency shows white. Gray values of 16 bits keep
    their upper 8; those of another depth are scaled by the depth that the file declares. Color profiles are ignored;
    of an animation the first frame counts. Values that do not say what is white are refused: float, signed, 32 bits,
    and arrays other than uint8.

    exif: whether the orientation that a camera notes turns the image ('apply') or not ('ignore', as the ImageNet
        baselines do). TIFF, HEIC and AVIF turn an image themselves, and are always upright.
    name: stands for the source in errors, where that is no path.
    out: uint8 [size size 3], receives the pixels and is returned; a JPEG of that size is decoded right into it.

    limit: the most pixels of a file that Pillow decodes, at up to 20 bytes a pixel; JPEG takes 3 to 6.

    Raises DataError, also for a file that is cut short.
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
    """Whether `source` is one image, by its type alone; an array is one with 2 or 3 axes."""
    if isinstance(source, str | os.PathLike | bytes | bytearray | memoryview) or _is_pillow(source):
        return True
    return hasattr(source, "__array__") and np.ndim(source) in (2, 3)


def orientation(image: Any) -> int:
    """The EXIF orientation of a Pillow image, 1 to 8; 1 where there is none, or a damaged or unknown one."""
    try:
        found = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # whatever the parser of a damaged tag meets: it makes no image bad
        return 1
    return int(found) if isinstance(found, int) and 1 <= found <= 8 else 1


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """A view of [h w ...] as it should be seen, of pixels with this EXIF orientation."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    rows = slice(None, None, -1 if orientation in (3, 4, 7, 8) else None)
    columns = slice(None, None, -1 if orientation in (2, 3, 6, 7) else None)
    return pixels[rows, columns]


def _decode(
    source: Any, exif: Exif, name: str | None, out: np.ndarray | None, limit: int
) -> np.ndarray:
    """uint8 [h w 3]; `out` itself where it was decoded into that."""
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
        with _faults_named(title):
            return _decode_pillow(source, exif, title, limit)
    name = name or "image"
    if not hasattr(source, "__array__"):
        raise DataError(
            f"{name} is of the type {type(source).__name__}; an image is a path, the bytes of a file, "
            "a Pillow image, or an array uint8 [h w 3]"
        )
    return _checked_array(source, name, limit)


def _is_pillow(source: Any) -> bool:
    return hasattr(source, "getexif") and hasattr(source, "convert")


def _checked_array(source: Any, name: str, limit: int) -> np.ndarray:
    """uint8 [h w 3] of an array, of NumPy or of what can become one. Raises DataError."""
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
    _check_size(pixels.shape[1], pixels.shape[0], name, limit)
    if pixels.ndim == 3 and pixels.shape[2] == 4:
        return _to_rgb(_pillow().fromarray(np.ascontiguousarray(pixels)))
    return _three_channels(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels)


def _decode_bytes(
    encoded: bytes, exif: Exif, name: str, out: np.ndarray | None, limit: int
) -> np.ndarray:
    """uint8 [h w 3] of an encoded image."""
    place = _jpeg_orientation(encoded) if exif == "apply" else 1
    pixels = _decode_jpeg(encoded, name, out if place == 1 else None)
    return _decode_any(encoded, exif, name, limit) if pixels is None else turned(pixels, place)


def _jpeg_orientation(encoded: bytes) -> int:
    """As `orientation` of a JPEG file, 1 of any other; Pillow is asked only where there may be metadata."""
    if encoded[:2] != b"\xff\xd8":
        return 1
    place = 2
    while encoded[place : place + 1] == b"\xff" and encoded[place + 1 : place + 2] != b"\xe1":
        if encoded[place + 1 : place + 2] == b"\xda":  # the pixels begin
            return 1
        place += 2 + int.from_bytes(encoded[place + 2 : place + 4], "big")
    try:
        with _pillow().open(io.BytesIO(encoded), formats=("JPEG",)) as image:
            return orientation(image)
    except Exception:  # `_decode_jpeg` or Pillow will say what is wrong with the file
        return 1


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


def _decode_jpeg(encoded: bytes, name: str, out: np.ndarray | None = None) -> np.ndarray | None:
    """uint8 [h w 3], in `out` if it fits there, or None for what simplejpeg does not take; Pillow then decides.

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
        if out is not None and out.shape == (height, width, 3) and out.flags.c_contiguous:
            library.decode_jpeg(encoded, colorspace="RGB", strict=True, buffer=out)
            return out
        return library.decode_jpeg(encoded, colorspace="RGB", strict=True)
    except ValueError:
        return None


@functools.cache
def _pillow():
    """PIL.Image. Its warning of huge images becomes an error; on metadata, not used here, it is silent."""
    from PIL import Image, TiffImagePlugin

    # Once for the process: warnings.catch_warnings is not safe among threads.
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
    warnings.simplefilter("error", Image.DecompressionBombWarning)
    # Pillow reads inverted and 12-bit grays of one byte order alone. Bits are packed alike in both.
    for order, photometric, bits, mode, raw in (
        (b"MM", _WHITE_IS_ZERO, 16, "I;16B", "I;16B"),
        (b"MM", 1, 12, "I;16", "I;12"),
        (b"II", _WHITE_IS_ZERO, 12, "I;16", "I;12"),
        (b"MM", _WHITE_IS_ZERO, 12, "I;16", "I;12"),
    ):
        key = (order, photometric, (1,), 1, (bits,), ())
        TiffImagePlugin.OPEN_INFO.setdefault(key, (mode, raw))
    with contextlib.suppress(ImportError):
        importlib.import_module("pillow_heif").register_heif_opener()
    _silence_libtiff(Image.__file__)
    logging.getLogger("PIL").addHandler(logging.NullHandler())  # the same in Python
    return Image


def _silence_libtiff(pillow: str) -> None:
    """Keep it from writing to standard error what is wrong with a file: Pillow raises that, too."""
    folder = os.path.dirname(os.path.dirname(pillow))
    found = glob.glob(os.path.join(glob.escape(folder), "pillow.libs", "libtiff-*.so*"))
    for path in [*found, ctypes.util.find_library("tiff")]:
        with contextlib.suppress(OSError, AttributeError, TypeError):
            library = ctypes.CDLL(
                path, mode=os.RTLD_NOLOAD | os.RTLD_LAZY
            )  # only if Pillow uses it
            library.TIFFSetErrorHandler(None)
            library.TIFFSetWarningHandler(None)


@functools.cache
def _readable() -> tuple[str, ...]:
    """Those of FORMATS that can be decoded here."""
    library = _pillow()
    library.init()
    found = set(library.OPEN)
    with contextlib.suppress(ImportError):  # of a Pillow before 11.3
        if not importlib.import_module("PIL.AvifImagePlugin").SUPPORTED:
            found.discard("AVIF")
    return tuple(name for name in FORMATS if name in found)


@contextlib.contextmanager
def _faults_named(name: str) -> Iterator[None]:
    """What Pillow raises of an image, as DataError with its name and the fault."""
    library = _pillow()
    try:
        yield
    except (library.DecompressionBombWarning, library.DecompressionBombError):
        raise _too_large(name) from None
    except _FAULTS as error:
        said = " ".join(str(error).split()) or f"it is damaged ({type(error).__name__})"
        raise DataError(f"cannot decode {name}: {said}; remove or replace it") from None


def _decode_any(encoded: bytes, exif: Exif, name: str, limit: int) -> np.ndarray:
    """uint8 [h w 3] of the first frame by Pillow. Raises DataError with the file and the fault."""
    if not encoded:
        raise DataError(f"{name} is empty; remove or replace it")
    library = _pillow()
    with _faults_named(name):
        try:
            image = library.open(io.BytesIO(encoded), formats=_readable())
        except library.UnidentifiedImageError:
            raise DataError(_unidentified(encoded, name)) from None
        with image:
            return _decode_pillow(image, exif, name, limit)


def _unidentified(encoded: bytes, name: str) -> str:
    """What is wrong with a file that Pillow does not open, and the remedy."""
    brand = encoded[8:12] if encoded[4:8] == b"ftyp" else b""
    if brand in _AVIF_BRANDS + _HEIF_BRANDS:
        kind, remedy = (
            ("AVIF", '"pillow>=11.3"') if brand in _AVIF_BRANDS else ("HEIF", "pillow-heif")
        )
        if kind in _readable():
            return f"cannot decode {name}: this {kind} file is damaged; remove or replace it"
        return (
            f"cannot decode {name}: reading {kind} needs pip install {remedy}; "
            "do so, or replace it by a JPEG"
        )
    if encoded[:4] in (b"II*\0", b"MM\0*"):
        return (
            f"cannot decode {name}: this TIFF file is damaged, or of a kind that Pillow does not read; "
            "remove it, or save it with 8 or 16 bits a value"
        )
    if encoded.lstrip().startswith(b"<"):  # the page of an error, as downloads leave it
        return f"{name} is not an image, but HTML or XML text; remove or replace it"
    return f"{name} is not an image ({', '.join(FORMATS)}); remove or replace it"


def _decode_pillow(image: Any, exif: Exif, name: str, limit: int) -> np.ndarray:
    """uint8 [h w 3] of a Pillow image, loaded or not. Raises what `_faults_named` names."""
    width, height = image.size
    _check_size(width, height, name, limit)
    if not width or not height:
        raise ValueError("it has no pixels")
    tile = image.tile[0] if getattr(image, "tile", None) else None
    if tile and (tile[0], tile[3]) == ("ppm", ("RGB", 65535)):
        # The upper 8 bits, as of PNG, instead of a loop in Python.
        image.tile = [tile._replace(codec_name="raw", args="RGB;16B")]
    image.load()
    pixels = _to_rgb(image, tile[3] if tile else None)
    # An AVIF file is turned by its own properties, which Pillow shows as an orientation.
    is_turned = exif == "apply" or image.format == "AVIF"
    # Read after load(): only then is that of a PNG known, and that of a TIFF done with.
    return turned(pixels, orientation(image)) if is_turned else pixels


def _check_size(width: int, height: int, name: str, limit: int = PIXEL_LIMIT) -> None:
    if width * height > limit:
        raise _too_large(name, limit)


def _too_large(name: str, limit: int = PIXEL_LIMIT) -> DataError:
    return DataError(f"{name} has more than {limit:,} pixels; remove it or make it smaller")


def _to_rgb(image: Any, raw: Any = None) -> np.ndarray:
    """uint8 [h w 3] of a loaded Pillow image; `raw` is what its decoder was told, which may say the depth.

    Raises ValueError for signed, 32-bit and float values, which do not say what is white.
    """
    library = _pillow()
    raw = raw[0] if isinstance(raw, tuple) and len(raw) == 1 else raw
    if image.mode == "F" or (image.mode == "I" and image.format != "PPM"):
        raise ValueError("its values are neither 8 nor 16 bits without sign")
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _three_channels(_deep_gray(image, raw))
    hidden = image.info.get("transparency")
    # Pillow gives the transparent value of a PNG as the file has it, and the pixels as 8 bits.
    if isinstance(hidden, tuple) and (raw == "RGB;16B" or max(hidden) > 255):
        image = image.copy()
        image.info["transparency"] = tuple(value >> 8 for value in hidden)
    elif isinstance(hidden, int) and raw in ("L;2", "L;4"):
        image = image.copy()
        image.info["transparency"] = (hidden & 3) * 85 if raw == "L;2" else (hidden & 15) * 17
    if image.has_transparency_data:
        # RGBa and La have premultiplied colors, which convert() to RGB only by way of RGBA
        image = image.convert("LA" if image.mode == "La" else "RGBA").convert("RGBA")
        white = library.new("RGBA", image.size, "white")
        image = library.alpha_composite(white, image)
    return np.asarray(image.convert("RGB"))


def _deep_gray(image: Any, raw: Any) -> np.ndarray:
    """uint8 [h w] of gray values of more than 8 bits, scaled by the depth that the file declares."""
    values = np.asarray(image)
    tags = getattr(image, "tag_v2", {})
    white = 2**16 - 1
    if _number(tags, _BITS_PER_SAMPLE) == 12:
        white = 2**12 - 1
    declared = _number(tags, _MAX_SAMPLE_VALUE) or _number(tags, _MAX_VALUE) or white
    # A program that writes the largest value of the picture instead has rarely one of these.
    if declared in [2**bits - 1 for bits in range(8, 16)] and values.max() <= declared:
        white = declared
    is_scaled = image.format == "PPM" and isinstance(raw, tuple) and raw[-1] != white
    gray = values >> 8 if white == 2**16 - 1 and not is_scaled else np.rint(values * (255 / white))
    gray = gray.astype(np.uint8)
    if _number(tags, _PHOTOMETRIC) == _WHITE_IS_ZERO:
        gray = 255 - gray
    if isinstance(hidden := image.info.get("transparency"), int):
        gray = np.where(values == hidden, np.uint8(255), gray)
    return gray


def _number(tags: Any, tag: int) -> int | None:
    """The value of a TIFF tag, the first where there are several."""
    found = tags.get(tag)
    found = found[0] if isinstance(found, tuple) and found else found
    return found if isinstance(found, int) else None


def _three_channels(pixels: np.ndarray) -> np.ndarray:
    return np.repeat(pixels[..., None], 3, axis=-1) if pixels.ndim == 2 else pixels
