"""Errors of nets on corrupted images, after Hendrycks and Dietterich (2019).

The corruption error (CE) of a net is its error under a corruption, summed over five severities, divided by that of a
reference net; the relative one is the same of the increase over the error on clean images. Their means over the 15
corruptions are mCE and relative mCE. Arrays `wrong` are bool [nets conditions images].
"""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from alexnet_jax.cli import environment
from alexnet_jax.config import published
from alexnet_jax.data.pipeline import corruptions, splits
from alexnet_jax.data.pipeline.batches import Prefetch
from alexnet_jax.data.pipeline.corruptions import CORRUPTIONS, SEVERITIES, Corrupted
from alexnet_jax.data.pipeline.splits import Split
from alexnet_jax.data.sources import cifar10, corrupted
from alexnet_jax.errors import ConfigError, DataError, listed
from alexnet_jax.evaluation import classes as class_matching
from alexnet_jax.evaluation.target import EvalTarget
from alexnet_jax.inference import metrics
from alexnet_jax.specs import Config

RESAMPLES = 1000
#: Bytes of images, rounded up to a batch, that are read at once for all nets.
_CHUNK_BYTES = 64 * 2**20
#: The condition of images without corruption, as (corruption, severity).
CLEAN = ("clean", 0)


class Images(NamedTuple):
    """What is evaluated.

    Attributes:
        conditions: (corruption, severity), or CLEAN, -> images.
        labels: Of the images of each condition: numbers of the net's classes.
        classes: Numbers of the classes that are predicted; None for all of the net.
        is_paired: Whether image i of CLEAN is image i of the other conditions without corruption.
        title: Where the images come from, in words.
    """

    conditions: dict[tuple[str, int], Any]
    labels: dict[tuple[str, int], np.ndarray]
    classes: np.ndarray | None
    is_paired: bool
    title: str


def generated(
    target: EvalTarget, split: str, names: Sequence[str], seed: int, count: int | None
) -> Images:
    """Corrupt the images of a split, or `count` of them, as they are read. Raises ConfigError and DataError."""
    if extra := sorted(set(names) - CORRUPTIONS.keys()):
        raise ConfigError(f"{listed(extra)} can be read from files (--corrupted) but not be made")
    whole = target.split(split)
    one = whole
    if count is not None:
        one = splits.take(whole, choose(len(whole.labels), count, seed))
    pool = ThreadPoolExecutor(environment.cores(), thread_name_prefix="corrupt")
    conditions: dict[tuple[str, int], Any] = {CLEAN: one.images}
    for name, severity in itertools.product(names, SEVERITIES):
        conditions[name, severity] = Corrupted(one.images, name, severity, seed, pool)
    title = f"{target.data}, {split}, corrupted here with seed {seed}"
    labels = dict.fromkeys(conditions, one.labels)
    return Images(conditions, labels, target.classes, is_paired=True, title=title)


def sizes(spec: Config) -> tuple[int, int]:
    """Return the side of stored images, and that of their center crop, in pixels of these."""
    size = spec.data.image_size
    return size, round(size * spec.augment.crop_size / spec.uncropped_size)


def stored(
    target: EvalTarget,
    path: Path,
    split: str | None,
    names: Sequence[str] | None,
    seed: int,
    count: int | None,
    view: str,
) -> Images:
    """Open images that were corrupted beforehand, and the clean ones of `split`, or none if it is None.

    Raises ConfigError and DataError.
    """
    spec = target.trained.config
    size, shown = sizes(spec)
    found = corrupted.load(path, size, shown, spec.data.threads, names, spec.data.workers)
    if found.are_crops and view != "center":
        raise ConfigError(
            f"the images in {path} are center crops: there are no {view} views of them"
        )
    numbers = _numbers(found, target, path)
    labels = numbers[found.labels]
    present = np.unique(labels)
    if len(present) < 2:
        raise DataError(
            f"{path} has images of one class, among which none is wrong; two are needed"
        )
    chosen = np.arange(len(labels)) if count is None else choose(len(labels), count, seed)
    conditions = {key: splits.View(images, chosen) for key, images in found.images.items()}
    by_condition, is_paired = dict.fromkeys(conditions, labels[chosen]), False
    if split:
        clean = target.split(split)
        if strange := np.setdiff1d(clean.labels, present).tolist():
            some = listed([target.trained.class_names[i] for i in strange])
            raise DataError(
                f"{target.data} has images of classes that {path} does not have: {some}; leave the clean error out "
                "with --no-clean"
            )
        order = _pairing(found, labels, clean)
        is_paired = order is not None
        clean = splits.take(clean, order[chosen]) if order is not None else clean
        conditions = {CLEAN: clean.images, **conditions}
        by_condition[CLEAN] = clean.labels
    is_all = len(present) == len(target.trained.class_names)
    return Images(conditions, by_condition, None if is_all else present, is_paired, str(path))


