"""The record of `make reliability`, docs/results/reliability.json, and its table in docs/reliability.md.

`python -m tests.reliability.record` writes the table anew.
"""

import datetime
import json
import os
import re
import statistics
import subprocess
from pathlib import Path

import jax

from bench.hardware import machine

ROOT = Path(__file__).resolve().parents[2]
RECORD = ROOT / "docs" / "results" / "reliability.json"
COST = ROOT / "docs" / "results" / "reliability-cost.json"
BEGIN, END = "<!-- make reliability writes from here -->\n", "<!-- to here -->\n"


def write(path: Path, scoreboard: dict) -> None:
    """A record of what the tests of faults and the sweeps came to."""
    git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    faults = dict(
        sorted(scoreboard["faults"].items(), key=lambda item: (item[0][0], int(item[0][1:])))
    )
    content = {
        "date": datetime.date.today().isoformat(), "commit": git.stdout.strip(), "machine": machine(),
        "cores": len(os.sched_getaffinity(0)), "jax": jax.__version__, "faults": faults,
        "figures": dict(sorted(scoreboard["figures"].items())),
    }  # fmt: skip
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def table(record: dict, cost: dict) -> str:
    """The table of docs/reliability.md."""
    figures, faults = record["figures"], record["faults"]
    held = [
        code for code, counts in faults.items() if "failed" not in counts and counts.get("passed")
    ]
    seconds = {
        name: statistics.median(values) for name, values in cost["checkpoint"]["seconds"].items()
    }
    ratios = [a / b - 1 for a, b in zip(cost["step"]["with"], cost["step"]["without"], strict=True)]
    rows = [
        ("kill -9 at a point or a random time, then the same bits",
         f"{figures['kill -9 points, bit-identical']} of 60"),
        ("runs killed again and again every 7 to 13 steps, then the same bits",
         f"{figures['runs killed every few steps, bit-identical']} of 5"),
        ("negative controls that the comparison caught", f"{figures['negative controls caught']} of 5"),
        ("damaged files of a checkpoint detected, and the step before used",
         f"{figures['checkpoint damage detected']} of {figures['checkpoint files damaged']}"),
        ("phases in which SIGTERM was survived",
         f"{figures['SIGTERM phases saved']} of 12, at most {figures['SIGTERM seconds to exit, longest']} s to exit"),
        ("1, 2 and 4 devices: the same batches; parameters after 48 steps differ by",
         f"{figures['devices 1, 2, 4: largest relative difference of parameters after 48 steps']:.1g}"),
        ("faults [below](#faults) met as promised", f"{len(held)} of {len(faults)}"),
        (f"cost of all checks, `{cost['config']}.py`, batch {cost['batch']}, in {len(ratios)} rounds",
         f"{statistics.median(ratios):+.1%} of a step ({min(ratios):+.1%} to {max(ratios):+.1%})"),
        (f"a checkpoint of {cost['checkpoint']['bytes'] / 1e6:.0f} MB",
         f"{seconds['write']:.2f} s writing, {seconds['hash']:.2f} s hashing, {seconds['commit']:.2f} s commit"),
    ]  # fmt: skip
    lines = [f"| {name} | {value} |" for name, value in rows]
    where = f"{record['date']}, {record['cores']} cores of {record['machine']}, jax {record['jax']}"
    return "\n".join([f"| `make reliability`, {where} | |", "|---|---|", *lines]) + "\n"


def main() -> None:
    document = ROOT / "docs" / "reliability.md"
    text = document.read_text(encoding="utf-8")
    new = BEGIN + table(json.loads(RECORD.read_text()), json.loads(COST.read_text())) + END
    document.write_text(
        re.sub(f"{BEGIN}.*{END}", lambda _: new, text, flags=re.DOTALL), encoding="utf-8"
    )


if __name__ == "__main__":
    main()
