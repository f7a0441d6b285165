import io
import itertools
import warnings

import numpy as np
import pytest
from PIL import Image

from alexnet_jax.data.pipeline import images, pillow
from alexnet_jax.errors import DataError


def pixels(height, width, seed=0):
    """Random pixels that are smooth enough for a JPEG to keep."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def encoded(image, format, **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def area_reference(square, size):
    """Area averages by the definition: every source pixel's overlap with every output pixel."""
    side = square.shape[0]
    edges = np.arange(size + 1) * side / size
    overlap = np.minimum(edges[1:, None], np.arange(side) + 1)
    overlap = np.maximum(overlap - np.maximum(edges[:-1, None], np.arange(side)), 0)
    overlap /= overlap.sum(axis=1, keepdims=True)
    return np.einsum("yr,rcd,xc->yxd", overlap, square.astype(np.float64), overlap)


@pytest.mark.parametrize("format", ["PNG", "BMP", "PPM", "TIFF"])
def test_an_image_of_the_right_size_keeps_its_pixels(format):
    original = pixels(32, 32)
    data = encoded(Image.fromarray(original), format)
    assert np.array_equal(images.decode(data, 32), original)


def test_the_middle_is_cut_out_where_only_one_side_is_longer():
    original = pixels(32, 47)
    data = encoded(Image.fromarray(original), "PNG")
    assert np.array_equal(images.decode(data, 32), original[:, 7:39])
    turned = encoded(Image.fromarray(original.swapaxes(0, 1)), "PNG")
    assert np.array_equal(images.decode(turned, 32), original[:, 7:39].swapaxes(0, 1))


@pytest.mark.parametrize("side", [33, 47, 64, 96, 200])
def test_larger_images_are_reduced_to_area_averages(side):
    original = np.random.default_rng(1).integers(0, 256, (side, side + 10, 3), dtype=np.uint8)
    reduced = images.central_square(original, 32)
    assert np.abs(reduced - area_reference(original[:, 5:-5], 32)).max() <= 0.5 + 1e-3


def in_order(pixels, size):
    """Area averages as sums of rounded products, in float32 and in the order of the pixels: rows, then columns."""

    def averages(values, start, side):
        edges = np.linspace(start, start + side, size + 1)
        rows = []
        for low, high in itertools.pairwise(edges):
            total = np.zeros(values.shape[1:], np.float32)
            for i in range(int(low), min(int(np.ceil(high)), len(values))):
                share = (min(i + 1, high) - max(i, low)) * (size / side)
                total += values[i] * np.float32(share)
            rows.append(total)
        return np.stack(rows)

    height, width = pixels.shape[:2]
    side = min(height, width)
    left = (width - side) / 2
    narrow = averages(pixels.astype(np.float32), (height - side) / 2, side)
    cut = narrow.swapaxes(0, 1)[int(left) :]
    return np.rint(averages(cut, left - int(left), side)).swapaxes(0, 1).astype(np.uint8)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(
    "shape, size", [((47, 62), 32), ((200, 47), 32), ((64, 65), 7), ((9, 9), 1)]
)
def test_area_averages_keep_their_bits(shape, size, fused, monkeypatch):
    """Decoded images of earlier versions stay valid, on machines whose SciPy fuses products and sums, too."""
    if fused:
        monkeypatch.setattr(images, "_rounds_products", lambda: False)
    original = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
    assert np.array_equal(images.central_square(original, size), in_order(original, size))


def test_reducing_weighs_pixels_that_the_square_cuts_in_two():
    original = np.zeros((4, 5, 3), np.uint8)
    original[:, 0] = original[:, 4] = 200
    assert (images.central_square(original, 2)[..., 0] == 50).all()  # half a column of 200 in two


def test_smaller_images_are_enlarged_bicubic():
    original = pixels(8, 8)
    enlarged = Image.fromarray(original).resize((32, 32), Image.Resampling.BICUBIC)
    assert np.array_equal(images.decode(original, 32), np.asarray(enlarged))
    wide = np.concatenate([original[:, :2], original, original[:, -2:]], axis=1)
    assert images.decode(wide, 32).shape == (32, 32, 3)


def test_both_jpeg_decoders_give_the_same_pixels(monkeypatch):
    for mode in ("RGB", "L"):
        data = encoded(Image.fromarray(pixels(40, 48)).convert(mode), "JPEG", quality=75)
        fast = images.decode(data, 40)
        assert images._decode_jpeg(data, "name") is not None
        with monkeypatch.context() as patch:
            patch.setattr(images, "_simplejpeg", lambda: None)
            assert np.array_equal(images.decode(data, 40), fast)


