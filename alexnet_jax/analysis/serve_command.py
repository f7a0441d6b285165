"""Serve a web page on 127.0.0.1 that shows the predictions of a trained network for an image.

alexnet serve --workdir W [--step N|best] [--port 8000]
"""

import argparse
from pathlib import Path

from alexnet_jax import cli


def main(arguments: list[str]) -> None:
    """Run `alexnet serve`."""
    parser = cli.parser(__doc__ or "")
    parser.add_argument("--workdir", required=True, help="a run folder, or a .safetensors file")
    cli.add_step(parser)
    add_port(parser)
    serve(parser.parse_args(arguments))


def add_port(parser: argparse.ArgumentParser) -> None:
    """Add --port."""
    parser.add_argument("--port", type=_port, default=8000, help="0: any free port; default: 8000")


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 65535")
    return int(text)


def serve(options: argparse.Namespace) -> None:
    """Load the network of --workdir and --step, and serve its page at --port until it is interrupted."""
    from alexnet_jax.analysis.serve import serve
    from alexnet_jax.inference import network

    net = network.load(options.workdir, options.step)
    serve(net, Path(options.workdir).resolve().name, options.port)
