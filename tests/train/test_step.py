import dataclasses
import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from alexnet_jax import config as configs
from alexnet_jax.data.pipeline import augment, placement, views
from alexnet_jax.data.pipeline.batches import Batch
from alexnet_jax.data.pipeline.splits import Split
from alexnet_jax.data.pipeline.statistics import Statistics
from alexnet_jax.inference import predict_step
from alexnet_jax.kernels import forms
from alexnet_jax.model import mesh as parallel
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.specs import Config
from alexnet_jax.train import schedule, state, step
from alexnet_jax.train.schedule import Rates
from bench import ours, workload
from configs import paper

SIZE, CLASSES, EXAMPLES = 12, 5, 16


def make_spec(*, batch_norm: bool = False, **sections) -> Config:
    """A small net with what can differ between devices: groups, LRN in towers, dropout, crops of chunks, colors."""
    config = paper.get_config()
    then = ("batch_norm", "act", "lrn", "pool") if batch_norm else ("act", "lrn", "pool")
    pool = dict(kind="max", window=3, stride=2, rounding="ceil")
    row = dict(kind="conv", kernel=3, stride=1, pad=(1, 1), init_std=0.1)
    fc = dict(groups=1, init_std=0.1, before=())
    config.model.num_classes = CLASSES
    config.model.convs = ConfigDict(
        dict(
            conv1=dict(row, features=8, groups=1, bias=0.0, then=then, pool=pool),
            conv2=dict(row, features=8, groups=2, bias=1.0, then=("act",)),
        )
    )
    config.model.fcs = ConfigDict(
        dict(
            fc6=dict(fc, features=16, bias=1.0, then=("act", "dropout")),
            fc8=dict(fc, features=None, bias=0.0, then=()),
        )
    )
    config.data.path = "unused"
    config.data.image_size = SIZE
    config.augment.crop_size = 9
    config.augment.crop_chunk = 4
    config.augment.scale = 1 / 64
    config.train.batch_size = EXAMPLES
    for section, values in sections.items():
        config[section].update(values)
    return configs.parse(config)


def make_statistics() -> Statistics:
    generator = np.random.default_rng(5)
    return Statistics(
        mean_image=generator.uniform(100, 150, (SIZE, SIZE, 3)).astype(np.float32),
        channel_mean=np.full(3, 125, np.float32),
        eigenvectors=np.linalg.qr(generator.normal(size=(3, 3)))[0].astype(np.float32),
        stds=np.array([8, 20, 90], np.float32),
    )


def make_batch(seed: int = 0) -> Batch:
    generator = np.random.default_rng(seed)
    return Batch(
        images=generator.integers(0, 256, (EXAMPLES, SIZE, SIZE, 3)).astype(np.uint8),
        labels=generator.integers(0, CLASSES, EXAMPLES).astype(np.int32),
        indices=generator.permutation(100)[:EXAMPLES].astype(np.int32),
        epochs=np.repeat(np.array([0, 1], np.int32), EXAMPLES // 2),
    )


def make_rates(weights=0.05, biases=0.1, color_std=0.1, **layers) -> Rates:
    factors = {"conv1": 1.0, "conv2": 1.0, "fc6": 1.0, "fc8": 1.0} | layers
    return Rates(
        scalar(weights),
        scalar(biases),
        {row: scalar(factor) for row, factor in factors.items()},
        scalar(color_std),
    )


def scalar(value) -> np.ndarray:
    return np.asarray(value, np.float32)


def mesh_of(num_devices: int):
    return parallel.device_mesh(jax.devices()[:num_devices])


@functools.cache
def compiled(spec_key: tuple, num_devices: int):
    """The train step of `make_spec` with those sections; made once for all tests."""
    sections = {section: dict(values) for section, values in spec_key if section != "batch_norm"}
    spec = make_spec(batch_norm=dict(spec_key).get("batch_norm", False), **sections)
    model = AlexNet(spec.model)
    train_step = step.make_train_step(spec, model, make_statistics(), mesh_of(num_devices))
    return train_step


@functools.cache
def first_state(batch_norm: bool = False) -> state.State:
    """Numpy arrays, so that no test can give them away."""
    spec = make_spec(batch_norm=batch_norm)
    return jax.device_get(state.create(spec, AlexNet(spec.model), 3))


def train(
    num_devices: int, steps: int = 2, *, rates=None, batches=None, batch_norm=False, **sections
):
    """State before and after some steps, and the metrics of each."""
    key = (("batch_norm", batch_norm), *((s, tuple(v.items())) for s, v in sections.items()))
    train_step = compiled(key, num_devices)
    now, metrics = first_state(batch_norm), []
    for i in range(steps):
        batch = make_batch(i) if batches is None else batches[i]
        now, measured = train_step(now, batch, rates or make_rates())
        metrics.append(jax.device_get(measured))
    return first_state(batch_norm), jax.device_get(now), metrics


def assert_close(a, b, tolerance=1e-5):
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance), a, b
    )


