"""Train the members of a sweep (configs/sweeps.py), here or on a cluster, and compare them.

python -m launch.sweep ablations --scale cifar10 --out runs/ablations --data /data/cifar10            the commands
python -m launch.sweep ablations --scale cifar10 --out runs/ablations --data /data/cifar10 --local    run them here
python -m launch.sweep ablations --scale cifar10 --out runs/ablations --data /data/cifar10 --slurm    on a cluster
python -m launch.sweep ablations --scale cifar10 --out runs/ablations --collect                       the results

The same command again runs what is missing, and what was stopped, killed or stalled (at most three times without a
new checkpoint); what failed otherwise waits for --retry-failed. --config.key=value changes every member.
"""

import os
import shlex
from pathlib import Path

from alexnet_jax import cli
from alexnet_jax.config import find
from alexnet_jax.errors import ConfigError
from alexnet_jax.files import is_utf8
from launch import runs
from launch.runs import Run

scales, sweeps = map(find.config_module, ("scales", "sweeps"))


def main(arguments: list[str]) -> int:
    parser = cli.parser(__doc__ or "")
    parser.add_argument("name", choices=list(sweeps.SWEEPS), help="the sweep")
    parser.add_argument("--scale", required=True, choices=list(scales.SCALES))
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="holds a run folder for each run"
    )
    parser.add_argument("--data", metavar="PATH", help="the images, as --config.data.path")
    parser.add_argument(
        "--only",
        metavar="MEMBER",
        nargs="+",
        help="these members alone; --collect has the first of the sweep, too, which it compares with",
    )
    parser.add_argument("--seeds", type=int, metavar="N", help="instead of the sweep's own number")
    parser.add_argument("--retry-failed", action="store_true", help="run what failed, too")
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--local", action="store_true", help="run them on this machine")
    action.add_argument("--slurm", action="store_true", help="submit them as an array of jobs")
    action.add_argument(
        "--collect", action="store_true", help="tables and a figure of what is finished"
    )
    parser.add_argument(
        "--jobs", type=int, metavar="N", help="at the same time; default: one a GPU, or one a core"
    )
    _add_slurm(parser)
    options, rest = parser.parse_known_args(arguments)
    every = expand(options, cli.config_overrides(rest))
    if options.local or options.slurm:
        require_data(options, every)
    if options.local:
        from launch import local

        return local.carry_out(every, to_run(every, options.retry_failed), options.jobs)
    if options.slurm:
        return submit(options, every)
    if options.collect:
        return show(options, every)
    for run in unique(every):
        print(command(run))
    return 0


def _add_slurm(parser) -> None:
    group = parser.add_argument_group("with --slurm, what a job asks for")
    group.add_argument("--partition")
    group.add_argument(
        "--time",
        metavar="HH:MM:SS",
        help="the limit; a run that needs longer goes on in another job",
    )
    group.add_argument("--cpus", type=int, metavar="N", help="of each process")
    group.add_argument("--gpus", type=int, metavar="N", help="of each node")
    group.add_argument("--memory", metavar="SIZE", help="of each node, such as 16G")
    group.add_argument("--nodes", type=int, default=1, metavar="N")
    group.add_argument(
        "--processes", type=int, default=1, metavar="N", help="on each node, started by srun"
    )
    group.add_argument(
        "--sbatch",
        metavar="OPTION",
        action="append",
        default=[],
        help="another option of sbatch, such as --sbatch=--account=me",
    )


def expand(options, changes: list[str]) -> list[Run]:
    """The runs of the sweep, member by member. Raises ConfigError."""
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
    if common.get("data.path"):  # runs are started elsewhere
        common["data.path"] = str(Path(common["data.path"]).expanduser().absolute())
    out = Path(options.out).expanduser().absolute()
    if not is_utf8(out):
        raise ConfigError(
            f"--out {os.fsencode(out)!r} is not UTF-8 text in this locale, which checkpoints need"
        )
    wanted = set(options.only or names)
    if options.collect:  # all differences are from the base, and what was published is as well
        wanted.add(names[0])
    return [
        runs.run(member.name, member.config, member.overrides | common, seed, out)
        for member in members
        if member.name in wanted
        for seed in range(options.seeds or member.seeds)
    ]


def require_data(options, every: list[Run]) -> None:
    """Raises ConfigError where images are needed and nobody said where they are, and where none are read."""
    needed = options.scale != "digits"
    if options.data and not needed:
        raise ConfigError("--data would change nothing: the scale digits reads no files")
    if needed and not any(o.startswith("--config.data.path=") for o in every[0].overrides):
        raise ConfigError(f"--data PATH is missing: the images of the scale {options.scale}")


def submit(options, every: list[Run]) -> int:
    """Submit what is to be run and not in the queue yet, and show the states of all."""
    from launch import slurm, table

    states = slurm.queued(every)
    todo = [run for run in to_run(every, options.retry_failed) if run.identity not in states]
    if todo:
        asked = slurm.Options(
            options.partition, options.cpus, options.gpus, options.memory, options.time, options.nodes,
            options.processes, options.jobs, tuple(options.sbatch),
        )  # fmt: skip
        print(f"submitted {len(todo)} runs as job {slurm.submit(todo, asked)}")
    table.console().print(table.table(every, slurm.queued(every)))
    return 0


def show(options, every: list[Run]) -> int:
    """Write the results of what is finished, and print the table."""
    from launch import collect

    made = collect.figure1 if options.name == "figure1" else collect.collect
    written = made(every, f"{options.name} {options.scale}")
    print(written[0].read_text(encoding="utf-8"))
    print("written:", *written)
    return 0


def unique(every: list[Run]) -> list[Run]:
    """Without those that an earlier one stands for."""
    first: dict[str, Run] = {}
    for run in every:
        first.setdefault(run.identity, run)
    return list(first.values())


def to_run(every: list[Run], retry_failed: bool) -> list[Run]:
    """What is missing or was stopped; with `retry_failed` also what failed."""
    wanted = {"waiting", "stopped"} | ({"failed"} if retry_failed else set())
    return [run for run in unique(every) if runs.state(run).name in wanted]


def command(run: Run) -> str:
    """For a shell in the root of the repository."""
    arguments = ["--config", run.config, "--workdir", str(run.folder), *run.overrides]
    return shlex.join(["launch/train.sh", *arguments])


if __name__ == "__main__":
    cli.run(main)