def test_progressive_and_subsampled_jpegs_are_read():
    original = pixels(32, 32)
    data = encoded(Image.fromarray(original), "JPEG", quality=95, progressive=True, subsampling=2)
    assert np.abs(images.decode(data, 32).astype(int) - original).mean() < 4


@pytest.mark.fault("F23")
def test_cmyk_jpegs_get_their_colors_back():
    original = np.full((16, 16, 3), (200, 40, 90), np.uint8)
    data = encoded(Image.fromarray(original).convert("CMYK"), "JPEG", quality=95)
    assert images._decode_jpeg(data, "name") is None
    assert np.abs(images.decode(data, 16).astype(int) - original).max() < 6


@pytest.mark.fault("F25")
@pytest.mark.parametrize("mode", ["L", "1", "P", "HSV", "YCbCr"])
def test_other_modes_become_rgb(mode):
    image = Image.fromarray(np.full((16, 16, 3), 255, np.uint8)).convert(mode)
    kind = "TIFF" if mode in ("HSV", "YCbCr") else "PNG"
    image = image.convert("RGB") if mode == "HSV" else image
    assert images.decode(encoded(image, kind), 16).min() >= 254


@pytest.mark.fault("F25")
def test_sixteen_bit_images_keep_their_upper_eight_bits():
    values = (np.arange(256).reshape(16, 16) * 257).astype(np.uint16)
    decoded = images.decode(encoded(Image.fromarray(values), "PNG"), 16)
    assert np.array_equal(decoded, np.repeat((values >> 8)[..., None], 3, -1))


@pytest.mark.fault("F25")
def test_transparent_places_become_white():
    rgba = np.zeros((16, 16, 4), np.uint8)
    rgba[:8, :, 3] = 255
    for image in (Image.fromarray(rgba), Image.fromarray(rgba[..., 2:].copy(), "LA")):
        decoded = images.decode(encoded(image, "PNG"), 16)
        assert (decoded[:8] == 0).all() and (decoded[8:] == 255).all()
    palette = Image.fromarray(np.zeros((16, 16, 3), np.uint8)).convert("P")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decoded = images.decode(encoded(palette, "PNG", transparency=bytes([0] * 256)), 16)
    assert (decoded == 255).all()


@pytest.mark.fault("F27")
def test_exif_orientation_is_ignored():
    original = pixels(16, 24)
    exif = Image.Exif()
    exif[0x0112] = 6
    plain = encoded(Image.fromarray(original), "JPEG")
    turned = encoded(Image.fromarray(original), "JPEG", exif=exif)
    assert np.array_equal(images.decode(plain, 16), images.decode(turned, 16))


@pytest.mark.fault("F22")
def test_errors_name_the_file_and_the_fault(tmp_path):
    whole = encoded(Image.fromarray(pixels(64, 64)), "JPEG")
    faults = {
        "empty.jpg": (b"", "is empty"),
        "text.jpg": (b"not an image at all", "is not an image"),
        "cut.jpg": (whole[: len(whole) // 2], "[Tt]runcated"),
        "cut.png": (encoded(Image.fromarray(pixels(64, 64)), "PNG")[:900], "cannot decode"),
        "header.jpg": (whole[:20], "cannot decode|not an image"),
    }
    for name, (data, fault) in faults.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError, match=f"{name}.*({fault})|({fault}).*{name}") as caught:
            images.decode(tmp_path / name, 32)
        assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match=r"cannot read .*absent\.jpg: No such file"):
        images.decode(tmp_path / "absent.jpg", 32)
    with pytest.raises(DataError, match="record 7"):
        images.decode(b"junk", 32, name="record 7")


def see_through():
    """Colors, and black that is invisible or half so."""
    rgba = np.zeros((16, 16, 4), np.uint8)
    rgba[:8] = (200, 40, 90, 255)
    rgba[12:] = (0, 0, 0, 128)
    return Image.fromarray(rgba)


def palette_with_alpha():
    return see_through().quantize(16, method=Image.Quantize.FASTOCTREE)


