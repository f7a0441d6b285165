"""A corpus of odd and damaged image files: each is decoded right, or refused by its path."""

import contextlib
import functools
import io
import re
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from alexnet_jax.data.pipeline import images, pillow
from alexnet_jax.errors import DataError

SIDE = 32


#: Every case has the same outcome with both decoders of JPEG.
pytestmark = pytest.mark.usefixtures("jpeg_decoder")


@functools.cache
def picture(seed=0):
    """Soft colors, which a JPEG keeps."""
    small = np.random.default_rng(seed).integers(0, 256, (3, 3, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def encoded(format, image=None, **options):
    file = io.BytesIO()
    options = {"quality": 95} | options if format in ("JPEG", "MPO") else options
    (image or picture()).save(file, format, **options)
    return file.getvalue()


def jpeg(**options):
    return encoded("JPEG", **options)


def jpeg_of_size(width, height):
    """The start of frame says another size than the data have."""
    whole = jpeg()
    place = whole.index(b"\xff\xc0") + 5
    return whole[:place] + struct.pack(">HH", height, width) + whole[place + 4 :]


def without_adobe(data):
    """A JPEG without the marker that says how its colors are meant."""
    place = data.index(b"\xff\xee")
    return data[:place] + data[place + 2 + struct.unpack(">H", data[place + 2 : place + 4])[0] :]


def chunk(kind, content):
    checksum = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + checksum


def png_of_size(width, height, data=bytes(100)):
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(data))
    return b"\x89PNG\r\n\x1a\n" + header + data + chunk(b"IEND", b"")


def png_with(kind, content):
    """A sound PNG with one more chunk."""
    whole = encoded("PNG")
    place = whole.index(b"IDAT") - 4
    return whole[:place] + chunk(kind, content) + whole[place:]


@functools.cache
def bomb():
    """50 MB of zeros in 50 kB."""
    return zlib.compress(bytes(50_000_000))


def overwritten(data, place, content):
    return data[:place] + content + data[place + len(content) :]


def gray_tiff(dtype):
    return encoded("TIFF", Image.fromarray(np.full((SIDE, SIDE), 7, dtype)))


SHORT = "cannot decode"
FOREIGN = "is not an image"
LARGE = "more than 89,478,485 pixels"
REFUSED = {
    "empty.jpg": (lambda: b"", "is empty"),
    "empty.png": (lambda: b"", "is empty"),
    "one-byte.jpg": (lambda: b"\xff", FOREIGN),
    "text.jpg": (lambda: b"no picture", FOREIGN),
    "page.jpg": (lambda: b"<!DOCTYPE html><title>404</title>", FOREIGN),
    "zeros.jpg": (lambda: bytes(5000), FOREIGN),
    "start.jpg": (lambda: jpeg()[:2], FOREIGN),
    "header.jpg": (lambda: jpeg()[:20], FOREIGN),
    "tables.jpg": (lambda: jpeg()[: jpeg().index(b"\xff\xda")], SHORT),
    "half.jpg": (lambda: jpeg()[: len(jpeg()) // 2], SHORT),
    "end-missing.jpg": (lambda: jpeg()[:-2], SHORT),
    "last-byte-missing.jpg": (lambda: jpeg()[:-1], SHORT),
    "last-rows-missing.jpg": (lambda: jpeg()[:-20], SHORT),
    "half-progressive.jpg": (lambda: jpeg(progressive=True)[:700], SHORT),
    "zeroed.jpg": (lambda: overwritten(jpeg(), 200, bytes(len(jpeg()) - 200)), SHORT),
    "beginning-missing.jpg": (lambda: jpeg()[4:], FOREIGN),
    "no-tables.jpg": (lambda: jpeg().replace(b"\xff\xdb", b"\xff\xfe"), SHORT),
    "0x0.jpg": (lambda: jpeg_of_size(0, 0), FOREIGN),
    "12000x12000.jpg": (lambda: jpeg_of_size(12_000, 12_000), LARGE),
    "65500x65500.jpg": (lambda: jpeg_of_size(65_500, 65_500), LARGE),
    "cmyk-half.jpg": (lambda: encoded("JPEG", picture().convert("CMYK"))[:800], SHORT),
    "half.png": (lambda: encoded("PNG")[:400], SHORT),
    "signature.png": (lambda: encoded("PNG")[:8], FOREIGN),
    "checksum.png": (lambda: overwritten(encoded("PNG"), 60, b"\0\1"), SHORT),
    "no-data.png": (lambda: encoded("PNG")[:33] + chunk(b"IEND", b""), SHORT),
    "few-data.png": (lambda: png_of_size(SIDE, SIDE), SHORT),
    "0x0.png": (lambda: png_of_size(0, 0), FOREIGN),
    "12000x12000.png": (lambda: png_of_size(12_000, 12_000), LARGE),
    "30000x30000.png": (lambda: png_of_size(30_000, 30_000), LARGE),
    "profile-bomb.png": (lambda: png_with(b"iCCP", b"x\0\0" + bomb()), "too large"),
    "text-bomb.png": (lambda: png_with(b"zTXt", b"x\0\0" + bomb()), "too large"),
    "utf8-bomb.png": (lambda: png_with(b"iTXt", b"x\0\1\0\0\0" + bomb()), "too large"),
    "half.gif": (lambda: encoded("GIF")[:-200], SHORT),
    "no-frame.gif": (lambda: encoded("GIF")[:13] + b";", FOREIGN),
    "65535x65535.gif": (lambda: overwritten(encoded("GIF"), 6, b"\xff" * 4), LARGE),
    "half.webp": (lambda: encoded("WEBP")[:60], SHORT),
    "half.bmp": (lambda: encoded("BMP")[:500], SHORT),
    "30000x30000.bmp": (
        lambda: overwritten(encoded("BMP"), 18, struct.pack("<II", 30_000, 30_000)),
        LARGE,
    ),
    "half.tif": (lambda: encoded("TIFF")[:900], SHORT),
    "directory-missing.tif": (
        lambda: encoded("TIFF", compression="tiff_lzw")[:-300],
        f"{FOREIGN}|{SHORT}",
    ),
    "float.tif": (lambda: gray_tiff(np.float32), "neither 8 nor 16 bits"),
    "32-bit.tif": (lambda: gray_tiff(np.int32), "neither 8 nor 16 bits"),
    "half.ppm": (lambda: encoded("PPM")[:500], SHORT),
    "letters.ppm": (lambda: b"P3\n2 2\n255\n1 2 x", SHORT),
    "60000x60000.ppm": (lambda: b"P6\n60000 60000\n255\n" + bytes(99), LARGE),
    "float.pnm": (lambda: b"Pf\n1 1\n-1.0\n" + struct.pack("<f", 0.5), "neither 8 nor 16"),
    # Formats that Pillow would open, were it asked to.
    "icon.png": (lambda: encoded("ICO"), FOREIGN),
    "targa.jpg": (lambda: encoded("TGA"), FOREIGN),
    "pcx.jpg": (lambda: encoded("PCX"), FOREIGN),
    "dib.bmp": (lambda: encoded("DIB"), FOREIGN),
    "silicon.jpg": (lambda: encoded("SGI"), FOREIGN),
    "postscript.jpg": (
        lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
        FOREIGN,
    ),
    "portable.jpg": (lambda: encoded("PDF"), FOREIGN),
    "telescope.jpg": (lambda: b"SIMPLE  =                    T" + b" " * 3000, FOREIGN),
    "vector.png": (lambda: b"<svg width='9' height='9'/>", FOREIGN),
}


@pytest.mark.fault("F22")
@pytest.mark.fault("F24")
@pytest.mark.fault("F26")
@pytest.mark.parametrize("name", REFUSED)
def test_a_damaged_file_is_refused_by_its_path(tmp_path, name):
    make, fault = REFUSED[name]
    path = tmp_path / name
    path.write_bytes(make())
    with pytest.raises(DataError, match=fault) as caught:
        images.decode(path, SIDE)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert re.search("remove|replace", str(caught.value))


def exif(orientation):
    made = Image.Exif()
    made[0x0112] = orientation
    return made


def garbage_exif():
    generator = np.random.default_rng(0)
    return b"Exif\0\0II*\0\x08\0\0\0" + generator.integers(0, 256, 200, np.uint8).tobytes()


def cmyk():
    """Without black, and so without loss: cyan is 255 less red."""
    return picture().convert("CMYK")


def ycck():
    """What Photoshop writes: inverted CMYK with its first three channels as luma and chroma."""
    simplejpeg = pytest.importorskip("simplejpeg")
    inverted = np.ascontiguousarray(255 - np.asarray(cmyk()))
    return simplejpeg.encode_jpeg(inverted, 95, "CMYK", "444")


def animated(format, **options):
    more = [picture(1), picture(2)]
    return encoded(format, save_all=True, append_images=more, **options)


def see_through():
    """The left half is there; the right half is black, and invisible."""
    pixels = np.zeros((SIDE, SIDE, 4), np.uint8)
    pixels[:, : SIDE // 2, :3] = np.asarray(picture())[:, : SIDE // 2]
    pixels[:, : SIDE // 2, 3] = 255
    return Image.fromarray(pixels)


def palette_with_alpha():
    return encoded("PNG", picture().quantize(64), transparency=bytes([0] * 256))


def wide():
    """16-bit gray levels; their upper 8 bits are those of `gray`."""
    return Image.fromarray(gray()[..., 0].astype(np.uint16) * 256 + 77)


def color_png_16():
    """Pillow writes no 16-bit colors."""
    rows = (rgb().astype(np.uint16) * 256 + 77).astype(">u2").reshape(SIDE, -1)
    data = b"".join(b"\0" + row.tobytes() for row in rows)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", SIDE, SIDE, 16, 2, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(data))
    return b"\x89PNG\r\n\x1a\n" + header + data + chunk(b"IEND", b"")


def rgb():
    return np.asarray(picture())


def gray():
    return np.asarray(picture().convert("L").convert("RGB"))


def on_white():
    made = rgb().copy()
    made[:, SIDE // 2 :] = 255
    return made


def flat(level):
    return lambda: np.full((SIDE, SIDE, 3), level, np.uint8)


def avif(image=None, **options):
    pytest.importorskip("PIL._avif")
    return encoded("AVIF", image, subsampling="4:4:4", **options)


def transparent_animation():
    """libwebp says that an animation has alpha only where its last frame has."""
    data = encoded("WEBP", see_through(), lossless=True, save_all=True, append_images=[picture(1)])
    return overwritten(data, 20, bytes([data[20] | 0x10]))


LEVELS = (10, 90, 170, 250)


def four_colors():
    """A palette of four grays, in quarters."""
    indices = np.arange(4, dtype=np.uint8).repeat(SIDE // 4)[None].repeat(SIDE, 0)
    made = Image.frombytes("P", (SIDE, SIDE), indices.tobytes())
    made.putpalette([level for level in LEVELS for _ in range(3)])
    return made


def some_palette_alpha():
    """The first and third of four are invisible."""
    return encoded("PNG", four_colors(), transparency=bytes([0, 255, 0, 255]))


def some_on_white(hidden=(0, 2)):
    levels = [255 if i in hidden else level for i, level in enumerate(LEVELS)]
    row = np.repeat(np.array(levels, np.uint8), SIDE // 4)
    return np.repeat(np.repeat(row[None], SIDE, 0)[..., None], 3, -1)


def forms(content):
    """An encoded image in its other forms: opened, loaded, copied."""
    yield from (content, bytearray(content), memoryview(content))
    with Image.open(io.BytesIO(content)) as image:
        yield image
    with Image.open(io.BytesIO(content)) as image:
        image.load()
        yield image
        # A copy of a 16-bit netpbm file has 32 bits, as far as anybody knows.
        yield image if image.mode == "I" else image.copy()


PROFILE = bytes(500)
# The file, the pixels it should give, and by how much they may differ on average: 0 where nothing
# is lost, 4 for a JPEG, which is TensorFlow's bound for CMYK.
DECODED = {
    "plain.jpg": (jpeg, rgb, 4),
    "progressive.jpg": (lambda: jpeg(progressive=True), rgb, 4),
    "png.JPEG": (lambda: encoded("PNG"), rgb, 0),
    "jpeg.png": (jpeg, rgb, 4),
    "webp.jpg": (lambda: encoded("WEBP", lossless=True), rgb, 0),
    "bmp.gif": (lambda: encoded("BMP"), rgb, 0),
    "lzw.tiff": (lambda: encoded("TIFF", compression="tiff_lzw"), rgb, 0),
    "gray.jpg": (lambda: encoded("JPEG", picture().convert("L")), gray, 4),
    "gray.png": (lambda: encoded("PNG", picture().convert("L")), gray, 0),
    "gray16.png": (lambda: encoded("PNG", wide()), gray, 0),
    "gray16.tif": (lambda: encoded("TIFF", wide()), gray, 0),
    "gray16.pgm": (lambda: encoded("PPM", wide()), gray, 0),
    "color16.png": (color_png_16, rgb, 0),
    "palette.png": (lambda: encoded("PNG", picture().quantize(256)), rgb, 4),
    "two-levels.png": (lambda: encoded("PNG", Image.new("1", (SIDE, SIDE), 1)), flat(255), 0),
    "alpha.png": (lambda: encoded("PNG", see_through()), on_white, 0),
    "alpha.webp": (lambda: encoded("WEBP", see_through(), lossless=True), on_white, 0),
    "gray-alpha.png": (lambda: encoded("PNG", Image.new("LA", (SIDE, SIDE))), flat(255), 0),
    "palette-alpha.png": (palette_with_alpha, flat(255), 0),
    "adobe-cmyk.jpg": (lambda: encoded("JPEG", cmyk()), rgb, 4),
    "cmyk.jpg": (lambda: without_adobe(encoded("JPEG", cmyk())), rgb, 4),
    "cmyk-profile.jpg": (lambda: encoded("JPEG", cmyk(), icc_profile=PROFILE), rgb, 4),
    "ycck.jpg": (ycck, rgb, 4),
    "cmyk.tif": (lambda: encoded("TIFF", cmyk()), rgb, 0),
    "adobe-rgb.jpg": (lambda: jpeg(keep_rgb=True), rgb, 4),
    "profile.jpg": (lambda: jpeg(icc_profile=PROFILE), rgb, 4),
    "profile.png": (lambda: encoded("PNG", icc_profile=PROFILE), rgb, 0),
    "1x1.png": (lambda: encoded("PNG", Image.new("RGB", (1, 1), (9, 9, 9))), flat(9), 0),
    "1x1.jpg": (lambda: encoded("JPEG", Image.new("RGB", (1, 1), (9, 9, 9))), flat(9), 1),
    "1x5000.png": (lambda: encoded("PNG", Image.new("RGB", (1, 5000), (9, 9, 9))), flat(9), 0),
    "5000x1.jpg": (lambda: encoded("JPEG", Image.new("L", (5000, 1), 9)), flat(9), 1),
    **{
        f"orientation-{i}.{suffix}": (functools.partial(encoded, format, exif=exif(i), **more), rgb, error)
        for i in range(1, 9)
        for suffix, format, more, error in (
            ("jpg", "JPEG", {}, 4),
            ("png", "PNG", {}, 0),
            ("webp", "WEBP", {"lossless": True}, 0),
        )
    },
    "garbage-exif.jpg": (lambda: jpeg(exif=garbage_exif()), rgb, 4),
    "garbage-exif-cmyk.jpg": (lambda: encoded("JPEG", cmyk(), exif=garbage_exif()), rgb, 4),
    "garbage-exif.png": (lambda: png_with(b"eXIf", garbage_exif()), rgb, 0),
    "garbage-exif.webp": (
        lambda: encoded("WEBP", exif=garbage_exif(), lossless=True), rgb, 0,
    ),
    "animated.gif": (lambda: animated("GIF"), rgb, 8),
    "animated.webp": (lambda: animated("WEBP", lossless=True), rgb, 0),
    "animated.png": (lambda: animated("PNG"), rgb, 0),
    "two-pictures.jpg": (lambda: animated("MPO"), rgb, 4),
    "junk-after.jpg": (lambda: jpeg() + b"junk" * 99, rgb, 4),
    # ImageNet has such files; libjpeg, and so every framework, reads them.
    "junk-before-end.jpg": (lambda: jpeg()[:-2] + b"abc\xff\xd9", rgb, 4),
    "end-missing.png": (lambda: encoded("PNG")[:-12], rgb, 0),
    "phone.jpg": (lambda: animated("MPO", exif=exif(6)), rgb, 4),
    "download.jfif": (jpeg, rgb, 4),
    "still.avif": (lambda: avif(quality=95), rgb, 4),
    "animated.avif": (lambda: avif(quality=95, save_all=True, append_images=[picture(1)]), rgb, 4),
    "alpha.avif": (lambda: avif(see_through(), quality=95), on_white, 4),
    "animated-alpha.webp": (transparent_animation, on_white, 0),
    "alpha.gif": (lambda: encoded("GIF", see_through()), on_white, 8),
    "alpha.tif": (lambda: encoded("TIFF", see_through()), on_white, 0),
    "some-palette-alpha.png": (some_palette_alpha, some_on_white, 0),
    "one-palette-alpha.png": (
        lambda: encoded("PNG", four_colors(), transparency=2), lambda: some_on_white((2,)), 0,
    ),
    "fax.tif": (
        lambda: encoded("TIFF", Image.new("1", (SIDE, SIDE), 1), compression="group4"), flat(255), 0,
    ),
    "luma.tif": (lambda: encoded("TIFF", picture().convert("YCbCr"), compression="raw"), rgb, 4),
    "jpeg.tif": (lambda: encoded("TIFF", compression="jpeg", quality=95), rgb, 4),
    "adobe-gray.jpg": (lambda: encoded("JPEG", picture().convert("L"), quality=95), gray, 4),
    "data-bomb.png": (lambda: png_of_size(9, 9, bytes(50_000_000)), flat(0), 0),
}  # fmt: skip


@pytest.mark.fault("F23")
@pytest.mark.fault("F24")
@pytest.mark.fault("F25")
@pytest.mark.fault("F26")
@pytest.mark.fault("F27")
@pytest.mark.parametrize("name", DECODED)
def test_an_odd_file_gives_its_colors(tmp_path, name):
    make, expected, error = DECODED[name]
    (tmp_path / name).write_bytes(make())
    decoded = images.decode(tmp_path / name, SIDE)
    assert decoded.shape == (SIDE, SIDE, 3) and decoded.dtype == np.uint8
    assert np.abs(decoded.astype(int) - expected()).mean() <= error
    for form in forms(make()):
        assert np.array_equal(images.decode(form, SIDE), decoded)


@pytest.mark.fault("F23")
def test_black_ink_darkens(tmp_path):
    inks = np.random.default_rng(0).integers(0, 256, (2, 2, 4), dtype=np.uint8)
    inks = inks.repeat(SIDE // 2, 0).repeat(SIDE // 2, 1)
    image = Image.frombytes("CMYK", (SIDE, SIDE), inks.tobytes())
    light = 1 - inks / 255
    decoded = images.decode(encoded("JPEG", image), SIDE)
    assert np.abs(decoded - 255 * light[..., :3] * light[..., 3:]).mean() <= 4


@pytest.mark.fault("F26")
def test_the_limit_on_pixels_never_shows_as_a_warning(tmp_path):
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        pillow.image_module.cache_clear()
        for data in (jpeg_of_size(12_000, 12_000), png_of_size(12_000, 12_000)):
            with pytest.raises(DataError, match=LARGE):
                images.decode(data, SIDE)
        images.decode(encoded("JPEG", cmyk(), exif=garbage_exif()), SIDE)
    assert not shown


@pytest.mark.fault("F22")
def test_changed_bytes_give_pixels_or_the_error_of_data():
    """Nothing else: a file may trip any part of a parser."""
    generator = np.random.default_rng(0)
    written = [format for format in pillow.FORMATS if format in Image.SAVE]
    whole = [encoded(format) for format in written] + [encoded("JPEG", cmyk())]
    for i in range(400):
        data = bytearray(whole[i % len(whole)])
        for _ in range(1 + i % 5):
            data[generator.integers(min(len(data), 10 ** (2 + i % 3)))] = generator.integers(256)
        try:
            assert images.decode(bytes(data), SIDE, name=f"file {i}").shape == (SIDE, SIDE, 3)
        except DataError as error:
            assert f"file {i}" in str(error)


def test_the_corpus_is_large_enough():
    assert len(REFUSED) >= 40 and len(DECODED) >= 40


def test_decoders_write_nothing_to_standard_error(capfd):
    data = encoded("TIFF", compression="tiff_lzw")
    draw = np.random.default_rng(0)
    for _ in range(200):
        damaged = bytearray(data)
        for place in draw.integers(0, len(data), 8):
            damaged[place] = draw.integers(256)
        with contextlib.suppress(DataError):
            images.decode(bytes(damaged), 32)
    assert capfd.readouterr().err == ""
