"""Every operation on the device, forward and its gradients, against the plainest form on the CPU in float32."""

import dataclasses
import functools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax.data.pipeline import augment
from alexnet_jax.data.pipeline.statistics import Statistics
from alexnet_jax.kernels import compiler, convolution, elementwise, normalization, pooling
from alexnet_jax.kernels.forms import GPU, PLAIN, Forms, parse, values
from alexnet_jax.model import alexnet, operations
from alexnet_jax.model.towers import LayerSharding
from alexnet_jax.specs import DropoutSpec, FCSpec
from bench import workload
from tests.gpu.device import BFLOAT16, DEVICE, FLOAT32, HOST, STAND_IN, TF32, Computed, error


class Case(NamedTuple):
    """An operation with one form on the device; it is differentiated by all of its arguments."""

    name: str
    operation: Callable[..., Any]
    """f(*arguments, forms)"""
    shapes: tuple[tuple[int, ...], ...]
    """Of its arguments, which are normal; of one shape with a pool, whole numbers that differ within a map."""
    form: str = ""
    """Changes of GPU, as forms.parse takes them."""
    products: bool = False
    """Whether precision makes a difference in float32."""
    narrow: float = BFLOAT16
    """How far bfloat16 may be off."""

    def __str__(self) -> str:
        return f"{self.name} {self.form}".strip()


def conv(side, stride, pad, groups=1):
    return functools.partial(
        lambda x, k, forms, **how: convolution.convolution(x, k, forms=forms, **how),
        stride=stride, pad=pad, groups=groups,
    )  # fmt: skip


def straight_in_blocks(x, kernel, forms):
    """conv1 of images that were cut into blocks before (Forms.images)."""
    if forms.strided == "plain":
        return conv(11, 4, (0, 3))(x, kernel, forms)
    return convolution.convolution(
        convolution.to_blocks(x, 11, 4, (0, 3)), kernel, stride=4, pad=(0, 3), forms=forms
    )


def lrn(x, forms):
    return normalization.local_response_normalization(
        x, k=2.0, n=5, alpha=0.05, beta=0.75, towers=2, forms=forms
    )


def lrn_of_another_power(x, forms):
    return normalization.local_response_normalization(
        x, k=2.0, n=5, alpha=0.05, beta=0.6, forms=forms
    )


def spatial_norm(x, forms):
    return normalization.spatial_response_normalization(
        x, size=3, alpha=0.05, beta=0.75, forms=forms
    )


def max_pool(x, forms):
    return pooling.max_pool(x, window=3, stride=2, rounding="ceil", forms=forms)


def average_pool(x, forms):
    return pooling.average_pool(x, window=3, stride=2, rounding="ceil")


def each_of(field: str, *cases: Case) -> list[Case]:
    return [case._replace(form=f"{field}={value}") for case in cases for value in values(field)]


IMAGES, KERNEL = (4, 47, 47, 3), (11, 11, 3, 32)
MAPS = (4, 13, 13, 32)
#: What computes in bfloat16 itself: functions of several steps, and sums of hundreds whose parts are rounded too.
STEPS, SUMS = 2.0**-5, 2.0**-3
CASES = [
    Case("conv", conv(3, 1, (1, 1)), (MAPS, (3, 3, 32, 48)), products=True),
    Case("conv stride 2", conv(5, 2, (0, 2)), (MAPS, (5, 5, 32, 48)), products=True),
    *each_of("groups", Case("conv groups", conv(5, 1, (2, 2), 2), (MAPS, (5, 5, 16, 64)), products=True)),
    *each_of("strided", Case("conv1", conv(11, 4, (0, 3)), (IMAGES, KERNEL), products=True)),
    Case("conv1 of blocks", straight_in_blocks, (IMAGES, KERNEL), products=True),
    Case("local", lambda x, k, forms: convolution.locally_connected(x, k, stride=1, pad=(1, 1)),
         ((4, 5, 5, 8), (5, 5, 3, 3, 8, 16)), products=True, narrow=STEPS),
    Case("dense", lambda x, k, forms: convolution.dense(x, k), ((16, 256), (256, 96)), products=True),
    Case("dense to logits", lambda x, k, forms: convolution.dense(x, k, jnp.float32),
         ((16, 256), (256, 10)), products=True),
    Case("dense groups", lambda x, k, forms: convolution.dense(x, k), ((16, 256), (2, 128, 48)), products=True),
    *each_of("bias_gradient",
             Case("bias", elementwise.add_bias, (MAPS, (32,)), narrow=SUMS),
             Case("bias of each place", elementwise.add_bias, (MAPS, (13, 13, 32)), narrow=STEPS)),
    *each_of("lrn_gradient", Case("lrn", lrn, (MAPS,)), Case("spatial norm", spatial_norm, (MAPS,))),
    Case("lrn", lrn, (MAPS,), "lrn_power=power"),
    Case("lrn of another power", lrn_of_another_power, (MAPS,)),
    *each_of("pool", Case("max pool", max_pool, (MAPS,))),
    Case("average pool", average_pool, (MAPS,)),
    *each_of("relu", Case("relu", elementwise.relu, (MAPS,))),
    *(Case(name, lambda x, forms, name=name: operations.ACTIVATIONS[name].apply(x, forms), (MAPS,), narrow=STEPS)
      for name in operations.ACTIVATIONS if name != "relu"),
]  # fmt: skip
KINDS = {
    "highest": FLOAT32,
    "default": FLOAT32 if STAND_IN else TF32,
    "bfloat16": None,
}
"""Types and precisions, with how far float32 may be off."""


