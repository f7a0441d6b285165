"""Run one form of the train step: a worker process of bench/step.py.

    python -m bench.forms FORM --config configs/paper.py --batch 32 [--config.section.key=value ...]

FORM is "chosen" for the forms of the device (alexnet_jax/kernels/forms.py), changes to them such as
"pool=repeat,barriers=none", or a key of PROGRAM, which changes the compilation of the whole program.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from alexnet_jax import cli
from alexnet_jax.kernels import compiler, forms

from . import alternate, ours, workload


class Patch(NamedTuple):
    """Replace `module.name` with `wrap(module.name)` before tracing."""

    module: Any
    name: str
    wrap: Callable[[Any], Any]


def main(arguments: list[str]) -> int:
    parser = cli.parser(__doc__ or "")
    parser.add_argument("form")
    parser.add_argument("--config", required=True)
    parser.add_argument("--batch", type=int, required=True)
    options, rest = parser.parse_known_args(arguments)
    for module, name, wrap in PROGRAM.get(options.form, ()):
        setattr(module, name, wrap(getattr(module, name)))
    chosen = parse(options.form, forms.choose(jax.default_backend()))
    spec = workload.load(options.config, options.batch, cli.config_overrides(rest))
    alternate.serve(lambda: ours.program(spec, chosen))
    return 0


def parse(form: str, base: forms.Forms) -> forms.Forms:
    """Return the forms that FORM selects, given the forms of the device. Raises ConfigError."""
    return base if form in ("chosen", *PROGRAM) else forms.parse(form, base)


def _without_option(name: str) -> Callable[[Any], Any]:
    def wrap(options: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
        def without(platform: str | None = None, **others: Any) -> dict[str, Any]:
            return {key: value for key, value in options(platform, **others).items() if key != name}

        return without

    return wrap


def _without_donation(jit: Callable[..., Any]) -> Callable[..., Any]:
    return lambda function, donate_argnums=(), **options: jit(function, **options)


#: Changes to the whole program, by FORM.
PROGRAM: dict[str, list[Patch]] = {
    "ynnpack": [
        Patch(compiler, "options", _without_option("xla_cpu_experimental_ynn_fusion_type"))
    ],
    "undonated": [Patch(jax, "jit", _without_donation)],
}

if __name__ == "__main__":
    cli.run(main)
