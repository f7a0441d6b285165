"""Diagnosis of a net that does not learn: the signal in each layer, and the plateau of the loss at ln(classes)."""

import functools
import itertools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int, UInt8

from alexnet_jax.data.pipeline import views
from alexnet_jax.data.pipeline.statistics import Statistics
from alexnet_jax.inference.predict_step import resized_statistics
from alexnet_jax.kernels import compiler
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.model.operations import ACTIVATIONS
from alexnet_jax.specs import Config
from alexnet_jax.train.state import DROPOUT, State, stream
from alexnet_jax.train.step import LOSSES

#: The loss is on the plateau if it differs from ln(classes) by at most this share of ln(classes).
NEAR = 0.01
#: It has left the plateau if it is lower than ln(classes) by more than this share of ln(classes).
LEFT = 0.03


def signal_report(
    model: AlexNet,
    spec: Config,
    state: State,
    statistics: Statistics,
    images: UInt8[np.ndarray, "b s s 3"],
    labels: Int[np.ndarray, "b"],
) -> list[dict]:
    """Measure the signal in the input and in each layer, on the center crops of `images`.

    Batch normalization and dropout (one mask for all images) act as in training.

    Returns:
        A record for the input and for each layer; a value that does not apply is None.

        row, section: The name of the layer ("input" for the input), and its section of the config.
        output_rms: RMS of the activations of the layer, or of its outputs if it has no activation.
        example_rms: RMS of their deviation from the mean of the batch, the part that can tell classes apart.
        dead: Share of maps or units that do not change over the batch.
        saturated: Share of activations within 1 % of an asymptote.
        weight_rms, gradient_rms: RMS of the kernel and of its gradient.
    """
    model, statistics = model.clone(axis_name=None), resized_statistics(statistics, spec)

    # It runs once, so the time to compile it is what counts.
    @functools.partial(jax.jit, compiler_options=compiler.options() | compiler.quick())
    def measure(params, batch_stats, statistics, images, labels, keys):
        inputs = views.views(images, statistics, spec.augment, "center")[:, 0]

        def loss(params):
            (logits, features), _ = model.apply(
                {"params": params, "batch_stats": batch_stats},
                inputs,
                train=True,
                example_keys=keys,
                mutable=["batch_stats"],
            )
            return LOSSES[spec.train.loss](
                logits, labels, spec.train.label_smoothing
            ).mean(), features

        gradient, features = jax.grad(loss, has_aux=True)(params)
        layers = {"input": {"output_rms": _rms(inputs), "example_rms": _example_rms(inputs)}}
        for name in params:
            layers[name] = _signal(name, features, spec.model.activation) | {
                "weight_rms": _rms(params[name]["kernel"]),
                "gradient_rms": _rms(gradient[name]["kernel"]),
            }
        return layers

    # One dropout mask for all, so that outputs differ by the images alone.
    keys = jnp.broadcast_to(stream(spec.seed, DROPOUT), len(labels))
    measured = measure(state.params, state.batch_stats, statistics, images, labels, keys)
    sections = {row: "convs" for row, _ in spec.model.convs} | {
        row: "fcs" for row, _ in spec.model.fcs
    }
    names = ("output_rms", "example_rms", "dead", "saturated", "weight_rms", "gradient_rms")
    measured = jax.device_get(measured)
    return [
        {"row": row, "section": sections.get(row)}
        | {name: float(measured[row][name]) if name in measured[row] else None for name in names}
        for row in ("input", *sections)
    ]


def format_report(records: list[dict]) -> str:
    """The records of `signal_report` as a table."""
    header = ("row", "output", "per image", "dead", "saturated", "weights", "gradient/weight")
    lines = ["".join(f"{title:>{width}}" for title, width in zip(header, WIDTHS, strict=True))]
    for record in records:
        ratio = None
        if record["weight_rms"]:
            ratio = record["gradient_rms"] / record["weight_rms"]
        cells = (
            record["row"],
            _number(record["output_rms"]),
            _number(record["example_rms"]),
            _percent(record["dead"]),
            _percent(record["saturated"]),
            _number(record["weight_rms"]),
            _number(ratio),
        )
        lines.append("".join(f"{cell:>{width}}" for cell, width in zip(cells, WIDTHS, strict=True)))
    return "\n".join(lines)


WIDTHS = (8, 11, 11, 7, 11, 11, 17)


def has_left(loss: float, num_classes: int) -> bool:
    """Whether a mean cross-entropy is below the plateau at ln(classes), by more than `LEFT`."""
    return loss < (1 - LEFT) * math.log(num_classes)


