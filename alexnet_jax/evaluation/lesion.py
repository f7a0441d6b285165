"""Errors of a net without some maps or units of a layer, compared to those without as many random ones.

A set of maps is a sorted tuple of their numbers; `()` is the intact net.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from alexnet_jax.evaluation import robustness
from alexnet_jax.model.geometry import tower_of

if TYPE_CHECKING:
    from alexnet_jax.inference.network import Network

Maps = tuple[int, ...]
#: What maps can be ordered by, and the orders in which they can be removed.
SCORES = ("activity", "selectivity")
ORDERS = ("random", *SCORES)
#: The conditions of robustness.resampled.
_INTACT, _REMOVED = ("intact", 0), ("removed", 0)


class Lesion(NamedTuple):
    """Maps that are removed together.

    Attributes:
        title: Their number, the number of their tower, or their share.
        sets: One set of maps, or several random ones, of which the mean error counts.
        controls: As many random maps, several times.
    """

    title: str
    sets: tuple[Maps, ...]
    controls: tuple[Maps, ...] = ()


def of_each(units: int) -> list[Lesion]:
    """One map at a time."""
    return [Lesion(str(i), ((i,),)) for i in range(units)]


def of_towers(
    units: int, towers: int, chosen: Sequence[int], draws: int, seed: int
) -> list[Lesion]:
    """All maps of a tower, for each of `chosen`, which count from 1."""
    found = []
    for one in chosen:
        maps = np.flatnonzero(tower_of(np.arange(units), units, towers) == one - 1)
        found.append(Lesion(str(one), (_maps(maps),), random_sets(units, len(maps), draws, seed)))
    return found


def of_maps(units: int, maps: Sequence[int], draws: int, seed: int) -> list[Lesion]:
    """The maps with these numbers, together."""
    chosen = _maps(np.unique(maps))
    title = ", ".join(map(str, chosen))
    return [Lesion(title, (chosen,), random_sets(units, len(chosen), draws, seed))]


def of_shares(
    units: int, shares: Sequence[float], order: np.ndarray | None, draws: int, seed: int
) -> list[Lesion]:
    """Shares of the maps, in (0, 1], of which the first ones in `order` are removed; None: random ones."""
    found = []
    for share in sorted(set(shares)):
        count = max(round(share * units), 1)
        drawn = random_sets(units, count, draws, seed)
        if order is None:
            found.append(Lesion(f"{share:.4g}", drawn))
        else:
            found.append(Lesion(f"{share:.4g}", (_maps(order[:count]),), drawn))
    return found


def random_sets(units: int, count: int, draws: int, seed: int) -> tuple[Maps, ...]:
    """Draw `count` of `units` maps, `draws` times; draw i begins the i-th permutation of `seed`, whatever the count."""
    return tuple(
        _maps(np.random.default_rng((seed, i)).permutation(units)[:count]) for i in range(draws)
    )


def _maps(numbers: np.ndarray) -> Maps:
    return tuple(np.sort(numbers).tolist())


def activity(means: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The mean activation over all images, [units], from the means by class and the number of images of each."""
    return np.average(means[counts > 0], axis=0, weights=counts[counts > 0])


def selectivity(means: np.ndarray) -> np.ndarray | None:
    """The class selectivity of each map, in [0, 1] (Morcos, Barrett, Rabinowitz and Botvinick, 2018).

    (mu_max - mu_-max) / (mu_max + mu_-max), where mu_max is the largest of the mean activations by class, and mu_-max
    the mean over the other classes; 0 for a map that is never active.

    Args:
        means: [classes units]; NaN for classes without images.

    Returns:
        [units]; None where the index is not defined: for negative means, and for a single class.
    """
    present = means[~np.isnan(means).any(axis=1)]
    if len(present) < 2 or present.min() < 0:
        return None
    largest = present.max(axis=0)
    others = (present.sum(axis=0) - largest) / (len(present) - 1)
    total = largest + others
    return np.divide(largest - others, total, out=np.zeros_like(total), where=total > 0)


def measure(
    net: "Network",
    images: Any,
    labels: np.ndarray,
    layer: str,
    lesions: Sequence[Lesion],
    fill: np.ndarray,
    classes: np.ndarray | None = None,
) -> dict[Maps, np.ndarray]:
    """Rank the labels of all images without each set of maps: set -> int [n].

    The arguments are those of inference.lesions.ranks.
    """
    from alexnet_jax.inference.lesions import ranks

    every = [maps for lesion in lesions for maps in (*lesion.sets, *lesion.controls)]
    sets = list(dict.fromkeys([(), *every]))
    kept = np.ones((len(sets), len(fill)), bool)
    for row, maps in zip(kept, sets, strict=True):
        row[list(maps)] = False
    return dict(zip(sets, ranks(net, images, labels, layer, kept, fill, classes), strict=True))


