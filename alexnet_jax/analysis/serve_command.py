"""Serve a web page on 127.0.0.1 that shows the predictions of a trained network for an image.

alexnet serve --workdir W [--step N|best] [--port 8000]
"""

from pathlib import Path

from alexnet_jax import cli
from alexnet_jax.errors import ConfigError


def main(arguments: list[str]) -> None:
    """Run `alexnet serve`."""
    parser = cli.parser(__doc__ or "")
    parser.add_argument("--workdir", required=True, help="a run folder, or a .safetensors file")
    cli.add_step(parser)
    parser.add_argument("--port", type=int, default=8000, help="0: any free port; default: 8000")
    options = parser.parse_args(arguments)
    if not 0 <= options.port < 65536:
        raise ConfigError(f"--port={options.port} must be from 0 to 65535")

    from alexnet_jax.analysis import serve
    from alexnet_jax.inference import network

    net = network.load(options.workdir, options.step)
    serve.serve(net, Path(options.workdir).resolve().name, options.port)
