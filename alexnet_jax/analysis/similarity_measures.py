"""Compute what `alexnet similarity` reports: one pass over the images for each net, then comparisons of layers."""

import itertools
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np

from alexnet_jax.analysis import encoding, features, representations, similarity_inputs
from alexnet_jax.analysis.encoding import Encoding
from alexnet_jax.analysis.representations import Gram, Pair
from alexnet_jax.analysis.similarity_inputs import Inputs, Net
from alexnet_jax.cli import environment
from alexnet_jax.data.pipeline.splits import View
from alexnet_jax.inference import metrics

if TYPE_CHECKING:
    from alexnet_jax.inference.network import Network

#: Bytes of features, and of inner products, that are in memory at a time.
_BLOCK_BYTES = 2**29


class Value(NamedTuple):
    """A similarity, with the interval and the p-value of a permutation test; None where there is none."""

    value: float | None
    low: float | None = None
    high: float | None = None
    p: float | None = None


class Measures(NamedTuple):
    """The similarity of t layers, each of which is (index of a net, name).

    Attributes:
        cka: [t t].
        rdm: Spearman correlation of RDMs, [t t]; with an RDM of the user, [t+1 t+1].
        rdms: RDMs of the first batch, as vectors of their entries above the diagonal; None where not defined.
        pairs: CKA and RDM correlation, with intervals and p-values, of the pairs of `compared`.
        with_rdm: RDM correlation of each layer with the RDM of the user.
        encodings: Of each layer, with responses.
    """

    layers: list[tuple[int, str]]
    cka: np.ndarray
    rdm: np.ndarray
    rdms: list[np.ndarray | None]
    pairs: dict[Pair, tuple[Value, Value]]
    with_rdm: list[Value]
    encodings: list[Encoding]


def series(nets: Sequence[Net]) -> list[list[int]]:
    """Group the nets by run, each group in the order of steps; a net alone is a group."""
    groups: dict[Path, list[int]] = {}
    for i, net in enumerate(nets):
        groups.setdefault(net.run, []).append(i)
    return [sorted(group, key=lambda i: nets[i].step) for group in groups.values()]


def compared(nets: Sequence[Net], layers: Sequence[tuple[int, str]]) -> list[Pair]:
    """Choose the pairs of layers that have intervals and tests.

    All layers of the last checkpoints of two runs, and each layer of the other checkpoints with that of the last.
    """
    place, groups = {layer: i for i, layer in enumerate(layers)}, series(nets)
    pairs = []
    for group in groups:
        *others, last = group
        pairs += [(place[i, name], place[last, name]) for i in others for name in nets[last].layers]
    for first, second in itertools.combinations([group[-1] for group in groups], 2):
        names = itertools.product(nets[first].layers, nets[second].layers)
        pairs += [(place[first, a], place[second, b]) for a, b in names]
    return pairs


