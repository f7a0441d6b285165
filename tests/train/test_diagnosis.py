import functools
import json
import math

import jax
import numpy as np
from ml_collections import ConfigDict

from alexnet_jax import config as configs
from alexnet_jax.data.pipeline.statistics import Statistics
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.train import diagnosis, state
from alexnet_jax.train.diagnosis import PlateauDetector
from configs import paper

SIZE, CLASSES = 9, 5
PLATEAU = math.log(CLASSES)


def make_spec(
    *, activation="relu", std=0.1, bias=0.0, scale=1.0, loss="cross_entropy", resize=None
):
    config = paper.get_config()
    row = dict(kind="conv", kernel=3, stride=1, pad=(1, 1), groups=1, init_std=std, bias=bias)
    fc = dict(groups=1, init_std=std, before=())
    config.model.num_classes = CLASSES
    config.model.activation = activation
    config.model.towers = 1
    config.model.convs = ConfigDict(
        dict(
            conv1=dict(row, features=6, then=("act", "lrn")),
            conv2=dict(row, features=8, then=("act",)),
        )
    )
    config.model.fcs = ConfigDict(
        dict(
            fc6=dict(fc, features=16, bias=bias, then=("act", "dropout")),
            fc8=dict(fc, features=None, bias=0.0, then=()),
        )
    )
    config.data.path = "unused"
    config.augment.crop_size = SIZE
    config.augment.scale = scale
    config.augment.resize = resize
    config.train.loss = loss
    return configs.parse(config)


@functools.cache
def initial_state() -> state.State:
    """Of kernels of standard deviation 1, for `report` to scale: a program for all nets."""
    spec = make_spec(std=1.0)
    return jax.device_get(state.create(spec, AlexNet(spec.model), 0))


@functools.cache
def report(change=lambda params: params, *, stored=SIZE, std=0.1, bias=0.0, **values) -> tuple:
    spec = make_spec(std=std, bias=bias, **values)
    model, started = AlexNet(spec.model, axis_name="data"), initial_state()
    params = {
        row: {"kernel": std * of["kernel"], "bias": of["bias"] + np.float32(bias * (row != "fc8"))}
        for row, of in started.params.items()
    }
    started = started._replace(params=change(params))
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (8, stored, stored, 3)).astype(np.uint8)
    labels = generator.integers(0, CLASSES, 8).astype(np.int32)
    statistics = Statistics(
        mean_image=np.full((stored, stored, 3), 128, np.float32),
        channel_mean=np.full(3, 128, np.float32),
        eigenvectors=np.eye(3, dtype=np.float32),
        stds=np.ones(3, np.float32),
    )
    return tuple(diagnosis.signal_report(model, spec, started, statistics, images, labels))


def by_row(records) -> dict:
    return {record["row"]: record for record in records}


def test_report_has_the_input_and_every_row_in_order_and_is_json():
    records = report()
    assert [record["row"] for record in records] == ["input", "conv1", "conv2", "fc6", "fc8"]
    assert json.loads(json.dumps(records)) == list(records)
    rows = by_row(records)
    assert 60 < rows["input"]["output_rms"] < 90  # uniform grey levels: 255 / sqrt(12)
    np.testing.assert_allclose(rows["conv1"]["weight_rms"], 0.1, rtol=0.2)
    assert all(rows[row]["gradient_rms"] > 0 for row in ("conv1", "conv2", "fc6", "fc8"))
    assert rows["fc8"]["dead"] is None and rows["conv1"]["saturated"] is None


def kill_conv2(params):
    """Half of conv2 gets a bias that no input overcomes."""
    bias = np.where(np.arange(8) < 4, -1e6, 0).astype(np.float32)
    return params | {"conv2": params["conv2"] | {"bias": bias}}


def test_dead_maps_are_counted_and_named_with_a_remedy():
    records = report(kill_conv2)
    assert by_row(records)["conv2"]["dead"] >= 0.5
    first = diagnosis.causes(list(records))[0]
    assert "conv2" in first and "dead" in first and "--config.model.convs.conv2.bias=0.1" in first


def test_small_weights_under_large_biases_show_as_images_that_do_not_reach_the_output():
    rows = by_row(report(std=1e-3, bias=1.0))
    assert rows["fc6"]["output_rms"] > 0.5  # the bias: the outputs look alive
    assert rows["fc8"]["example_rms"] < 0.01
    first = diagnosis.causes(list(report(std=1e-3, bias=1.0)))[0]
    assert "--config.model.init=he" in first and "hardly reach" in first
    assert f"--config.augment.scale divided by {rows['input']['output_rms']:.0f}" in first
    unit = report(std=1e-3, bias=1.0, scale=1 / 75)
    assert not any("divided" in cause for cause in diagnosis.causes(list(unit)))


