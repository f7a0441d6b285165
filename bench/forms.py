"""One training step in a form of its own, in a process of its own: what bench/step.py compares.

    python -m bench.forms FORM --config configs/paper.py --batch 32 [--config.section.key=value ...]

answers bench/alternate.py. FORM: "chosen", changes of the forms of the device such as "pool=repeat,barriers=none"
(alexnet_jax/kernels/forms.py), or one of PROGRAM, which undoes something about the program as a whole.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from alexnet_jax import cli
from alexnet_jax.kernels import compiler, forms
from bench import alternate, ours


class Patch(NamedTuple):
    """`module.name` is replaced by `instead(what it was)`, before anything is traced."""

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
    """The forms that FORM means on a device whose own are `base`. Raises ConfigError."""
    return base if form in ("chosen", *PROGRAM) else forms.parse(form, base)


def _without_option(name: str) -> Callable[[Any], Any]:
    def instead(options):
        def fewer(platform=None, **others):
            return {key: value for key, value in options(platform, **others).items() if key != name}

        return fewer

    return instead


def _never_donating(jit):
    return lambda function, donate_argnums=(), **options: jit(function, **options)


PROGRAM: dict[str, list[Patch]] = {
    "ynnpack": [
        Patch(compiler, "options", _without_option("xla_cpu_experimental_ynn_fusion_type"))
    ],
    "undonated": [Patch(jax, "jit", _never_donating)],
}

if __name__ == "__main__":
    cli.run(main)
