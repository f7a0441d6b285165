"""Decode images of any format with Pillow, to uint8 [h w 3]."""

import contextlib
import ctypes
import ctypes.util
import functools
import glob
import importlib
import io
import logging
import os
import struct
import warnings
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Shaped, UInt8

from alexnet_jax.errors import DataError, one_line
from alexnet_jax.specs import Exif

#: Supported formats and their suffixes. A file is recognized by its content, not its suffix, and is never given to a
#: parser of another format. AVIF needs a Pillow built with it, HEIF the package pillow-heif; without them, the error
#: for such a file names what to install.
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
#: Largest number of pixels, checked before decoding: the limit at which Pillow warns of decompression bombs.
PIXEL_LIMIT = 89_478_485
_AVIF_BRANDS = (b"avif", b"avis")
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
#: Exceptions that Pillow raises for damaged files.
_FAULTS = (
    OSError, SyntaxError, ValueError, LookupError, EOFError, RuntimeError, TypeError, ArithmeticError, AssertionError,
    MemoryError, struct.error, zlib.error,
)  # fmt: skip
_ORIENTATION = 0x0112
_WHITE_IS_ZERO = 0
_BITS_PER_SAMPLE, _PHOTOMETRIC, _MAX_VALUE, _MAX_SAMPLE_VALUE = 258, 262, 281, 341


def orientation(image: Any) -> int:
    """Return the EXIF orientation of a Pillow image, 1 to 8; 1 if it is missing, damaged or unknown."""
    try:
        found = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # a damaged tag does not make an image unusable
        return 1
    return int(found) if isinstance(found, int) and 1 <= found <= 8 else 1


