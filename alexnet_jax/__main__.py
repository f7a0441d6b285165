"""The command `alexnet`, the same program as `python -m alexnet_jax`: one subcommand for each task."""

import difflib
import importlib
import sys
from collections.abc import Callable
from typing import NamedTuple

from alexnet_jax import cli
from alexnet_jax.config import find
from alexnet_jax.errors import ConfigError


class Command(NamedTuple):
    """A subcommand."""

    #: A module with `main(arguments)`, or the table of the subcommand's own subcommands.
    runs: "str | dict[str, Command]"
    summary: str


#: The kinds of `alexnet figures`.
FIGURES = {
    "activations": Command("alexnet_jax.analysis.activations", "how often the units of each layer are zero or dead"),
    "convergence": Command("alexnet_jax.analysis.convergence", "training error of several runs (Figure 1)"),
    "curves": Command("alexnet_jax.analysis.curves", "loss, errors and learning rate of a run"),
    "deconvnet": Command("alexnet_jax.analysis.deconvnet", "what excites a feature map"),
    "filters": Command("alexnet_jax.analysis.filters", "kernels of the first layer (Figure 3)"),
    "mistakes": Command("alexnet_jax.analysis.mistakes", "confusion, calibration and the most confident mistakes"),
    "neighbors": Command("alexnet_jax.analysis.neighbors", "nearest images by their features (Figure 4)"),
    "patching": Command("alexnet_jax.analysis.patching", "what changes a prediction: the maps of another image"),
    "predictions": Command("alexnet_jax.analysis.predictions", "images and their most probable classes (Figure 4)"),
    "saliency": Command("alexnet_jax.analysis.saliency", "where in an image a class is seen"),
    "tuning": Command("alexnet_jax.analysis.tuning", "what gratings the first layer prefers, by tower (Figure 3)"),
}  # fmt: skip

#: The kinds of `alexnet bench`.
BENCHES = {
    "peers": Command("bench.peers", "the training step next to PyTorch and plain Flax"),
    "step": Command("bench.step", "the training step with one optimization undone at a time"),
    "layers": Command("bench.layers", "each operation alone, with its roofline bound"),
    "kernels": Command("bench.kernels", "the compiled step by layer, from a trace"),
    "nets": Command("bench.nets", "small nets: whether host or device is the limit"),
    "startup": Command(
        "bench.startup", "seconds from the start of a command to its first training step"
    ),
    "transfer": Command("bench.transfer", "images to the device and back"),
    "scaling": Command("bench.scaling", "a model of what several devices gain"),
    "checks": Command("bench.checks", "the cost of reliability: checks of a step, checkpoints"),
    "input": Command("bench.input", "images per second from disk"),
}

#: Heading -> name -> subcommand.
GROUPS = {
    "train and use a net": {
        "train": Command("alexnet_jax.main", "train a net, or continue a run that was stopped"),
        "evaluate": Command("alexnet_jax.evaluation.evaluate", "measure errors on held-out images"),
        "predict": Command("alexnet_jax.analysis.predict", "name the most probable classes of images"),
        "serve": Command("alexnet_jax.analysis.serve_command", "open a local web page to drop images on"),
        "features": Command("alexnet_jax.analysis.features", "outputs of any layer for many images, as arrays"),
        "report": Command("alexnet_jax.analysis.report", "write a run as one HTML page"),
        "atlas": Command("alexnet_jax.analysis.atlas", "write pages that show what the maps of each layer respond to"),
        "figures": Command(FIGURES, "draw learning curves, kernels, saliency and others"),
    },
    "configurations": {
        "config": Command("alexnet_jax.config.command", "print a configuration; --list names the packaged ones"),
        "describe": Command("alexnet_jax.analysis.describe", "layers and costs of a net; differences of two configs"),
    },
    "data": {
        "prepare": Command("alexnet_jax.data.prepare.command", "convert images or ImageNet's archives into a store"),
        "doctor": Command("alexnet_jax.data.prepare.doctor", "check a dataset before training on it"),
    },
    "several nets": {
        "sweep": Command("launch.sweep", "train the members of a sweep, here or on SLURM, and compare them"),
        "compare": Command("alexnet_jax.evaluation.compare", "test whether two nets differ on the same images"),
        "similarity": Command("alexnet_jax.analysis.similarity", "CKA and RDMs of layers; prediction of brain data"),
        "robustness": Command("alexnet_jax.analysis.robustness", "errors on corrupted images, and mCE"),
        "lesion": Command("alexnet_jax.analysis.lesion", "errors without some maps or units of a layer"),
        "ensemble": Command("alexnet_jax.evaluation.ensemble", "errors of the averaged predictions of several nets"),
        "tables": Command("alexnet_jax.evaluation.tables", "Tables 1 and 2 of the paper with your nets"),
    },
    "weights": {
        "identify": Command("alexnet_jax.interop.identify_command", "which AlexNet a weights file has, and its input"),
        "import": Command("alexnet_jax.interop.import_weights", "convert weights of torchvision, Caffe or an export"),
        "export": Command("alexnet_jax.interop.export_weights", "write safetensors, PyTorch or ONNX files"),
        "release": Command("alexnet_jax.interop.release", "write weights with a card, for others to use"),
        "verify": Command("alexnet_jax.interop.verify", "check released weights against their cards"),
    },
    "speed": {
        "bench": Command(BENCHES, "measure training steps, input and devices"),
    },
}  # fmt: skip

COMMANDS = {name: command for group in GROUPS.values() for name, command in group.items()}


def usage() -> str:
    """Return what `alexnet --help` prints."""
    width = max(map(len, COMMANDS))
    lines = ["usage: alexnet COMMAND [--help] ...", ""]
    for heading, group in GROUPS.items():
        lines += [f"{heading}:", *_rows(group, width), ""]
    return "\n".join([*lines, cli.exit_codes()])


def _rows(commands: dict[str, Command], width: int) -> list[str]:
    return [f"  {name:{width}}  {command.summary}" for name, command in commands.items()]


def main(arguments: list[str]) -> int | None:
    """Run one subcommand and return its exit code."""
    program, commands, page = "alexnet", COMMANDS, usage()
    while True:
        if not arguments or arguments[0] in ("-h", "--help"):
            print(page)
            return 0 if arguments else 2
        command = _lookup(arguments[0], commands, program)
        program, arguments = f"{program} {arguments[0]}", arguments[1:]
        if isinstance(command.runs, str):
            sys.argv[0] = program
            return load(command.runs)(arguments)
        commands = command.runs
        rows = _rows(commands, max(map(len, commands)))
        page = "\n".join([f"usage: {program} KIND [--help] ...", "", *rows])


def _lookup(name: str, commands: dict[str, Command], program: str) -> Command:
    if name in commands:
        return commands[name]
    guess = difflib.get_close_matches(name, commands, 1)
    hint = f"; did you mean {guess[0]}?" if guess else ""
    raise ConfigError(f"there is no command {program} {name}{hint}; {program} --help lists all")


def load(module: str) -> Callable[[list[str]], int | None]:
    """Import a module, which for `launch` and `bench` may lie beside the package, and return its `main`."""
    if not module.startswith("alexnet_jax."):
        module = find.module_name(module)
    return importlib.import_module(module).main


def run() -> None:
    """Run the installed command `alexnet`."""
    cli.run(main)


if __name__ == "__main__":
    run()