def grams(
    network: "Network", images: Any, layers: dict[str, int], block_bytes: int = _BLOCK_BYTES
) -> Iterator[tuple[str, Gram]]:
    """Yield the inner products of all images, in float32, for each layer.

    The images pass through the net once for every `block_bytes` of features, and of inner products.

    Args:
        layers: Name -> number of values.
    """
    names, n = list(layers), len(images)
    at_once, width = (max(1, block_bytes // (4 * n * m)) for m in (n, 1))
    for start in range(0, len(names), at_once):
        group = names[start : start + at_once]
        found = {name: Gram(n) for name in group}
        function = features.flattened(network, group)
        ends = list(itertools.accumulate(layers[name] for name in group))
        for low in range(0, ends[-1], width):
            block, row = np.empty((n, min(width, ends[-1] - low)), np.float32), 0
            for output in network.map_batches(function, images):
                block[row : row + len(output)] = output[:, low : low + width]
                row += len(output)
            for name, end in zip(group, ends, strict=True):
                part = slice(max(end - layers[name] - low, 0), max(end - low, 0))
                if block[:, part].size:
                    found[name].add(block[:, part])
        yield from found.items()


class _Vectors:
    """U-centered products of all layers and batches, in a file."""

    def __init__(self, file: IO[bytes], layers: int, batches: Sequence[np.ndarray]) -> None:
        self._file: Any = file
        sizes = [len(batch) * (len(batch) - 1) // 2 for batch in batches]
        self._sizes, self._starts = sizes, [0, *itertools.accumulate(layers * s for s in sizes)]
        self._layers = layers

    def write(self, batch: int, layer: int, vector: np.ndarray) -> None:
        self._file.seek(4 * (self._starts[batch] + layer * self._sizes[batch]))
        self._file.write(vector.data)

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield the vectors of each batch, [layers pairs]."""
        self._file.seek(0)
        for size in self._sizes:
            vectors = np.empty((self._layers, size), np.float32)
            self._file.readinto(vectors.data)
            yield vectors


def measure(inputs: Inputs, folder: Path, resamples: int, permutations: int, seed: int) -> Measures:
    """Compare all layers of all nets. Temporary files are in `folder`."""
    layers = [(i, name) for i, net in enumerate(inputs.nets) for name in net.layers]
    with tempfile.TemporaryFile(dir=folder) as file:
        vectors = _Vectors(file, len(layers), inputs.batches)
        rdms, encodings = _pass(inputs, vectors, seed)
        pairs = compared(inputs.nets, layers)
        cka, cka_values = _cka(vectors, pairs, resamples, permutations, seed)
    all_rdms, first = list(rdms), inputs.batches[0]
    with_rdm = list[Pair]()
    if inputs.rdm is not None:
        all_rdms.append(representations.upper(inputs.rdm[np.ix_(first, first)]))
        with_rdm = [(layer, len(layers)) for layer in range(len(layers))]
    rdm, rdm_values = _rdm(all_rdms, [*pairs, *with_rdm], resamples, permutations, seed)
    values = zip(cka_values, rdm_values[: len(pairs)], strict=True)
    of_pairs = dict(zip(pairs, values, strict=True))
    return Measures(layers, cka, rdm, rdms, of_pairs, rdm_values[len(pairs) :], encodings)


def _pass(
    inputs: Inputs, vectors: _Vectors, seed: int
) -> tuple[list[np.ndarray | None], list[Encoding]]:
    """Compute RDMs and encodings of the first batch for all layers, and write `vectors`."""
    rdms, encodings, first = list[np.ndarray | None](), list[Encoding](), inputs.batches[0]
    tests = encoding.folds(len(first), encoding.FOLDS, np.random.default_rng(seed))
    for i, net in enumerate(inputs.nets):
        environment.say_error(f"net {i + 1} of {len(inputs.nets)}: {net.name}")
        network, before = similarity_inputs.load(net.path, net.choice), len(rdms)
        images = inputs.images.of(network.trained, net.name)
        for batch, indices in enumerate(inputs.batches):
            found = grams(network, View(images, indices), net.layers)
            for layer, (_, gram) in enumerate(found, before):
                vectors.write(batch, layer, representations.u_centered(gram.products))
                if batch == 0:
                    rdms.append(gram.rdm())
                    if inputs.responses is not None:
                        responses = inputs.responses[first]
                        encodings.append(encoding.encode(gram.products, responses, tests))
    return rdms, encodings


def _cka(
    vectors: _Vectors, pairs: list[Pair], resamples: int, permutations: int, seed: int
) -> tuple[np.ndarray, list[Value]]:
    """CKA of all layers, and of pairs with intervals (over all images) and p-values (over the first batch)."""
    total, resampled, ps = 0.0, 0.0, np.full(len(pairs), np.nan)
    selves = sorted({layer for pair in pairs for layer in pair})
    for batch, found in enumerate(vectors):
        total = total + representations.hsic(found)
        if pairs and resamples:
            environment.say_error(f"intervals of CKA, batch {batch + 1}")
            generator = np.random.default_rng([seed, 1, batch])
            wanted = [*pairs, *((layer, layer) for layer in selves)]
            resampled = resampled + representations.bootstrap_hsic(
                found, wanted, resamples, generator
            )
        if pairs and permutations and batch == 0:
            environment.say_error("permutation tests of CKA")
            generator = np.random.default_rng([seed, 2])
            ps = representations.permutation_p(found, pairs, permutations, generator)
    matrix = representations.normalized(np.asarray(total))
    draws = np.full((len(pairs), 0), np.nan)
    if pairs and resamples:
        resampled = np.asarray(resampled)
        norms = dict(zip(selves, resampled[len(pairs) :], strict=True))
        products = np.array([norms[a] * norms[b] for a, b in pairs])
        with np.errstate(invalid="ignore", divide="ignore"):
            draws = resampled[: len(pairs)] / np.sqrt(products)
    return matrix, _values(matrix, pairs, draws, ps)


def _rdm(
    rdms: Sequence[np.ndarray | None], pairs: list[Pair], resamples: int, permutations: int, seed: int
) -> tuple[np.ndarray, list[Value]]:  # fmt: skip
    """Correlation of all RDMs, and of pairs with intervals and p-values."""
    length = next((len(rdm) for rdm in rdms if rdm is not None), 1)
    nothing = np.zeros(length, np.int32)  # has no ranks, and so no correlation
    level = np.array([nothing if rdm is None else representations.levels(rdm) for rdm in rdms])
    matrix = representations.correlations(level)
    draws, ps = np.full((len(pairs), 0), np.nan), np.full(len(pairs), np.nan)
    if pairs and resamples and length > 1:
        environment.say_error("intervals of RDM correlations")
        generator = np.random.default_rng([seed, 3])
        draws = np.array(
            list(representations.bootstrap_correlations(level, pairs, resamples, generator))
        ).T
    if pairs and permutations and length > 1:
        environment.say_error("permutation tests of RDM correlations")
        ranks = np.array([representations.unit_ranks(one) for one in level])
        generator = np.random.default_rng([seed, 4])
        ps = representations.permutation_p(ranks, pairs, permutations, generator)
    return matrix, _values(matrix, pairs, draws, ps)


def _values(
    matrix: np.ndarray, pairs: list[Pair], draws: np.ndarray, ps: np.ndarray
) -> list[Value]:
    values = []
    for pair, drawn, p in zip(pairs, draws, ps, strict=True):
        if np.isnan(matrix[pair]):
            values.append(Value(None))
            continue
        low, high = metrics.percentile_interval(drawn) or (None, None)
        values.append(Value(float(matrix[pair]), low, high, None if np.isnan(p) else float(p)))
    return values
