"""How long a training step takes, next to PyTorch's and a plainly written one, on this machine's CPU.

    python -m bench.peers
    python -m bench.peers --batch 32 128 --peers compile-written plain --json peers.json

The whole step of the paper's network in float32: forward, backward and update, with groups, response
normalization within towers and dropout. Left out on both sides: decoding and cropping of images (ours
still converts uint8; torch's images come as padded floats). PyTorch comes with its own response
normalization and with one written by hand. All have the memory settings of launch/malloc.env.
"""

from importlib import util

from alexnet_jax import cli
from alexnet_jax.errors import ConfigError
from bench import alternate

OURS = "alexnet_jax"
PEERS = {
    "eager": "PyTorch eager",
    "eager-written": "PyTorch eager, LRN by hand",
    "compile": "torch.compile",
    "compile-written": "torch.compile, LRN by hand",
    "plain": "Flax written plainly",
}


def main(arguments: list[str]) -> int:
    parser = cli.parser(__doc__ or "")
    parser.add_argument("--peers", nargs="*", default=list(PEERS), choices=list(PEERS))
    alternate.add_options(parser)
    options = parser.parse_args(arguments)
    if set(options.peers) - {"plain"} and util.find_spec("torch") is None:
        raise ConfigError(
            'PyTorch is not installed: pip install -e ".[peers]", or compare with --peers plain'
        )
    alternate.check(options)
    labels = {"ours": OURS} | {name: PEERS[name] for name in options.peers}
    alternate.report(
        options,
        lambda batch: {
            name: alternate.Program(
                label,
                "bench.programs",
                [name, f"--batch={batch}", f"--threads={options.threads}"],
                {"JAX_PLATFORMS": "cpu"},
            )
            for name, label in labels.items()
        },
    )
    return 0


if __name__ == "__main__":
    cli.run(main)