def choose(total: int, count: int, seed: int) -> np.ndarray:
    """Draw the numbers of --images images. Raises ConfigError."""
    if not 0 < count <= total:
        raise ConfigError(f"--images must be from 1 to {total:,}, the number of images")
    return splits.drawn(total, count, seed)


def _numbers(found: corrupted.CorruptedSet, target: EvalTarget, path: Path) -> np.ndarray:
    """The number in the net of each class of the corrupted images."""
    names, known = found.class_names, target.trained.class_names
    if names is None:
        highest = int(found.labels.max())
        if highest >= len(known):
            raise DataError(
                f"{path} has labels up to {highest:,}, but {target.path} has {len(known):,} classes"
            )
        is_cifar10 = highest < len(cifar10.CLASSES) and set(cifar10.CLASSES) <= set(known)
        names = cifar10.CLASSES if is_cifar10 else tuple(map(str, range(highest + 1)))
    return class_matching.match(names, known, str(path)).numbers


def _pairing(found: corrupted.CorruptedSet, labels: np.ndarray, clean: Split) -> np.ndarray | None:
    """The clean image of each corrupted one: by name, or in order if all labels are equal; None if it is unknown."""
    paths = splits.paths_of(clean.images)
    if found.names is None or paths is None:
        return np.arange(len(labels)) if np.array_equal(labels, clean.labels) else None
    places = {Path(path).stem: i for i, path in enumerate(paths)}
    stems = [name.rpartition("/")[2] for name in found.names]
    if len(places) < len(paths) or not set(stems) <= places.keys():
        return None
    order = np.array([places[stem] for stem in stems])
    return order if np.array_equal(clean.labels[order], labels) else None


def measure(
    targets: Sequence[EvalTarget], images: Images, view: str, report: Callable[[str], None]
) -> dict[tuple[str, int], np.ndarray]:
    """Compute which images each net gets wrong: condition -> bool [nets n].

    The images of a condition are made or read once for all nets, and the next ones while these are predicted.

    Args:
        report: Called with a line of progress after each corruption.
    """
    batch = targets[0].batch_size(view)
    batch_bytes = batch * 3 * targets[0].trained.config.data.image_size ** 2
    step = batch * math.ceil(_CHUNK_BYTES / batch_bytes)
    parts = [
        (key, np.arange(start, min(start + step, len(found))))
        for key, found in images.conditions.items()
        for start in range(0, len(found), step)
    ]
    wrong: dict[tuple[str, int], list[np.ndarray]] = {key: [] for key in images.conditions}
    with Prefetch(lambda part: images.conditions[part[0]][part[1]], parts, depth=1) as chunks:
        for (key, indices), pixels in chunks:
            part = Split(pixels, images.labels[key][indices])
            found = [target.predict(part, view, images.classes).wrong() for target in targets]
            wrong[key].append(np.stack(found))
            if indices[-1] + 1 == len(images.labels[key]) and key[1] in (0, SEVERITIES[-1]):
                error = np.mean([np.mean(one) for one in wrong[key]])
                severity = " at severity 5" if key[1] else ""
                report(f"{key[0]}: {error:.2%} top-1 error{severity}")
    return {key: np.concatenate(found, axis=1) for key, found in wrong.items()}


class Errors(NamedTuple):
    """Mean errors of a group of nets, and the same of each bootstrap resample.

    Attributes:
        means: (corruption, severity) -> [1 + resamples]; the first is not resampled.
    """

    means: dict[tuple[str, int], np.ndarray]

    def of(self, name: str) -> np.ndarray:
        """The mean over the severities of a corruption."""
        return np.mean([self.means[name, severity] for severity in SEVERITIES], axis=0)


def resampled(
    wrong: dict[tuple[str, int], np.ndarray],
    is_paired: bool,
    group: int,
    resamples: int = RESAMPLES,
) -> Errors:
    """Resample images and nets (Owen, 2007), as compare.bootstrap does.

    The same images are drawn for all conditions and all groups of nets; for CLEAN others if its images are not those of
    the other conditions. With one net the intervals do not include the variation between seeds. Resamples of a single
    image are NaN: it says nothing of others.

    Args:
        group: The number of the group; nets are drawn independently for each.
    """
    nets = len(next(iter(wrong.values())))
    draw = np.random.default_rng((group, nets))
    chosen = draw.multinomial(nets, np.full(nets, 1 / nets), resamples) / nets
    means = {}
    for key, one in wrong.items():
        weights = _image_weights(one.shape[1], key != CLEAN or is_paired, resamples)
        errors = one.astype(np.float32) @ weights
        drawn = np.einsum("rn,nr->r", chosen, errors, dtype=np.float64)
        means[key] = np.concatenate([[one.mean()], drawn])
    return Errors(means)


