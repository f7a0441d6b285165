"""Import weights of torchvision or Caffe as a .safetensors file for alexnet_jax.load.

alexnet import alexnet.pth --format torchvision --out NET.safetensors
alexnet import bvlc_alexnet.caffemodel --format caffe --out NET.safetensors

--config names the net; --config.key=value changes it, such as --config.model.num_classes=10.
"""

import collections
from pathlib import Path

from alexnet_jax import cli, config, files
from alexnet_jax.errors import CheckpointError, ConfigError, DataError

CONFIGS = {"torchvision": "configs/torchvision.py", "caffe": "configs/caffe.py:alexnet"}


def main(arguments: list[str]) -> None:
    parser = cli.parser(__doc__ or "")
    parser.add_argument("file", help=".safetensors or .pth of PyTorch, .caffemodel of Caffe")
    parser.add_argument("--format", required=True, choices=CONFIGS)
    parser.add_argument("--config", metavar="FILE[:VARIANT]",
                        help="the net; default: " + ", ".join(CONFIGS.values()))  # fmt: skip
    parser.add_argument(
        "--classes",
        metavar="FILE",
        help="names of the classes, one per line; the class number is added to names that repeat",
    )
    parser.add_argument(
        "--mean", metavar="FILE", help="Caffe's mean image, a .binaryproto; default: 123, 117, 104"
    )
    parser.add_argument("--out", required=True, metavar="NET.safetensors")
    options, rest = parser.parse_known_args(arguments)
    if Path(options.out).suffix != ".safetensors":
        raise ConfigError(f"--out={options.out} must end in .safetensors")
    if options.mean and options.format != "caffe":
        raise ConfigError("--mean is for --format caffe")
    overrides = cli.config_overrides(rest)
    chosen = options.config or CONFIGS[options.format]
    loaded = config.load(chosen, overrides)
    tree = config.plain(loaded)
    tree["data"]["path"] = tree["data"]["path"] or "not set"  # no images are needed here
    spec = config.parse(tree)
    names = _class_names(options.classes) if options.classes else None

    from alexnet_jax.inference import trained
    from alexnet_jax.interop import caffe, torchvision

    try:
        if options.format == "caffe":
            run = caffe.load(options.file, spec, tree, options.mean)
        else:
            run = torchvision.load(options.file, spec, tree)
    except CheckpointError as error:
        raise CheckpointError(f"{error} (read with --config {chosen})") from None
    if names is not None and len(names) != len(run.class_names):
        raise DataError(
            f"{options.classes} has {len(names)} names, but the network has {len(run.class_names)} classes"
        )
    trained.save(options.out, run._replace(class_names=names or run.class_names))
    print(f"{options.out}: {spec.name}, {len(run.class_names)} classes")


def _class_names(path: str) -> tuple[str, ...]:
    from alexnet_jax.data.pipeline import splits

    try:
        with files.open_regular(path) as file:
            lines = file.read().decode().splitlines()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"cannot read {path}: {error}; save it as UTF-8") from None
    return splits.class_names(_distinct(lines), path)


def _distinct(names: list[str]) -> list[str]:
    """Add the number of the class to names that repeat: ImageNet has two classes named crane."""
    repeated = {name for name, count in collections.Counter(names).items() if count > 1 and name}
    return [f"{name} ({i})" if name in repeated else name for i, name in enumerate(names)]


if __name__ == "__main__":
    cli.run(main)
