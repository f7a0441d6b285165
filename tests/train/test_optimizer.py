import dataclasses
from typing import Any

import jax
import numpy as np
import optax
import pytest

from alexnet_jax import config
from alexnet_jax.kernels.forms import PLAIN
from alexnet_jax.specs import OptimizerSpec
from alexnet_jax.train import optimizer
from alexnet_jax.train.norms import Norms
from alexnet_jax.train.schedule import Rates

PAPER = OptimizerSpec(kind="momentum", momentum=0.9, weight_decay=5e-4, layer_weight_decay={})


def rates(weights, biases=0.02, **layers) -> Rates:
    factors = {"conv1": 1.0, "fc8": 1.0} | layers
    return Rates(
        scalar(weights),
        scalar(biases),
        {row: scalar(factor) for row, factor in factors.items()},
        scalar(0),
    )


def scalar(value) -> np.ndarray:
    return np.asarray(value, np.float32)


def make_params() -> dict:
    generator = np.random.default_rng(0)
    shapes = {"kernel": (3, 4), "bias": (4,), "scale": (4,), "offset": (4,)}
    return {
        row: {
            name: generator.normal(size=shape).astype(np.float32) for name, shape in shapes.items()
        }
        for row in ("conv1", "fc8")
    }


def make_gradients(params, steps: int) -> list:
    generator = np.random.default_rng(1)
    return [
        jax.tree.map(lambda w: generator.normal(size=w.shape).astype(np.float32), params)
        for _ in range(steps)
    ]


PROGRAMS: dict[tuple, tuple] = {}


def programs(spec: OptimizerSpec) -> tuple:
    """(first state, step) of the rule of `spec`, compiled once for all tests."""
    key = (repr(spec), optimizer.OPTIMIZERS[spec.kind])
    if key not in PROGRAMS:
        rule = optimizer.build(spec)

        def step(params, state, gradient, rates):
            norms = Norms(jax.tree.map(lambda _: jax.P(), params), PLAIN).each
            updates, state = rule.update(gradient, state, params, rates=rates, norms=norms)
            return optax.apply_updates(params, updates), state

        PROGRAMS[key] = jax.jit(rule.init), jax.jit(step)
    return PROGRAMS[key]


def run(spec, params, gradients, schedule) -> tuple[Any, Any]:
    """Parameters and optimizer state after a jitted update by each gradient."""
    init, step = programs(spec)
    state = init(params)
    for gradient, now in zip(gradients, schedule, strict=True):
        params, state = step(params, state, gradient, now)
    return jax.device_get((params, state))


def recurrence(
    params, gradients, rates_of_kernel, rates_of_others, momentum, decay, bias_decay=0.0
) -> Any:
    """§5 as printed, in float64."""

    def one(path, w, *gradients):
        kernel = path[-1].key == "kernel"
        own = {"kernel": decay, "bias": bias_decay}.get(path[-1].key, 0.0)
        w, v = np.float64(w), np.zeros(w.shape)
        for g, rate in zip(gradients, rates_of_kernel if kernel else rates_of_others, strict=True):
            v = momentum * v - rate * own * w - rate * np.float64(g)
            w = w + v
        return w

    return jax.tree_util.tree_map_with_path(one, params, *gradients)


def assert_close(a, b, tolerance=2e-6):
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance), a, b
    )


def test_update_is_the_papers_across_a_rate_drop():
    params = make_params()
    gradients = make_gradients(params, 12)
    kernel = [0.1] * 6 + [0.01] * 6
    after, _ = run(PAPER, params, gradients, [rates(rate) for rate in kernel])
    assert_close(after, recurrence(params, gradients, kernel, [0.02] * 12, 0.9, 5e-4))


@pytest.mark.parametrize("bias_decay", [5e-4, 0.05])
def test_biases_decay_at_their_own_rate_inside_the_velocity(bias_decay):
    """As the paper prints it, bias_decay being that of the weights; and with another."""
    params, spec = make_params(), dataclasses.replace(PAPER, bias_weight_decay=bias_decay)
    gradients = make_gradients(params, 12)
    kernel = [0.1] * 6 + [0.01] * 6
    after, _ = run(spec, params, gradients, [rates(rate, 0.2) for rate in kernel])
    expected = recurrence(params, gradients, kernel, [0.2] * 12, 0.9, 5e-4, bias_decay)
    assert_close(after, expected)
    without, _ = run(PAPER, params, gradients, [rates(rate, 0.2) for rate in kernel])
    assert np.abs(after["fc8"]["bias"] - without["fc8"]["bias"]).max() > 1e-4


