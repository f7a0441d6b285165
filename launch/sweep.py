"""Train the members of a sweep (configs/sweeps.py), here or on a cluster, and compare them.

alexnet sweep ablations --scale cifar10 --out runs/ablations --data /data/cifar10            print the commands
alexnet sweep ablations --scale cifar10 --out runs/ablations --data /data/cifar10 --local    run them here
alexnet sweep ablations --scale cifar10 --out runs/ablations --data /data/cifar10 --slurm    submit them
alexnet sweep ablations --scale cifar10 --out runs/ablations --collect                       compare the results

Repeating the command starts the missing runs and restarts those that were stopped, killed or stalled (at most three
times without a new checkpoint). Runs that failed for another reason need --retry-failed. --config.key=value changes all
members.
"""

import argparse
import os
import shlex
from pathlib import Path

from alexnet_jax import cli
from alexnet_jax.config import find
from alexnet_jax.errors import ConfigError
from alexnet_jax.files import is_utf8

from . import runs
from .runs import Run

scales, sweeps = map(find.config_module, ("scales", "sweeps"))


def main(arguments: list[str]) -> int:
    """Run `alexnet sweep`."""
    parser = cli.parser(__doc__ or "")
    parser.add_argument("name", choices=list(sweeps.SWEEPS), help="the sweep")
    parser.add_argument("--scale", required=True, choices=list(scales.SCALES))
    parser.add_argument("--out", required=True, metavar="DIR", help="parent of the run folders")
    parser.add_argument("--data", metavar="PATH", help="the images; sets config.data.path")
    parser.add_argument(
        "--only",
        metavar="MEMBER",
        nargs="+",
        help="only these members; --collect adds the first member, the base of the comparison",
    )
    parser.add_argument(
        "--seeds", type=int, metavar="N", help="runs of each member; default: set by the sweep"
    )
    parser.add_argument(
        "--retry-failed", action="store_true", help="also start the runs that failed"
    )
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--local", action="store_true", help="run them on this machine")
    action.add_argument("--slurm", action="store_true", help="submit them to SLURM")
    action.add_argument(
        "--collect", action="store_true", help="write tables and a figure of the finished runs"
    )
    parser.add_argument(
        "--jobs",
        type=int,
        metavar="N",
        help="number of runs at the same time; default: one per GPU, or one per core",
    )
    _add_slurm(parser)
    options, rest = parser.parse_known_args(arguments)
    all_runs = expand(options, cli.config_overrides(rest))
    if options.local or options.slurm:
        require_data(options, all_runs)
    if options.local:
        from . import local

        return local.execute(all_runs, to_run(all_runs, options.retry_failed), options.jobs)
    if options.slurm:
        return submit(options, all_runs)
    if options.collect:
        return show(options, all_runs)
    for run in unique(all_runs):
        print(command(run))
    return 0


def _add_slurm(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("resources of a job, with --slurm")
    group.add_argument("--partition")
    group.add_argument(
        "--time",
        metavar="HH:MM:SS",
        help="time limit; a run that needs longer continues in another job",
    )
    group.add_argument("--cpus", type=int, metavar="N", help="per process")
    group.add_argument("--gpus", type=int, metavar="N", help="per node")
    group.add_argument("--memory", metavar="SIZE", help="per node, such as 16G")
    group.add_argument("--nodes", type=int, default=1, metavar="N")
    group.add_argument(
        "--processes", type=int, default=1, metavar="N", help="per node, started by srun"
    )
    group.add_argument(
        "--sbatch",
        metavar="OPTION",
        action="append",
        default=[],
        help="another sbatch option, such as --sbatch=--account=me",
    )


def expand(options: argparse.Namespace, changes: list[str]) -> list[Run]:
    """List the runs of the sweep, member by member. Raises ConfigError."""
    try:
        members = sweeps.members(options.name, options.scale)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    names = [member.name for member in members]
    for name in options.only or ():
        if name not in names:
            raise ConfigError(f"--only {name}: the sweep {options.name} has {', '.join(names)}")
    for count, what in ((options.seeds, "--seeds"), (options.jobs, "--jobs")):
        if count is not None and count < 1:
            raise ConfigError(f"{what} must be at least 1, not {count}")
    common = dict(change.removeprefix("--config.").split("=", 1) for change in changes)
    if options.data:
        common["data.path"] = options.data
    if common.get("data.path"):  # runs have a different working directory
        common["data.path"] = str(Path(common["data.path"]).expanduser().absolute())
    out = Path(options.out).expanduser().absolute()
    if not is_utf8(out):
        raise ConfigError(
            f"--out {os.fsencode(out)!r} is not valid UTF-8, which checkpoints require"
        )
    wanted = set(options.only or names)
    if options.collect:  # the base of the comparison
        wanted.add(names[0])
    return [
        runs.run(member.name, member.config, member.overrides | common, seed, out)
        for member in members
        if member.name in wanted
        for seed in range(options.seeds or member.seeds)
    ]


def require_data(options: argparse.Namespace, all_runs: list[Run]) -> None:
    """Raise ConfigError if --data is missing, or if it is given for a scale that reads no files."""
    needed = options.scale != "digits"
    if options.data and not needed:
        raise ConfigError("--data has no effect: the scale digits reads no files")
    if needed and not any(o.startswith("--config.data.path=") for o in all_runs[0].overrides):
        raise ConfigError(f"--data PATH is missing: the scale {options.scale} needs images")


def submit(options: argparse.Namespace, all_runs: list[Run]) -> int:
    """Submit the runs to start that are not queued yet, and print a table of the states of all runs."""
    from . import slurm, table

    states = slurm.queued(all_runs)
    todo = [run for run in to_run(all_runs, options.retry_failed) if run.identity not in states]
    if todo:
        resources = slurm.Options(
            options.partition, options.cpus, options.gpus, options.memory, options.time, options.nodes,
            options.processes, options.jobs, tuple(options.sbatch),
        )  # fmt: skip
        print(f"submitted {len(todo)} runs as job {slurm.submit(todo, resources)}")
        states = slurm.queued(all_runs)
    table.console().print(table.table(all_runs, states))
    return 0


def show(options: argparse.Namespace, all_runs: list[Run]) -> int:
    """Write the reports of the sweep, and print their tables."""
    from . import collect, escape

    reports = {"figure1": [collect.figure1], "init": [collect.collect, escape.collect]}
    for write in reports.get(options.name, [collect.collect]):
        written = write(all_runs, f"{options.name} {options.scale}")
        print(written[0].read_text(encoding="utf-8"))
        print("written:", *written)
    return 0


def unique(all_runs: list[Run]) -> list[Run]:
    """Drop runs that are identical to an earlier run of another member."""
    first: dict[str, Run] = {}
    for run in all_runs:
        first.setdefault(run.identity, run)
    return list(first.values())


def to_run(all_runs: list[Run], retry_failed: bool) -> list[Run]:
    """Return the runs that are missing or were stopped, and with `retry_failed` also those that failed."""
    wanted = {"waiting", "stopped"} | ({"failed"} if retry_failed else set())
    return [run for run in unique(all_runs) if runs.state(run).name in wanted]


def command(run: Run) -> str:
    """Return the shell command of a run, for the repository root or for an installed package."""
    program = ["launch/train.sh"] if find.ROOT == find.IMPORT_ROOT else ["alexnet", "train"]
    arguments = ["--config", run.config, "--workdir", str(run.folder), *run.overrides]
    return shlex.join([*program, *arguments])


if __name__ == "__main__":
    cli.run(main)
