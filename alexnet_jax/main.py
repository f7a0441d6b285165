"""Train an AlexNet.

python -m alexnet_jax.main --config configs/paper.py --workdir runs/paper [--config.section.key=value ...]

The same command continues a run that was stopped. A config file is Python code and is executed.
Every value of the config can be set on the command line; the three switches of the paper's ablations are
  --config.model.activation=tanh   --config.model.lrn=False   --config.model.overlapping_pooling=False
Your own pictures: --config configs/folder.py --config.data.path=FOLDER   (FOLDER/train/<class>/*.jpg, FOLDER/val/...)
"""

import os
import sys
import time

from alexnet_jax import cli, config
from alexnet_jax.errors import AlexNetError, OutOfMemoryError
from alexnet_jax.workdir import Workdir


def main(arguments: list[str]) -> int:
    parser = cli.parser(__doc__ or "")
    parser.add_argument("--config", required=True, metavar="FILE[:VARIANT]", help="one of configs/")
    parser.add_argument("--workdir", required=True, help="the run folder; made if it is not there")
    options, rest = parser.parse_known_args(arguments)
    config_dict = config.load(options.config, cli.config_overrides(rest))
    spec = config.parse(config_dict)
    workdir = Workdir(options.workdir)
    workdir.check()

    # Everything above answers at once; JAX takes a second to import.
    from alexnet_jax.training import loop
    from alexnet_jax.training.log import summary
    from alexnet_jax.training.signals import Signals, Stop

    with Signals() as signals:
        spec, dataset, statistics = loop.prepare(spec)
        with workdir:
            workdir.adopt(config_dict, " ".join(sys.argv))
            if finished := workdir.finished(
                loop.last_step(spec, len(dataset.splits["train"].labels))
            ):
                print(summary(finished), "\nalready finished: nothing to do")
                return 0
            workdir.write("run.json", environment())
            training = loop.Training(spec, dataset, statistics, workdir, config_dict)
            try:
                training.run(signals)
            except Stop:
                code = signals.exit_code
                workdir.write_status("interrupted", training.saved_step, saved=True, code=code)
                print(
                    f"stopped at step {training.saved_step:,}, saved; the same command continues",
                    file=sys.stderr,
                )
                return code
            except BaseException as error:
                known = out_of_memory(error) or error
                state = "diverged" if getattr(known, "exit_code", 1) == 4 else "failed"
                code = known.exit_code if isinstance(known, AlexNetError) else 1
                workdir.write_status(state, training.saved_step, saved=training.saved_step > 0,
                                     code=code, reason=str(known))  # fmt: skip
                if known is error:
                    raise
                raise known from error
            workdir.write_status("finished", training.saved_step, saved=True, code=0)
    return 0


def environment() -> dict:
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
        "devices": [str(device) for device in jax.local_devices()],
        "platform": jax.default_backend(),
        "cores": len(os.sched_getaffinity(0)),
        "processor": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "versions": {module.__name__: module.__version__ for module in (jax, flax, optax, numpy)},
    }


def out_of_memory(error: BaseException) -> OutOfMemoryError | None:
    """The one-line form of running out of device or host memory, if that is what `error` is."""
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
        first = (str(error).splitlines() or ["out of memory"])[0]
        return OutOfMemoryError(
            f"{first}; lower config.train.batch_size or raise config.train.accumulate"
        )
    return None


if __name__ == "__main__":
    cli.run(main)