def arguments(case: Case, dtype) -> list[np.ndarray]:
    draw = np.random.default_rng(0)
    if (
        "max pool" in case.name
    ):  # no value ties with another of its map, nor does bfloat16 round any
        b, h, w, c = case.shapes[0]
        maps = draw.permuted(np.tile(np.arange(h * w), (b * c, 1)), axis=1)
        return [maps.reshape(b, c, h, w).transpose(0, 2, 3, 1).astype(dtype)]
    return [draw.normal(size=shape).astype(dtype) for shape in case.shapes]


def both_ways(case: Case, device, forms: Forms, precision: str, given: list) -> list[np.ndarray]:
    """The result, and the gradient by each argument of its product with a fixed cotangent; float32."""

    operation = functools.partial(case.operation, forms=forms)
    y = jax.eval_shape(operation, *given)
    cotangent = np.random.default_rng(1).normal(size=y.shape)
    cotangent = cotangent.astype(jnp.bfloat16).astype(y.dtype)  # the same in all types

    def run(cotangent, *given):
        y, pullback = jax.vjp(operation, *given)
        return y, *pullback(cotangent)

    with jax.default_matmul_precision(precision):
        options = compiler.options(device.platform)
        jitted = jax.jit(run, compiler_options=options)
        computed = jitted(*jax.device_put([cotangent, *given], device))
    return [np.asarray(array, np.float32) for array in computed]


def compare(case: Case, kind: str) -> dict[str, float]:
    """By what was computed, how far it is off."""
    dtype = jnp.bfloat16 if kind == "bfloat16" else np.float32
    given = arguments(case, dtype)
    wide = [array.astype(np.float32) for array in given]
    expected = both_ways(case, HOST, PLAIN, "highest", wide)
    precision = "highest" if kind == "highest" else "default"
    found = both_ways(case, DEVICE, parse(case.form, GPU), precision, given)
    names = ["forward", *(f"gradient {i}" for i in range(len(given)))]
    return {n: error(f, e) for n, f, e in zip(names, found, expected, strict=True)}


@pytest.fixture(scope="module")
def computed(request) -> Computed:
    return Computed(request, compare)


@pytest.mark.parametrize(
    ("case", "kind"),
    [(case, kind) for case in CASES for kind in KINDS if case.products or kind != "default"],
    ids=str,
)
def test_an_operation_computes_what_the_plainest_form_does(case, kind, computed, request):
    errors = computed.of(request)
    assert max(errors.values()) < (KINDS[kind] or case.narrow), errors


@pytest.mark.skipif(STAND_IN, reason="a CPU has no TF32")
def test_products_are_rounded_to_ten_bits_unless_they_are_to_be_exact():
    """Else the bounds of 'default' would show nothing."""
    capability = float(DEVICE.compute_capability)
    dense = Case("large", lambda x, k, forms: convolution.dense(x, k), ((512, 1024), (1024, 512)))
    rounded = max(compare(dense, "default").values())
    assert (rounded > 2.0**-14) == (capability >= 8)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("form", ["compared", "separable", "parity", "repeat"])
