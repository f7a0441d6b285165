import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax import config
from alexnet_jax.data.pipeline import augment, resized_crops
from alexnet_jax.data.pipeline.draws import Draws, example_keys
from alexnet_jax.data.pipeline.statistics import Statistics
from alexnet_jax.errors import ConfigError
from alexnet_jax.model import mesh as parallel

COUNT, SIZE, CROP = 64, 10, 6
RESIZED = dict(crop="random_resized", crop_size=SIZE)
KEY = jax.random.key(7)


@pytest.fixture(scope="module")
def statistics():
    generator = np.random.default_rng(0)
    mean = generator.uniform(50, 200, (SIZE, SIZE, 3)).astype(np.float32)
    vectors = np.linalg.qr(generator.normal(size=(3, 3)))[0].astype(np.float32)
    stds = np.array([20, 37, 121], np.float32)
    return Statistics(mean, mean.mean((0, 1)), vectors, stds)


@pytest.fixture(scope="module")
def images():
    """Every pixel says where it is: red is 10 * row + column, green the number of the image."""
    made = np.zeros((COUNT, SIZE, SIZE, 3), np.uint8)
    made[..., 0] = np.arange(SIZE)[:, None] * SIZE + np.arange(SIZE)
    made[..., 1] = np.arange(COUNT)[:, None, None]
    made[..., 2] = np.arange(COUNT)[:, None, None] // 2
    return made


def run(images, statistics, spec, *, order=None, epoch=0, step=0, color_std=None, jit=False):
    """train_images of the images in `order`: an image's number is also its place in the batch.

    Not jitted unless asked for: operations compiled once then serve all tests.
    """
    order = np.arange(len(images)) if order is None else order

    def function(images, indices, epochs, step, color_std):
        return augment.train_images(
            images,
            statistics,
            spec,
            seed_key=KEY,
            indices=indices,
            epochs=epochs,
            step=step,
            positions=indices,
            color_std=color_std,
        )

    color_std = jnp.float32(spec.color_std if color_std is None else color_std)
    epochs = jnp.full(len(order), epoch, jnp.int32)
    arguments = jnp.asarray(images[order]), jnp.asarray(order, jnp.int32), epochs, jnp.int32(step)
    return np.asarray((jax.jit(function) if jit else function)(*arguments, color_std))