@functools.cache
def plain_gradient():
    """Loss, errors and gradient of the mean loss in the first step, without a mesh, in numpy arrays."""
    spec, batch = make_spec(), make_batch(0)
    before = first_state()

    def loss(params):
        step_key = jax.random.fold_in(state.stream(spec.seed, state.DROPOUT), 0)
        keys = jax.vmap(lambda i: jax.random.fold_in(step_key, i))(np.arange(EXAMPLES))
        images = augment.train_images(
            jnp.asarray(batch.images), make_statistics(), spec.augment,
            seed_key=state.stream(spec.seed, state.AUGMENT), indices=batch.indices, epochs=batch.epochs,
            step=0, positions=np.arange(EXAMPLES), color_std=np.float32(0.1),
        )  # fmt: skip
        logits, _ = AlexNet(spec.model).apply(
            {"params": params}, images, train=True, example_keys=keys
        )
        log_probabilities = jax.nn.log_softmax(logits)
        return -log_probabilities[np.arange(EXAMPLES), batch.labels].mean(), logits

    compute = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (value, logits), gradient = jax.device_get(compute(before.params))
    errors = int(np.sum(np.argmax(logits, axis=1) != batch.labels))
    return value, errors, gradient


@pytest.mark.parametrize("num_devices", [1, pytest.param(2, marks=pytest.mark.full), 4])
def test_step_is_the_plain_update_and_never_a_multiple_of_it(num_devices):
    before, after, metrics = train(num_devices, steps=1)
    loss, errors, gradient = plain_gradient()
    np.testing.assert_allclose(metrics[0]["loss"], loss, rtol=1e-5)
    assert metrics[0]["top1_errors"] == errors
    norm = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(gradient)))
    np.testing.assert_allclose(metrics[0]["grad_norm"], norm, rtol=1e-5)

    def first_update(path, w, g):
        rate = 0.05 if path[-1].key == "kernel" else 0.1
        return w - rate * (g + 5e-4 * w)  # §5: kernels and biases

    expected = jax.tree_util.tree_map_with_path(first_update, before.params, gradient)
    assert_close(after.params, expected)
    # The comparison would notice a gradient that is doubled.
    doubled = jax.tree.map(lambda w, e: w + 2 * (e - w), before.params, expected)
    with pytest.raises(AssertionError):
        assert_close(after.params, doubled)


@pytest.mark.parametrize(
    ("num_devices", "batch_norm"),
    [
        *(pytest.param(count, False, marks=pytest.mark.full) for count in (2, 4)),
        (4, True),
    ],
)
def test_devices_agree_after_some_steps(num_devices, batch_norm):
    _, one, metrics = train(1, 3, batch_norm=batch_norm)
    _, many, others = train(num_devices, 3, batch_norm=batch_norm)
    assert int(one.step) == int(many.step) == 3
    assert_close(one.params, many.params)
    assert_close(one.batch_stats, many.batch_stats)
    assert bool(one.batch_stats) == batch_norm
    assert_close(metrics, others)


def test_accumulation_changes_nothing_without_batch_norm():
    _, whole, metrics = train(1)
    _, parts, others = train(2, train={"accumulate": 2})
    assert_close(whole.params, parts.params)
    assert_close(metrics, others)