def apply_orientation(
    pixels: Shaped[np.ndarray, "h w ..."], orientation: int
) -> Shaped[np.ndarray, "h2 w2 ..."]:
    """Return an upright view of pixels with this EXIF orientation."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    rows = slice(None, None, -1 if orientation in (3, 4, 7, 8) else None)
    columns = slice(None, None, -1 if orientation in (2, 3, 6, 7) else None)
    return pixels[rows, columns]


@functools.cache
def image_module() -> Any:
    """Return PIL.Image, configured once: warnings of huge images become errors, warnings of metadata are ignored."""
    from PIL import Image, TiffImagePlugin

    # For the whole process, because warnings.catch_warnings is not thread-safe.
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
    warnings.simplefilter("error", Image.DecompressionBombWarning)
    # Pillow reads inverted and 12-bit gray images in one byte order only. The bits are packed alike in both.
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
    logging.getLogger("PIL").addHandler(logging.NullHandler())  # the same for messages from Python
    return Image


def _silence_libtiff(pillow: str) -> None:
    """Keep libtiff from printing errors to standard error; Pillow raises them too."""
    folder = os.path.dirname(os.path.dirname(pillow))
    found = glob.glob(os.path.join(glob.escape(folder), "pillow.libs", "libtiff-*.so*"))
    for path in [*found, ctypes.util.find_library("tiff")]:
        with contextlib.suppress(OSError, AttributeError, TypeError):
            # RTLD_NOLOAD: only if Pillow has loaded it.
            library = ctypes.CDLL(path, mode=os.RTLD_NOLOAD | os.RTLD_LAZY)
            library.TIFFSetErrorHandler(None)
            library.TIFFSetWarningHandler(None)


@functools.cache
def readable() -> tuple[str, ...]:
    """Return the FORMATS that the installed Pillow can decode."""
    library = image_module()
    library.init()
    found = set(library.OPEN)
    with contextlib.suppress(ImportError):  # Pillow before 11.3
        if not importlib.import_module("PIL.AvifImagePlugin").SUPPORTED:
            found.discard("AVIF")
    return tuple(name for name in FORMATS if name in found)


@contextlib.contextmanager
def decode_errors(name: str) -> Iterator[None]:
    """Convert exceptions of Pillow to a DataError that names the image and the fault."""
    library = image_module()
    try:
        yield
    except (library.DecompressionBombWarning, library.DecompressionBombError):
        raise too_large(name) from None
    except _FAULTS as error:
        fault = one_line(error) or f"it is damaged ({type(error).__name__})"
        raise DataError(f"cannot decode {name}: {fault}; remove or replace it") from None


def decode_encoded(encoded: bytes, exif: Exif, name: str, limit: int) -> UInt8[np.ndarray, "h w 3"]:
    """Decode the first frame of an encoded image. Raises DataError."""
    if not encoded:
        raise DataError(f"{name} is empty; remove or replace it")
    library = image_module()
    with decode_errors(name):
        try:
            image = library.open(io.BytesIO(encoded), formats=readable())
        except library.UnidentifiedImageError:
            raise DataError(_unidentified(encoded, name)) from None
        with image:
            return decode_image(image, exif, name, limit)


def _unidentified(encoded: bytes, name: str) -> str:
    """Describe why Pillow cannot open a file, and the remedy."""
    brand = encoded[8:12] if encoded[4:8] == b"ftyp" else b""
    if brand in _AVIF_BRANDS + _HEIF_BRANDS:
        kind, remedy = (
            ("AVIF", '"pillow>=11.3"') if brand in _AVIF_BRANDS else ("HEIF", "pillow-heif")
        )
        if kind in readable():
            return f"cannot decode {name}: this {kind} file is damaged; remove or replace it"
        return (
            f"cannot decode {name}: reading {kind} needs pip install {remedy}; "
            "install it, or replace the file with a JPEG"
        )
    if encoded[:4] in (b"II*\0", b"MM\0*"):
        return (
            f"cannot decode {name}: this TIFF file is damaged, or of a kind that Pillow does not read; "
            "remove it, or save it with 8 or 16 bits per value"
        )
    if encoded.lstrip().startswith(b"<"):  # such as an error page saved by a failed download
        return f"{name} is not an image, but HTML or XML text; remove or replace it"
    return f"{name} is not an image ({', '.join(FORMATS)}); remove or replace it"


def decode_image(image: Any, exif: Exif, name: str, limit: int) -> UInt8[np.ndarray, "h w 3"]:
    """Return the pixels of a Pillow image, loaded or not. Call it inside `decode_errors`."""
    width, height = image.size
    check_size(width, height, name, limit)
    if not width or not height:
        raise ValueError("it has no pixels")
    tile = image.tile[0] if getattr(image, "tile", None) else None
    if tile and (tile[0], tile[3]) == ("ppm", ("RGB", 65535)):
        # Read the upper 8 bits, as for PNG; Pillow's own decoder for this depth is a loop in Python.
        image.tile = [tile._replace(codec_name="raw", args="RGB;16B")]
    image.load()
    pixels = to_rgb(image, tile[3] if tile else None)
    # The rotation of an AVIF file is part of its format; Pillow reports it as an EXIF orientation.
    is_applied = exif == "apply" or image.format == "AVIF"
    # The orientation is read after load(), which finds that of a PNG, and has applied and removed that of a TIFF.
    return apply_orientation(pixels, orientation(image)) if is_applied else pixels


def to_rgb(image: Any, raw: Any = None) -> UInt8[np.ndarray, "h w 3"]:
    """Return the RGB pixels of a loaded Pillow image.

    Args:
        raw: The arguments of its decoder, which may tell the bit depth.

    Raises:
        ValueError: The values are signed, 32-bit or float, for which white is not defined.
    """
    library = image_module()
    raw = raw[0] if isinstance(raw, tuple) and len(raw) == 1 else raw
    if image.mode == "F" or (image.mode == "I" and image.format != "PPM"):
        raise ValueError("its values are neither 8 nor 16 bits, or have a sign")
    if image.mode == "I" or image.mode.startswith("I;16"):
        return three_channels(_deep_gray(image, raw))
    hidden = image.info.get("transparency")
    # Pillow converts pixels to 8 bits, but returns the transparent value of a PNG at the depth of the file.
    if isinstance(hidden, tuple) and (raw == "RGB;16B" or max(hidden) > 255):
        image = image.copy()
        image.info["transparency"] = tuple(value >> 8 for value in hidden)
    elif isinstance(hidden, int) and raw in ("L;2", "L;4"):
        image = image.copy()
        image.info["transparency"] = (hidden & 3) * 85 if raw == "L;2" else (hidden & 15) * 17
    if image.has_transparency_data:
        # RGBa and La have premultiplied colors; convert() needs RGBA on the way to RGB.
        image = image.convert("LA" if image.mode == "La" else "RGBA").convert("RGBA")
        white = library.new("RGBA", image.size, "white")
        image = library.alpha_composite(white, image)
    return np.asarray(image.convert("RGB"))


def _deep_gray(image: Any, raw: Any) -> UInt8[np.ndarray, "h w"]:
    """Convert gray values of more than 8 bits to 8 bits, according to the depth that the file declares."""
    values = np.asarray(image)
    tags = getattr(image, "tag_v2", {})
    white = 2**16 - 1
    if _number(tags, _BITS_PER_SAMPLE) == 12:
        white = 2**12 - 1
    declared = _number(tags, _MAX_SAMPLE_VALUE) or _number(tags, _MAX_VALUE) or white
    # Some programs write the largest value of the image into this tag; it is rarely 2^n - 1.
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
    """Return the first value of a TIFF tag, if it is an integer."""
    found = tags.get(tag)
    found = found[0] if isinstance(found, tuple) and found else found
    return found if isinstance(found, int) else None


def three_channels(pixels: UInt8[np.ndarray, "h w *c"]) -> UInt8[np.ndarray, "h w 3"]:
    """Repeat gray values for three channels; leave RGB pixels as they are."""
    return np.repeat(pixels[..., None], 3, axis=-1) if pixels.ndim == 2 else pixels


def check_size(width: int, height: int, name: str, limit: int = PIXEL_LIMIT) -> None:
    """Raise DataError if an image has more than `limit` pixels."""
    if width * height > limit:
        raise too_large(name, limit)


def too_large(name: str, limit: int = PIXEL_LIMIT) -> DataError:
    """Return the error for an image with too many pixels."""
    return DataError(f"{name} has more than {limit:,} pixels; remove it or make it smaller")