# Modes that Pillow has, and the file in which the same image is kept without loss.
MODES = {
    "1": (lambda: Image.fromarray(pixels(16, 16)).convert("1"), "PNG"),
    "L": (lambda: Image.fromarray(pixels(16, 16)).convert("L"), "PNG"),
    "LA": (lambda: see_through().convert("LA"), "PNG"),
    "La": (lambda: see_through().convert("LA").convert("La"), None),
    "P": (lambda: Image.fromarray(pixels(16, 16)).quantize(64), "PNG"),
    "P-alpha": (palette_with_alpha, "PNG"),
    "PA": (lambda: see_through().convert("PA"), None),
    "RGB": (lambda: Image.fromarray(pixels(16, 16)), "PNG"),
    "RGBX": (lambda: Image.fromarray(pixels(16, 16)).convert("RGBX"), None),
    "RGBA": (see_through, "PNG"),
    "RGBa": (lambda: see_through().convert("RGBa"), None),
    "I;16": (lambda: Image.fromarray((np.arange(256) * 257).astype(np.uint16).reshape(16, 16)), "PNG"),
    "I;16B": (lambda: Image.frombytes("I;16B", (16, 16), np.arange(0, 65536, 256).astype(">u2").tobytes()), "TIFF"),
    "CMYK": (lambda: Image.fromarray(pixels(16, 16)).convert("CMYK"), "TIFF"),
    "YCbCr": (lambda: Image.fromarray(pixels(16, 16)).convert("YCbCr"), "TIFF"),
    "LAB": (lambda: Image.fromarray(pixels(16, 16)).convert("LAB"), "TIFF"),
    "HSV": (lambda: Image.fromarray(pixels(16, 16)).convert("HSV"), None),
}  # fmt: skip


@pytest.mark.fault("F25")
@pytest.mark.parametrize("mode", MODES)
def test_a_pillow_image_gives_the_pixels_of_its_file(tmp_path, mode):
    make, format = MODES[mode]
    image = make()
    assert image.mode == mode.partition("-")[0]
    decoded = images.decode(image, 16)
    if format:
        (tmp_path / "file").write_bytes(encoded(image, format))
        assert np.array_equal(images.decode(tmp_path / "file", 16), decoded)
    if image.has_transparency_data:
        assert (decoded[8:12] == 255).all() and decoded[:8].max() < 250
        assert np.abs(decoded[12:].astype(int) - 127).max() <= 1
    if mode in ("P", "RGB", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"):
        difference = decoded.astype(int) - pixels(16, 16)
        assert np.abs(difference).mean() <= (0 if mode.startswith("RGB") else 12)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_modes_that_do_not_say_what_is_white_are_refused_in_one_line(mode):
    with pytest.raises(DataError, match="cannot decode image: ") as caught:
        images.decode(Image.new(mode, (16, 16)), 16)
    assert "\n" not in str(caught.value)


def test_a_closed_or_truncated_pillow_image_is_refused_by_the_name_of_its_file(tmp_path):
    whole = encoded(Image.fromarray(pixels(64, 64)), "PNG")
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    with (
        Image.open(tmp_path / "cut.png") as image,
        pytest.raises(DataError, match=r"cannot decode .*cut\.png: "),
    ):
        images.decode(image, 32)
    (tmp_path / "whole.png").write_bytes(whole)
    image = Image.open(tmp_path / "whole.png")
    image.close()
    with pytest.raises(DataError, match=r"cannot decode .*whole\.png: Operation on closed image"):
        images.decode(image, 32)


def test_an_image_that_is_turned_or_cut_keeps_what_was_done_to_it():
    image = Image.fromarray(pixels(20, 30))
    cut = np.asarray(image)[2:18, 5:21]
    assert np.array_equal(images.decode(image.crop((5, 2, 21, 18)), 16), cut)


def test_the_frame_that_a_pillow_image_is_at_counts():
    frames = [Image.new("L", (16, 16), level) for level in (10, 200)]
    for format in ("GIF", "TIFF", "PNG", "WEBP"):
        data = encoded(frames[0], format, save_all=True, append_images=frames[1:])
        image = Image.open(io.BytesIO(data))
        assert abs(images.decode(image, 16).mean() - 10) < 2 and images.decode(data, 16).mean() < 12
        image.seek(1)
        assert abs(images.decode(image, 16).mean() - 200) < 2


def test_metadata_that_means_nothing_is_an_error_in_one_line_or_nothing():
    for key, value in (("transparency", b"\7"), ("transparency", None)):
        image = Image.fromarray(pixels(16, 16)[..., 0])
        image.info[key] = value
        with pytest.raises(DataError, match="cannot decode image: "):
            images.decode(image, 16)
    for junk in (b"junk", 5, None):
        image = Image.fromarray(pixels(16, 16))
        image.info["exif"] = junk
        assert np.array_equal(images.decode(image, 16, exif="apply"), pixels(16, 16))


def test_arrays_of_grays_and_of_alpha_are_as_their_files():
    gray = pixels(16, 20)[..., 0]
    expected = images.decode(encoded(Image.fromarray(gray), "PNG"), 16)
    for form in (
        gray,
        gray[..., None],
        np.asfortranarray(gray),
        gray[::-1][::-1],
        np.ma.array(gray),
    ):
        assert np.array_equal(images.decode(form, 16), expected)
    rgba = np.asarray(see_through())
    expected = images.decode(encoded(see_through(), "PNG"), 16)
    assert np.array_equal(images.decode(rgba, 16), expected)
    assert np.array_equal(images.decode(rgba[:, ::-1][:, ::-1], 16), expected)


NO_PIXELS = {
    "no rows": (np.zeros((0, 5, 3), np.uint8), "not uint8 [0, 5, 3]"),
    "no columns": (np.zeros((5, 0), np.uint8), "not uint8 [5, 0]"),
    "no channels": (np.zeros((5, 5, 0), np.uint8), "not uint8 [5, 5, 0]"),
    "two channels": (np.zeros((5, 5, 2), np.uint8), "not uint8 [5, 5, 2]"),
    "five channels": (np.zeros((5, 5, 5), np.uint8), "not uint8 [5, 5, 5]"),
    "channels first": (np.zeros((3, 9, 9), np.uint8), "channels come last: pixels.transpose(1, 2, 0)"),
    "one axis": (np.zeros(9, np.uint8), "not uint8 [9]"),
    "no axis": (np.uint8(3), "not uint8 []"),
    "four axes": (np.zeros((1, 9, 9, 3), np.uint8), "not uint8 [1, 9, 9, 3]"),
    "16 bits": (np.zeros((9, 9), np.uint16), "(pixels >> 8).astype(np.uint8)"),
    "float": (np.zeros((9, 9, 3), np.float32), "np.rint(255 * pixels).astype(np.uint8)"),
    "half": (np.zeros((9, 9, 3), np.float16), "np.rint(255 * pixels).astype(np.uint8)"),
    "bool": (np.zeros((9, 9), bool), "255 * pixels.astype(np.uint8)"),
    "int": (np.zeros((9, 9, 3), int), "not int64 [9, 9, 3]"),
    "complex": (np.zeros((9, 9), complex), "not complex128 [9, 9]"),
    "objects": (np.full((9, 9), None), "not object [9, 9]"),
    "none": (None, "is of the type NoneType; an image is a path"),
    "a number": (7, "is of the type int"),
    "a list": ([[1, 2], [3, 4]], "is of the type list"),
    "a dict": ({"image": 1}, "is of the type dict"),
    "an open file": (io.BytesIO(b"x"), "is of the type BytesIO"),
    "a NUL": ("a\0b.jpg", "cannot read"),
    "an empty path": ("", "cannot read"),
}  # fmt: skip


@pytest.mark.fault("F25")
@pytest.mark.parametrize("name", NO_PIXELS)
def test_what_is_no_image_is_refused_in_one_line(name):
    source, said = NO_PIXELS[name]
    with pytest.raises(DataError) as caught:
        images.decode(source, 16)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_pillow_image_without_pixels_is_refused():
    with pytest.raises(DataError, match="cannot decode image: it has no pixels"):
        images.decode(Image.new("RGB", (0, 5)), 16)


def test_large_arrays_and_pillow_images_are_refused_as_their_files():
    for form in (pixels(16, 16), Image.fromarray(pixels(16, 16))):
        with pytest.raises(DataError, match="image has more than 255 pixels"):
            images.decode(form, 16, limit=255)


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200)


