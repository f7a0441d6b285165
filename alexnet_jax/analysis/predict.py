"""Predict the classes of images in the terminal or on a local web page.

alexnet predict cat.jpg dog.jpg --workdir W [--views center|ten|nine|dense] [--top 5] [--json]
alexnet predict photos 'more/**/*.jpg' --workdir W
alexnet predict --workdir W --serve [--port 8000]

A folder stands for the images below it, and a pattern in quotes for the images that match it; ** matches any number of
folders. Images that cannot be read are named at the end, one line each, and the exit code is then 3.

The EXIF orientation of photos is applied or ignored as in training (data.exif in the config of the run).
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from alexnet_jax import cli, specs
from alexnet_jax.analysis import serve_command
from alexnet_jax.cli import environment
from alexnet_jax.errors import ConfigError, DataError, printable

if TYPE_CHECKING:
    from alexnet_jax.inference.network import Network

#: Length in characters of the bar for probability 1.
BAR = 24
#: Images that are decoded and predicted before their results are printed.
BATCH = 32

#: The most probable classes of an image as (name, probability), the most probable first.
Top = list[tuple[str, float]]


def main(arguments: list[str]) -> None:
    """Run `alexnet predict`."""
    parser = cli.parser(__doc__ or "")
    parser.add_argument(
        "images", nargs="*", metavar="IMAGE",
        help="JPEG, PNG, HEIC and other files, folders of them, and patterns in quotes",
    )  # fmt: skip
    parser.add_argument("--workdir", required=True, help="a run folder, or a .safetensors file")
    cli.add_step(parser)
    parser.add_argument(
        "--views", choices=specs.VIEWS, default="center", help="§4.1; default: center"
    )
    parser.add_argument("--top", type=int, default=5, help="number of classes; default: 5")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--serve", action="store_true", help="serve a web page on 127.0.0.1")
    serve_command.add_port(parser)
    options = parser.parse_args(arguments)
    _check(options)

    if options.serve:
        serve_command.serve(options)
        return
    images = _list_images(options.images)
    from alexnet_jax.inference import network

    net = network.load(options.workdir, options.step)
    found: list[tuple[str, Top]] = []
    unreadable: dict[str, DataError] = {}
    for image, top in _predict(net, images, options, unreadable):
        if not options.json:
            print("\n" * bool(found) + _text(image, top), flush=True)
        found.append((image, top))
    if options.json and found:
        print(json.dumps(_report(options, net.trained.step, found, unreadable), indent=1))
    _raise_unreadable(list(unreadable.values()), len(images))


def _check(options: argparse.Namespace) -> None:
    """Check the arguments before JAX starts. Raises ConfigError."""
    if options.serve == bool(options.images):
        raise ConfigError("give one or more images, or --serve without images; see --help")
    if options.top < 1:
        raise ConfigError(f"--top={options.top} must be at least 1")


def _list_images(arguments: list[str]) -> list[str]:
    """The image files of files, folders and patterns, in the order given. Raises DataError with all faults."""
    from alexnet_jax.analysis import pictures

    found: list[str] = []
    faults: list[str] = []
    for argument in arguments:
        try:
            paths = pictures.list_files([argument])
            found += [argument] if os.path.isfile(argument) else map(str, paths)
        except DataError as error:
            faults.append(str(error))
    if faults:
        raise DataError("; ".join(faults))
    return found


def _predict(
    net: "Network", images: list[str], options: argparse.Namespace, unreadable: dict[str, DataError]
) -> Iterator[tuple[str, Top]]:
    """Yield each image with its most probable classes, batch by batch; add others to `unreadable`."""
    import numpy as np

    for start in range(0, len(images), BATCH):
        names, pixels = [], []
        for image in images[start : start + BATCH]:
            try:
                pixels.append(net.pixels(image))
                names.append(image)
            except DataError as error:
                unreadable[image] = error
        if names:
            top = net.top(np.concatenate(pixels), options.top, options.views)
            yield from zip(names, top, strict=True)


def _raise_unreadable(faults: list[DataError], count: int) -> None:
    """Raise the only fault, or name each of several on standard error and raise DataError with their number."""
    if len(faults) == 1:
        raise faults[0]
    for fault in faults:
        environment.say_error(fault.line())
    if faults:
        raise DataError(f"{len(faults):,} of {count:,} images cannot be read: those named above")


def _report(
    options: argparse.Namespace,
    step: int,
    found: list[tuple[str, Top]],
    unreadable: dict[str, DataError],
) -> dict[str, Any]:
    """Return the output of --json."""
    images = [
        {
            "image": image,
            "top": [{"class": name, "probability": round(p, 6)} for name, p in top],
        }
        for image, top in found
    ]
    return {
        "schema": 1,
        "workdir": options.workdir,
        "step": step,
        "views": options.views,
        "images": images,
        "unreadable": [{"image": image, "reason": str(e)} for image, e in unreadable.items()],
    }


def _text(image: str, top: Top) -> str:
    """Format an image and its most probable classes, one per line: name, percent, bar."""
    width = max(len(printable(name)) for name, _ in top)
    lines = [printable(image)]
    for name, probability in top:
        line = f"  {printable(name):{width}}  {100 * probability:5.1f} %  {_bar(probability)}"
        lines.append(line.rstrip())
    return "\n".join(lines)


def _bar(probability: float) -> str:
    block = "█" if (sys.stdout.encoding or "").lower().startswith("utf") else "#"
    return block * round(BAR * probability)


if __name__ == "__main__":
    cli.run(main)