def test_optax_sgd_is_another_rule_once_the_rate_drops():
    params, spec = make_params(), dataclasses.replace(PAPER, weight_decay=0.0)
    gradients = make_gradients(params, 12)
    drop = [0.1] * 6 + [0.01] * 6
    sgd = optax.sgd(optax.piecewise_constant_schedule(0.1, {6: 0.1}), momentum=0.9)
    for steps, equal in ((6, True), (12, False)):
        ours, _ = run(spec, params, gradients[:steps], [rates(r, r) for r in drop[:steps]])
        theirs = run_optax(sgd, params, gradients[:steps])
        difference = np.abs(ours["fc8"]["kernel"] - theirs["fc8"]["kernel"]).max()
        assert difference < 1e-5 if equal else difference > 0.01


def run_optax(rule, params, gradients) -> Any:
    @jax.jit
    def step(params, state, gradient):
        updates, state = rule.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    state = jax.jit(rule.init)(params)
    for gradient in gradients:
        params, state = step(params, state, gradient)
    return jax.device_get(params)


def test_only_kernels_decay():
    params = make_params()
    zero = [jax.tree.map(np.zeros_like, params)]
    after, _ = run(dataclasses.replace(PAPER, weight_decay=0.5), params, zero, [rates(0.1)])
    for row in params:
        np.testing.assert_allclose(after[row]["kernel"], 0.95 * params[row]["kernel"], rtol=1e-6)
        for name in ("bias", "scale", "offset"):
            np.testing.assert_array_equal(after[row][name], params[row][name])


def test_biases_of_all_rows_decay_alike_and_batch_normalization_does_not():
    params = make_params()
    zero = [jax.tree.map(np.zeros_like, params)]
    for kind in ("momentum", "adam"):
        spec = OptimizerSpec(
            kind=kind, momentum=0.9, weight_decay=0.0, layer_weight_decay={"fc8": 0.5}, bias_weight_decay=0.2
        )  # fmt: skip
        after, _ = run(spec, params, zero, [rates(0.1, 0.5)])
        for row, kernel in (("conv1", 1.0), ("fc8", 0.95)):
            for name, factor in (("kernel", kernel), ("bias", 0.9), ("scale", 1), ("offset", 1)):
                np.testing.assert_allclose(after[row][name], factor * params[row][name], rtol=1e-6)


def test_a_bias_that_stands_still_does_not_decay():
    params, spec = make_params(), dataclasses.replace(PAPER, bias_weight_decay=0.5)
    gradients = make_gradients(params, 1)
    after, _ = run(spec, params, gradients, [rates(0.1, 0.0)])
    frozen, _ = run(spec, params, gradients, [rates(0.1, 0.1, conv1=0.0)])
    np.testing.assert_array_equal(after["fc8"]["bias"], params["fc8"]["bias"])
    np.testing.assert_array_equal(frozen["conv1"]["bias"], params["conv1"]["bias"])
    assert np.abs(frozen["fc8"]["bias"] - params["fc8"]["bias"]).max() > 1e-3


def test_the_decay_of_the_paper_leaves_the_shape_of_the_state():
    """So a run of before, without a decay of biases, can go on with it, and the other way round."""
    params = make_params()
    states = [
        optimizer.build(dataclasses.replace(PAPER, bias_weight_decay=decay)).init(params)
        for decay in (0.0, 5e-4)
    ]
    assert jax.tree.structure(states[0]) == jax.tree.structure(states[1])


def test_torch_decays_every_parameter_as_the_config_of_torchvision_does():
    torch = pytest.importorskip("torch")
    spec = config.parse(config.load("configs/torchvision.py", ["--config.data.path=unused"]))
    params = {row: {k: made[k] for k in ("kernel", "bias")} for row, made in make_params().items()}
    gradients = make_gradients(params, 5)
    after, _ = run(spec.optimizer, params, gradients, [rates(0.01, 0.01)] * 5)
    tensors = jax.tree.map(lambda w: torch.nn.Parameter(torch.tensor(w)), params)
    rule = torch.optim.SGD(
        jax.tree.leaves(tensors), lr=0.01, momentum=0.9, weight_decay=spec.optimizer.weight_decay
    )
    for gradient in gradients:
        for tensor, g in zip(jax.tree.leaves(tensors), jax.tree.leaves(gradient), strict=True):
            tensor.grad = torch.tensor(g)
        rule.step()
    theirs = jax.tree.map(lambda tensor: tensor.detach().numpy(), tensors)
    assert_close(after, theirs, 2e-7)
    less = dataclasses.replace(spec.optimizer, bias_weight_decay=0.0)
    without, _ = run(less, params, gradients, [rates(0.01, 0.01)] * 5)
    assert np.abs(without["fc8"]["bias"] - theirs["fc8"]["bias"]).max() > 1e-6


