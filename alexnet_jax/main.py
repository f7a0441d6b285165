"""Train an AlexNet.

python -m alexnet_jax.main --config configs/paper.py --workdir runs/paper [--config.section.key=value ...]

The same command continues a run that was stopped. A config file is Python code and is executed.
Every value of the config can be set on the command line, and those of alexnet_jax/specs.py that a file leaves at their
default, such as --config.train.checkpoint_minutes=5; the three switches of the paper's ablations are
  --config.model.activation=tanh   --config.model.lrn=False   --config.model.overlapping_pooling=False
Your own pictures: --config configs/folder.py --config.data.path=FOLDER   (FOLDER/train/<class>/*.jpg, FOLDER/val/...)
"""

import contextlib
import dataclasses
import faulthandler
import functools
import os
import shlex
import sys
import threading
import time
from collections.abc import Mapping

from alexnet_jax import cli, config
from alexnet_jax.cli import environment as environments
from alexnet_jax.errors import (
    AlexNetError,
    ConfigError,
    DivergedError,
    OutOfMemoryError,
    StalledError,
    StorageError,
    of_system,
)
from alexnet_jax.inference import trained
from alexnet_jax.run import processes
from alexnet_jax.run.schemas import Results
from alexnet_jax.run.workdir import SilentWorkdir, Workdir
from alexnet_jax.specs import Config


