"""Every form computes what the plainest does, alone and all together, and makes another program."""

import dataclasses

import jax
import numpy as np
import pytest

from alexnet_jax.errors import ConfigError
from alexnet_jax.kernels import forms
from alexnet_jax.kernels.forms import CPU, GPU, PLAIN, Forms
from alexnet_jax.model import alexnet
from alexnet_jax.model import mesh as parallel
from alexnet_jax.train import schedule, state, step
from bench import ours, workload

TINY = ("tests/tiny.py", ("--config.data.source=folder", "--config.train.accumulate=2"))
#: In the order of the 2012 program, with its second normalization.
TINY_2012 = (
    "tests/tiny.py",
    (
        "--config.data.source=folder",
        "--config.model.convs.conv1.then=('lrn', 'pool', 'act', 'spatial_norm')",
    ),
)
REAL = [(f"configs/{name}", ()) for name in ("paper.py", "krizhevsky2012.py", "scales.py:cifar10")]
# Blocks change nothing on a device that takes strided convolutions as they are.
CHANGES = [
    *(change for change in forms.undone(PLAIN) if not change.startswith("images")),
    "strided=blocks,images=blocks",
    "strided=blocks,images=packed",
]

#: Changes of GPU that hold, with it, with CPU and with the candidates, every form.
TOGETHER = (
    "groups=feature_groups,bias_gradient=derived,lrn_gradient=two_pass,pool=reduce_window,norm=plain",
    "fused_activations=True,pool=separable",
    "lrn_gradient=recomputed,pool=repeat,relu=of_output,lrn_power=power,images=blocks,loops=unrolled",
    "lrn_gradient=derived,pool=derived,barriers=none,update_barrier=True,images=packed",
    "pool=parity,towers=apart,barriers=forward",
)


def load(which, *overrides, batch=8):
    config, settings = which
    return workload.load(config, batch, [*settings, *overrides])


def gradient(spec, chosen):
    """(loss, minus the rate times gradient and decay) of the first step, array by array."""
    mesh = parallel.device_mesh(jax.local_devices()[:1])
    model = alexnet.from_config(spec, chosen)
    first = state.create(spec, model, 0, mesh=mesh)
    train_step = step.make_train_step(spec, model, ours.statistics(spec), mesh)
    rates = schedule.rates(spec, 0.0, first.schedule, 1.0)
    after, metrics = train_step(first, ours.examples(spec), rates)
    return float(metrics["loss"]), jax.tree.leaves(after.opt_state)


def largest_error(these, others):
    """Of an array's root mean square, over all arrays."""
    return max(
        np.sqrt(np.mean((one - other) ** 2) / np.mean(one**2))
        for one, other in zip(*map(jax.device_get, (these, others)), strict=True)
    )


@pytest.fixture(scope="module")
def plain():
    """Loss and gradient of the plainest forms, by config and type."""
    made = {}

    def of(spec):
        key = (spec.model, spec.train.accumulate, spec.train.batch_size)
        if key not in made:
            made[key] = gradient(spec, PLAIN)
        return made[key]

    return of


def assert_like_the_plain_one(spec, chosen, plain):
    loss, expected = plain(spec)
    found_loss, found = gradient(spec, chosen)
    assert found_loss == pytest.approx(loss, rel=1e-5)
    assert largest_error(expected, found) < 1e-5


def test_every_form_is_one_of_those_that_are_tried_together():
    tried = [PLAIN, CPU, GPU, *(forms.parse(text, GPU) for text in (*forms.CANDIDATES, *TOGETHER))]
    for field in dataclasses.fields(Forms):
        assert {getattr(chosen, field.name) for chosen in tried} == set(forms.values(field.name))


@pytest.mark.parametrize(
    "text", [TOGETHER[0], *(pytest.param(text, marks=pytest.mark.full) for text in TOGETHER[1:])]
)
def test_forms_together_compute_the_values_and_gradients_of_the_plain_ones(text, plain):
    assert_like_the_plain_one(load(TINY), forms.parse(text, GPU), plain)


