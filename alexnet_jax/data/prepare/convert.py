"""Convert an image of a source to an image of a store."""

import hashlib
import io
import os
import zlib
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from alexnet_jax.data.pipeline import images, pillow
from alexnet_jax.data.sources.archives import MAX_FILE_BYTES
from alexnet_jax.errors import DataError
from alexnet_jax.specs import Exif

# As make-data.py of cuda-convnet2: OpenCV writes JPEG with color at half the resolution.
SUBSAMPLING = "420"
_TURNED = "turned as EXIF says"


class Options(NamedTuple):
    """How images are stored."""

    #: "jpeg" or "raw".
    format: str
    #: Pixels per side.
    size: int
    #: JPEG quality, from 1 to 100.
    quality: int
    exif: Exif = "ignore"


def convert(
    content: bytes | np.ndarray, options: Options, title: str
) -> tuple[UInt8[np.ndarray, "s s 3"], bytes, list[str]]:
    """Convert an encoded image or an array of pixels.

    A JPEG file that already has the right size is stored unchanged.

    Returns:
        The pixels; the JPEG record, or b"" for the format "raw"; descriptions of what was changed.

    Raises:
        DataError: The image cannot be decoded.
    """
    size = options.size
    kept, changes = False, []
    if isinstance(content, bytes):
        if content[:2] == b"\x1f\x8b":  # gzipped, as some files of ILSVRC-2010 are said to be
            content = _gunzipped(content, title)
            changes.append("gzipped")
        pixels = images.decode(content, size, exif=options.exif, name=title)
        kind, (width, height), found = inspect(content, title, options.exif)
        changes += found
        kept = kind == "JPEG" and width == height == size
        kept &= not {"CMYK, now RGB", _TURNED} & set(found)
    else:
        height, width = content.shape[:2]
        pixels = images.decode(content, size, name=title)
    if min(width, height) < size:
        changes.append(f"enlarged to {size} pixels")
    if options.format == "raw":
        return pixels, b"", changes
    if kept and isinstance(content, bytes):
        return pixels, content, changes
    import simplejpeg

    record = simplejpeg.encode_jpeg(
        np.ascontiguousarray(pixels),
        quality=options.quality,
        colorspace="RGB",
        colorsubsampling=SUBSAMPLING,
        fastdct=False,
    )
    return pixels, record, changes


def digest(content: bytes | np.ndarray) -> str:
    """Return the SHA-256 of an image of a source, by which duplicates are found."""
    encoded = content if isinstance(content, bytes) else content.tobytes()
    return hashlib.sha256(encoded).hexdigest()


def _gunzipped(content: bytes, title: str) -> bytes:
    """Unpack a gzipped image. Raises DataError."""
    inflater = zlib.decompressobj(zlib.MAX_WBITS | 16)
    try:
        unpacked = inflater.decompress(content, MAX_FILE_BYTES)
    except zlib.error as error:
        raise DataError(f"{title} is damaged: {error}") from None
    if not inflater.eof:
        raise DataError(f"{title} is gzipped, and is truncated or too large")
    return unpacked


def inspect(encoded: bytes, title: str, exif: Exif) -> tuple[str, tuple[int, int], list[str]]:
    """Read the header of a decodable image. The format is that of its content, not of its name.

    Returns:
        The format, (width, height), and descriptions of what decoding changes.
    """
    changes = []
    with pillow.image_module().open(io.BytesIO(encoded), formats=pillow.readable()) as image:
        kind = image.format if image.format in pillow.FORMATS else "JPEG"  # such as MPO
        mode, size = image.mode, image.size
        if mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
            changes.append("transparent, now on white")
        if getattr(image, "is_animated", False) and kind != "JPEG":
            changes.append("animated, first frame kept")
        orientation = pillow.orientation(image)
    suffix = os.path.splitext(title)[1].lower()
    named = next((name for name, suffixes in pillow.FORMATS.items() if suffix in suffixes), kind)
    if named != kind:
        changes.append(f"{kind} under the name of a {named}")
    if mode == "CMYK":
        changes.append("CMYK, now RGB")
    if mode in ("1", "L", "LA", "I") or mode.startswith("I;"):
        changes.append("gray, now RGB")
    if mode in ("P", "PA"):
        changes.append("with a palette, now RGB")
    if mode.startswith("I") or (kind == "PNG" and encoded[24:25] == b"\x10"):
        changes.append("16-bit, now 8-bit")
    if orientation != 1 and kind not in ("TIFF", "AVIF", "HEIF"):  # their decoders apply it
        changes.append(_TURNED if exif == "apply" else "with an EXIF orientation, which is ignored")
    return kind, size, changes
