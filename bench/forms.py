"""The forms of our training step that bench/step.py compares, each run in a process of its own.

    python -m bench.forms FORM --config configs/paper.py --batch 32 [--config.section.key=value ...]

answers bench/alternate.py. A form but "chosen" undoes one choice of the program, from outside: it puts something
else in the place of an attribute, before anything is traced.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from alexnet_jax import backend, cli
from alexnet_jax.model import alexnet, convolution, ops
from alexnet_jax.training import step
from bench import alternate, ours


class Patch(NamedTuple):
    """`module.name` is replaced by `instead(what it was)`."""

    module: Any
    name: str
    instead: Callable[[Any], Any]


def main(arguments: list[str]) -> int:
    parser = cli.parser(__doc__ or "")
    parser.add_argument("form", choices=FORMS)
    parser.add_argument("--config", required=True)
    parser.add_argument("--batch", type=int, required=True)
    options, rest = parser.parse_known_args(arguments)
    for module, name, instead in FORMS[options.form]:
        setattr(module, name, instead(getattr(module, name)))
    spec = ours.load(options.config, options.batch, cli.config_overrides(rest))
    alternate.serve(lambda: ours.program(spec))
    return 0


def _without_option(name: str) -> Callable[[Any], Any]:
    def instead(compiler_options):
        def fewer(backend=None):
            options = compiler_options(backend)
            options.pop(name, None)
            return options

        return fewer

    return instead


def _feature_groups(convolution):
    def grouped(x, kernel, *, stride, pad, groups=1):
        return lax.conv_general_dilated(
            x, kernel, (stride, stride), (pad, pad), feature_group_count=groups,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )  # fmt: skip

    return grouped


def _reduce_window(max_pool):
    def pool(x, window, stride, sizes):
        hanging = [
            (0, (count - 1) * stride + window - size)
            for count, size in zip(sizes, x.shape[1:3], strict=True)
        ]
        padding = [(0, 0), *((low, max(high, 0)) for low, high in hanging), (0, 0)]
        x = x[:, : x.shape[1] + min(hanging[0][1], 0), : x.shape[2] + min(hanging[1][1], 0)]
        return lax.reduce_window(
            x, -jnp.inf, lax.max, (1, window, window, 1), (1, stride, stride, 1), padding
        )

    return pool


def _never_donating(jit):
    return lambda function, donate_argnums=(), **options: jit(function, **options)


FORMS: dict[str, list[Patch]] = {
    "chosen": [],
    "ynnpack": [
        Patch(backend, "compiler_options", _without_option("xla_cpu_experimental_ynn_fusion_type"))
    ],
    "unmaterialized": [Patch(alexnet, "materialized", lambda barrier: lambda x: x)],
    "unmaterialized-update": [
        # The rows of the net keep theirs.
        Patch(alexnet, "materialized", lambda barrier: lax.optimization_barrier),
        Patch(lax, "optimization_barrier", lambda barrier: lambda x: x),
    ],
    "undonated": [Patch(jax, "jit", _never_donating)],
    "feature-groups": [Patch(convolution, "convolution", _feature_groups)],
    "derived-bias": [Patch(convolution, "add_bias", lambda add: lambda x, bias: x + bias)],
    "derived-lrn": [Patch(ops, "_response_normalization", lambda own: own.fun)],
    "derived-pool": [Patch(ops, "_max_pool", lambda own: own.fun)],
    "reduce-window-pool": [Patch(ops, "_max_pool", _reduce_window)],
    "power": [Patch(ops, "_inverse_power", lambda root: lambda x, beta: x**-beta)],
    "plain-norm": [Patch(step, "_sum_of_squares", lambda sliced: lambda x: jnp.sum(jnp.square(x)))],
}

if __name__ == "__main__":
    cli.run(main)
