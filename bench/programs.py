"""Run one of the training programs that bench/peers.py compares: a worker process of bench/alternate.py.

    python -m bench.programs NAME --config paper --batch 32 --threads 2 --device cpu --dtype float32

All programs train the network of a config with dropout, cross-entropy, momentum and weight decay (§5), on random
images, with float32 weights.
"""

import argparse
import functools
from collections.abc import Callable
from typing import Any

from alexnet_jax.specs import Config

from . import alternate, workload

#: A function that runs a number of steps, and facts about the program for the report.
Built = tuple[Callable[[int], float], dict[str, Any]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=PROGRAMS)
    parser.add_argument("--config", required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--device", choices=["cpu", "cuda"], required=True)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], required=True)
    options = parser.parse_args()
    alternate.serve(
        lambda: PROGRAMS[options.name](options), waits=options.name in ("ours", "plain")
    )


def _ours(options: argparse.Namespace) -> Built:
    """Build the train step of alexnet_jax, without crops: the images have the input size of the network."""
    from . import ours

    return ours.program(_spec(options))


def _plain(options: argparse.Namespace) -> Built:
    from . import flax_step

    return flax_step.build(_spec(options))


def _torch(options: argparse.Namespace, *, mode: str | None, written: bool) -> Built:
    from . import torch_step

    return torch_step.build(options, _spec(options), mode=mode, written=written)


def _spec(options: argparse.Namespace) -> Config:
    return workload.without_augmentation(options.config, options.batch, options.dtype)


#: Name of a program -> mode of torch.compile; None for eager mode.
MODES = {"eager": None, "compile": "default", "graph": "reduce-overhead", "max": "max-autotune"}
PROGRAMS: dict[str, Callable[[argparse.Namespace], Built]] = {"ours": _ours, "plain": _plain}
for name, mode in MODES.items():
    PROGRAMS[name] = functools.partial(_torch, mode=mode, written=False)
    PROGRAMS[f"{name}-written"] = functools.partial(_torch, mode=mode, written=True)

if __name__ == "__main__":
    main()