def crops(output):
    """(top, left, mirrored) of each crop, from its red values."""
    red = np.rint(output[..., 0]).astype(int)
    mirrored = red[:, 0, 0] > red[:, 0, -1]
    corner = np.where(mirrored, red[:, 0, -1], red[:, 0, 0])
    return np.stack([corner // SIZE, corner % SIZE, mirrored], 1)


def test_crops_are_parts_of_the_images(images, statistics, augment_spec):
    output = run(images, statistics, augment_spec())
    assert output.shape == (COUNT, CROP, CROP, 3) and output.dtype == np.float32
    for image, crop, (top, left, mirrored) in zip(images, output, crops(output), strict=True):
        part = image[top : top + CROP, left : left + CROP]
        assert np.array_equal(crop, part[:, ::-1] if mirrored else part)


def test_all_offsets_and_both_directions_come_equally_often(images, statistics, augment_spec):
    epochs = range(40)
    drawn = [crops(run(images, statistics, augment_spec(), epoch=epoch)) for epoch in epochs]
    drawn = np.concatenate(drawn)
    for axis, places in ((0, 5), (1, 5), (2, 2)):
        share = np.bincount(drawn[:, axis]) / len(drawn)
        assert len(share) == places and np.abs(share - 1 / places).max() < 0.05


def test_an_image_is_drawn_anew_in_every_epoch_and_not_by_step(images, statistics, augment_spec):
    first = run(images, statistics, augment_spec())
    assert not np.array_equal(first, run(images, statistics, augment_spec(), epoch=1))
    assert np.array_equal(first, run(images, statistics, augment_spec(), step=5))


def test_without_flip_nothing_is_mirrored(images, statistics, augment_spec):
    assert not crops(run(images, statistics, augment_spec(flip=False)))[:, 2].any()
    center = crops(run(images, statistics, augment_spec(crop="center", flip=False)))
    assert (center == [2, 2, 0]).all()


@pytest.mark.fault("D2")
@pytest.mark.parametrize(
    "changes",
    [
        {},
        dict(crop_chunk=4, mean="pixel", color_std=0.1),
        dict(RESIZED, color_std=0.1),
    ],
)
def test_draws_do_not_depend_on_the_rest_of_the_batch(images, statistics, augment_spec, changes):
    spec = augment_spec(**changes)
    whole = run(images, statistics, spec)
    order = np.random.default_rng(0).permutation(COUNT)
    assert np.allclose(run(images, statistics, spec, order=order), whole[order], atol=1e-4)
    half = np.tile(np.arange(COUNT // 2, COUNT), 2)  # twice: another size would be compiled anew
    assert np.allclose(run(images, statistics, spec, order=half), whole[half], atol=1e-4)


def test_chunks_share_crop_and_mirroring(images, statistics, augment_spec):
    spec = augment_spec(crop_chunk=16)
    drawn = crops(run(images, statistics, spec)).reshape(4, 16, 3)
    assert (drawn == drawn[:, :1]).all()
    assert len({tuple(chunk[0]) for chunk in drawn}) > 1
    again = crops(run(images, statistics, spec, epoch=1)).reshape(4, 16, 3)
    other = crops(run(images, statistics, spec, step=1)).reshape(4, 16, 3)
    assert np.array_equal(again, drawn) and not np.array_equal(other, drawn)


def test_the_mean_image_moves_with_the_crop(images, statistics, augment_spec):
    drawn = crops(run(images, statistics, augment_spec()))
    output = run(images, statistics, augment_spec(mean="pixel"))
    for image, crop, (top, left, mirrored) in zip(images, output, drawn, strict=True):
        part = (image - statistics.mean_image)[top : top + CROP, left : left + CROP]
        assert np.allclose(crop, part[:, ::-1] if mirrored else part, atol=1e-4)


@pytest.mark.parametrize("mean", ["image_center", "channel"])
def test_other_means_stay_where_they_are(images, statistics, augment_spec, mean):
    plain = run(images, statistics, augment_spec())
    fixed = statistics.mean_image[2:8, 2:8] if mean == "image_center" else statistics.channel_mean
    output = run(images, statistics, augment_spec(mean=mean, scale=0.5))
    assert np.allclose(output, (plain - fixed) * 0.5, atol=1e-4)


def test_standardized_images_have_mean_zero_and_variance_one(images, statistics, augment_spec):
    noisy = np.random.default_rng(0).integers(0, 256, images.shape, dtype=np.uint8)
    output = run(noisy, statistics, augment_spec(mean="standardize"))
    assert np.abs(output.mean((1, 2, 3))).max() < 1e-5
    assert np.abs(output.std((1, 2, 3)) - 1).max() < 1e-4
    flat = run(np.full_like(images, 9), statistics, augment_spec(mean="standardize"))
    assert np.array_equal(flat, np.zeros_like(flat))


@pytest.mark.parametrize("basis", ["std", "eigenvalue"])
def test_color_noise_has_the_covariance_of_the_pixels(images, statistics, augment_spec, basis):
    spec, black = augment_spec(color_std=0.1, color_basis=basis), np.zeros_like(images)
    output = np.concatenate([run(black, statistics, spec, epoch=epoch) for epoch in range(80)])
    assert np.ptp(output, axis=(1, 2)).max() == 0  # one color for a whole image
    lengths = statistics.stds if basis == "std" else statistics.stds**2 / 255
    expected = statistics.eigenvectors * (0.1 * lengths) ** 2 @ statistics.eigenvectors.T
    got = np.cov(output[:, 0, 0].T)
    assert np.abs(got - expected).max() < 0.1 * np.abs(expected).max()


def test_colors_are_drawn_for_each_image_of_a_chunk(images, statistics, augment_spec):
    spec = augment_spec(crop_chunk=32, color_std=0.1)
    black = np.zeros_like(images)
    colors = run(black, statistics, spec)[:, 0, 0]
    assert len({tuple(color) for color in colors}) == COUNT
    assert not np.allclose(run(black, statistics, spec, epoch=1)[:, 0, 0], colors)


def test_rescaling_divides_the_noisy_image_while_there_is_noise(images, statistics, augment_spec):
    spec = augment_spec(color_std=0.1, mean="pixel")
    noisy = run(images, statistics, spec)
    rescaled = run(images, statistics, dataclasses.replace(spec, color_rescale=True))
    assert np.allclose(rescaled, noisy / 1.1, atol=1e-3)
    quiet = run(images, statistics, augment_spec(mean="pixel"))
    for rescale in (False, True):
        off = dataclasses.replace(spec, color_rescale=rescale)
        assert np.allclose(run(images, statistics, off, color_std=0.0), quiet, atol=1e-4)


def test_images_and_their_mean_are_resized_alike(statistics, augment_spec):
    spec = augment_spec(resize=16, crop_size=12, mean="pixel")
    mean = np.rint(statistics.mean_image)
    statistics = statistics._replace(mean_image=mean)
    output = run(np.repeat(mean[None].astype(np.uint8), 4, 0), statistics, spec, jit=True)
    assert output.shape == (4, 12, 12, 3) and np.abs(output).max() < 1e-3


def test_jitting_changes_nothing(images, statistics, augment_spec):
    spec = augment_spec(crop_chunk=16, color_std=0.1, color_rescale=True, mean="pixel", scale=0.5)
    compiled = run(images, statistics, spec, epoch=2, step=3, jit=True)
    assert np.allclose(compiled, run(images, statistics, spec, epoch=2, step=3), atol=1e-4)


@pytest.mark.fault("F15")
@pytest.mark.fault("D2")
@pytest.mark.parametrize(
    ("changes", "tolerance"),
    [
        (dict(mean="pixel", color_std=0.1, color_rescale=True, scale=0.5), 0),
        (dict(mean="image_center", color_std=0.1, color_basis="eigenvalue", crop_chunk=4), 0),
        (dict(mean="channel", resize=12, crop_size=8), 0),
        (dict(RESIZED, mean="pixel", color_std=0.1, crop_chunk=4), 0),
        # Its sums over the pixels of an image differ in their last bits.
        (dict(mean="standardize"), 1e-5),
    ],
)
def test_devices_make_the_same_images(images, statistics, augment_spec, changes, tolerance):
    spec = augment_spec(**changes)
    generator = np.random.default_rng(3)
    noisy = generator.integers(0, 256, images.shape, dtype=np.uint8)
    indices = generator.permutation(1000)[:COUNT].astype(np.int32)
    epochs = np.repeat(np.array([3, 4], np.int32), COUNT // 2)
    one, four = (on_devices(n, noisy, indices, epochs, statistics, spec) for n in (1, 4))
    assert np.abs(one - four).max() <= tolerance


def on_devices(number, images, indices, epochs, statistics, spec):
    """What train_images gives for a batch spread over `number` devices, as the train step does it."""

    def function(images, indices, epochs):
        share = len(images)
        return augment.train_images(
            images,
            statistics,
            spec,
            seed_key=KEY,
            indices=indices,
            epochs=epochs,
            step=jnp.int32(5),
            positions=jax.lax.axis_index(parallel.DATA) * share + jnp.arange(share),
            color_std=jnp.float32(spec.color_std),
        )

    mesh, split = parallel.device_mesh(jax.devices()[:number]), jax.P(parallel.DATA)
    mapped = jax.shard_map(function, mesh=mesh, in_specs=split, out_specs=split, check_vma=False)
    return np.asarray(jax.jit(mapped)(images, indices, epochs))


def test_training_draws_are_pinned(images, statistics, augment_spec):
    """A change here would silently change the crops of runs that are resumed."""
    drawn = crops(run(images, statistics, augment_spec()))[:4]
    assert drawn.tolist() == [[2, 0, 1], [0, 4, 0], [3, 0, 1], [1, 4, 1]]


@pytest.fixture(scope="module")
def ramps():
    """Red grows from left to right, green from top to bottom, both by 20 a pixel."""
    made = np.zeros((COUNT, SIZE, SIZE, 3), np.uint8)
    made[..., 0] = 20 * np.arange(SIZE)
    made[..., 1] = 20 * np.arange(SIZE)[:, None]
    return made


def boxes(output):
    """[b 5]: top, left, height and width in pixels, and whether mirrored, of resized crops of `ramps`.

    From two pixels in the middle, which no border touches; what grows evenly stays so when enlarged.
    """
    rows, columns = output[:, 4:6, 4, 1] / 20 + 0.5, output[:, 4, 4:6, 0] / 20 + 0.5
    height, width = (np.diff(places)[:, 0] * SIZE for places in (rows, columns))
    top, left = rows.mean(1) - height / 2, columns.mean(1) - abs(width) / 2
    return np.stack([top, left, height, abs(width), width < 0], 1)


def test_resized_crops_are_boxes_within_the_image(ramps, statistics, augment_spec):
    spec = augment_spec(**RESIZED, min_area=0.25)
    top, left, height, width, mirrored = boxes(run(ramps, statistics, spec)).T
    assert min(top.min(), left.min()) > -1e-4
    assert max((top + height).max(), (left + width).max()) < SIZE + 1e-4
    assert (height * width).min() > 25 - 1e-3 and 70 < (height * width).max() < 100 + 1e-3
    assert np.abs(np.log(width / height)).max() < np.log(4 / 3) + 1e-4
    assert 0.25 < mirrored.mean() < 0.75
    plain = boxes(run(ramps, statistics, dataclasses.replace(spec, flip=False)))
    assert np.allclose(plain[:, :4].T, [top, left, height, width], atol=1e-3)
    assert not plain[:, 4].any()


def test_resized_crops_are_mirrored_and_colored_as_others(ramps, statistics, augment_spec):
    spec = augment_spec(crop_size=SIZE, color_std=0.1)
    other = dataclasses.replace(spec, crop="random_resized")
    black = np.zeros_like(ramps)
    assert np.array_equal(run(black, statistics, other), run(black, statistics, spec))
    plain, resized = (run(ramps, statistics, s, color_std=0.0)[..., 0] for s in (spec, other))
    assert np.array_equal(resized[:, 4, 4] > resized[:, 4, 5], plain[:, 4, 4] > plain[:, 4, 5])


def test_resized_crops_of_a_chunk_share_the_box(ramps, statistics, augment_spec):
    drawn = boxes(run(ramps, statistics, augment_spec(**RESIZED, crop_chunk=16)))
    drawn = drawn.reshape(4, 16, 5)
    assert np.allclose(drawn, drawn[:, :1], atol=1e-4)
    assert not np.allclose(drawn[0, 0], drawn[1, 0], atol=0.1)


def test_the_mean_image_is_resized_with_the_crop(images, statistics, augment_spec):
    statistics = statistics._replace(mean_image=np.rint(statistics.mean_image))
    spec = augment_spec(**RESIZED)
    means = np.repeat(statistics.mean_image[None].astype(np.uint8), COUNT, 0)
    apart = run(images, statistics, spec) - run(means, statistics, spec)
    pixel = run(images, statistics, dataclasses.replace(spec, mean="pixel"))
    assert np.allclose(pixel, apart, atol=1e-3)


def test_resized_training_boxes_are_pinned(ramps, statistics, augment_spec):
    drawn = boxes(run(ramps, statistics, augment_spec(**RESIZED)))[:3]
    pinned = [[1.4, 0.09, 7.17, 6.08, 1], [0.09, 3.64, 7.19, 6.03, 0], [3.8, 0.47, 4.78, 3.93, 1]]
    assert np.allclose(drawn, pinned, atol=0.01)


def test_numbers_of_one_name_change_no_others():
    @functools.partial(jax.jit, static_argnames="box")
    def drawn(box):
        draws = Draws(example_keys(KEY, jnp.zeros(8, jnp.int32), jnp.arange(8)), box=box)
        named = {name: draws[name] for name in ("position", "mirror", "color", "box")[: 3 + box]}
        return named | {name: draws.uniform(name, 3) for name in ("cutout", "another")}

    plain, boxed = jax.device_get((drawn(box=False), drawn(box=True)))
    for name, number in (("position", 2), ("mirror", 1), ("color", 3)):
        assert plain[name].shape == (8, number) and np.array_equal(plain[name], boxed[name])
    assert boxed["box"].shape == (8, resized_crops.DRAWS)
    one, other = plain["cutout"], boxed["another"]
    assert np.array_equal(one, boxed["cutout"]) and not np.any(one == other)
    assert -1 < one.min() < 0 < one.max() < 1


def test_cutout_erases_a_square_after_all_else(images, statistics, augment_spec):
    spec = augment_spec(crop_size=SIZE, color_std=0.1)
    plain = run(images, statistics, spec)
    cut = run(images, statistics, dataclasses.replace(spec, extra=("cutout",)))
    erased = (cut == 0).all(-1)
    assert np.array_equal(cut[~erased], plain[~erased])
    assert erased.any((1, 2)).all() and erased.sum((1, 2)).max() == (SIZE // 2) ** 2
    assert len({mask.tobytes() for mask in erased}) > COUNT // 2


def test_an_augmentation_that_is_not_there_is_named():
    with pytest.raises(ConfigError, match=r"augment.extra.*one of cutout"):
        config.parse(config.load("tests/tiny.py", ["--config.augment.extra=cutuot"]))