def small_inputs() -> tuple:
    return report(activation="tanh", scale=1e-3, resize=SIZE, stored=12)


def test_saturated_units_are_counted_where_the_activation_has_limits():
    assert by_row(report(activation="tanh"))["conv1"]["saturated"] > 0.5
    assert by_row(small_inputs())["conv1"]["saturated"] < 0.01
    assert "saturated" in diagnosis.causes(list(report(activation="tanh")))[0]


def test_inputs_of_another_scale_are_named():
    causes = diagnosis.causes(list(report(scale=1 / 255, std=1.0)))
    assert "--config.augment.scale" in causes[0] and "input" in causes[0]


def test_without_evidence_the_data_come_first():
    causes = diagnosis.causes(list(report(std=0.1)))
    assert "labels" in causes[0] and "--config.data.shuffle=epoch" in causes[0]
    assert any("learning_rate" in cause for cause in causes)


def test_table_has_a_line_a_row_of_one_width():
    lines = diagnosis.format_report(list(report())).splitlines()
    assert len(lines) == 6 and len({len(line) for line in lines}) == 1
    assert lines[1].split()[0] == "input" and lines[-1].split()[0] == "fc8"


def fed(losses, every: int = 50, **options) -> list[str]:
    detector = PlateauDetector(CLASSES, 10, **options)
    said = [detector.feed(every * (i + 1), loss) for i, loss in enumerate(losses)]
    return [text for text in said if text]


def test_plateau_is_named_once_and_its_end_is_told():
    said = fed([3.0, *[PLATEAU * 1.005] * 10, 1.4, 1.2, 1.0])
    assert len(said) == 2
    assert "ln(5) = 1.609" in said[0] and "from step 100 to 300" in said[0]
    assert said[1].startswith("the loss left the plateau at ln(5) by step 600")


def test_a_loss_has_left_if_it_is_lower_by_three_percent():
    shares = (1.1, 1.0, 0.971, 0.969, float("nan"))
    left = [diagnosis.has_left(share * PLATEAU, CLASSES) for share in shares]
    assert left == [False, False, False, True, False]


def test_learning_nets_and_short_stays_are_not_named():
    assert not fed(np.linspace(1.6, 0.5, 30))
    assert not fed([PLATEAU] * 4 + [1.3, 1.0])
    assert not fed([3.0] * 20) and not fed([float("nan")] * 20)
    assert not fed([PLATEAU, PLATEAU, PLATEAU, 1.4] * 5)


def test_patience_is_an_epoch_or_200_steps():
    assert PlateauDetector(10, 50).patience == 200
    assert PlateauDetector(1000, 10_000).patience == 10_000
    assert len(fed([PLATEAU] * 3, patience=100)) == 1


def test_a_replay_of_the_losses_restores_the_detector():
    losses = [*[PLATEAU] * 8, 1.3, *[PLATEAU] * 8]
    for cut in range(len(losses)):
        whole, resumed = PlateauDetector(CLASSES, 10), PlateauDetector(CLASSES, 10)
        for i, loss in enumerate(losses[:cut]):
            whole.feed(50 * i, loss)
            resumed.feed(50 * i, loss)
        after = [
            d.feed(50 * (cut + i), loss)
            for d in (whole, resumed)
            for i, loss in enumerate(losses[cut:])
        ]
        assert after[: len(after) // 2] == after[len(after) // 2 :]


def test_report_is_made_only_when_the_plateau_is_named():
    made = []

    def make():
        made.append(1)
        return list(report(kill_conv2))

    detector = PlateauDetector(CLASSES, 10, patience=2)
    said = [detector.feed(i, PLATEAU, make) or "" for i in range(6)]
    assert made == [1]
    assert "1. " in said[2] and "conv2" in said[2].splitlines()[1]


def test_gradient_is_of_the_configured_loss():
    cross_entropy, mse = by_row(report(loss="cross_entropy")), by_row(report(loss="mse"))
    assert 0 < mse["fc8"]["gradient_rms"] < 0.9 * cross_entropy["fc8"]["gradient_rms"]


def test_resized_images_are_reported_too():
    assert [record["row"] for record in small_inputs()][-1] == "fc8"
