"""The command `alexnet`, and `python -m alexnet_jax`: one program, a subcommand for each thing that it does."""

import importlib
import sys

from alexnet_jax import cli
from alexnet_jax.errors import ConfigError

#: Subcommand -> its module, whose `main(arguments)` it is, and what it is for.
COMMANDS = {
    "train": ("alexnet_jax.main", "train a net, or go on where an earlier start stopped"),
    "evaluate": ("alexnet_jax.evaluation.evaluate", "errors of a trained net on held-out images"),
    "predict": ("alexnet_jax.analysis.predict", "classes of images; --serve opens a page"),
    "describe": ("alexnet_jax.analysis.describe", "layers, sizes and costs of a net; differences of two configs"),
    "prepare": ("alexnet_jax.data.prepare.command", "images, archives or ImageNet's tars into a store"),
    "doctor": ("alexnet_jax.data.prepare.doctor", "look at every image of a set before training on it"),
    "report": ("alexnet_jax.analysis.report", "an HTML page about a run"),
    "figures": ("alexnet_jax.analysis.figures", "kernels, learning curves, mistakes, saliency and other figures"),
    "features": ("alexnet_jax.analysis.features", "features of images as arrays"),
    "ensemble": ("alexnet_jax.evaluation.ensemble", "errors of several nets averaged"),
    "compare": ("alexnet_jax.evaluation.compare", "whether two nets differ, by the same images"),
    "tables": ("alexnet_jax.evaluation.tables", "the paper's tables from your runs"),
    "import": ("alexnet_jax.interop.import_weights", "weights of Caffe or torchvision"),
    "export": ("alexnet_jax.interop.export_weights", "weights for torchvision, Caffe, ONNX or plain safetensors"),
    "release": ("alexnet_jax.interop.release", "weights with a card, to be given away"),
    "verify": ("alexnet_jax.interop.verify", "whether released weights are what their cards say"),
    "sweep": ("launch.sweep", "members of an ablation, here or on SLURM"),
}  # fmt: skip


def usage() -> str:
    """What `alexnet --help` prints."""
    rows = [(f"  {name}", said) for name, (_, said) in COMMANDS.items()]
    return "\n".join(
        ["usage: alexnet COMMAND [--help] ...", "", *cli.table(rows), "", cli.exit_codes()]
    )


def main(arguments: list[str]) -> int | None:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return 0 if arguments else 2
    name, *rest = arguments
    if name not in COMMANDS:
        raise ConfigError(f"there is no command {name!r}; alexnet --help lists them")
    sys.argv[0] = f"alexnet {name}"
    return importlib.import_module(COMMANDS[name][0]).main(rest)


def run() -> None:
    """The entry point of the installed command."""
    cli.run(main)


if __name__ == "__main__":
    run()
