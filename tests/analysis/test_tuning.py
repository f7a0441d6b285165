"""Gabor filters in conv1 give back their orientation, frequency and color; towers are told apart."""

import dataclasses
import json

import numpy as np
import pytest

from alexnet_jax import files
from alexnet_jax.analysis import tuning
from alexnet_jax.errors import ConfigError
from alexnet_jax.inference import weights
from alexnet_jax.inference.network import Network

#: (orientation of the bars, cycles per pixel, color) of the Gabor filters of tower 1, then of tower 2.
GABORS = [
    (0, 0.20, "achromatic"), (45, 0.14, "achromatic"), (90, 0.30, "achromatic"), (120, 0.20, "achromatic"),
    (0, 0.20, "red-green"), (60, 0.14, "red-cyan"), (90, 0.20, "green-magenta"), (150, 0.30, "blue-yellow"),
]  # fmt: skip


def gabor(angle, frequency, color, side=11):
    y, x = np.meshgrid(*2 * [np.arange(side) - side // 2], indexing="ij")
    along = np.deg2rad(angle)
    wave = np.cos(2 * np.pi * frequency * (x * np.sin(along) + y * np.cos(along)) + 0.4)
    bell = np.exp(-(x**2 + y**2) / 2 / 3**2)
    return 0.05 * (bell * wave)[..., None] * tuning.COLORS[color]


def with_kernels(net, kernel):
    """The tiny net with other kernels [kh kw 3 8] in conv1, on larger crops."""
    config = net.trained.config
    name, conv1 = config.model.convs[0]
    conv1 = dataclasses.replace(conv1, kernel=len(kernel), pad=(2, 2))
    model = dataclasses.replace(config.model, convs=((name, conv1), *config.model.convs[1:]))
    config = dataclasses.replace(
        config, model=model,
        augment=dataclasses.replace(config.augment, crop_size=28),
        data=dataclasses.replace(config.data, image_size=32),
    )  # fmt: skip
    shapes = weights.shapes(config)
    params = files.unflatten({key: np.zeros(shape, np.float32) for key, shape in shapes.items()})
    params = params["params"] | {"conv1": {"kernel": kernel, "bias": np.ones(8, np.float32)}}
    means = net.trained.statistics._replace(mean_image=np.full((32, 32, 3), 90, np.float32))
    return Network(net.trained._replace(config=config, params=params, statistics=means))


@pytest.fixture(scope="module")
def gabors(net):
    kernel = np.stack([gabor(*one) for one in GABORS], axis=-1).astype(np.float32)
    return with_kernels(net, kernel)


@pytest.mark.parametrize("response", ["f1", "max"])
def test_gabor_filters_are_found_again(gabors, response):
    measured = tuning.measure(gabors, response)
    maps = tuning.describe(measured)
    for one, (angle, frequency, color) in zip(maps, GABORS, strict=True):
        turned = (one["orientation"] - angle + 90) % 180 - 90
        assert abs(turned) <= 90 / tuning.ORIENTATIONS, one
        step = measured.frequencies[1] / measured.frequencies[0]
        assert abs(np.log(one["frequency"] / frequency)) <= np.log(step), one
        assert one["color"] == color
        assert one["orientation_selectivity"] > 0.4
        assert one["color_index"] < -0.9 if color == "achromatic" else one["color_index"] > 0.5, one


def test_the_first_harmonic_is_the_fourier_transform_of_the_kernel(gabors):
    measured = tuning.measure(gabors)
    y, x = np.meshgrid(*2 * [np.arange(11) - 5], indexing="ij")
    kernel = gabors.trained.params["conv1"]["kernel"]
    for o, f, c in ((0, 3, 0), (5, 0, 1), (11, 7, 4)):
        along, frequency = np.deg2rad(measured.orientations[o]), measured.frequencies[f]
        wave = np.exp(2j * np.pi * frequency * (x * np.sin(along) + y * np.cos(along)))
        direction = list(tuning.COLORS.values())[c]
        expected = tuning.AMPLITUDE * np.abs(np.einsum("yx,yxcm,c->m", wave, kernel, direction))
        np.testing.assert_allclose(measured.responses[o, f, c], expected, rtol=1e-3, atol=2e-3)


def test_gratings_have_equal_contrast_and_stay_within_their_range():
    rows = np.array([(30, 0.11, 77, *color) for color in tuning.COLORS.values()], np.float32)
    made = np.asarray(tuning.gratings(rows, 64)) - tuning.GRAY
    energy = np.square(made).sum(axis=-1).mean(axis=(1, 2))
    np.testing.assert_allclose(energy, energy[0], rtol=1e-4)
    assert np.abs(made).max() <= 127.5 + 1e-3
    bars = np.asarray(tuning.gratings(np.array([(90, 0.125, 0, 1, 0, 0)], np.float32), 16))
    assert np.ptp(bars[0, :, 3, 0]) < 1e-3 < np.ptp(bars[0, 3, :, 0])  # vertical


def test_color_selective_and_silent_maps(net):
    kernel = np.zeros((11, 11, 3, 8), np.float32)
    kernel[5, 5, :, 0] = 1  # white: brightness alone, in no orientation
    kernel[5, 5, 0, 1] = 1  # red: some of both
    maps = tuning.describe(tuning.measure(with_kernels(net, kernel)))
    assert maps[0]["color_index"] == pytest.approx(-1, abs=1e-3)
    assert maps[0]["orientation_selectivity"] == pytest.approx(0, abs=1e-3)
    # |red-cyan . red| = 2 / sqrt 6 against 1 / sqrt 3
    assert maps[1]["color"] == "red-cyan"
    ratio = 2 / 6**0.5 * 3**0.5
    assert maps[1]["color_index"] == pytest.approx((ratio - 1) / (ratio + 1), abs=1e-3)
    assert maps[2]["response"] == 0 and maps[2]["color_index"] is None


def test_towers_that_differ_are_told_from_those_that_do_not(gabors):
    maps = tuning.describe(tuning.measure(gabors))
    found = tuning.compare(maps, 2)["color_index"]
    assert found["means"][0] < -0.9 and found["means"][1] > 0.5
    # The observed division of eight maps is one of two of C(8, 4) = 70 that are as extreme.
    assert found["p"] == pytest.approx(2 / 70, abs=0.006)
    mixed = [maps[i] for i in (0, 4, 1, 5, 2, 6, 3, 7)]
    assert tuning.compare(mixed, 2)["color_index"]["p"] > 0.5
    alone = tuning.compare(maps, 1)["color_index"]
    assert alone["p"] is None and len(alone["means"]) == 1
    silent = [one | {"response": 0} if i < 4 else one for i, one in enumerate(maps)]
    assert tuning.compare(silent, 2)["color_index"]["means"][0] is None


def test_p_is_uniform_where_towers_do_not_differ():
    generator, found = np.random.default_rng(0), []
    for _ in range(40):
        maps = [
            {"response": 1, **dict.fromkeys(tuning.COMPARED, value)}
            for value in generator.normal(size=24)
        ]
        found.append(tuning.compare(maps, 2)["color_index"]["p"])
    assert 0.3 < np.mean(found) < 0.7 and np.mean(np.array(found) < 0.1) < 0.25


def test_the_figure_and_its_numbers(net, weights_file, tmp_path, capsys):
    tuning.main(["--workdir", str(weights_file), "--out", str(tmp_path)])
    path = tmp_path / "tuning.png"
    assert capsys.readouterr().out.strip() == str(path) and path.stat().st_size > 0
    numbers = json.loads((tmp_path / "tuning.json").read_text())
    assert numbers["layer"] == "conv1" and numbers["response"] == "f1" and len(numbers["maps"]) == 8
    assert [one["tower"] for one in numbers["maps"]] == [1] * 4 + [2] * 4
    assert len(numbers["maps"][0]["by_orientation"]) == tuning.ORIENTATIONS
    assert set(numbers["towers"]) == set(tuning.COMPARED)


def test_a_net_whose_maps_are_silent_is_drawn(net, tmp_path):
    silent = with_kernels(net, np.zeros((11, 11, 3, 8), np.float32))
    numbers = json.loads(tuning.plot(silent, tmp_path / "a.png").with_suffix(".json").read_text())
    assert {one["orientation"] for one in numbers["maps"]} == {None}


def test_a_first_layer_without_shared_kernels_is_refused(net):
    config = net.trained.config
    (name, conv1), *others = config.model.convs
    model = dataclasses.replace(
        config.model, convs=((name, dataclasses.replace(conv1, kind="local")), *others)
    )
    other = Network(net.trained._replace(config=dataclasses.replace(config, model=model)))
    with pytest.raises(ConfigError, match="conv1 is not a convolution"):
        tuning.measure(other)
