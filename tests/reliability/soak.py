"""How the memory of a long run grows: `python -m tests.reliability.soak [--steps 3000] [--every 1]`.

Trains tests/tiny.py twice in processes of their own, with a checkpoint every few steps and with the last one alone,
and fits lines to the resident memory of the second half of each: kB for each checkpoint beyond what steps take.
"""

import argparse
import gc
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
MOST_KB = 3.0
"""For a checkpoint."""
SAMPLES = 40


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--every", type=int, default=1, help="steps between two checkpoints")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return _train(options.steps, options.every)
    saves = {"with checkpoints": options.every, "without": 10**9}
    slopes = {}
    for name, every in saves.items():
        command = [sys.executable, "-m", "tests.reliability.soak", "--child"]
        child = subprocess.run(
            [*command, f"--steps={options.steps}", f"--every={every}"],
            cwd=ROOT, capture_output=True, text=True, check=True,
        )  # fmt: skip
        steps, kb = np.array(json.loads(child.stdout.splitlines()[-1])).T
        half = len(steps) // 2
        slopes[name] = float(np.polyfit(steps[half:], kb[half:], 1)[0])
        print(
            f"{name}: {kb[half]:,.0f} kB halfway, {kb[-1]:,.0f} at the end, {1000 * slopes[name]:,.0f} for 1,000 steps"
        )
    each = (slopes["with checkpoints"] - slopes["without"]) * options.every
    print(f"{each:.1f} kB for each checkpoint; at most {MOST_KB:g} are allowed")
    return int(each > MOST_KB)


def _train(steps: int, every: int) -> int:
    from alexnet_jax import main as program
    from alexnet_jax.train.profiler import Profiler

    before, found = Profiler.before, []

    def measured(self, step):
        if step and step % max(steps // SAMPLES, 1) == 0:
            gc.collect()
            resident = int(Path("/proc/self/statm").read_text().split()[1]) * 4
            found.append((step, resident))
        before(self, step)

    Profiler.before = measured
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            "train.epochs": 1e6, "train.max_steps": steps, "train.log_every": 100, "train.checkpoint_every": every,
            "train.checkpoint_minutes": 0, "evaluation.every_epochs": 1e6,
        }  # fmt: skip
        changes = [f"--config.{key}={value}" for key, value in settings.items()]
        program.main(["--config", "tests/tiny.py", "--workdir", f"{folder}/run", *changes])
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
