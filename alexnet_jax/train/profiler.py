"""A trace of a few training steps, for xprof and Perfetto."""

from pathlib import Path

import jax

FIRST, LAST = 5, 10
"""Steps of a start that are traced, counted from 1: the first ones compile and fill caches."""


class Profiler:
    """Traces some of the steps `start` to `end` - 1 into `folder`; the last ones where there are too few."""

    def __init__(self, folder: Path, start: int, end: int) -> None:
        self.folder = folder
        self._first = max(start, min(start + FIRST, end) - 1)
        self._last = min(start + LAST, end) - 1
        self._tracing = False

    def before(self, step: int) -> None:
        if step == self._first:
            options = jax.profiler.ProfileOptions()
            options.python_tracer_level = 0  # it slows the host down and says little about devices
            jax.profiler.start_trace(
                self.folder, create_perfetto_trace=True, profiler_options=options
            )
            self._tracing = True

    def after(self, step: int, results) -> str | None:
        """What to say once the trace is written; `results` of the step are waited for."""
        if not self._tracing or step < self._last:
            return None
        jax.block_until_ready(results)
        self.close()
        return (
            f"profile of steps {self._first + 1:,} to {step + 1:,} in {self.folder}: open its "
            "perfetto_trace.json.gz at ui.perfetto.dev, or pip install xprof and run "
            f"xprof --logdir {self.folder}"
        )

    def close(self) -> None:
        """End a trace that is still being written."""
        if self._tracing:
            self._tracing = False
            jax.profiler.stop_trace()