def summarize(
    ranks: dict[Maps, np.ndarray],
    lesion: Lesion,
    labels: np.ndarray,
    class_names: Sequence[str],
    *,
    all_classes: bool = True,
) -> dict[str, Any]:
    """Summarize the errors after a lesion, with bootstrap intervals over images (and over random sets).

    Returns:
        {"title", "count", "maps" (None for random sets), "top1", "top5" (from six classes on), "hurt_most", "classes"
        (if `all_classes`)}. "top1" and "top5" have "error", "change" (minus the error of the intact net) and, with
        controls, "controls": {"errors": of each draw, "error", "change", "excess" (error minus that of the controls),
        "p"}, where p is the share of the draws, the lesion counted among them, with an error as large as the lesion's.
        "classes" has {"class", "images", "error", "change"}, top-1, of each class with images; "hurt_most" is the one
        with the largest change. All but counts, p and draws are {"value", "low", "high"}.
    """
    [maps, *more] = lesion.sets
    found: dict[str, Any] = {
        "title": lesion.title,
        "count": len(maps),
        "maps": None if more else list(maps),
    }
    for top in (1, 5) if len(class_names) > 5 else (1,):
        found[f"top{top}"] = _errors(ranks, lesion, top)
    counts = np.bincount(labels, minlength=len(class_names))
    added = np.mean([ranks[one] > 1 for one in lesion.sets], axis=0) - (ranks[()] > 1)
    changes = np.full(len(counts), -np.inf)
    np.divide(np.bincount(labels, added, len(counts)), counts, out=changes, where=counts > 0)
    hurt_most, by_class = int(changes.argmax()), {}
    for i in np.flatnonzero(counts).tolist() if all_classes else [hurt_most]:
        members = {one: ranks[one][labels == i] for one in ((), *lesion.sets)}
        errors = _errors(members, lesion._replace(controls=()), 1)
        by_class[i] = {"class": class_names[i], "images": int(counts[i]), **errors}
    found["hurt_most"] = by_class[hurt_most]
    if all_classes:
        found["classes"] = list(by_class.values())
    return found


def add_scores(
    single: list[dict[str, Any]], scores: dict[str, np.ndarray | None]
) -> dict[str, float | None]:
    """Add the score of each map, such as its activity, to the summary of its lesion.

    Returns:
        Spearman's rank correlation of each score with the change of error; None if the scores are, or if one of both is
        constant.
    """
    from scipy import stats

    changes = [one["top1"]["change"]["value"] for one in single]
    correlations: dict[str, float | None] = {}
    for name, values in scores.items():
        listed = [None] * len(single) if values is None else values.tolist()
        for one, value in zip(single, listed, strict=True):
            one[name] = value
        correlations[name] = None
        if values is not None and np.ptp(values) > 0 and len(set(changes)) > 1:
            found: Any = stats.spearmanr(values, changes)
            correlations[name] = float(found.statistic)
    return correlations


def intact(ranks: dict[Maps, np.ndarray], class_count: int) -> dict[str, Any]:
    """The errors of the intact net, "top1" and "top5", each {"value", "low", "high"}."""
    tops = (1, 5) if class_count > 5 else (1,)
    return {f"top{top}": _errors(ranks, Lesion("", ((),)), top)["error"] for top in tops}


def _errors(ranks: dict[Maps, np.ndarray], lesion: Lesion, top: int) -> dict[str, Any]:
    before, after = _resampled(ranks, lesion.sets, top, group=0)
    found: dict[str, Any] = {
        "error": robustness.value(after),
        "change": robustness.value(after - before),
    }
    if lesion.controls:
        _, controls = _resampled(ranks, lesion.controls, top, group=1)
        errors = [float(np.mean(ranks[maps] > top)) for maps in lesion.controls]
        at_least = sum(error >= after[0] - 1e-9 for error in errors)
        found["controls"] = {
            "errors": errors,
            "error": robustness.value(controls),
            "change": robustness.value(controls - before),
            "excess": robustness.value(after - controls),
            "p": (1 + at_least) / (1 + len(errors)),
        }
    return found


def _resampled(
    ranks: dict[Maps, np.ndarray], sets: Sequence[Maps], top: int, group: int
) -> tuple[np.ndarray, np.ndarray]:
    """The error of the intact net and the mean one of `sets`: [1 + resamples], the same images in all calls."""
    wrong = {
        _INTACT: np.repeat(ranks[()][None] > top, len(sets), axis=0),
        _REMOVED: np.array([ranks[maps] > top for maps in sets]),
    }
    found = robustness.resampled(wrong, is_paired=True, group=group).means
    return found[_INTACT], found[_REMOVED]