@pytest.mark.full
def test_lrn_over_all_maps_joins_towers_in_arrays_of_their_own(plain):
    settings = (
        "--config.model.convs.conv2.then=('act', 'lrn')",
        "--config.model.lrn_constants.alpha=0.01",
    )
    across = load(TINY, *settings, "--config.model.lrn_constants.within_towers=False")
    assert_like_the_plain_one(across, forms.parse("towers=apart", PLAIN), plain)
    within = plain(load(TINY, *settings))[1]
    assert largest_error(plain(across)[1], within) > 1e-3


@pytest.mark.full
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("which", [TINY, TINY_2012], ids=["tiny", "tiny2012"])
def test_a_form_computes_the_values_and_gradients_of_the_plain_one(which, change, plain):
    assert_like_the_plain_one(load(which), forms.parse(change, PLAIN), plain)


@pytest.mark.parametrize(
    "text",
    [
        "gpu",
        *(pytest.param(text, marks=pytest.mark.full) for text in ("cpu", forms.CANDIDATES[-1])),
    ],
)
@pytest.mark.parametrize(
    "which",
    [pytest.param(TINY, marks=pytest.mark.full, id="tiny"), pytest.param(TINY_2012, id="tiny2012")],
)
def test_the_forms_of_a_device_compute_the_same_in_both_types(which, text, plain):
    chosen = {"cpu": CPU, "gpu": GPU}.get(text) or forms.parse(text, GPU)
    spec = load(which)
    assert_like_the_plain_one(spec, chosen, plain)
    # The worst array has 8 biases, whose gradients cancel: 5 and 27 % off in the plainest forms.
    narrow = load(which, "--config.model.compute_dtype=bfloat16")
    expected = plain(spec)[1]
    least = largest_error(expected, plain(narrow)[1])
    assert largest_error(expected, gradient(narrow, chosen)[1]) < 1.2 * least


@pytest.mark.full
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("which", REAL, ids=lambda which: which[0])
def test_a_form_computes_the_same_in_the_nets_that_matter(which, change, plain):
    spec = load(which, "--config.train.accumulate=2", batch=4)
    assert_like_the_plain_one(spec, forms.parse(change, PLAIN), plain)


def lowered(spec, chosen) -> str:
    mesh = parallel.device_mesh(jax.local_devices()[:1])
    return ours.lower(spec, mesh, chosen).as_text()


@pytest.mark.full
@pytest.mark.parametrize("base", [CPU, GPU], ids=["cpu", "gpu"])
def test_a_form_makes_another_program(base):
    idle = {"images", "weights", "loops"} if base is CPU else {"weights", "loops"}
    spec = load(TINY)
    chosen = lowered(spec, base)
    assert lowered(spec, base) == chosen
    for change in forms.undone(base):
        if change.partition("=")[0] not in idle:
            assert lowered(spec, forms.parse(change, base)) != chosen, change


@pytest.mark.full
def test_kept_weights_are_those_of_the_parameters_also_of_another_state():
    """A step that is given a state other than the one it returned makes the copies anew."""
    spec = load(TINY, "--config.model.compute_dtype=bfloat16")
    mesh = parallel.device_mesh(jax.local_devices()[:1])
    found = {}
    for name in ("cast", "kept"):
        model = alexnet.from_config(spec, dataclasses.replace(GPU, weights=name))
        train_step = step.make_train_step(spec, model, ours.statistics(spec), mesh)
        losses = []
        for seed in (0, 1, 0):
            current = state.create(spec, model, seed, mesh=mesh)
            rates = schedule.rates(spec, 0.0, current.schedule, 1.0)
            for _ in range(2):
                current, metrics = train_step(current, ours.examples(spec), rates)
                losses.append(float(metrics["loss"]))
        assert losses[:2] == losses[4:]
        found[name] = losses
    np.testing.assert_allclose(found["kept"], found["cast"], rtol=1e-2)


def test_a_wrong_form_is_refused_with_what_there_is():
    assert forms.parse("pool=repeat,barriers=none", CPU).pool == "repeat"
    for text, told in (("pol=repeat", "pool"), ("pool=fast", "parity"), ("barriers", "forward")):
        with pytest.raises(ConfigError, match=told):
            forms.parse(text, CPU)


def test_devices_without_measurements_get_the_plainest_forms():
    assert forms.choose("tpu") == PLAIN and forms.choose("cpu") == CPU
    assert forms.choose("gpu") == forms.choose("cuda") == GPU
    assert GPU.strided == "blocks" and GPU.barriers == "both"
