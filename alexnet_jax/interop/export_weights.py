"""Export a trained network to a file in this project's format, PyTorch's or ONNX's.

alexnet export --workdir W [--step N] --format safetensors|pytorch|torchvision|onnx --out FILE

safetensors: weights and config, read by alexnet_jax.load.
pytorch: NET.py, a module for PyTorch that needs nothing of this project, and its weights beside it as NET.safetensors.
torchvision: .safetensors with PyTorch's parameter names and layouts.
onnx: a graph from center crops (float32 [n 3 c c], RGB, 0 to 255) to logits and probabilities.
"""

import importlib.util
from pathlib import Path

from alexnet_jax import cli
from alexnet_jax.errors import ConfigError
from alexnet_jax.inference import trained

SUFFIXES = {
    "safetensors": ".safetensors", "pytorch": ".py", "torchvision": ".safetensors", "onnx": ".onnx",
}  # fmt: skip


def main(arguments: list[str]) -> None:
    parser = cli.parser(__doc__ or "")
    parser.add_argument("--workdir", required=True, help="a run folder, or a .safetensors file")
    cli.add_step(parser)
    parser.add_argument("--format", required=True, choices=SUFFIXES)
    parser.add_argument("--out", required=True, metavar="FILE")
    options = parser.parse_args(arguments)
    if Path(options.out).suffix != SUFFIXES[options.format]:
        raise ConfigError(f"--out={options.out} must end in {SUFFIXES[options.format]}")
    if options.format == "onnx" and not importlib.util.find_spec("onnx"):
        raise ConfigError(
            "--format onnx needs the package onnx: .venv/bin/python -m pip install -e '.[onnx]'"
        )

    from alexnet_jax.interop import onnx, pytorch, torchvision

    if options.format == "pytorch":
        pytorch.check_path(Path(options.out))
    run = trained.load(options.workdir, options.step)
    writers = {
        "safetensors": trained.save, "pytorch": pytorch.save, "torchvision": torchvision.save, "onnx": onnx.save,
    }  # fmt: skip
    writers[options.format](options.out, run)
    print(f"{options.out}: {run.config.name}, step {run.step}, {len(run.class_names)} classes")


if __name__ == "__main__":
    cli.run(main)
