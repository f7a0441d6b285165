"""Measure the value of each implementation choice, by comparing the training step with and without it.

    alexnet bench step
    alexnet bench step --batch 128 512 2048 --dtype bfloat16 --json step.json
    alexnet bench step --forms pool=repeat lrn_gradient=recomputed,relu=of_output ynnpack

Times the training step of a config on one device, including crops and color noise, on random images. A ratio above 1
means that the current choice is faster on this device. By default, it measures all alternatives in
alexnet_jax/kernels/forms.py, on GPUs also the candidates that combine several, and the changes in PROGRAM.
"""

from alexnet_jax import cli, config
from alexnet_jax.specs import Config

from . import alternate

#: Changes of the whole program, with their labels.
PROGRAM = {
    "ynnpack": "convolutions on YNNPACK",
    "undonated": "state not donated",
    "malloc": "without launch/malloc.env",
    "dtype": "with the other compute type",
    "inexact": "one draw of dropout bits per layer (train.exact=False)",
    "deterministic": "bitwise reproducible (train.deterministic=True)",
}
#: Members of PROGRAM that are measured on one kind of device only.
CPU_ONLY, GPU_ONLY = ("ynnpack", "malloc"), ("deterministic",)
#: Members of PROGRAM that are config overrides.
SETTINGS = {
    "inexact": "--config.train.exact=False",
    "deterministic": "--config.train.deterministic=True",
}
OTHER = {"float32": "bfloat16", "bfloat16": "float32"}


def main(arguments: list[str]) -> int:
    """Run `alexnet bench step`."""
    parser = cli.parser(__doc__ or "")
    parser.add_argument("--config", default="configs/paper.py", metavar="FILE[:VARIANT]")
    parser.add_argument("--dtype", choices=list(OTHER), help="default: that of the config")
    parser.add_argument(
        "--forms", nargs="*", metavar="FORM", help="default: all alternatives on this device"
    )
    alternate.add_options(parser)
    options, rest = parser.parse_known_args(arguments)
    overrides = cli.config_overrides(rest)
    if options.dtype:
        overrides.append(f"--config.model.compute_dtype={options.dtype}")
    spec = config.parse(config.load(options.config, overrides), needs_images=False)
    alternate.check(options)
    names = default_forms(options.device, spec) if options.forms is None else options.forms
    alternate.report(
        options,
        lambda batch: {
            form: _program(
                form,
                spec.model.compute_dtype,
                [f"--config={options.config}", f"--batch={batch}", *overrides],
            )
            for form in ("chosen", *names)
        },
        dtype=spec.model.compute_dtype,
    )
    return 0


def default_forms(device: str, spec: Config) -> list[str]:
    """Return the forms to measure on "cpu" or "cuda": those that affect this config, and those of PROGRAM."""
    from alexnet_jax.kernels import forms

    chosen = forms.choose(device)
    unused = {"loops"} if spec.train.steps_per_dispatch == 1 else set()
    unused |= {"weights"} if spec.model.compute_dtype == "float32" else set()
    unused |= {"images"} if chosen.strided == "plain" else set()
    changes = [c for c in forms.undone(chosen) if c.partition("=")[0] not in unused]
    if spec.model.compute_dtype != "float32":  # compiled to the same program as the default
        changes = [c for c in changes if c not in ("pool=parity", "pool=compared")]
    others = GPU_ONLY if device == "cpu" else CPU_ONLY
    candidates = () if device == "cpu" else forms.CANDIDATES
    return [*candidates, *changes, *(name for name in PROGRAM if name not in others)]


def _program(form: str, dtype: str, arguments: list[str]) -> alternate.Program:
    worker, label = form, PROGRAM.get(form, form)
    if form == "chosen":
        label = f"as chosen, {dtype}"
    if form == "malloc" or form in SETTINGS:
        worker = "chosen"
        arguments = [*arguments, *filter(None, [SETTINGS.get(form)])]
    if form == "dtype":
        worker, label = "chosen", f"compute_dtype={OTHER[dtype]}"
        arguments = [*arguments, f"--config.model.compute_dtype={OTHER[dtype]}"]
    return alternate.Program(label, "forms", [worker, *arguments], {}, kept_memory=form != "malloc")


if __name__ == "__main__":
    cli.run(main)
