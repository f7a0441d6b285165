"""Run all GPU measurements with one command, in at most eight minutes.

    make gpu                                            all stages; DATA=FOLDER adds runs on CIFAR-10
    GPU_DRY=1 make gpu                                  the same stages at toy size on a CPU, into a temporary folder
    python -m bench.gpu --only peers-512 kernels-512
    python -m bench.gpu --resume docs/results/gpu-2026-11-26.json     the unfinished stages of a run
    python -m bench.gpu --page docs/results/gpu-2026-11-26.json       only write the page

Stages run one after the other, the most important first, each in its own processes and with its own time limit.
Nothing is installed or downloaded. Stages share JAX's compilation cache, which includes XLA's autotuning results.

gpu-DATE.json is written after each stage, so an interruption loses only the stage that is running. It has these keys:

    schema           1
    time, commit     at the start; commit is None outside a git checkout, and ends with '+' if files were changed
    command, dry     the command line; whether it is a dry run at toy size
    machine, cores, memory_bytes, gpus [{name, driver, memory_bytes}], versions {package: version}
    limit, seconds   seconds allowed for all stages but those with data; seconds spent on all stages so far
    stages           {name: {title, command, state, reason, seconds, result, said}}; see bench/stages.py

The result of a stage is the JSON of its command: for peers and forms `measurements` (bench/alternate.py: seconds per
step of each round, ratios to the first program, peak bytes), for kernels `layers` and `kernels` (microseconds per
step), for layers `layers` (seconds per call), for nets `nets` (seconds per step), for transfer `ways` (bytes per
second), for tests the counts of pytest, for a run its results.json, for sweep its tables. gpu-DATE.md shows the
content as a page.
"""

import argparse
import functools
import importlib
import itertools
import json
import math
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import util
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from alexnet_jax import cli, files
from alexnet_jax.cli import markdown
from alexnet_jax.config import find
from alexnet_jax.config.find import ROOT
from alexnet_jax.errors import ConfigError
from alexnet_jax.run import schemas

from . import alternate, hardware
from .peers import ON_GPU
from .stages import Stage, execute

RESULTS = ROOT / "docs/results"
#: Seconds for all stages but those with data; with startup and shutdown, less than eight minutes.
LIMIT = 465.0
#: Seconds for each stage with data.
DATA_LIMIT = 540.0
#: Variants of configs/cifar10.py to train.
NETS = ("80sec", "18pct", "13pct", "11pct")
#: Runs of the sweep that share the GPU.
JOBS = 8
#: Arguments of a dry run.
TINY = "--config tests/tiny.py --config.data.source=folder"


def main(arguments: list[str]) -> int:
    """Run `make gpu`."""
    parser = cli.parser(__doc__ or "")
    parser.add_argument("--only", nargs="+", metavar="STAGE", help="only these stages")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="CIFAR-10; adds runs on it")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs/gpu", metavar="FOLDER",
                        help="folder of the runs on data; existing runs continue")  # fmt: skip
    parser.add_argument("--limit", type=float, default=LIMIT, metavar="SECONDS")
    parser.add_argument("--data-limit", type=float, default=DATA_LIMIT, metavar="SECONDS",
                        help="for each stage with data")  # fmt: skip
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="default: docs/results")
    parser.add_argument(
        "--resume",
        type=Path,
        metavar="FILE.json",
        help="run the unfinished stages of this file",
    )
    parser.add_argument(
        "--page", type=Path, metavar="FILE.json", help="only write the page of this file"
    )
    options = parser.parse_args(arguments)
    if options.page:
        record = json.loads(options.page.read_text())
        files.write_atomically(options.page.with_suffix(".md"), page(record))
        return 0
    options.dry = os.environ.get("GPU_DRY", "0") not in ("", "0")
    if not options.dry and hardware.device() != "cuda":
        who = "JAX finds" if hardware.gpus() else "nvidia-smi lists"
        raise ConfigError(
            f"{who} no GPU; GPU_DRY=1 make gpu runs all stages at toy size on the CPU"
        )
    return measure(options)


