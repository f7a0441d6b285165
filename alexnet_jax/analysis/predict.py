"""Predict the classes of images in the terminal or on a local web page.

alexnet predict cat.jpg dog.jpg --workdir W [--views center|ten|nine|dense] [--top 5] [--json]
alexnet predict --workdir W --serve [--port 8000]

The EXIF orientation of photos is applied or ignored as in training (data.exif in the config of the run).
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from alexnet_jax import cli, files, specs
from alexnet_jax.analysis import serve_command
from alexnet_jax.errors import ConfigError, DataError, printable

#: Length in characters of the bar for probability 1.
BAR = 24


def main(arguments: list[str]) -> None:
    """Run `alexnet predict`."""
    parser = cli.parser(__doc__ or "")
    parser.add_argument(
        "images", nargs="*", metavar="IMAGE", help="JPEG, PNG, HEIC and other files"
    )
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
    from alexnet_jax.inference import network

    net = network.load(options.workdir, options.step)
    predictions = net.top(options.images, options.top, options.views)
    if options.json:
        print(json.dumps(_report(options, net.trained.step, predictions), indent=1))
    else:
        print("\n\n".join(map(_text, options.images, predictions)))


def _check(options: argparse.Namespace) -> None:
    """Check the arguments before JAX starts. Raises ConfigError, DataError."""
    if options.serve == bool(options.images):
        raise ConfigError("give one or more images, or --serve without images; see --help")
    if options.top < 1:
        raise ConfigError(f"--top={options.top} must be at least 1")
    serve_command.check_port(options.port)
    for image in options.images:
        if Path(image).is_dir():
            raise DataError(f"{image} is a folder, not an image; give the files in it: {image}/*")
        if not Path(image).exists():
            raise DataError(f"there is no file {image}")
        if other := files.not_regular(image):
            raise DataError(f"cannot read {image}: {other}")


def _report(
    options: argparse.Namespace, step: int, predictions: list[list[tuple[str, float]]]
) -> dict[str, Any]:
    """Return the output of --json."""
    images = [
        {
            "image": image,
            "top": [{"class": name, "probability": round(p, 6)} for name, p in top],
        }
        for image, top in zip(options.images, predictions, strict=True)
    ]
    return {
        "schema": 1,
        "workdir": options.workdir,
        "step": step,
        "views": options.views,
        "images": images,
    }


def _text(image: str, top: list[tuple[str, float]]) -> str:
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
