import io
import warnings

import numpy as np
import pytest
from PIL import Image

from alexnet_jax.data import images
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