# Two are kept: those of CLEAN and of the other conditions, for all groups of nets.
@functools.lru_cache(maxsize=2)
def _image_weights(images: int, is_main: bool, resamples: int) -> np.ndarray:
    """The share of each image in each resample: float32 [images resamples]."""
    if images < 2:
        return np.full((images, resamples), np.nan, np.float32)
    draw = np.random.default_rng((images, is_main))
    found = np.empty((resamples, images), np.float32)
    for row in found:
        row[:] = np.bincount(draw.integers(0, images, images), minlength=images)
    found /= images
    return found.T


def summarize(net: Errors, references: dict[str, Errors]) -> dict[str, Any]:
    """Summarize errors by corruption and severity, with intervals, and relative to reference nets.

    Returns:
        {"clean", "mean_error", "corruptions", "missing", "mce", "relative_mce"}. A value is {"value", "low", "high"},
        or None if it is not defined: relative ones where the reference is no worse than on clean images, and mCE if
        some of the 15 corruptions are "missing". "corruptions" maps a name to {"category", "errors": values of
        severities 1 to 5, "error": their mean, "ce" and "relative_ce": reference -> value}; "mce" and "relative_mce"
        map a reference to a value. CE is a ratio: 1 is the error of the reference.
    """
    names = list(dict.fromkeys(name for name, _ in net.means if name != CLEAN[0]))
    main = [name for name in names if name in CORRUPTIONS]
    categories = {name: kind for kind, found in corruptions.CATEGORIES.items() for name in found}
    ratios = {
        kind: {
            title: {
                name: ratio(net, reference, name)
                for name in names
                if (name, SEVERITIES[0]) in reference.means
            }
            for title, reference in references.items()
        }
        for kind, ratio in (("ce", _ratio), ("relative_ce", _relative))
    }
    means = {
        kind: {
            title: value(_mean([by_name.get(name) for name in main], len(CORRUPTIONS)))
            for title, by_name in by_title.items()
        }
        for kind, by_title in ratios.items()
    }
    return {
        "clean": value(net.means.get(CLEAN)),
        "mean_error": value(_mean([net.of(name) for name in main], len(main))),
        "missing": [name for name in CORRUPTIONS if name not in names],
        "corruptions": {
            name: {
                "category": categories.get(name, "extra"),
                "errors": [value(net.means[name, severity]) for severity in SEVERITIES],
                "error": value(net.of(name)),
            }
            | {
                kind: {
                    title: value(found[name]) for title, found in by_title.items() if name in found
                }
                for kind, by_title in ratios.items()
            }
            for name in names
        },
        "mce": means["ce"],
        "relative_mce": means["relative_ce"],
    }


def _mean(values: Sequence[np.ndarray | None], count: int) -> np.ndarray | None:
    """The mean of `count` values; None if some are not defined."""
    kept = [value for value in values if value is not None]
    return np.mean(kept, axis=0) if kept and len(kept) == count else None


def _ratio(net: Errors, reference: Errors, name: str) -> np.ndarray | None:
    return _divided(net.of(name), reference.of(name))


def _relative(net: Errors, reference: Errors, name: str) -> np.ndarray | None:
    if CLEAN not in net.means or CLEAN not in reference.means:
        return None
    return _divided(net.of(name) - net.means[CLEAN], reference.of(name) - reference.means[CLEAN])


def _divided(errors: np.ndarray, reference: np.ndarray) -> np.ndarray | None:
    """Divide; resamples in which the reference is not positive become NaN, and None means that its error is not."""
    if reference[0] <= 0:
        return None
    return np.divide(errors, reference, out=np.full(len(errors), np.nan), where=reference > 0)


def value(samples: np.ndarray | None) -> dict[str, float | None] | None:
    """Summarize an array of Errors as {"value", "low", "high"}.

    The bounds of the percentile interval are None if some resample is NaN.
    """
    if samples is None:
        return None
    low, high = metrics.percentile_interval(samples[1:]) or (None, None)
    return {"value": float(samples[0]), "low": low, "high": high}


def published_reference() -> Errors:
    """The errors of AlexNet on ImageNet-C, which do not vary; all severities have the mean."""
    errors = {(name, s): e for name, e in published.IMAGENET_C.items() for s in SEVERITIES}
    errors[CLEAN] = published.IMAGENET_C_CLEAN
    return Errors({key: np.full(1 + RESAMPLES, value) for key, value in errors.items()})