def measure(options: argparse.Namespace) -> int:
    """Run the selected stages, and write the JSON file and the page after each."""
    folder = Path(tempfile.mkdtemp(prefix="alexnet-gpu-"))
    timed, with_data = stages(options.dry, folder), data_stages(options)
    every = [stage.name for stage in (*timed, *with_data)]
    wanted = every if options.only is None else options.only
    if unknown := set(wanted) - set(every):
        raise ConfigError(f"--only {' '.join(unknown)}: the stages are {', '.join(every)}")
    record, path = _begin(options, folder)
    done = {name for name, row in record["stages"].items() if row["state"] == "done"}
    if "sweep" not in done:
        done.discard("sweep-tables")  # make the tables again after more runs
    timed, with_data = (
        [stage for stage in some if stage.name in wanted and stage.name not in done]
        for some in (timed, with_data)
    )
    print(f"{plan(timed, options.limit)}\n\nOutput goes to {folder}, results to {path}\n")
    start, previous_seconds = time.monotonic(), record["seconds"]

    def save() -> None:
        record["seconds"] = round(previous_seconds + time.monotonic() - start, 1)
        files.write_atomically(path, json.dumps(record, indent=1) + "\n")
        files.write_atomically(path.with_suffix(".md"), page(record))

    environment = _environment(options.dry, folder)
    codes = [execute(timed, record["stages"], folder, options.limit, environment, save)]
    if max(codes) < 2:  # otherwise a signal was received
        codes.append(execute(with_data, record["stages"], folder, math.inf, environment, save))
    print(f"\n{page(record)}\n{path.with_suffix('.md')}")
    return max(codes)


