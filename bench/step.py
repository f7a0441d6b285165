"""What each choice of the training step is worth: the step as it is, and with one choice undone.

    python -m bench.step
    python -m bench.step --batch 32 128 --forms ynnpack unmaterialized --json step.json

The whole step of a config on one device, with crops and color, on images that are made up. A ratio above 1 says
that the choice is the better one here. Forms without the memory settings or with another compute type keep all else.
"""

from alexnet_jax import cli, config
from bench import alternate

FORMS = {
    "ynnpack": "convolutions on YNNPACK",
    "unmaterialized": "layers not materialized",
    "unmaterialized-update": "velocity not materialized",
    "undonated": "state not donated",
    "feature-groups": "groups by feature_group_count",
    "derived-bias": "bias gradient derived by JAX",
    "derived-lrn": "LRN gradient derived by JAX",
    "derived-pool": "pool gradient derived by JAX, of shifted maxima",
    "reduce-window-pool": "pool by reduce_window, select-and-scatter",
    "power": "LRN by power, not by roots",
    "plain-norm": "gradient norm of plain sums",
    "malloc": "without launch/malloc.env",
    "dtype": "the other compute type",
}
OTHER = {"float32": "bfloat16", "bfloat16": "float32"}


def main(arguments: list[str]) -> int:
    parser = cli.parser(__doc__ or "")
    parser.add_argument("--config", default="configs/paper.py", metavar="FILE[:VARIANT]")
    parser.add_argument("--dtype", choices=list(OTHER), help="default: what the config says")
    parser.add_argument("--forms", nargs="*", default=list(FORMS), choices=list(FORMS))
    alternate.add_options(parser)
    options, rest = parser.parse_known_args(arguments)
    overrides = cli.config_overrides(rest)
    if options.dtype:
        overrides.append(f"--config.model.compute_dtype={options.dtype}")
    made_up = ["--config.data.path=unused", *overrides]
    dtype = config.parse(config.load(options.config, made_up)).model.compute_dtype
    alternate.check(options)
    alternate.report(
        options,
        lambda batch: {
            form: _program(
                form, dtype, [f"--config={options.config}", f"--batch={batch}", *overrides]
            )
            for form in ("chosen", *options.forms)
        },
    )
    return 0


def _program(form: str, dtype: str, arguments: list[str]) -> alternate.Program:
    patched, label = form, FORMS.get(form, f"as chosen, {dtype}")
    if form == "malloc":
        patched = "chosen"
    if form == "dtype":
        patched, label = "chosen", f"compute_dtype={OTHER[dtype]}"
        arguments = [*arguments, f"--config.model.compute_dtype={OTHER[dtype]}"]
    return alternate.Program(
        label, "bench.forms", [patched, *arguments], {}, kept_memory=form != "malloc"
    )


if __name__ == "__main__":
    cli.run(main)
