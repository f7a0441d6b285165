"""Images of any format by Pillow, as uint8 [h w 3]."""

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

from alexnet_jax.errors import DataError
from alexnet_jax.specs import Exif

#: Formats that are read, by content and whatever the suffix; no parser of another format ever sees a file. AVIF needs a
#: Pillow that was built with it, HEIF the package pillow-heif: without them such a file is an error with the remedy.
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
#: Checked before decoding; where Pillow begins to warn of files that are made to exhaust memory.
PIXEL_LIMIT = 89_478_485
_AVIF_BRANDS = (b"avif", b"avis")
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
#: What Pillow raises of damaged files.
_FAULTS = (
    OSError, SyntaxError, ValueError, LookupError, EOFError, RuntimeError, TypeError, ArithmeticError, AssertionError,
    MemoryError, struct.error, zlib.error,
)  # fmt: skip
_ORIENTATION = 0x0112
_WHITE_IS_ZERO = 0
_BITS_PER_SAMPLE, _PHOTOMETRIC, _MAX_VALUE, _MAX_SAMPLE_VALUE = 258, 262, 281, 341


def orientation(image: Any) -> int:
    """The EXIF orientation of a Pillow image, 1 to 8; 1 if it is missing, damaged or unknown."""
    try:
        found = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # a damaged tag does not make an image unusable
        return 1
    return int(found) if isinstance(found, int) and 1 <= found <= 8 else 1


def turned(
    pixels: Shaped[np.ndarray, "h w ..."], orientation: int
) -> Shaped[np.ndarray, "h2 w2 ..."]:
    """An upright view of pixels with this EXIF orientation."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    rows = slice(None, None, -1 if orientation in (3, 4, 7, 8) else None)
    columns = slice(None, None, -1 if orientation in (2, 3, 6, 7) else None)
    return pixels[rows, columns]


@functools.cache
def module() -> Any:
    """The module PIL.Image, set up once: its warning of huge images is an error, those of metadata are silent."""
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
    """Keep libtiff from writing faults of files to standard error: Pillow raises them too."""
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
def readable() -> tuple[str, ...]:
    """The FORMATS that can be decoded here."""
    library = module()
    library.init()
    found = set(library.OPEN)
    with contextlib.suppress(ImportError):  # of a Pillow before 11.3
        if not importlib.import_module("PIL.AvifImagePlugin").SUPPORTED:
            found.discard("AVIF")
    return tuple(name for name in FORMATS if name in found)


@contextlib.contextmanager
def faults_named(name: str) -> Iterator[None]:
    """Turn what Pillow raises into a DataError with the name of the image and the fault."""
    library = module()
    try:
        yield
    except (library.DecompressionBombWarning, library.DecompressionBombError):
        raise too_large(name) from None
    except _FAULTS as error:
        said = " ".join(str(error).split()) or f"it is damaged ({type(error).__name__})"
        raise DataError(f"cannot decode {name}: {said}; remove or replace it") from None


def decode_encoded(encoded: bytes, exif: Exif, name: str, limit: int) -> UInt8[np.ndarray, "h w 3"]:
    """Decode the first frame of an encoded image. Raises DataError with the file and the fault."""
    if not encoded:
        raise DataError(f"{name} is empty; remove or replace it")
    library = module()
    with faults_named(name):
        try:
            image = library.open(io.BytesIO(encoded), formats=readable())
        except library.UnidentifiedImageError:
            raise DataError(_unidentified(encoded, name)) from None
        with image:
            return decode_image(image, exif, name, limit)


def _unidentified(encoded: bytes, name: str) -> str:
    """Describe what is wrong with a file that Pillow does not open, and the remedy."""
    brand = encoded[8:12] if encoded[4:8] == b"ftyp" else b""
    if brand in _AVIF_BRANDS + _HEIF_BRANDS:
        kind, remedy = (
            ("AVIF", '"pillow>=11.3"') if brand in _AVIF_BRANDS else ("HEIF", "pillow-heif")
        )
        if kind in readable():
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


def decode_image(image: Any, exif: Exif, name: str, limit: int) -> UInt8[np.ndarray, "h w 3"]:
    """Pixels of a Pillow image, loaded or not; to be called within `faults_named`."""
    width, height = image.size
    check_size(width, height, name, limit)
    if not width or not height:
        raise ValueError("it has no pixels")
    tile = image.tile[0] if getattr(image, "tile", None) else None
    if tile and (tile[0], tile[3]) == ("ppm", ("RGB", 65535)):
        # The upper 8 bits, as of PNG, instead of a loop in Python.
        image.tile = [tile._replace(codec_name="raw", args="RGB;16B")]
    image.load()
    pixels = to_rgb(image, tile[3] if tile else None)
    # An AVIF file is turned by its own properties, which Pillow shows as an orientation.
    is_turned = exif == "apply" or image.format == "AVIF"
    # Read after load(): only then is that of a PNG known, and that of a TIFF done with.
    return turned(pixels, orientation(image)) if is_turned else pixels


def to_rgb(image: Any, raw: Any = None) -> UInt8[np.ndarray, "h w 3"]:
    """Pixels of a loaded Pillow image; `raw` are the arguments of its decoder, which may include the depth.

    Raises ValueError for signed, 32-bit and float values, which have no defined white.
    """
    library = module()
    raw = raw[0] if isinstance(raw, tuple) and len(raw) == 1 else raw
    if image.mode == "F" or (image.mode == "I" and image.format != "PPM"):
        raise ValueError("its values are neither 8 nor 16 bits without sign")
    if image.mode == "I" or image.mode.startswith("I;16"):
        return three_channels(_deep_gray(image, raw))
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


def _deep_gray(image: Any, raw: Any) -> UInt8[np.ndarray, "h w"]:
    """Gray values of more than 8 bits, scaled by the depth that the file declares."""
    values = np.asarray(image)
    tags = getattr(image, "tag_v2", {})
    white = 2**16 - 1
    if _number(tags, _BITS_PER_SAMPLE) == 12:
        white = 2**12 - 1
    declared = _number(tags, _MAX_SAMPLE_VALUE) or _number(tags, _MAX_VALUE) or white
    # Programs that write the largest value of the picture here rarely write one of these.
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
    """The value of a TIFF tag, or the first of several."""
    found = tags.get(tag)
    found = found[0] if isinstance(found, tuple) and found else found
    return found if isinstance(found, int) else None


def three_channels(pixels: UInt8[np.ndarray, "h w *c"]) -> UInt8[np.ndarray, "h w 3"]:
    """Repeat gray values for each channel."""
    return np.repeat(pixels[..., None], 3, axis=-1) if pixels.ndim == 2 else pixels


def check_size(width: int, height: int, name: str, limit: int = PIXEL_LIMIT) -> None:
    """Raise DataError for an image with too many pixels."""
    if width * height > limit:
        raise too_large(name, limit)


def too_large(name: str, limit: int = PIXEL_LIMIT) -> DataError:
    return DataError(f"{name} has more than {limit:,} pixels; remove it or make it smaller")
