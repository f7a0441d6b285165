"""When a run stops or saves on request: by a signal, or because `train.checkpoint_minutes` have passed."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from alexnet_jax.run import processes
from alexnet_jax.run.signals import Signals, Stop
from alexnet_jax.train.meter import Meter


class Agreement:
    """Decides whether to stop or save after a step, in the same step in all processes.

    A single process looks at its signals and its clock. The processes of a distributed run send their requests
    (`requests`) with every step, which sums them; the result is known when the metrics of the step are read, one step
    later. The primary's clock decides about saving.
    """

    def __init__(
        self, signals: Signals, meter: Meter, mesh: Mesh, time_to_save: Callable[[], bool]
    ) -> None:
        self._signals, self._meter, self._mesh = signals, meter, mesh
        self._time_to_save = time_to_save

    @property
    def stop(self) -> bool:
        """Whether to stop after this step."""
        if processes.is_distributed():
            return self._meter.stop
        return self._signals.received is not None

    @property
    def save(self) -> bool:
        """Whether enough time has passed to save after this step."""
        return self._meter.save if processes.is_distributed() else self._time_to_save()

    def requests(self) -> dict[str, bool]:
        """Return the arguments of the train step with which this process asks all to stop or to save."""
        decides = processes.is_distributed() and processes.is_primary()
        return {
            "stop": self._signals.received is not None,
            "save": decides and self._time_to_save(),
        }

    def saved(self) -> None:
        """Clear the requests to save that a checkpoint has just fulfilled."""
        self._meter.clear_save()

    def poll(self) -> None:
        """Raise Stop after a signal; does nothing in a distributed run, which stops only after a step."""
        if not processes.is_distributed():
            self._signals.poll()

    def evaluation_poll(self) -> Callable[[], None]:
        """Return the function that raises Stop during one evaluation; all processes call it before each batch."""
        any_process = AnyProcess(self._mesh) if processes.is_distributed() else bool

        def poll() -> None:
            if any_process(self._signals.received is not None):
                raise Stop

        return poll


class AnyProcess:
    """A logical or over all processes, without waiting: each call returns the result of the previous call."""

    def __init__(self, mesh: Mesh) -> None:
        self._devices = mesh.size
        self._sharding = jax.NamedSharding(mesh, jax.P(mesh.axis_names))
        self._any = jax.jit(jnp.any, out_shardings=jax.NamedSharding(mesh, jax.P()))
        self._pending: jax.Array | None = None

    def __call__(self, value: bool) -> bool:
        previous = self._pending
        values = processes.to_devices(np.full(self._devices, value), self._sharding)
        self._pending = self._any(values)
        return previous is not None and bool(previous)