def main(arguments: list[str]) -> int:
    parser = cli.parser(__doc__ or "")
    parser.add_argument("--config", required=True, metavar="FILE[:VARIANT]", help="one of configs/")
    parser.add_argument("--workdir", required=True, help="the run folder; made if it is not there")
    parser.add_argument(
        "--init-from",
        metavar="WORKDIR",
        help="begin a new run with the parameters of that run folder's net",
    )
    parser.add_argument(
        "--allow-partial",
        action="store_true",
        help="with --init-from: take the arrays that fit, and list the others",
    )
    parser.add_argument(
        "--override-resume", metavar="KEY", action="append", default=[],
        help="let this key of the config differ from the run in the folder, such as train.epochs; can be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="rename a run folder that is there to NAME.old-TIME and begin anew",
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
    options, rest = parser.parse_known_args(arguments)
    if options.allow_partial and not options.init_from:
        raise ConfigError("--allow-partial belongs to --init-from")
    config_dict = config.load(options.config, cli.config_overrides(rest))
    spec = config.parse(config_dict)
    workdir = Workdir(options.workdir, overwrite=options.overwrite, steal=options.steal)
    if processes.leads():
        workdir.check()
    try:
        return _train(options, config_dict, spec, workdir)
    except Exception as error:
        known = _known(error, spec)
        processes.leave_soon(known.exit_code if known else 1)
        if known is None or known is error:
            raise
        raise known from error


def _train(options, config_dict, spec: Config, workdir: Workdir) -> int:
    # All mistakes in the usage were answered before this: JAX takes a second to import.
    from alexnet_jax.kernels import compiler
    from alexnet_jax.run.signals import Signals, Stop
    from alexnet_jax.run.watchdog import Watchdog
    from alexnet_jax.train import loop

    if spec.train.deterministic:
        compiler.make_deterministic()
    processes.connect()
    processes.check_same("config", config.digest(config_dict))
    with Signals() as signals:
        try:
            with signals.at_once():
                spec, dataset, statistics = loop.prepare(spec)
                begin = None
                if options.init_from and not processes.lead(lambda: _is_begun(workdir)):
                    begin = trained.load(options.init_from)
        except Stop:
            environments.say_error("stopped before the first step: there is nothing to save")
            return signals.exit_code
        last_step = loop.last_step(spec, len(dataset.splits["train"].labels))
        with workdir if processes.leads() else contextlib.nullcontext():
            start = functools.partial(
                _start, options, config_dict, spec, workdir, last_step, dataset
            )
            notes = processes.lead(start)
            if notes is None:
                return 0
            ours = workdir if processes.leads() else SilentWorkdir(workdir.path)
            training = loop.Training(spec, dataset, statistics, ours, config_dict,
                                     begin=begin, partial=options.allow_partial,
                                     profile=options.profile and processes.leads())  # fmt: skip
            training.notes += notes
            try:
                with Watchdog(
                    spec.train.stall_seconds,
                    functools.partial(_end_stalled, ours, training),
                    ours.write_heartbeat,
                ) as watchdog:
                    training.run(signals, watchdog)
            except Stop:
                return _stopped(ours, training, signals.exit_code)
            except BaseException as error:
                known = _known(error, spec)
                code = known.exit_code if known else 1
                ours.write_traceback(error)
                _write_last_status(ours, training, "diverged" if code == 4 else "failed", code,
                                   str(known or repr(error)))  # fmt: skip
                raise
            ours.write_status("finished", training.step, training.saved_step, code=0)
    return 0


def _is_begun(workdir: Workdir) -> bool:
    """Whether there is a checkpoint to go on from: what a run was begun with is not needed then."""
    from alexnet_jax.inference import checkpoints

    return not workdir.overwrites and bool(checkpoints.committed_steps(workdir.checkpoints))


def _start(
    options, config_dict, spec: Config, workdir: Workdir, last_step: int, dataset
) -> list | None:
    """Make the run folder this run's; what to say of it, or None where the run is finished."""
    from alexnet_jax.data.pipeline import splits
    from alexnet_jax.train import loop
    from alexnet_jax.train.log import summary

    workdir.begin()
    changes = workdir.changes(config_dict, options.override_resume)
    if finished := _finished(workdir, last_step):
        with contextlib.suppress(OSError):  # whoever read this may be gone
            print(f"{summary(finished)}\nalready finished: nothing to do", flush=True)
        return None
    # Before anything is written: a start that is refused changes nothing that the folder says.
    loop.check_resume(workdir, spec, dataset, changed=bool(options.override_resume))
    before, now = workdir.environment(), environment(spec)
    workdir.adopt(config_dict, shlex.join(sys.argv), changes, options.init_from)
    workdir.write("run.json", now | {"data": splits.summary(dataset)})
    return _moved(before, now)


def _finished(workdir: Workdir, last_step: int) -> Results | None:
    """results.json, if the run that this folder holds reached `last_step` and its checkpoint is intact."""
    from alexnet_jax.inference import checkpoints

    results = workdir.results()
    if not results or results["step"] < last_step:
        return None
    found = checkpoints.latest(workdir.checkpoints)
    return results if found and found[0] >= last_step else None


def _stopped(workdir: Workdir | SilentWorkdir, training, code: int) -> int:
    step, saved = training.step, training.saved_step
    _write_last_status(workdir, training, "interrupted", code, "signal")
    where = f"saved step {saved:,}" if saved else "there is nothing to save yet"
    environments.say_error(f"stopped at step {step:,}: {where}; the same command continues")
    return code


def _write_last_status(
    workdir: Workdir | SilentWorkdir, training, state: str, code: int, reason: str
) -> None:
    """Best effort: the reason why the run ends may be the disk."""
    try:
        workdir.write_status(state, training.step, training.saved_step, code=code, reason=reason)
    except StorageError as error:
        workdir.write_traceback(error)


def _end_stalled(workdir: Workdir | SilentWorkdir, training, seconds: float) -> None:
    """Leave from the watchdog's thread, whatever the others are waiting for."""
    leads = processes.leads()
    error = StalledError(
        f"no sign of life for {seconds:.0f} s at step {training.step}; "
        f"{workdir.path / 'log.txt' if leads else 'the lines above'} says where each thread is; "
        "the same command continues from the last checkpoint"
    )

    def say() -> None:
        if not leads:
            faulthandler.dump_traceback()
        # Not by sys.stderr: a thread that hangs in it has its lock.
        os.write(2, f"{error.line()}\n".encode(errors="backslashreplace"))

    def record() -> None:
        if leads:
            with open(workdir.path / "log.txt", "a") as file:
                faulthandler.dump_traceback(file)
            _write_last_status(workdir, training, "failed", error.exit_code, str(error))

    # The disk may be what hangs, or whoever reads standard error.
    threads = [threading.Thread(target=work, daemon=True) for work in (say, record)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=5)
    os._exit(error.exit_code)


def _known(error: BaseException, spec: Config) -> AlexNetError | None:
    """The form of `error` that is said in one line; None for a fault of this program."""
    if isinstance(error, AlexNetError):
        return error
    text = " ".join(str(error).split()) or type(error).__name__
    if processes.lost_peer(error):
        return StalledError(
            f"lost another process of this run, which says why ({text[:120]}); the same command continues"
        )
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in text:
        import jax

        batch, parts = spec.train.batch_size, spec.train.accumulate
        return OutOfMemoryError(
            f"{text[:300]}; the batch of {batch} goes through {jax.device_count()} device(s) in {parts} part(s): "
            f"try --config.train.accumulate={2 * parts}, which keeps the batch, or a smaller batch_size"
        )
    if isinstance(error, FloatingPointError):
        return DivergedError(
            f"{text}, which JAX_DEBUG_NANS made an error: unset it for diverged.json"
        )
    return environments.fault(error) or of_system(error)


def _moved(before: Mapping | None, now: dict) -> list[str]:
    """What of the machine changed since the start before: then a resumed run is no longer bit for bit the same."""
    keys = ("platform", "devices", "split_towers", "cores", "processor", "python", "versions", "commit",
            "numerics")  # fmt: skip
    changed = [
        f"{k}: {before[k]} -> {now[k]}" for k in keys if before and before.get(k, now[k]) != now[k]
    ]
    if not changed:
        return []
    return [
        "not bit for bit the run that was begun, but equal up to rounding: " + "; ".join(changed)
    ]


def numerics(spec: Config, device) -> dict:
    """Which arithmetic holds on `device`: types, precision of float32 products, determinism, forms."""
    from alexnet_jax.kernels import forms

    highest = spec.train.matmul_precision == "highest"
    # Tensor cores round the factors of float32 products from compute capability 8.0 on, unless told otherwise.
    capability = float(getattr(device, "compute_capability", 0) or 0)
    return {
        "compute_dtype": spec.model.compute_dtype,
        "float32_products": "tf32" if capability >= 8 and not highest else "float32",
        "deterministic": device.platform == "cpu" or spec.train.deterministic,
        "forms": dataclasses.asdict(forms.choose(device.platform)),
    }


def environment(spec: Config) -> dict:
    """What the numbers of this run depend on besides its config."""
    import platform
    import subprocess

    import flax
    import jax
    import numpy
    import optax

    def git(*words: str) -> str:
        try:
            done = subprocess.run(
                ["git", *words], capture_output=True, text=True, cwd=os.path.dirname(__file__)
            )
        except OSError:  # no git: an unpacked archive trains too
            return ""
        return done.stdout.strip()

    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "command": sys.argv,
        "commit": git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(git("status", "--porcelain")),
        "devices": [str(device) for device in jax.devices()],
        "processes": jax.process_count(),
        "split_towers": spec.train.split_towers,
        "platform": jax.default_backend(),
        "numerics": numerics(spec, jax.devices()[0]),
        "cores": len(os.sched_getaffinity(0)),
        "processor": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "versions": {module.__name__: module.__version__ for module in (jax, flax, optax, numpy)},
    }


if __name__ == "__main__":
    cli.run(main)
