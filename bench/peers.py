"""Compare the training step with those of PyTorch and of plain Flax, on the GPU or CPU of this machine.

    alexnet bench peers
    alexnet bench peers --batch 32 128 --peers compile-written plain --json peers.json
    alexnet bench peers --config cifar10:80sec --batch 128 512 --steps 10
    alexnet bench peers --device cuda --limit 200 --keep-going

The step of the network of --config, by default the paper's: forward, backward and update, with groups, response
normalization within towers and dropout, but without decoding and cropping of images (ours converts uint8; those of
torch are padded floats). The networks of PyTorch are built from the same config (bench/torch_step.py). Response
normalization is measured with PyTorch's own and with one written by hand. Plain Flax has only the paper's network.
All programs have the memory settings of launch/malloc.env. On a CPU all compute in float32. On a GPU ours computes in
bfloat16 and torch under autocast, both with float32 weights; with --dtype float32 both use TF32.
"""

from importlib import util

from alexnet_jax import cli
from alexnet_jax.errors import ConfigError
from alexnet_jax.specs import Config

from . import alternate, workload

PAPER = "configs/paper.py"
OURS = "alexnet_jax"
PEERS = {
    "plain": "Flax written plainly",
    "eager": "PyTorch eager",
    "compile": "torch.compile",
    "graph": "torch.compile, CUDA graph",
    "max": "torch.compile, max-autotune",
}
PEERS |= {f"{name}-written": f"{PEERS[name]}, LRN by hand" for name in PEERS if name != "plain"}
ON_CPU = ("eager", "eager-written", "compile", "compile-written", "plain")
# The slowest to compile come last: they are awaited after all others are ready.
ON_GPU = ("plain", "eager", "eager-written", "compile", "compile-written", "graph", "graph-written")
ON_GPU += ("max", "max-written")
DTYPES = {"cpu": "float32", "cuda": "bfloat16"}


def main(arguments: list[str]) -> int:
    parser = cli.parser(__doc__ or "")
    parser.add_argument("--config", default=PAPER, help="default: the paper's network")
    parser.add_argument(
        "--peers", nargs="*", choices=list(PEERS), help="default: all of the config"
    )
    parser.add_argument("--dtype", choices=["float32", "bfloat16"],
                        help="compute type; default: float32, on a GPU bfloat16")  # fmt: skip
    alternate.add_options(parser)
    options = parser.parse_args(arguments)
    alternate.check(options)
    dtype = options.dtype or DTYPES[options.device]
    spec = workload.without_augmentation(options.config, options.batch[0], dtype)
    here = ON_GPU if options.device == "cuda" else ON_CPU
    peers = _with_network(spec, here) if options.peers is None else options.peers
    if "plain" in peers and not _is_paper(spec):
        raise ConfigError("--peers plain: only for --config configs/paper.py")
    if set(peers) - set(here):
        raise ConfigError(f"--peers {' '.join(set(peers) - set(here))}: only on a GPU")
    if set(peers) - {"plain"} and util.find_spec("torch") is None:
        raise ConfigError(
            'PyTorch is not installed: pip install -e ".[peers]", or compare with --peers plain'
        )
    labels = {"ours": OURS} | {name: PEERS[name] for name in peers}
    settings = [
        f"--config={options.config}",
        f"--threads={options.threads}",
        f"--device={options.device}",
        f"--dtype={dtype}",
    ]
    alternate.report(
        options,
        lambda batch: {
            name: alternate.Program(
                # By default torch compiles with as many processes as there are cores, for each program.
                label, "programs", [name, f"--batch={batch}", *settings],
                {"TORCHINDUCTOR_COMPILE_THREADS": "4"} if options.device == "cuda" else {},
            )
            for name, label in labels.items()
        },
        dtype=dtype, config=options.config,
    )  # fmt: skip
    return 0


def _is_paper(spec: Config) -> bool:
    """Whether a config, given by name or file, is that of the paper, the network of plain Flax."""
    return spec.name == "paper"


def _with_network(spec: Config, peers: tuple[str, ...]) -> list[str]:
    """List those of `peers` that have the network of a config, and LRN by hand only where there is LRN."""
    has_lrn = any("lrn" in layer.ops for _, layer in spec.model.layers)
    return [
        peer
        for peer in peers
        if (peer != "plain" or _is_paper(spec)) and (has_lrn or not peer.endswith("-written"))
    ]


if __name__ == "__main__":
    cli.run(main)