class PlateauDetector:
    """Detects when a cross-entropy has stayed at ln(classes), and when it leaves.

    Its state comes from `feed` alone: after a resume it is fed the losses in metrics.jsonl again.
    """

    def __init__(self, num_classes: int, steps_per_epoch: int, patience: int | None = None) -> None:
        """patience: steps on the plateau before it is reported; None: an epoch, but at least 200."""
        self.level = math.log(num_classes)
        self.num_classes = num_classes
        self.patience = max(200, steps_per_epoch) if patience is None else patience
        self.began: int | None = None
        self.reported = False

    def feed(
        self, step: int, loss: float, report: Callable[[], list[dict]] | None = None
    ) -> str | None:
        """The message to print after `step`, if any.

        Args:
            loss: The mean training loss since the last call.
            report: Makes the records of `signal_report`; called only when a plateau is reported.
        """
        if abs(loss / self.level - 1) <= NEAR:
            self.began = step if self.began is None else self.began
            if self.reported or step - self.began < self.patience:
                return None
            self.reported = True
            return self._message(step, loss, report() if report else [])
        if self.reported and has_left(loss, self.num_classes):
            began, self.began, self.reported = self.began, None, False
            return (
                f"the loss left the plateau at ln({self.num_classes}) by step {step}: "
                f"{loss:.3f} (there since step {began})"
            )
        if not self.reported:
            self.began = None
        return None

    def _message(self, step: int, loss: float, records: list[dict]) -> str:
        reasons = "\n".join(f"  {i}. {cause}" for i, cause in enumerate(causes(records), 1))
        return (
            f"the loss {loss:.3f} has been at ln({self.num_classes}) = {self.level:.3f} "
            f"from step {self.began} to {step}: the net guesses. Likely causes, the likeliest first:\n{reasons}"
        )


def causes(records: list[dict]) -> list[str]:
    """Return likely causes of a plateau and what to try, the likeliest first; `records` of the signal may be empty."""
    rows = [record for record in records if record["section"]]
    weighed = [
        *_faint(records),
        *_dead(rows),
        *_saturated(rows),
        *_badly_scaled(records),
        (0.2, "labels that do not fit their images, or images in order of class: look at some of each; "
              "--config.data.shuffle=epoch"),
        (0.1, "a learning rate too high for these weights, or too low to leave in this time: try "
              "--config.schedule.weights.learning_rate at a tenth, then at three times"),
    ]  # fmt: skip
    if not records:
        weighed.append((0.3, "initial weights too small for this depth: --config.model.init=he"))
    return [text for _, text in sorted(weighed, reverse=True)]


def _faint(records: list[dict]) -> list[tuple[float, str]]:
    """Initial weights so small that differences between images vanish on the way to the output."""
    rows = [record for record in records if record["section"]]
    if not rows or not rows[-1]["example_rms"] < 0.1:
        return []
    faint = rows[-1]["example_rms"]
    ratios = [
        (b["example_rms"] / max(a["example_rms"], 1e-30), b["row"])
        for a, b in itertools.pairwise(rows)
    ]
    where = f", most of it lost in {min(ratios)[1]}" if ratios else ""
    weight = 1.0 if faint < 0.01 else 0.5
    # He's weights keep the scale of the input, and logits of gray levels would be so large that ReLUs die.
    divided = ""
    if (rms := records[0]["output_rms"]) > 2:
        divided = f" with --config.augment.scale divided by {rms:.0f}, for inputs of RMS 1"
    text = (
        f"the images hardly reach the output: they change it by {faint:.1g}{where}; "
        f"initial weights too small, --config.model.init=he{divided}"
    )
    return [(weight, text)]


def _dead(rows: list[dict]) -> list[tuple[float, str]]:
    worst = max((r for r in rows if r["dead"] is not None), key=lambda r: r["dead"], default=None)
    if worst is None or worst["dead"] < 0.4:
        return []
    key = f"--config.model.{worst['section']}.{worst['row']}.bias=0.1"
    text = (
        f"{worst['dead']:.0%} of {worst['row']} is the same for every image (dead units): the biases, {key}, "
        "or a rate too high, --config.schedule.weights.learning_rate at a tenth"
    )
    return [(1.1 * worst["dead"], text)]


def _saturated(rows: list[dict]) -> list[tuple[float, str]]:
    worst = max(
        (r for r in rows if r["saturated"] is not None), key=lambda r: r["saturated"], default=None
    )
    if worst is None or worst["saturated"] < 0.5:
        return []
    text = (
        f"{worst['saturated']:.0%} of the outputs of {worst['row']} are saturated: weights or inputs too large, "
        "--config.model.init=glorot and a smaller --config.augment.scale"
    )
    return [(worst["saturated"], text)]


def _badly_scaled(records: list[dict]) -> list[tuple[float, str]]:
    """Inputs far from the scale that initial weights are meant for: 0 to 255, mean subtracted, RMS 40 to 80."""
    if not records or 5 <= records[0]["output_rms"] <= 200:
        return []
    rms = records[0]["output_rms"]
    if rms < 5:
        return [(0.6, f"the input has RMS {rms:.2g}, initial weights are meant for 0 to 255 (RMS about 60): "
                      "--config.augment.scale=1.0, or --config.model.init=he")]  # fmt: skip
    return [(0.6, f"the input has RMS {rms:.0f}, far above gray levels (about 60): --config.augment.scale=1.0 and "
                  "--config.augment.color_std=0.1 or less")]  # fmt: skip


def _signal(row: str, features: dict, activation: str) -> dict:
    active = f"{row}/act" in features
    output = features[f"{row}/act" if active else row].astype(jnp.float32)
    signal = {"output_rms": _rms(output), "example_rms": _example_rms(output)}
    if active:
        places = tuple(range(output.ndim - 1))
        signal["dead"] = jnp.mean(output.max(places) == output.min(places))
        if limits := ACTIVATIONS[activation].limits:
            low, high = limits
            margin = 0.01 * (high - (0 if low is None else low))
            signal["saturated"] = jnp.mean(
                (output > high - margin) | (output < (-jnp.inf if low is None else low + margin))
            )
    return signal


def _rms(x):
    return jnp.sqrt(jnp.mean(jnp.square(x)))


def _example_rms(x):
    return _rms(x - x.mean(axis=0))


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"
