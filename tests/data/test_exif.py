"""The orientation that a camera notes: ignored as for ImageNet, or applied, from any container."""

import dataclasses
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from alexnet_jax import specs
from alexnet_jax.data import sources
from alexnet_jax.data.pipeline import image_files, images
from alexnet_jax.data.pipeline.image_files import ImageFiles
from alexnet_jax.data.prepare import command as prepare
from alexnet_jax.data.sources import tfds

TALL, WIDE = 24, 17


#: Every case has the same outcome with both decoders of JPEG.
pytestmark = pytest.mark.usefixtures("jpeg_decoder")


def picture(height=TALL, width=WIDE):
    small = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image, format, **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def exif(orientation):
    made = Image.Exif()
    made[0x0112] = orientation
    return made


# What each orientation asks for, by its definition: where row 0 and column 0 of the file are seen.
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
    8: lambda a: np.rot90(a, 1),
}
CONTAINERS = {
    "JPEG": {"quality": 90}, "PNG": {}, "WEBP": {"lossless": True}, "MPO": {"quality": 90},
}  # fmt: skip


@pytest.mark.fault("F27")
@pytest.mark.parametrize("format", CONTAINERS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_each_orientation_is_the_transpose_that_it_names(tmp_path, orientation, format):
    stored = encoded(picture(), format, **CONTAINERS[format])
    pixels = np.asarray(Image.open(io.BytesIO(stored)).convert("RGB"))
    data = encoded(picture(), format, exif=exif(orientation), **CONTAINERS[format])
    (tmp_path / "image").write_bytes(data)
    expected = images.decode(np.ascontiguousarray(UPRIGHT[orientation](pixels)), 12)

    def forms():
        return data, tmp_path / "image", Image.open(tmp_path / "image")

    for form in forms():
        assert np.array_equal(images.decode(form, 12, exif="apply"), expected)
    for form in forms():
        assert np.array_equal(images.decode(form, 12), images.decode(stored, 12))
    loaded = Image.open(tmp_path / "image")
    loaded.load()
    assert np.array_equal(images.decode(loaded, 12, exif="apply"), expected)
    again = images.decode(ImageOps.exif_transpose(loaded), 12, exif="apply")
    assert np.array_equal(again, expected)  # once turned, it is not turned again


@pytest.mark.fault("F27")
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_jpeg_of_the_right_size_is_turned_into_its_place(orientation):
    data = encoded(picture(16, 16), "JPEG", exif=exif(orientation))
    stored = images.decode(data, 16)
    out = np.empty((16, 16, 3), np.uint8)
    assert images.decode(data, 16, exif="apply", out=out) is out
    assert np.array_equal(out, UPRIGHT[orientation](stored))


def jpeg_with(*segments):
    """A JPEG that begins with these segments, each a marker and its content."""
    plain = encoded(picture(), "JPEG")
    made = b"".join(
        b"\xff" + bytes([m]) + struct.pack(">H", len(c) + 2) + c for m, c in segments
    )  # fmt: skip
    return plain[:2] + made + plain[2:]


def tag(kind, count, value, order="<"):
    """EXIF with one field, the orientation, of any type and value."""
    head = b"II*\0" if order == "<" else b"MM\0*"
    entry = struct.pack(order + "HHI", 0x0112, kind, count) + value
    return b"Exif\0\0" + head + struct.pack(order + "IH", 8, 1) + entry + bytes(4)


SIX = struct.pack("<H", 6) + bytes(2)
XMP = (
    b'http://ns.adobe.com/xap/1.0/\0<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
)
# The file, and the orientation that counts.
ODD = {
    "little-endian": (jpeg_with((0xE1, tag(3, 1, SIX))), 6),
    "big-endian": (jpeg_with((0xE1, tag(3, 1, struct.pack(">H", 6) + bytes(2), ">"))), 6),
    "a-long": (jpeg_with((0xE1, tag(4, 1, struct.pack("<I", 6)))), 6),
    "a-byte": (jpeg_with((0xE1, tag(1, 1, b"\6\0\0\0"))), 1),
    "zero": (jpeg_with((0xE1, tag(3, 1, bytes(4)))), 1),
    "nine": (jpeg_with((0xE1, tag(3, 1, struct.pack("<I", 9)))), 1),
    "65535": (jpeg_with((0xE1, tag(3, 1, struct.pack("<I", 65535)))), 1),
    "minus-one": (jpeg_with((0xE1, tag(9, 1, struct.pack("<i", -1)))), 1),
    "text": (jpeg_with((0xE1, tag(2, 2, b"6\0\0\0"))), 1),
    "two-values": (jpeg_with((0xE1, tag(3, 2, struct.pack("<HH", 6, 3)))), 6),
    "cut-short": (jpeg_with((0xE1, tag(3, 1, SIX)[:20])), 1),
    "no-directory": (jpeg_with((0xE1, b"Exif\0\0II*\0\xff\xff\xff\x7f")), 1),
    "another-byte-order": (jpeg_with((0xE1, b"Exif\0\0XX*\0" + bytes(30))), 1),
    "empty": (jpeg_with((0xE1, b"Exif\0\0")), 1),
    "noise": (jpeg_with((0xE1, b"Exif\0\0II*\0" + bytes(range(200)))), 1),
    "after-others": (jpeg_with((0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0"), (0xFE, b"hello"), (0xE1, tag(3, 1, SIX))), 6),
    "of-xmp": (jpeg_with((0xE1, XMP)), 6),
    "xmp-and-exif": (jpeg_with((0xE1, tag(3, 1, struct.pack("<I", 3))), (0xE1, XMP)), 3),
    "none": (encoded(picture(), "JPEG"), 1),
}  # fmt: skip


@pytest.mark.fault("F27")
@pytest.mark.parametrize("name", ODD)
def test_a_damaged_orientation_makes_no_image_bad(name):
    data, orientation = ODD[name]
    expected = images.decode(encoded(picture(), "JPEG"), WIDE)
    assert np.array_equal(images.decode(data, WIDE), expected)
    pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    expected = images.decode(np.ascontiguousarray(UPRIGHT[orientation](pixels)), WIDE)
    for form in (data, Image.open(io.BytesIO(data))):
        assert np.array_equal(images.decode(form, WIDE, exif="apply"), expected)


def test_an_orientation_behind_the_pixels_of_a_png_counts():
    whole = encoded(picture(), "PNG")
    content = b"eXIf" + tag(3, 1, SIX)[6:]
    more = struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))
    data = whole[:-12] + more + whole[-12:]
    expected = images.decode(np.rot90(np.asarray(picture()), -1), WIDE)
    for form in (data, Image.open(io.BytesIO(data))):
        assert np.array_equal(images.decode(form, WIDE, exif="apply"), expected)


@pytest.mark.fault("F27")
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["TIFF", "AVIF"])
def test_containers_that_turn_an_image_themselves_are_always_upright(format, orientation):
    if format == "AVIF":
        pytest.importorskip("PIL._avif")
    whole = Image.open(io.BytesIO(encoded(picture(), format))).convert("RGB")
    expected = images.decode(np.ascontiguousarray(UPRIGHT[orientation](np.asarray(whole))), WIDE)
    if format == "TIFF":
        data = encoded(picture(), format, tiffinfo={0x0112: orientation})
    else:
        data = encoded(picture(), format, exif=exif(orientation))
    for choice in ("ignore", "apply"):
        for form in (data, Image.open(io.BytesIO(data))):
            assert np.array_equal(images.decode(form, WIDE, exif=choice), expected)


def test_the_cache_of_decoded_images_knows_the_two_apart(cache_folder):
    data = encoded(picture(), "JPEG", exif=exif(6))

    def opened(exif):
        return ImageFiles(lambda i: ("one", data), 1, WIDE, threads=1, identity="set", exif=exif)

    for choice in ("ignore", "apply", "ignore"):
        made = opened(choice)[np.arange(1)][0]
        assert np.array_equal(made, images.decode(data, WIDE, exif=choice))
    assert len(list(cache_folder.iterdir())) == 2


def spec(path, exif):
    return specs.DataSpec(
        source="folder", path=str(path), name=None, image_size=WIDE, classes=(), validation=0.0,
        shuffle="epoch", threads=1, prefetch=0, placement="host", exif=exif,
    )  # fmt: skip


def test_a_prepared_set_is_turned_too(cache_folder):
    data = encoded(picture(), "JPEG", exif=exif(6))
    for choice in ("ignore", "apply"):
        made = tfds._images([{"image": data}], "image", "set", spec(None, choice))[np.arange(1)]
        assert np.array_equal(made[0], images.decode(data, WIDE, exif=choice))


@pytest.mark.fault("F27")
def test_a_folder_of_photos_is_turned_where_the_config_says_so(tmp_path):
    for kind in ("cat", "dog"):
        (tmp_path / "train" / kind).mkdir(parents=True)
        data = encoded(picture(), "JPEG", exif=exif(6))
        (tmp_path / "train" / kind / "1.jpg").write_bytes(data)
    found = {}
    for choice in ("ignore", "apply"):
        chosen = sources.open_dataset(spec(tmp_path, choice), 0)
        pixels = chosen.splits["train"].images[np.arange(2)]
        assert np.array_equal(pixels[0], images.decode(data, WIDE, exif=choice))
        found[choice] = chosen.fingerprint
    # A run is not continued with the other choice, nor are its statistics used.
    assert found["ignore"] != found["apply"]


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_store_says_where_its_photos_are_turned_otherwise_than_the_config_says(
    tmp_path, orientation
):
    for kind in ("cat", "dog"):
        (tmp_path / "photos" / "train" / kind).mkdir(parents=True)
        data = encoded(picture(), "JPEG", exif=exif(orientation))
        (tmp_path / "photos" / "train" / kind / "1.jpg").write_bytes(data)
    for made in ("ignore", "apply"):
        command = ["--from", str(tmp_path / "photos"), "--out", str(tmp_path / made), "--jobs", "1"]
        prepare.main([*command, "--size", "16", "--format", "raw", "--exif", made])
        for choice in ("ignore", "apply"):
            asked = dataclasses.replace(spec(tmp_path / made, choice), source="store")
            found = sources.open_dataset(asked, 0)
            notes = found.notes
            # Statistics of images that are not turned are not those of the same files, turned.
            assert found.decoding.split()[1] == "ignore"
            assert bool(notes) == (orientation == 6 and made != choice)
            assert not notes or notes[0].endswith(f"--config.data.exif={made} to treat both alike")


def test_the_default_of_all_is_to_ignore_it():
    defaults = (images.decode, image_files.ImageFiles.__init__)
    assert [function.__kwdefaults__["exif"] for function in defaults] == ["ignore"] * 2
    assert specs.DataSpec.exif == "ignore"
