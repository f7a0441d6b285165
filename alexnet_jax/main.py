"""Train an AlexNet.

python -m alexnet_jax.main --config configs/paper.py --workdir runs/paper [--config.section.key=value ...]

The same command resumes a run that was stopped. A config file is Python code and is executed.
Any value of the config can be set on the command line, including those of alexnet_jax/specs.py that the file leaves at
their default, such as --config.train.checkpoint_minutes=5. The three switches of the paper's ablations are
  --config.model.activation=tanh   --config.model.lrn=False   --config.model.overlapping_pooling=False
Your own pictures: --config configs/folder.py --config.data.path=FOLDER   (FOLDER/train/<class>/*.jpg, FOLDER/val/...)
"""
# The path of a run through the code: `main` loads and checks the config (config/); `_train` imports JAX, opens the data
# (train/prepare.py) and takes ownership of the run folder (run/workdir.py); `_run` restores or initializes the training
# state (train/setup.py), runs all steps (train/loop.py, train/step.py), and reports (train/report.py).

import argparse
import contextlib
import functools
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alexnet_jax import cli, config
from alexnet_jax.cli import environment as streams
from alexnet_jax.errors import ConfigError
from alexnet_jax.run import environment, failures, processes, reading
from alexnet_jax.run.schemas import Results
from alexnet_jax.run.status import RunStatus
from alexnet_jax.run.workdir import RunFolder, Workdir
from alexnet_jax.specs import LISTED, Config, DataSpec

if TYPE_CHECKING:
    from alexnet_jax.run.signals import Signals
    from alexnet_jax.train.prepare import Prepared
    from alexnet_jax.train.setup import Options


def main(arguments: list[str]) -> int:
    """Run the command and return its exit code. Errors are raised."""
    options, rest = _parser().parse_known_args(arguments)
    if options.allow_partial and not options.init_from:
        raise ConfigError("--allow-partial needs --init-from")
    overrides = cli.config_overrides(rest)
    workdir = Workdir(options.workdir, overwrite=options.overwrite, steal=options.steal)
    if processes.is_primary():
        workdir.check()  # before the images are counted, which can take long
    begun = None if options.overwrite else reading.config_name(workdir.path)
    config_dict, options.reason = config.load_chosen(
        options.config, overrides, _count_images, begun
    )
    spec = config.parse(config_dict)
    try:
        return _train(options, config_dict, spec, workdir)
    except Exception as error:
        known = failures.explain(error, spec)
        processes.leave_soon(known.exit_code if known else 1)
        if known is None or known is error:
            raise
        raise known from error


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser(__doc__ or "")
    parser.add_argument("--config", required=True, metavar="FILE[:VARIANT]", help="one of configs/")
    parser.add_argument("--workdir", required=True, help="the run folder; created if needed")
    parser.add_argument(
        "--init-from",
        metavar="WORKDIR|FILE|NAME",
        help="start a new run from the parameters of another run folder, of a .safetensors file, or of weights that "
        "come with the package, such as tiny_imagenet; none: from random ones, where the config names some",
    )
    parser.add_argument(
        "--allow-partial",
        action="store_true",
        help="with --init-from: take the arrays with the right shapes, and list the others",
    )
    parser.add_argument(
        "--override-resume", metavar="KEY", action="append", default=[],
        help="accept a different value for this config key when resuming, such as train.epochs; can be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="rename an existing run folder to NAME.old-TIME and start a new run",
    )
    parser.add_argument(
        "--steal",
        action="store_true",
        help="take over a run folder whose owner on another host has died",
    )
    parser.add_argument(
        "--profile",
        action="store_true",
        help="trace a few steps of this start into WORKDIR/profile",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="check config, data, memory and disk, print a summary, and write nothing",
    )
    return parser


def _count_images(data: DataSpec) -> int | None:
    """Return the number of training images; None for a source that is not listed, and without images."""
    if data.source not in LISTED:
        return None
    from alexnet_jax.data.sources import folder

    return folder.count_training_images(data)


def _initial_weights(options: argparse.Namespace, spec: Config) -> str | None:
    """Return the weights that a new run begins from; None for random ones."""
    chosen = options.init_from or spec.train.init_from
    return None if chosen == "none" else chosen


def _train(options: argparse.Namespace, config_dict: Any, spec: Config, workdir: Workdir) -> int:
    # Usage errors are reported before this point, because importing JAX takes a second.
    from alexnet_jax.inference import trained
    from alexnet_jax.kernels import compiler
    from alexnet_jax.run.signals import Signals, Stop
    from alexnet_jax.train import prepare
    from alexnet_jax.train.setup import Options

    if spec.train.deterministic:
        compiler.make_deterministic()
    processes.connect()
    processes.check_same("config", config.digest(config_dict))
    with Signals() as signals:
        try:
            with signals.at_once():
                prepared = prepare.prepare(spec)
                init, weights = None, _initial_weights(options, spec)
                # The last layer does not fit other classes, which a config with init_from takes into account.
                partial = options.allow_partial or weights == spec.train.init_from
                if weights and not processes.run_on_primary(lambda: _has_checkpoint(workdir)):
                    init = trained.load(weights)
                    prepare.check_init(prepared.spec, init, partial=partial)
        except Stop:
            streams.say_error("stopped before the first step: there is nothing to save")
            return signals.exit_code
        last_step = prepared.plan.last_step
        if options.dry_run:
            return _dry_run(options, config_dict, prepared, workdir)
        with workdir if processes.is_primary() else contextlib.nullcontext():
            take = functools.partial(
                _take_folder, options, config_dict, prepared, workdir, last_step
            )
            notes = processes.run_on_primary(take)
            if notes is None:
                return 0
            folder = workdir if processes.is_primary() else RunFolder(workdir.path)
            profile = options.profile and processes.is_primary()
            start = Options(init, partial, profile)
            notes = [*_how_chosen(options, weights), *notes]
            return _run(prepared, config_dict, folder, signals, start, notes)