def test_tied_maxima_get_the_gradient_that_they_get_on_a_cpu(form, dtype):
    """All of them in float32, the first alone in bfloat16."""
    given = np.random.default_rng(0).integers(0, 3, MAPS).astype(dtype)
    case = Case("tied", max_pool, (MAPS,))
    forms = dataclasses.replace(GPU, pool=form)
    found, expected = (both_ways(case, d, forms, "highest", [given]) for d in (DEVICE, HOST))
    np.testing.assert_array_equal(found[0], expected[0])
    assert error(found[1], expected[1]) < (FLOAT32 if dtype == "float32" else BFLOAT16)
    assert (found[1] != 0).tolist() == (expected[1] != 0).tolist()


FC = FCSpec(4096, groups=1, init_std=0.1, bias=1.0, before=(), then=("dropout",))


@pytest.mark.parametrize("rate", [0.5, 0.3])
@pytest.mark.parametrize("exact", [True, False], ids=["a key for each example", "one key"])
def test_dropout_draws_the_same_mask_on_every_device(rate, exact):
    spec = DropoutSpec(rate=rate, scale_at="test")

    def run(x, key):
        keys = alexnet.DropoutKeys(jax.random.split(key, len(x)) if exact else key)
        layer: Any = SimpleNamespace(model=SimpleNamespace(dropout=spec), sharding=LayerSharding())
        node = operations.Node("fc6", FC, "dropout", operations.OPERATIONS["dropout"])
        call = operations.Call(node, True, keys.next, x.dtype, towers=1)
        return node.operation.apply(layer, x, call)

    given = np.ones((64, 4096), np.float32), jax.random.key(3)
    masks = [np.asarray(jax.jit(run)(*jax.device_put(given, d))) for d in (DEVICE, HOST)]
    np.testing.assert_array_equal(*masks)
    assert abs(masks[0].mean() - (1 - rate)) < 0.01


#: Changes of the paper's, and how many gray levels images may be apart.
AUGMENTATIONS = {
    "crops": ({"color_std": 0.0}, 0.0),
    "chunks": ({"color_std": 0.0, "crop_chunk": 4}, 0.0),
    "noise": ({}, 1e-3),
    "noise of eigenvalues": ({"color_basis": "eigenvalue", "mean": "channel"}, 1e-3),
    "standardized": ({"color_std": 0.0, "mean": "standardize"}, 1e-5),
    "resized": ({"color_std": 0.0, "resize": 48}, 1e-3),
    "random resized": ({"color_std": 0.0, "crop": "random_resized"}, 1e-2),
}


@pytest.mark.parametrize("form", values("images"))
@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_images_are_cropped_mirrored_and_colored_as_on_a_cpu(name, form):
    changes, bound = AUGMENTATIONS[name]
    paper = workload.load("configs/paper.py", 64, []).augment
    chosen = dataclasses.replace(paper, **{"crop_size": 32, "color_basis": "std", **changes})
    draw, indices = np.random.default_rng(0), np.arange(64, dtype=np.int32)
    images = draw.integers(0, 256, (64, 40, 40, 3), np.uint8)
    mean = draw.uniform(50, 200, (40, 40, 3)).astype(np.float32)
    vectors = np.linalg.qr(draw.normal(size=(3, 3)))[0].astype(np.float32)
    statistics = Statistics(mean, mean.mean((0, 1)), vectors, np.asarray([20, 37, 121], np.float32))
    if chosen.resize:
        statistics = statistics._replace(mean_image=np.full((48, 48, 3), 120, np.float32))
    to_blocks = functools.partial(convolution.to_blocks, kernel=11, stride=4, pad=(0, 3))

    def run(images, statistics, key, indices, forms, to_blocks):
        made = augment.train_images(
            images, statistics, chosen, seed_key=key, indices=indices, epochs=indices % 3, step=5,
            positions=indices, color_std=jnp.float32(chosen.color_std), forms=forms, to_blocks=to_blocks,
        )  # fmt: skip
        return made if isinstance(made, jax.Array) else made.values

    given = images, statistics, jax.random.key(7), indices
    forms = dataclasses.replace(GPU, images=form)
    blocks = None if form == "plain" else to_blocks
    function = functools.partial(run, forms=forms, to_blocks=blocks)
    found = jax.jit(function)(*jax.device_put(given, DEVICE))
    expected: Any = functools.partial(run, forms=PLAIN, to_blocks=None)
    expected = jax.jit(expected)(*jax.device_put(given, HOST))
    expected = expected if form == "plain" else to_blocks(expected).values
    np.testing.assert_allclose(np.asarray(found), np.asarray(expected), rtol=0, atol=bound)
