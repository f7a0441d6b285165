"""The batches of a run: prefetched by a background thread, then placed on the devices."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh

from alexnet_jax.data.pipeline import placement
from alexnet_jax.data.pipeline.batches import Batch, Prefetch
from alexnet_jax.data.pipeline.placement import Pool
from alexnet_jax.data.pipeline.splits import Split
from alexnet_jax.train.plan import Dispatch, Plan


class HostBatch(NamedTuple):
    """The batch of a dispatch, not yet placed on the devices."""

    #: (labels, indices, epochs) of each step in the dispatch.
    examples: list[tuple[np.ndarray, np.ndarray, np.ndarray]]
    batch: Batch


class BatchSource:
    """Reads the batches of `plan` from a split and places them on the devices of `mesh`."""

    def __init__(self, plan: Plan, split: Split, mesh: Mesh) -> None:
        self._plan, self._split = plan, split
        self._placed = placement.placed(split, mesh, plan.spec.data.placement)
        self._is_stacked = plan.spec.train.steps_per_dispatch > 1

    @property
    def pool(self) -> Pool | None:
        """The images on the devices, if a dispatch has several steps; otherwise None."""
        return self._placed.pool if self._is_stacked else None

    def read(self, dispatch: Dispatch) -> HostBatch:
        """Read the batch of a dispatch; may be called from any thread."""
        drawn = [self._plan.positions(step) for step in dispatch.steps]
        examples = [(self._split.labels[indices], indices, epochs) for indices, epochs in drawn]
        if not self._is_stacked:
            return HostBatch(examples, self._placed.read(*drawn[0]))
        indices, epochs = (np.stack(each) for each in zip(*drawn, strict=True))
        return HostBatch(examples, self._placed.read_steps(indices, epochs))

    def place(self, host: HostBatch) -> Batch:
        """Place a batch on the devices; call this only from the thread that dispatches steps."""
        return host.batch if self._is_stacked else self._placed.finish(host.batch)

    def stream(self, start: int, poll: Callable[[], None]) -> Prefetch:
        """Prefetch (dispatch, HostBatch) from step `start` on; an exception raised by `poll` ends the iteration."""
        dispatches = self._plan.dispatches(start)
        return Prefetch(self.read, dispatches, self._plan.spec.data.prefetch, poll)