def stages(dry: bool, folder: Path) -> list[Stage]:
    """Return the stages without data, the most important first; expected durations are for one H200."""
    torch = util.find_spec("torch") is not None
    memory = sum(gpu["memory_bytes"] for gpu in hardware.gpus()[:1])
    beside = "PyTorch" if torch else "Flax written plainly (PyTorch is not installed)"

    def stage(name: str, title: str, expected: float, limit: float, real: str, toy: str) -> Stage:
        """Make a stage; `real` and `toy` are a module of bench and its arguments, at full and at toy size."""
        module, *arguments = (toy if dry else real).split()
        path = folder / f"{name}.json"
        command = [sys.executable, "-m", f"{__package__}.{module}", *arguments, f"--json={path}"]
        return Stage(name, title, command, expected, 150 if dry else limit, lambda: _json(path))

    def compared(module: str, batch: int, seconds: int, alive: int) -> str:
        """Return the arguments of a comparison; on 140 GB, `alive` programs are loaded besides the first."""
        alive = alive if memory > 100e9 else max(alive // 2, 1)
        settings = f"--device cuda --batch {batch} --rounds 3 --beside {alive}"
        return f"{module} {settings} --limit {seconds - 15} --keep-going"

    def peers(name: str, batch: int, expected: int, seconds: int, which: str, toy: str) -> Stage:
        real = f"{compared('peers', batch, seconds, 12)} --peers {which if torch else 'plain'}"
        toy = f"peers --device cpu --batch 1 --rounds 1 --steps 1 --keep-going --peers {toy}"
        title = f"Next to {beside}, batch {batch}"
        return stage(name, title, expected, seconds + 10, real, toy)

    def forms(batch: int, seconds: int, alive: int) -> Stage:
        real = f"{compared('step', batch, seconds, alive)} --dtype bfloat16"
        toy = f"step {TINY} --device cpu --batch 8 --rounds 1 --steps 1"
        toy += " --forms groups=feature_groups"
        title = f"The step and its alternative forms, batch {batch}"
        return stage(f"forms-{batch}", title, seconds, seconds + 10, real, toy)

    quick = " ".join(name for name in ON_GPU if not name.startswith("max"))
    bfloat16 = "--batch 512 --config.model.compute_dtype=bfloat16"
    return [
        _tests(folder),
        peers("peers-512", 512, 90, 120, quick, "plain eager" if torch else "plain"),
        stage("kernels-512", "The compiled step by layer, batch 512", 35, 60,
              f"kernels {bfloat16}", f"kernels {TINY} --batch 8 --steps 2"),
        forms(512, 90, 12),
        peers("peers-128", 128, 80, 110, quick, "plain"),
        stage("transfer", "Images to the device and back", 10, 25, "transfer", "transfer --batch 8"),
        stage("nets", "Small nets: host and device", 25, 50, "nets",
              f"nets {TINY} --batch 8 --steps 2 --repeats 1"),
        stage("layers-512", "Each operation alone, batch 512", 45, 80,
              f"layers {bfloat16}", f"layers {TINY} --batch 4 --repeats 1"),
        forms(128, 60, 12),
        forms(2048, 120, 3),
        peers("autotuned-512", 512, 180, 180, "max max-written", "")._replace(
            skip="" if torch and not dry else "only for PyTorch on a GPU"
        ),
    ]  # fmt: skip


def _tests(folder: Path) -> Stage:
    path = folder / "tests.xml"
    command = [sys.executable, "-m", "pytest", "tests/gpu", "-q", f"--junitxml={path}"]
    skip = "" if (ROOT / "tests/gpu").is_dir() else "there is no folder tests/gpu"
    return Stage("tests", "Tests on the device", command, 90, 150, lambda: _counts(path), skip)


def data_stages(options: argparse.Namespace) -> list[Stage]:
    """Return the stages that train the CIFAR-10 networks and the ablations; they continue earlier runs."""
    if options.data is None:
        return []
    data, limit, runs = options.data.absolute(), options.data_limit, []
    for name in NETS:
        workdir = options.runs / f"cifar10-{name}"
        command = [sys.executable, "-m", "alexnet_jax.main", f"--config=configs/cifar10.py:{name}"]
        command += [f"--workdir={workdir}", f"--config.data.path={data}"]
        runs.append(
            Stage(f"cifar10-{name}", f"CIFAR-10, network {name}", command, limit, limit,
                  functools.partial(_json, workdir / "results.json"), grace=60)
        )  # fmt: skip
    out = options.runs / "ablations"
    sweep = [
        sys.executable,
        "-m",
        find.module_name("launch.sweep"),
        "ablations",
        "--scale=cifar10",
        "--seeds=10",
    ]
    sweep += [f"--out={out}", f"--data={data}"]
    return [
        *runs,
        Stage("sweep", "Ablations at the scale cifar10, ten seeds", [*sweep, "--local", f"--jobs={JOBS}"],
              limit, limit, grace=60),
        Stage("sweep-tables", "Finished ablations", [*sweep, "--collect"], 10, 120,
              lambda: (out / "ablations-cifar10.md").read_text()),
    ]  # fmt: skip


def plan(stages: list[Stage], limit: float) -> str:
    """Format a table of the stages with their expected end and limit."""
    rows, end = [("stage", "expected end, s", "limit, s", "")], 0.0
    for stage in stages:
        end += 0 if stage.skip else stage.expected
        note = stage.skip or ("cut, if the others take as long as expected" if end > limit else "")
        rows.append((stage.name, f"{end:.0f}", f"{stage.limit:.0f}", note))
    return "\n".join([*cli.table(rows, right=(1, 2)), f"all: {limit:.0f} s at most"])


def _begin(options: argparse.Namespace, folder: Path) -> tuple[dict[str, Any], Path]:
    """Return the record and its file: new ones, or those to resume."""
    if options.resume:
        return json.loads(options.resume.read_text()), options.resume
    out = options.out or (folder if options.dry else RESULTS)
    out.mkdir(parents=True, exist_ok=True)
    name = f"gpu-{time.strftime('%Y-%m-%d')}"
    number = next(n for n in itertools.count(1) if not (out / _numbered(name, n)).exists())
    record = {
        "schema": 1, "time": schemas.now(), "commit": _commit(),
        "command": sys.argv, "dry": options.dry, **hardware.hardware(), "versions": hardware.versions(),
        "limit": options.limit, "seconds": 0.0, "stages": {},
    }  # fmt: skip
    return record, out / _numbered(name, number)


def _numbered(name: str, number: int) -> str:
    return f"{name}.json" if number == 1 else f"{name}-{number}.json"


def _commit() -> str | None:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(ROOT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _environment(dry: bool, folder: Path) -> dict[str, str]:
    settings = {
        "PYTHONUNBUFFERED": "1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    }
    if dry:  # at toy size, compilation takes most of the time
        settings |= {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_backend_optimization_level=1"}
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str(folder / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
    }
    return cache | os.environ | settings


def _json(path: Path) -> Any:
    return json.loads(path.read_text()) if path.exists() else None


def _counts(path: Path) -> dict[str, int] | None:
    """Return the counts of tests, failures, errors and skipped tests in a JUnit file of pytest."""
    if not path.exists():
        return None
    suites = ElementTree.parse(path).getroot().iter("testsuite")
    names = ("tests", "failures", "errors", "skipped")
    counts = [{name: int(suite.get(name, 0)) for name in names} for suite in suites]
    return {name: sum(count[name] for count in counts) for name in names}


def page(record: dict[str, Any]) -> str:
    """Format the record as Markdown: the states of all stages, then the tables of each."""
    gpus = record.get("gpus") or []
    device = f"one {gpus[0]['name']}, driver {gpus[0]['driver']}" if gpus else "no GPU"
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    lines = [
        f"# Measured on a GPU, {record['time'][:10]}",
        "",
        *(["**At toy size on a CPU: the times are not meaningful.**", ""] if record["dry"] else []),
        f"Commit {record['commit'] or 'unknown'}; {device}; {record['cores']} cores of {record['machine']}; "
        f"{versions}. `python -m bench.gpu`, {record['seconds']:.0f} s; the schema of the JSON beside this page is "
        "in `bench/gpu.py`.",
        "",
    ]
    states = [
        (name, row["state"], f"{row['seconds']:.0f}" if "seconds" in row else "", row.get("reason", ""))
        for name, row in record["stages"].items()
    ]  # fmt: skip
    lines += markdown.table(("stage", "state", "s", ""), states, right=(2,))
    for name, row in record["stages"].items():
        shown = _shown(name, row)
        if shown:
            command = shlex.join(["python", *row["command"][1:]])
            command = re.sub(r" --json=\S+| --junitxml=\S+", "", command)
            lines += ["", f"## {row['title']}", "", f"`{command}`", "", shown]
    return "\n".join(lines) + "\n"


def _shown(name: str, row: dict[str, Any]) -> str:
    """Format the tables of a stage, and the end of its output if it failed."""
    parts = []
    if row.get("result"):
        kind = name.partition("-")[0]
        parts.append(_SHOW[kind](row["result"]))
    if row["state"] in ("failed", "cut") and row.get("said"):
        parts.append("\n".join(["```", *row["said"][-10:], "```"]))
    return "\n\n".join(parts)


def _comparisons(result: dict[str, Any]) -> str:
    return "\n".join(alternate.table(result, each) for each in result["measurements"]).rstrip()


def _table_of(benchmark: str) -> Callable[[Any], str]:
    """The function that formats the result of another benchmark."""
    return lambda result: importlib.import_module(f"{__package__}.{benchmark}").table(result)


def _tests_line(result: dict[str, int]) -> str:
    passed = result["tests"] - result["failures"] - result["errors"] - result["skipped"]
    return f"{passed} passed, {result['failures'] + result['errors']} failed, {result['skipped']} skipped."


def _trained(result: dict[str, Any]) -> str:
    """Format the errors in results.json by split and views, the epochs and the speed."""
    rows = [
        (split, view, f"{row['count']:,}", f"{row['top1_error']:.2%}")
        for split, views in result["splits"].items()
        for view, row in views.items()
    ]
    lines = markdown.table(("split", "views", "images", "top-1 error"), rows, right=(2, 3))
    return "\n".join([*lines, "", f"Epoch {result['epoch']:g}, {result['seconds']:,.0f} s, "
                      f"{result['images_per_second']:,.0f} images per second."])  # fmt: skip


def _tables(result: str) -> str:
    """Extract the tables of a Markdown page."""
    return "\n".join(line for line in result.splitlines() if line.startswith("|") or not line)


_SHOW: dict[str, Callable[[Any], str]] = {
    "tests": _tests_line, "peers": _comparisons, "autotuned": _comparisons, "forms": _comparisons,
    "cifar10": _trained, "sweep": _tables,
    **{name: _table_of(name) for name in ("kernels", "layers", "nets", "transfer")},
}  # fmt: skip

if __name__ == "__main__":
    cli.run(main)
