"""Import weights of torchvision, of Caffe or of alexnet export as a .safetensors file for alexnet_jax.load.

alexnet import alexnet.pth --out NET.safetensors
alexnet import bvlc_alexnet.caffemodel --mean imagenet_mean.binaryproto --out NET.safetensors

The net is identified (alexnet identify says how); where that is not certain, --config names it. --config.key=value
changes the config.
"""

import argparse
import collections
from pathlib import Path
from typing import TYPE_CHECKING

from alexnet_jax import cli, config, files
from alexnet_jax.errors import CheckpointError, ConfigError, DataError, printable

if TYPE_CHECKING:
    from alexnet_jax.inference.trained import TrainedModel
    from alexnet_jax.interop.caffe import Net
    from alexnet_jax.interop.contents import Contents
    from alexnet_jax.interop.identify import Identification

#: Format -> the config of nets that are not identified.
CONFIGS = {"torchvision": "configs/torchvision.py", "caffe": "configs/caffe.py:alexnet"}
#: Format -> its suffixes; a file with another one is read like one with the first.
SUFFIXES = {"torchvision": (".pth", ".pt", ".safetensors"), "caffe": (".caffemodel",)}


def main(arguments: list[str]) -> None:
    """Run `alexnet import`."""
    parser = cli.parser(__doc__ or "")
    parser.add_argument(
        "file", help=".safetensors or .pth of PyTorch, .caffemodel, or a file of alexnet export"
    )
    parser.add_argument("--format", choices=CONFIGS, help="default: by the suffix of the file")
    parser.add_argument(
        "--config", metavar="FILE[:VARIANT]",
        help="the net; default: what the file is identified as, or with --format "
        + ", ".join(CONFIGS.values()),
    )  # fmt: skip
    parser.add_argument(
        "--classes",
        metavar="FILE",
        help="names of the classes, one per line; the class number is added to names that repeat",
    )
    parser.add_argument(
        "--mean", metavar="FILE",
        help="Caffe's mean image, a .binaryproto; default: the mean_value in the file, or else 123, 117, 104",
    )  # fmt: skip
    parser.add_argument("--out", required=True, metavar="NET.safetensors")
    options, rest = parser.parse_known_args(arguments)
    if Path(options.out).suffix != ".safetensors":
        raise ConfigError(f"--out={options.out} must end in .safetensors")
    is_caffe = (options.format or Path(options.file).suffix) in ("caffe", ".caffemodel")
    if options.mean and not is_caffe:
        raise ConfigError("--mean is for --format caffe")
    overrides = cli.config_overrides(rest)
    names = _class_names(options.classes) if options.classes else None

    from alexnet_jax.inference import trained

    if options.config or (options.format and overrides):
        run = _load(options, options.config or CONFIGS[options.format], overrides)
    else:
        run = _load_identified(options, overrides)
    if names is not None and len(names) != len(run.class_names):
        raise DataError(
            f"{options.classes} has {len(names)} names, but the network has {len(run.class_names)} classes"
        )
    trained.save(options.out, run._replace(class_names=names or run.class_names))
    print(f"{options.out}: {run.config.name}, {len(run.class_names)} classes")


def _read(options: argparse.Namespace) -> "Contents":
    from alexnet_jax.interop import contents

    return contents.read(options.file, SUFFIXES.get(options.format, ()))


def _load(
    options: argparse.Namespace, chosen: str, overrides: list[str], seen: "Contents | None" = None
) -> "TrainedModel":
    """Load the weights of config `chosen`; `seen` is the file, if it was read. Raises ConfigError, CheckpointError."""
    tree = config.plain(config.load(chosen, overrides))
    tree["data"]["path"] = tree["data"]["path"] or "not set"  # no images are needed here
    spec = config.parse(tree)

    from alexnet_jax.interop import caffe, torchvision

    try:
        read = seen or _read(options)
        if read.format in ("npz", "onnx"):
            raise ConfigError(_not_imported(read))
        if not read.net:
            return torchvision.load(options.file, spec, tree, (read.tensors, read.metadata))
        run = caffe.load(options.file, spec, tree, options.mean, read.net)
    except CheckpointError as error:
        raise CheckpointError(f"{error} (read with --config {chosen})") from None
    print(printable(f"{options.file}: {_mean_in_words(run, read.net, options.mean)}"))
    return run


def _mean_in_words(run: "TrainedModel", net: "Net", path: str | None) -> str:
    """Say which mean is subtracted from images, and where it comes from."""
    mean = ", ".join(f"{value:.4g}" for value in run.statistics.channel_mean)
    source = "the default"
    if path:
        source = f"--mean {path}"
    elif net.mean:
        source = "in the file"
    elif net.transformation:
        named = net.transformation.mean_file
        source = f"the default; the net was trained with {named}: give it as --mean"
    return f"minus {mean} of R, G, B ({source})"


def _load_identified(options: argparse.Namespace, overrides: list[str]) -> "TrainedModel":
    """Load the weights of the net that the file is identified as. Raises ConfigError where that is not certain."""
    from alexnet_jax.interop import identify

    read = _read(options)
    found = identify.identify(read)
    if found.has_config or read.format == "ours":
        if overrides:
            raise ConfigError(f"{options.file} holds its config: {overrides[0]} has no effect")
        return _load_with_own_config(options.file, read)
    if found.config:
        seen = f"{found.net.value}; input: {found.input.value} ({found.input.confidence})"
        print(printable(f"{options.file}: {seen}"))
        given = {override.partition("=")[0] for override in overrides}
        own = [one for one in found.overrides if one.partition("=")[0] not in given]
        return _load(options, found.config, own + overrides, read)
    if options.format:
        return _load(options, CONFIGS[options.format], overrides, read)
    raise ConfigError(_question(read, found))


def _load_with_own_config(path: str, read: "Contents") -> "TrainedModel":
    """Load a file that alexnet export wrote. Raises CheckpointError."""
    from alexnet_jax.inference import trained
    from alexnet_jax.interop import onnx, pytorch, torchvision

    content = read.tensors, read.metadata
    if read.format == "ours":
        return trained.load_file(path, content)
    if read.format == "onnx":
        return onnx.load(path, content)
    if pytorch.is_export(read.metadata):
        return pytorch.load(path, *content)
    described = trained.read_metadata(path, read.metadata)
    run = torchvision.load(path, described.config, described.config_tree, content)
    return run._replace(step=described.step)


def _question(read: "Contents", found: "Identification") -> str:
    """Say which configs to choose from, and by what."""
    if read.format in ("npz", "onnx"):
        return _not_imported(read)
    if not found.candidates:
        return f"{read.path} is {found.net.value} ({found.net.evidence[-1]}): give the --config of its net"
    choices = " or ".join(f"--config {name}" for name in found.candidates)
    return (
        f"{read.path} is not identified with certainty ({found.net.confidence}: {found.net.value}): choose {choices}; "
        "alexnet identify shows the evidence"
    )


def _not_imported(read: "Contents") -> str:
    return (
        f"{read.path} can be identified but not imported: import reads .safetensors and .pth with the names of "
        "torchvision, .caffemodel, and what alexnet export wrote"
    )


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
