"""Try damaged and hostile inputs on every reader: each must be read, or refused by one line of ours.

python -m tests.fuzz [--count N] [--seed N] [--only READER ...] [--out FOLDER]

An input counts as found where a reader raises anything but an AlexNetError, or one whose line is not one line, takes
more than SECONDS, or more than BYTES of memory, or ends its process. What is found is kept in FOLDER; what was mended
belongs into tests/fuzz/found/, which the tests try. The same seed gives the same inputs.
"""

import argparse
import contextlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

SECONDS = 10
BYTES = 2 * 2**30
LONGEST_LINE = 20_000


class Hang(BaseException):
    """Not an Exception, so that no reader takes it for a fault of its file."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)  # fmt: skip
    parser.add_argument("--count", type=int, default=2000, help="inputs for each reader")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", metavar="READER", help="names as in the table")
    parser.add_argument("--out", type=Path, default=Path("runs/fuzz"), help="for what is found")
    parser.add_argument("--worker", nargs=2, metavar=("FIRST", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        first, folder = options.worker
        return work(options.only[0], options.seed, options.count, int(first), Path(folder))
    from tests.fuzz.readers import READERS

    began, found = time.monotonic(), 0
    print(
        "| reader | inputs | read | refused | found | seconds |\n|---|--:|--:|--:|--:|--:|",
        flush=True,
    )
    for name in options.only or READERS:
        counts, seconds = supervise(name, options.seed, options.count, options.out)
        found += counts["found"]
        print(f"| {name} | {counts.total():,} | {counts['read']:,} | {counts['refused']:,} | {counts['found']:,} "
              f"| {seconds:.0f} |", flush=True)  # fmt: skip
    where = f"; see {options.out}" if found else ""
    print(f"\n{found} inputs found{where}; {time.monotonic() - began:.0f} s")
    return 1 if found else 0


def supervise(name: str, seed: int, count: int, out: Path) -> tuple[Counter, float]:
    """Counts of what became of the inputs of a reader, tried in other processes; its seconds."""
    counts, first, began = Counter(), 0, time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report"
        while first < count:
            report.unlink(missing_ok=True)
            worker = subprocess.Popen(
                [sys.executable, "-m", "tests.fuzz", "--only", name, "--seed", str(seed), "--count", str(count),
                 "--worker", str(first), scratch],
                env=os.environ | {"ALEXNET_JAX_CACHE": f"{scratch}/cache", "JAX_PLATFORMS": "cpu"},
                stdout=subprocess.DEVNULL, stderr=open(Path(scratch) / "stderr", "wb"),  # noqa: SIM115
            )  # fmt: skip
            silent_since, seen = time.monotonic(), -1
            while worker.poll() is None:
                time.sleep(0.05)
                size = report.stat().st_size if report.exists() else -1
                if size != seen:
                    silent_since, seen = time.monotonic(), size
                elif time.monotonic() - silent_since > (3 * SECONDS if size > 0 else 300):
                    worker.kill()
            lines = report.read_text().splitlines() if report.exists() else []
            if not lines:
                said = (Path(scratch) / "stderr").read_text(errors="replace")
                raise SystemExit(f"the worker for {name} did not begin:\n{said[-3000:]}")
            for line in map(json.loads, lines):
                counts[line["outcome"]] += "begun" not in line["outcome"]
                if line["outcome"] == "found":
                    _keep(out, name, seed, line["number"], line["fault"])
            last = json.loads(lines[-1])
            if last["outcome"] == "begun":
                counts["found"] += 1
                _keep(out, name, seed, last["number"], f"the process ended with {worker.returncode}")  # fmt: skip
            first = last["number"] + 1
    return +counts, time.monotonic() - began


def _keep(out: Path, name: str, seed: int, number: int, fault: str) -> None:
    from tests.fuzz.readers import READERS

    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{name.replace(' ', '_')}-{seed}-{number}"
    reader = READERS[name]
    with tempfile.TemporaryDirectory() as scratch:
        os.environ.setdefault("ALEXNET_JAX_CACHE", scratch)
        seeds = reader.seeds(Path(scratch))
    path.write_bytes(input_of(seeds, reader.mutate, name, seed, number))
    print(f"  {path}: {fault.strip().splitlines()[-1][:300]}", file=sys.stderr, flush=True)
    path.with_name(path.name + ".txt").write_text(fault)


def input_of(seeds: Any, mutate: Any, name: str, seed: int, number: int) -> bytes:
    """The input of this number, from these alone."""
    draw = random.Random(f"{seed} {name} {number}")
    return mutate(draw, draw.choice(seeds))


def work(name: str, seed: int, count: int, first: int, folder: Path) -> int:
    """Try the inputs from `first` on and report each, before and after, a line of JSON."""
    from tests.fuzz.readers import READERS

    reader, scratch = READERS[name], Path(tempfile.mkdtemp(dir=folder))
    seeds, read = reader.seeds(scratch), reader.prepare(scratch)
    for good in seeds:
        assert attempt(read, good)[0] == "read", f"a good input of {name}: {attempt(read, good)}"
    limit_memory()
    with open(folder / "report", "w", buffering=1) as report:
        for number in range(first, count):
            content = input_of(seeds, reader.mutate, name, seed, number)
            report.write(json.dumps({"number": number, "outcome": "begun"}) + "\n")
            outcome, fault = attempt(read, content)
            report.write(json.dumps({"number": number, "outcome": outcome, "fault": fault}) + "\n")
    os._exit(0)  # whatever threads are left


def limit_memory() -> None:
    """BYTES more than what is taken now."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))


def attempt(read: Any, content: bytes) -> tuple[str, str]:
    """'read', 'refused' or 'found', and what was said."""
    import traceback

    from alexnet_jax.errors import AlexNetError

    def ring(*_: object) -> None:
        raise Hang(f"more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        with contextlib.redirect_stdout(None), contextlib.redirect_stderr(None):
            read(content)
        return "read", ""
    except AlexNetError as error:
        line = error.line()
        if "\n" in line or len(line) > LONGEST_LINE or error.exit_code == 1:
            return "found", f"not a line, or too long a one: {line[:1000]}"
        return "refused", line[:1000]
    except (Exception, Hang):
        return "found", traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


if __name__ == "__main__":
    sys.exit(main())
