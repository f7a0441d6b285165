"""Run one of the training programs that bench/peers.py compares: a worker process of bench/alternate.py.

    python -m bench.programs NAME --batch 32 --threads 2 --device cpu --dtype float32

All programs train the paper's network (§3.5) as in §5: groups, response normalization within towers, dropout,
cross-entropy, momentum and weight decay, on random images, with float32 weights.
"""

import argparse
import functools
from collections.abc import Callable
from typing import Any

from . import alternate, workload

#: A function that runs a number of steps, and facts about the program for the report.
Built = tuple[Callable[[int], float], dict[str, Any]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=PROGRAMS)
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

    overrides = [
        f"--config.data.image_size={workload.SIZE}",
        "--config.augment.crop=center",
        "--config.augment.flip=False",
        "--config.augment.mean=none",
        f"--config.augment.scale={1 / 255}",
        "--config.augment.color_std=0.0",
        f"--config.schedule.weights.learning_rate={workload.RATE}",
        f"--config.model.compute_dtype={options.dtype}",
    ]
    return ours.program(ours.load("configs/paper.py", options.batch, overrides))


def _plain(options: argparse.Namespace) -> Built:
    from . import flax_step

    return flax_step.build(options.batch, options.dtype)


def _torch(options: argparse.Namespace, *, mode: str | None, written: bool) -> Built:
    from . import torch_step

    examples = workload.examples(options.batch)
    return torch_step.build(options, *examples, mode=mode, written=written)


#: Name of a program -> mode of torch.compile; None for eager mode.
MODES = {"eager": None, "compile": "default", "graph": "reduce-overhead", "max": "max-autotune"}
PROGRAMS: dict[str, Callable[[argparse.Namespace], Built]] = {"ours": _ours, "plain": _plain}
for name, mode in MODES.items():
    PROGRAMS[name] = functools.partial(_torch, mode=mode, written=False)
    PROGRAMS[f"{name}-written"] = functools.partial(_torch, mode=mode, written=True)

if __name__ == "__main__":
    main()