def temporary_bytes(parts: int) -> int:
    """Of the compiled programs of a step of tests/tiny.py at batch 1024: the largest, and sums beside it."""
    spec, mesh = made_up(parts), mesh_of(1)
    if parts == 1:
        return ours.lower(spec, mesh).compile().memory_analysis().temp_size_in_bytes
    model, host = AlexNet(spec.model), ours.examples(spec)
    zeros, part, update = step.jit_part_and_update(spec, model, mesh)
    start = state.shapes(spec, model)
    rates = schedule.rates(spec, 0.0, schedule.create(), 1.0)
    statistics = predict_step.resized_statistics(ours.statistics(spec), spec)
    keys = (state.stream(spec.seed, name) for name in (state.AUGMENT, state.DROPOUT))
    sums, constants = jax.eval_shape(zeros), (statistics, *keys)
    added = part.lower(
        start.params, None, start.batch_stats, start.step, sums, host, np.int32(0), rates, constants
    )
    updated = update.lower(
        start, None, sums, start.batch_stats, rates, np.zeros((1, 2), np.float32)
    )
    analyses = [lowered.compile().memory_analysis() for lowered in (added, updated)]
    # The sums are added to in place.
    size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(sums))
    assert analyses[0].alias_size_in_bytes >= size
    return size + max(analysis.temp_size_in_bytes for analysis in analyses)


def made_up(parts: int):
    more = ["--config.data.source=folder", f"--config.train.accumulate={parts}"]
    return workload.load("tests/tiny.py", 1024, more)


@pytest.mark.full
def test_parts_take_the_memory_of_one_part():
    whole = temporary_bytes(1)
    assert temporary_bytes(4) < 1.2 * whole / 4


@pytest.mark.full
def test_accumulation_with_batch_norm_sees_the_same_parts_on_any_devices():
    _, one, _ = train(1, batch_norm=True, train={"accumulate": 2})
    _, two, _ = train(2, batch_norm=True, train={"accumulate": 2})
    assert_close(one.batch_stats, two.batch_stats)
    assert_close(one.params, two.params)


def test_resized_crops_train_with_the_mean_squared_error():
    resized = {"crop": "random_resized", "min_area": 0.25}
    before, after, metrics = train(1, 1, augment=resized, train={"loss": "mse"})
    assert metrics[0]["finite"] and 0 < metrics[0]["loss"] < 0.5
    assert np.abs(after.params["conv1"]["kernel"] - before.params["conv1"]["kernel"]).max() > 0


def test_a_step_that_is_not_finite_changes_nothing_but_the_count():
    train_step = compiled((("batch_norm", True),), 4)
    before, good, _ = train(4, 1, batch_norm=True)
    assert np.abs(good.params["fc8"]["kernel"] - before.params["fc8"]["kernel"]).max() > 0
    # An infinite color offset spoils the loss of all images.
    spoiled = make_rates(color_std=np.inf)
    after, measured = train_step(good, make_batch(1), spoiled)
    assert not measured["finite"]
    assert int(after.step) == 2
    for name in ("params", "opt_state", "batch_stats"):
        now = jax.device_get(getattr(after, name))
        jax.tree.map(np.testing.assert_array_equal, getattr(good, name), now)
    after, measured = train_step(after, make_batch(1), make_rates())
    assert measured["finite"] and np.isfinite(after.params["fc8"]["kernel"]).all()


def test_frozen_rows_do_not_move_and_the_others_do():
    before, after, _ = train(1, rates=make_rates(conv1=0.0))
    for name in ("kernel", "bias"):
        np.testing.assert_array_equal(before.params["conv1"][name], after.params["conv1"][name])
    assert np.abs(before.params["conv2"]["kernel"] - after.params["conv2"]["kernel"]).max() > 0