def test_a_row_can_have_its_own_decay():
    params = make_params()
    zero = [jax.tree.map(np.zeros_like, params)]
    for own in (0.0, 0.5):
        spec = dataclasses.replace(PAPER, weight_decay=0.1, layer_weight_decay={"fc8": own})
        after, _ = run(spec, params, zero, [rates(1.0)])
        np.testing.assert_allclose(
            after["conv1"]["kernel"], 0.9 * params["conv1"]["kernel"], rtol=1e-6
        )
        np.testing.assert_allclose(
            after["fc8"]["kernel"], (1 - own) * params["fc8"]["kernel"], rtol=1e-6
        )


def test_row_factors_multiply_both_rates():
    params = make_params()
    gradients = make_gradients(params, 1)
    after, _ = run(PAPER, params, gradients, [rates(0.1, 0.02, conv1=0.5)])
    assert_close(after["conv1"], recurrence(params, gradients, [0.05], [0.01], 0.9, 5e-4)["conv1"])
    assert_close(after["fc8"], recurrence(params, gradients, [0.1], [0.02], 0.9, 5e-4)["fc8"])


def test_a_rate_of_zero_stops_tensor_and_velocity_and_a_later_one_goes_on():
    params = make_params()
    gradients = make_gradients(params, 9)
    first, state = run(PAPER, params, gradients[:3], [rates(0.1)] * 3)
    frozen = [rates(0.1)] * 3 + [rates(0.1, conv1=0.0)] * 3
    second, held = run(PAPER, params, gradients[:6], frozen)
    velocity = next(s.trace for s in state if hasattr(s, "trace"))
    kept = next(s.trace for s in held if hasattr(s, "trace"))
    for name in params["conv1"]:
        np.testing.assert_array_equal(second["conv1"][name], first["conv1"][name])
        np.testing.assert_array_equal(kept["conv1"][name], velocity["conv1"][name])
        assert np.abs(second["fc8"][name] - first["fc8"][name]).max() > 1e-4
    without_bias, _ = run(PAPER, params, gradients[:1], [rates(0.1, 0.0)])
    np.testing.assert_array_equal(without_bias["fc8"]["bias"], params["fc8"]["bias"])
    assert np.abs(without_bias["fc8"]["kernel"] - params["fc8"]["kernel"]).max() > 1e-4
    third, _ = run(PAPER, params, gradients, frozen + [rates(0.1)] * 3)
    moving = [g for i, g in enumerate(gradients) if i not in (3, 4, 5)]
    whole = recurrence(params, moving, [0.1] * 6, [0.02] * 6, 0.9, 5e-4)
    assert_close(third["conv1"], whole["conv1"])


def test_no_momentum_keeps_no_velocity():
    params = make_params()
    gradients = make_gradients(params, 3)
    after, state = run(
        dataclasses.replace(PAPER, momentum=0.0), params, gradients, [rates(0.1)] * 3
    )
    assert not jax.tree.leaves(state)
    assert_close(after, recurrence(params, gradients, [0.1] * 3, [0.02] * 3, 0.0, 5e-4))


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_adam_is_optax_adam_with_decay_outside_the_averages(decay):
    params = make_params()
    gradients = make_gradients(params, 5)
    spec = OptimizerSpec(kind="adam", momentum=0.0, weight_decay=decay, layer_weight_decay={})
    after, _ = run(spec, params, gradients, [rates(0.01, 0.01)] * 5)
    kernels = {row: {name: name == "kernel" for name in params[row]} for row in params}
    theirs = optax.adamw(0.01, weight_decay=decay, mask=kernels)
    assert_close(after, run_optax(theirs, params, gradients))


def test_adam_holds_frozen_rows():
    params = make_params()
    gradients = make_gradients(params, 4)
    spec = OptimizerSpec(kind="adam", momentum=0.0, weight_decay=0.1, layer_weight_decay={})
    first, before = run(spec, params, gradients[:2], [rates(0.01)] * 2)
    after, state = run(spec, params, gradients, [rates(0.01)] * 2 + [rates(0.01, conv1=0.0)] * 2)
    for name in params["conv1"]:
        np.testing.assert_array_equal(after["conv1"][name], first["conv1"][name])
        np.testing.assert_array_equal(state[0].mu["conv1"][name], before[0].mu["conv1"][name])
        np.testing.assert_array_equal(state[0].nu["conv1"][name], before[0].nu["conv1"][name])
    assert np.abs(after["fc8"]["bias"] - first["fc8"]["bias"]).max() > 1e-3