def test_a_heic_file_is_read_where_it_can_be(tmp_path):
    pytest.importorskip("pillow_heif", reason="reads HEIC")
    pillow.image_module()
    original = pixels(64, 48)
    data = encoded(Image.fromarray(original), "HEIF", quality=95)
    (tmp_path / "photo.heic").write_bytes(data)
    decoded = images.decode(tmp_path / "photo.heic", 48)
    assert np.abs(decoded.astype(int) - original[8:56]).mean() < 4
    assert np.array_equal(images.decode(Image.open(io.BytesIO(data)), 48), decoded)
    with pytest.raises(DataError, match="cannot decode cut: "):
        images.decode(data[: len(data) // 2], 48, name="cut")


def test_a_format_that_cannot_be_read_here_names_the_remedy(monkeypatch):
    some = tuple(name for name in pillow.FORMATS if name not in ("AVIF", "HEIF"))
    monkeypatch.setattr(pillow, "readable", lambda: some)
    with pytest.raises(DataError, match=r"photo\.heic: .* needs pip install pillow-heif; "):
        images.decode(HEIC, 16, name="photo.heic")
    with pytest.raises(DataError, match=r"x: .* needs pip install .pillow>=11\.3"):
        images.decode(HEIC.replace(b"heic", b"avif"), 16, name="x")


def test_the_suffixes_of_phones_and_browsers_count_as_images():
    suffixes = {suffix for some in pillow.FORMATS.values() for suffix in some}
    assert {".jfif", ".jpe", ".heic", ".heif", ".hif", ".avif", ".webp", ".mpo"} <= suffixes
