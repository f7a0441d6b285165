"""One form of the training step, in its own process: a worker of step.py.

    python -m bench.forms FORM --config configs/paper.py --batch 32 [--config.section.key=value ...]

FORM is "chosen"; changes to the forms of the device, such as "pool=repeat,barriers=none"
(alexnet_jax/kernels/forms.py); or a key of PROGRAM, which changes the program as a whole.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from alexnet_jax import cli
from alexnet_jax.kernels import compiler, forms

from . import alternate, ours


class Patch(NamedTuple):
    """Replace `module.name` by `instead(module.name)` before tracing."""

    module: Any
    name: str
    instead: Callable[[Any], Any]


def main(arguments: list[str]) -> int:
    parser = cli.parser(__doc__ or "")
    parser.add_argument("form")
    parser.add_argument("--config", required=True)
    parser.add_argument("--batch", type=int, required=True)
    options, rest = parser.parse_known_args(arguments)
    for module, name, instead in PROGRAM.get(options.form, ()):
        setattr(module, name, instead(getattr(module, name)))
    chosen = parse(options.form, forms.choose(jax.default_backend()))
    spec = ours.load(options.config, options.batch, cli.config_overrides(rest))
    alternate.serve(lambda: ours.program(spec, chosen))
    return 0


def parse(form: str, base: forms.Forms) -> forms.Forms:
    """The forms that FORM selects, given those of the device. Raises ConfigError."""
    return base if form in ("chosen", *PROGRAM) else forms.parse(form, base)


def _without_option(name: str) -> Callable[[Any], Any]:
    def instead(options: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
        def fewer(platform: str | None = None, **others: Any) -> dict[str, Any]:
            return {key: value for key, value in options(platform, **others).items() if key != name}

        return fewer

    return instead


def _never_donating(jit: Callable[..., Any]) -> Callable[..., Any]:
    return lambda function, donate_argnums=(), **options: jit(function, **options)


PROGRAM: dict[str, list[Patch]] = {
    "ynnpack": [
        Patch(compiler, "options", _without_option("xla_cpu_experimental_ynn_fusion_type"))
    ],
    "undonated": [Patch(jax, "jit", _never_donating)],
}

if __name__ == "__main__":
    cli.run(main)