def test_state_is_given_away_in_place_and_rates_compile_nothing_again():
    spec = make_spec()
    model, mesh = AlexNet(spec.model), mesh_of(1)
    jitted: Any = step.jit_train_step(spec, model, mesh)
    constants = (make_statistics(), state.stream(0, state.AUGMENT), state.stream(0, state.DROPOUT))
    now = state.create(spec, model, 3, mesh=mesh)._replace(schedule=None)
    requests = np.zeros((1, 2), np.float32)
    for epoch in (0.0, 1.0, 80.0):
        rates = schedule.rates(spec, epoch, schedule.create(), 90.0)
        given = now
        now, _, _ = jitted(given, None, make_batch(0), rates, requests, constants, None)
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves((given.params, given.opt_state)))
    assert jitted._cache_size() == 1
    memory = (
        jitted.lower(now, None, make_batch(0), rates, requests, constants, None)
        .compile()
        .memory_analysis()
    )
    size = sum(leaf.nbytes for leaf in jax.tree.leaves((now.params, now.opt_state)))
    assert memory.alias_size_in_bytes >= size


@pytest.mark.parametrize(
    ("num_devices", "loops"),
    [
        (4, "unrolled"),
        *(
            pytest.param(*case, marks=pytest.mark.full)
            for case in ((1, "unrolled"), (1, "scan"), (2, "scan"))
        ),
    ],
)
def test_several_steps_of_one_call_are_those_of_several_calls(num_devices, loops):
    spec, mesh, count = make_spec(), mesh_of(num_devices), 2
    drawn = make_batch(0)
    split = Split(drawn.images, drawn.labels)
    placed = placement.placed(split, mesh, "device")
    chosen = dataclasses.replace(forms.CPU, loops=loops)
    model = AlexNet(spec.model, forms=chosen)
    rates = [make_rates(weights=0.05 / (i + 1)) for i in range(count)]
    order = [np.random.default_rng(i).permutation(EXAMPLES).astype(np.int32) for i in range(count)]
    epochs = [np.full(EXAMPLES, i, np.int32) for i in range(count)]
    one = compiled((("batch_norm", False),), num_devices)
    now, expected = first_state(), []
    for i in range(count):
        now, metrics = one(now, placed.finish(placed.read(order[i], epochs[i])), rates[i])
        expected.append(jax.device_get(metrics))
    several = step.make_train_step(spec, model, make_statistics(), mesh, placed.pool)
    batch = placed.read_steps(np.stack(order), np.stack(epochs))
    stacked = jax.tree.map(lambda *each: np.stack(each), *rates)
    after, metrics = several(first_state(), batch, stacked)
    assert int(after.step) == count
    assert_close(jax.device_get(after.params), jax.device_get(now.params), 1e-6)
    for i in range(count):
        assert_close(jax.tree.map(lambda x, i=i: np.asarray(x)[i], metrics), expected[i], 1e-6)


def test_inexact_dropout_is_one_draw_a_layer_and_still_a_function_of_the_seed():
    _, first, metrics = train(1, train=dict(exact=False))
    _, again, _ = train(1, train=dict(exact=False))
    _, exact, _ = train(1)
    _, parts, _ = train(1, train=dict(exact=False, accumulate=2))
    assert all(m["finite"] for m in metrics)
    jax.tree.map(np.testing.assert_array_equal, first, again)
    for other in (exact, parts):
        moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), first.params, other.params)
        assert max(jax.tree.leaves(moved)) > 0


@pytest.mark.parametrize("precision", ["default", "highest"])
def test_the_precision_of_products_is_in_the_program_forward_and_backward(precision):
    spec = make_spec(train=dict(matmul_precision=precision))
    text = ours.lower(spec, mesh_of(1), forms.PLAIN).as_text()
    products = re.findall(r"stablehlo\.(?:convolution|dot_general).*", text)
    highest = ["precision_config = [#stablehlo<precision HIGHEST>" in line or
               "precision = [HIGHEST" in line for line in products]  # fmt: skip
    # Forward, by the weights and by the inputs (not the first row's); one product makes the color noise.
    assert len(products) >= 3 * 4 - 1
    assert all(highest) if precision == "highest" else sum(highest) == 1


def test_schedule_stays_on_the_host():
    train_step = compiled((("batch_norm", False),), 1)
    before = first_state()
    assert train_step(before, make_batch(0), make_rates())[0].schedule is before.schedule


