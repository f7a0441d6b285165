"""Errors of JAX and of the system as errors of this program, each with its exit code and one line."""

from alexnet_jax.cli import environment
from alexnet_jax.errors import (
    AlexNetError,
    DivergedError,
    OutOfMemoryError,
    StalledError,
    of_system,
    one_line,
)
from alexnet_jax.run import processes
from alexnet_jax.specs import Config


def explain(error: BaseException, spec: Config) -> AlexNetError | None:
    """Return the AlexNetError that describes `error`; None for a fault of this program."""
    if isinstance(error, AlexNetError):
        return error
    text = one_line(error) or type(error).__name__
    if processes.lost_peer(error):
        return StalledError(
            f"lost another process of this run, whose output says why ({text[:120]}); the same command continues"
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
            f"{text}, which JAX_DEBUG_NANS made an error: unset it to get diverged.json"
        )
    return environment.fault(error) or of_system(error)