def _run(
    prepared: "Prepared", config_dict: Any, folder: RunFolder, signals: "Signals", options: "Options",
    notes: list[str],
) -> int:  # fmt: skip
    """Train to the end and report; record in status.json how the run ended."""
    from alexnet_jax.run import watchdog
    from alexnet_jax.run.signals import Stop
    from alexnet_jax.train import loop, report, setup

    spec, status = prepared.spec, RunStatus(folder)
    try:
        with (
            watchdog.Watchdog(
                spec.train.stall_seconds,
                functools.partial(watchdog.exit_stalled, folder, status),
                folder.write_heartbeat,
            ) as watching,
            setup.begin(
                prepared, folder, config_dict, status, signals, watching, options, notes
            ) as (run, state),
        ):
            state = loop.train(run, state)
            report.finish(run, state, functools.partial(_draw_figures, spec))
    except Stop:
        status.write_ended("interrupted", signals.exit_code, "signal")
        where = (
            f"saved step {status.saved_step:,}"
            if status.saved_step
            else "there is nothing to save yet"
        )
        streams.say_error(f"stopped at step {status.step:,}: {where}; the same command continues")
        return signals.exit_code
    except BaseException as error:
        known = failures.explain(error, spec)
        code = known.exit_code if known else 1
        folder.write_traceback(error)
        status.write_ended("diverged" if code == 4 else "failed", code, str(known or repr(error)))
        raise
    status.write_finished()
    return 0


def _draw_figures(spec: Config, folder: Path, kernels: Any) -> list[Path]:
    """Draw the learning curves and, if the first layer is a convolution, its kernels."""
    from alexnet_jax.analysis import curves, filters

    figures = [curves.plot(folder)]
    _, first = spec.model.convs[0]
    if first.kind == "conv":
        path = folder / "figures" / "filters.png"
        figures.append(filters.plot(kernels, spec.model.towers, path))
    return figures


def _has_checkpoint(workdir: Workdir) -> bool:
    """Whether the run resumes from a checkpoint, and so does not need the parameters of --init-from."""
    from alexnet_jax.inference import checkpoints

    return not workdir.overwrites and bool(checkpoints.committed_steps(workdir.checkpoints))


def _take_folder(
    options: argparse.Namespace, config_dict: Any, prepared: "Prepared", workdir: Workdir, last_step: int
) -> list[str] | None:  # fmt: skip
    """Check the run folder and record this start in it; return notes for the log, or None if the run is finished."""
    from alexnet_jax.data.pipeline import splits
    from alexnet_jax.train import prepare
    from alexnet_jax.train.log import summary

    workdir.begin()
    changes = workdir.changes(config_dict, options.override_resume)
    if finished := _finished(workdir, last_step):
        with contextlib.suppress(OSError):  # stdout may be a closed pipe
            print(f"{summary(finished)}\nalready finished: nothing to do", flush=True)
        return None
    # Checked before anything is written, so that a rejected start leaves the folder unchanged.
    prepare.check_resume(workdir, prepared, changed=bool(options.override_resume))
    earlier, current = reading.read_environment(workdir.path), environment.describe(prepared.spec)
    weights = _initial_weights(options, prepared.spec)
    workdir.adopt(config_dict, shlex.join(sys.argv), changes, weights)
    workdir.write("run.json", current | {"data": splits.summary(prepared.dataset)})
    return environment.changes(earlier, current)


def _how_chosen(options: argparse.Namespace, weights: str | None) -> list[str]:
    """Return the line that says which net was chosen for the images, or none if it was chosen by the user."""
    if not options.reason:
        return []
    begun = f"begun from the weights {weights} (--init-from none: random ones)" if weights else ""
    return ["; ".join(filter(None, (options.reason, begun)))]


def _finished(workdir: Workdir, last_step: int) -> Results | None:
    """Return results.json if the run reached `last_step`, or ended early, and its checkpoint is intact."""
    from alexnet_jax.inference import checkpoints

    results = reading.read_results(workdir.path)
    if not results or results.get("planned_step", results["step"]) < last_step:
        return None
    found = checkpoints.latest(workdir.checkpoints)
    ended = results.get("last_step", last_step)
    return results if found and found[0] >= ended else None


def _dry_run(
    options: argparse.Namespace, config_dict: Any, prepared: "Prepared", workdir: Workdir
) -> int:
    """Print a summary of the run. Raises the errors that a start would raise before its first step."""
    from alexnet_jax.train import prepare

    if not workdir.overwrites:
        workdir.changes(config_dict, options.override_resume)
        prepare.check_resume(workdir, prepared, changed=bool(options.override_resume))
    text = prepare.summary(prepared, workdir)
    if processes.is_primary():
        chosen = _how_chosen(options, _initial_weights(options, prepared.spec))
        print("\n".join([*chosen, text]), flush=True)
    return 0


if __name__ == "__main__":
    cli.run(main)