def test_any_optax_optimizer_holds_still_where_the_rate_is_zero(monkeypatch):
    """LARS, masks and a count in its state included."""

    def lars(spec):
        averaged = optax.scale_by_schedule(lambda count: 1.0 / (1 + count))
        lars = optax.lars(1.0, weight_decay=0.1, trust_ratio_mask=kernels, momentum=0.9)
        return optax.chain(lars, averaged, optimizer.scale_by_rates(flip_sign=False))

    def kernels(params):
        return jax.tree_util.tree_map_with_path(lambda path, _: optimizer.is_weight(path), params)

    monkeypatch.setitem(optimizer.OPTIMIZERS, "momentum", lars)
    params = make_params()
    gradients = make_gradients(params, 4)
    first, before = run(PAPER, params, gradients[:2], [rates(0.1)] * 2)
    frozen = [rates(0.1)] * 2 + [rates(0.1, conv1=0.0)] * 2
    after, state = run(PAPER, params, gradients, frozen)
    assert jax.tree.structure(state) == jax.tree.structure(lars(PAPER).init(params))
    traces = [optax.tree.get(each, "trace") for each in (before, state)]
    for name in params["conv1"]:
        np.testing.assert_array_equal(after["conv1"][name], first["conv1"][name])
        np.testing.assert_array_equal(traces[0]["conv1"][name], traces[1]["conv1"][name])
        assert np.abs(after["fc8"][name] - first["fc8"][name]).max() > 1e-6
    assert int(optax.tree.get(state, "count")) == 4
    _, stopped = run(PAPER, params, gradients, [rates(0.1)] * 2 + [rates(0.0, 0.0)] * 2)
    assert int(optax.tree.get(stopped, "count")) == 2


LARS = dataclasses.replace(
    PAPER, kind="lars", weight_decay=0.05, layer_weight_decay={"fc8": 0.2}, bias_weight_decay=0.01
)


def algorithm_1(spec: OptimizerSpec, params, gradients, kernel_rates, other_rates) -> Any:
    """LARS as printed by You et al. (2017), in float64, with the rates and decays of §5."""

    def one(path, w, *gradients):
        layer, name = path[0].key, path[-1].key
        decays = {"kernel": spec.layer_weight_decay.get(layer, spec.weight_decay)}
        decay = (decays | {"bias": spec.bias_weight_decay}).get(name, 0.0)
        w, v = np.float64(w), np.zeros(w.shape)
        for g, rate in zip(
            gradients, kernel_rates if name == "kernel" else other_rates, strict=True
        ):
            w_norm, g_norm = np.linalg.norm(w), np.linalg.norm(g)
            local = 1.0
            if (spec.trust_ratio == "all" or name == "kernel") and w_norm and g_norm:
                local = spec.trust_coefficient * w_norm / (g_norm + decay * w_norm)
            v = spec.momentum * v + rate * local * (g + decay * w)
            w = w - v
        return w

    return jax.tree_util.tree_map_with_path(one, params, *gradients)


@pytest.mark.parametrize("trusted", ["all", "kernels"])
@pytest.mark.parametrize("steps", [1, 8])
def test_lars_is_algorithm_1_with_the_rates_and_decays_of_section_5(trusted, steps):
    params, spec = make_params(), dataclasses.replace(LARS, trust_ratio=trusted)
    params["fc8"]["bias"] *= 0  # without a norm, the ratio is 1
    gradients = make_gradients(params, steps)
    kernel = [10.0 * (i + 1) / steps for i in range(steps)]
    other = [2 * rate if trusted == "all" else 0.02 for rate in kernel]
    after, _ = run(
        spec, params, gradients, [rates(*both) for both in zip(kernel, other, strict=True)]
    )
    assert_close(after, algorithm_1(spec, params, gradients, kernel, other), 2e-5)


def test_lars_without_decay_is_that_of_optax():
    params = make_params()
    gradients = make_gradients(params, 6)
    spec = dataclasses.replace(LARS, weight_decay=0.0, layer_weight_decay={}, bias_weight_decay=0.0)
    after, _ = run(spec, params, gradients, [rates(10.0, 10.0)] * 6)
    assert_close(after, run_optax(optax.lars(10.0, momentum=0.9), params, gradients), 2e-5)


def test_lars_holds_still_where_the_rate_is_zero():
    """As at the first step of a warm-up, and in a layer that is frozen."""
    params = make_params()
    gradients = make_gradients(params, 4)
    none, state = run(LARS, params, gradients[:1], [rates(0.0, 0.0)])
    jax.tree.map(np.testing.assert_array_equal, none, params)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(state))
    first, before = run(LARS, params, gradients[:2], [rates(10.0)] * 2)
    frozen = [rates(10.0)] * 2 + [rates(10.0, conv1=0.0)] * 2
    after, held = run(LARS, params, gradients, frozen)
    traces = [optax.tree.get(each, "trace") for each in (before, held)]
    for name in params["conv1"]:
        np.testing.assert_array_equal(after["conv1"][name], first["conv1"][name])
        np.testing.assert_array_equal(traces[0]["conv1"][name], traces[1]["conv1"][name])
    assert np.abs(after["fc8"]["kernel"] - first["fc8"]["kernel"]).max() > 1e-3