def test_create_is_a_function_of_the_seed():
    spec = make_spec()
    model = AlexNet(spec.model, axis_name="data")
    one, again, other = (state.create(spec, model, seed) for seed in (3, 3, 4))
    jax.tree.map(np.testing.assert_array_equal, one, again)
    assert np.abs(one.params["fc8"]["kernel"] - other.params["fc8"]["kernel"]).max() > 0.01
    assert one.step.dtype == jnp.int32 and int(one.step) == 0
    assert {leaf.dtype for leaf in jax.tree.leaves((one.params, one.opt_state))} == {
        np.dtype("float32")
    }


def test_mean_squared_error_is_of_probabilities_over_classes():
    logits, labels = np.array([[2.0, 0.0, -1.0]]), np.array([0])
    probabilities = np.exp(logits) / np.exp(logits).sum()
    expected = np.mean((probabilities - np.array([[1.0, 0, 0]])) ** 2)
    np.testing.assert_allclose(step.LOSSES["mse"](logits, labels, 0.0), [expected], rtol=1e-6)


def test_smoothed_labels_are_the_cross_entropy_with_the_smoothed_target():
    logits, labels = np.array([[2.0, 0.0, -1.0]]), np.array([0])
    log_probabilities = logits - np.log(np.exp(logits).sum())
    target = 0.9 * np.array([[1.0, 0, 0]]) + 0.1 / 3
    expected = -(target * log_probabilities).sum(axis=1)
    found = step.LOSSES["cross_entropy"](logits, labels, 0.1)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_ties_and_nan_are_top1_errors():
    nan = float("nan")
    logits = jnp.array([[1.0, 0, 0], [1, 1, 0], [0, 0, 0], [nan, nan, nan], [0, nan, 1], [0, 0, 3]])
    assert int(step.top1_errors(logits, jnp.array([0, 0, 1, 0, 2, 2]))) == 4


@pytest.mark.parametrize(("view", "num_devices"), [("center", 4), ("ten", 1)])
def test_eval_averages_probabilities_over_views(view, num_devices):
    spec, images = make_spec(), make_batch(0).images
    model = AlexNet(spec.model)
    params = first_state().params

    @jax.jit
    def crops_of(images):
        return views.views(images, make_statistics(), spec.augment, view)

    @jax.jit
    def probabilities_of(x):
        return jax.nn.softmax(model.apply({"params": params}, x, train=False)[0])

    crops = np.asarray(crops_of(images))
    each = [probabilities_of(crops[:, i]) for i in range(crops.shape[1])]
    predict = predict_step.make_eval_step(
        spec, model, make_statistics(), mesh_of(num_devices), view
    )
    probabilities = predict(params, {}, images)
    assert probabilities.shape == (EXAMPLES, CLASSES)
    np.testing.assert_allclose(probabilities, np.mean(each, axis=0), atol=1e-6)


@pytest.mark.full
def test_resized_images_use_a_resized_mean():
    spec = make_spec(augment={"resize": 10})
    model = AlexNet(spec.model)
    started, images = first_state(), make_batch(0).images
    train_step = step.make_train_step(spec, model, make_statistics(), mesh_of(1))
    predict = predict_step.make_eval_step(spec, model, make_statistics(), mesh_of(1), "center")
    assert predict(started.params, {}, images).shape == (EXAMPLES, CLASSES)
    _, metrics = train_step(started, make_batch(0), make_rates())
    assert metrics["finite"]


def test_adam_trains_and_counts_no_spoiled_step():
    optimizer = {"kind": "adam", "momentum": 0.0, "weight_decay": 0.0}
    spec = make_spec(optimizer=optimizer)
    model = AlexNet(spec.model)
    train_step = step.make_train_step(spec, model, make_statistics(), mesh_of(2))
    now = state.create(spec, model, 3, mesh=mesh_of(2))
    now, first = train_step(now, make_batch(0), make_rates(1e-3, 1e-3))
    good = jax.device_get(now)
    spoiled = make_rates(1e-3, 1e-3, np.inf)
    now, _ = train_step(now, make_batch(1), spoiled)
    jax.tree.map(np.testing.assert_array_equal, good.opt_state, jax.device_get(now.opt_state))
    for _ in range(5):
        now, last = train_step(now, make_batch(0), make_rates(1e-3, 1e-3))
    assert last["loss"] < first["loss"]
