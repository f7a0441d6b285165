"""Serve a web page on 127.0.0.1 that shows the predictions of a trained network for an image.

alexnet serve --workdir W [--step N|best] [--port 8000]
"""

import argparse
from pathlib import Path

from alexnet_jax import cli
from alexnet_jax.errors import ConfigError


def main(arguments: list[str]) -> None:
    """Run `alexnet serve`."""
    parser = cli.parser(__doc__ or "")
    parser.add_argument("--workdir", required=True, help="a run folder, or a .safetensors file")
    cli.add_step(parser)
    add_port(parser)
    options = parser.parse_args(arguments)
    check_port(options.port)
    serve(options)


def add_port(parser: argparse.ArgumentParser) -> None:
    """Add --port."""
    parser.add_argument("--port", type=int, default=8000, help="0: any free port; default: 8000")


def check_port(port: int) -> None:
    """Raise ConfigError for a number that no port has."""
    if not 0 <= port < 65536:
        raise ConfigError(f"--port={port} must be from 0 to 65535")


def serve(options: argparse.Namespace) -> None:
    """Load the network of --workdir and --step, and serve its page at --port until it is interrupted."""
    from alexnet_jax.analysis.serve import serve
    from alexnet_jax.inference import network

    net = network.load(options.workdir, options.step)
    serve(net, Path(options.workdir).resolve().name, options.port)
