"""A trace of a few training steps, for xprof and Perfetto."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

#: The steps that are traced, counted from 1 where a process begins or resumes: earlier ones compile and fill caches.
FIRST, LAST = 5, 10


class Profiler:
    """Traces steps FIRST to LAST of those from `start` to `end` - 1; in a shorter run, its last ones.

    Use it as a context. With `folder` None nothing is traced.
    """

    def __init__(
        self, folder: Path | None, start: int, end: int, say: Callable[[str], None]
    ) -> None:
        self._folder, self._say = folder, say
        self._first = max(start, min(start + FIRST, end) - 1)
        self._last = min(start + LAST, end) - 1
        self._tracing = False

    def before(self, step: int) -> None:
        """Call it before `step` is dispatched."""
        if self._folder and step == self._first:
            options = jax.profiler.ProfileOptions()
            options.python_tracer_level = 0  # it slows the host and says little about devices
            jax.profiler.start_trace(
                self._folder, create_perfetto_trace=True, profiler_options=options
            )
            self._tracing = True

    def after(self, step: int, results: Any) -> None:
        """Call it after `step` was dispatched; after the last traced step this waits for `results`."""
        if not self._tracing or step < self._last:
            return
        jax.block_until_ready(results)
        self._stop()
        self._say(
            f"profile of steps {self._first + 1:,} to {step + 1:,} in {self._folder}: open its "
            "perfetto_trace.json.gz at ui.perfetto.dev, or pip install xprof and run "
            f"xprof --logdir {self._folder}"
        )

    def __enter__(self) -> "Profiler":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._tracing:
            self._tracing = False
            jax.profiler.stop_trace()
