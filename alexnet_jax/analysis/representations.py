"""Similarity of representations: debiased linear CKA and the rank correlation of RDMs, with intervals and tests.

A representation of n images is a matrix [n p] of p features. Both measures compare symmetric matrices [n n], one entry
for each pair of images, without their diagonals: such a matrix is kept as the vector [n (n - 1) / 2] of the entries
above its diagonal (`upper`). Both are then an inner product of two vectors, divided by their norms:

- CKA of two layers, of the U-centered inner products of features (`u_centered`);
- the Spearman correlation of two RDMs, of the centered ranks of their dissimilarities (`unit_ranks`).
"""

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, Int32, Shaped

#: Permuted similarities as high as the observed one, but for rounding in float32, count as at least as high.
_TOLERANCE = 1e-6
#: Two vectors, by their indices.
Pair = tuple[int, int]


class Gram:
    """Inner products of the features of n images, added up over blocks of features.

    Attributes:
        products: c_i . c_j, float32 [n n], where c_i are the features of image i minus their mean over the images.
        is_constant: Whether all features of an image have the same value, bool [n].
    """

    def __init__(self, images: int) -> None:
        self.products = np.zeros((images, images), np.float32)
        self._values = 0
        self._low, self._high = np.full(images, np.inf), np.full(images, -np.inf)
        self._sums, self._with_mean = np.zeros(images), np.zeros(images)
        self._mean_sum = self._mean_square = 0.0

    def add(self, features: Float[np.ndarray, "n q"]) -> None:
        """Add a block of q features."""
        self._values += features.shape[1]
        self._low = np.minimum(self._low, features.min(axis=1))
        self._high = np.maximum(self._high, features.max(axis=1))
        mean = features.mean(axis=0, dtype=np.float64).astype(np.float32)
        centered = features - mean
        self.products += centered @ centered.T
        self._sums += centered.sum(axis=1, dtype=np.float64)
        self._with_mean += centered @ mean
        self._mean_sum += float(mean.sum(dtype=np.float64))
        self._mean_square += float(np.square(mean, dtype=np.float64).sum())

    @property
    def is_constant(self) -> Bool[np.ndarray, " n"]:
        return self._low == self._high

    def rdm(self) -> Float[np.ndarray, " pairs"] | None:
        """Return 1 - the Pearson correlation between the features of two images; None if an image has no variance.

        The dissimilarities are `upper` of the matrix, float32.

        With x_i = c_i + m, where m is the mean over the images, x_i . x_j = c_i . c_j + c_i . m + c_j . m + m . m. The
        covariance over the p features of two images is this minus the product of the sums of x_i and x_j over p.
        """
        covariance = self.products.astype(np.float64)
        covariance += self._with_mean[:, None] + self._with_mean + self._mean_square
        sums = self._sums + self._mean_sum
        covariance -= np.outer(sums, sums) / self._values
        if self.is_constant.any() or np.diag(covariance).min() <= 0:
            return None
        deviations = np.sqrt(np.diag(covariance))
        return upper(1 - covariance / np.outer(deviations, deviations)).astype(np.float32)


def upper(matrix: Shaped[np.ndarray, "n n"]) -> Shaped[np.ndarray, " pairs"]:
    """Return the entries above the diagonal, row by row."""
    return matrix[_above_diagonal(len(matrix))]


def _above_diagonal(n: int) -> Bool[np.ndarray, "n n"]:
    return np.triu(np.ones((n, n), bool), 1)


def images_of(pairs: int) -> int:
    """Return the number of images that have so many pairs."""
    return round((1 + (1 + 8 * pairs) ** 0.5) / 2)


def u_centered(products: Float[np.ndarray, "n n"]) -> Float[np.ndarray, " pairs"]:
    """U-center a Gram matrix (Szekely and Rizzo, 2014): the entries of `hsic`, float32.

    Entry ij, i != j, is k_ij - r_i / (n - 2) - r_j / (n - 2) + t / ((n - 1) (n - 2)), where r_i is the sum of row i and
    t that of all entries, both without the diagonal. It does not depend on where the origin of the features is.
    """
    k = products.astype(np.float64)
    np.fill_diagonal(k, 0)
    rows = k.sum(axis=1) / (len(k) - 2)
    k -= rows[:, None] + rows - rows.sum() / (len(k) - 1)
    return upper(k).astype(np.float32)


def hsic(vectors: Float[np.ndarray, "t pairs"]) -> Float[np.ndarray, "t t"]:
    """Estimate the Hilbert-Schmidt independence criterion of all pairs of layers from their `u_centered` products.

    The sum over i != j of the products of two U-centered matrices, divided by n (n - 3), is the unbiased estimator of
    Song et al. (2012), HSIC_1 [tr(K L) + 1'K1 1'L1 / ((n - 1) (n - 2)) - 2 / (n - 2) 1'KL1] / (n (n - 3)) of matrices
    with zero diagonals. It is a U-statistic: its expectation is the HSIC of the distribution of the images, whatever n.
    The mean over disjoint random batches of images has the same expectation, as each batch has it: it leaves out the
    4-tuples of images that are in several batches, and so is an incomplete U-statistic of the same quantity, with a
    somewhat larger variance, but is not the number that all images at once would give (Nguyen et al., 2021).
    """
    n = images_of(vectors.shape[1])
    return 2 * (vectors @ vectors.T).astype(np.float64) / (n * (n - 3))


def normalized(products: Float[np.ndarray, "t t"]) -> Float[np.ndarray, "t t"]:
    """Divide inner products by the norms: CKA from `hsic`. NaN where a norm is 0, as of a layer that is constant."""
    squares = np.diag(products)
    norms = np.sqrt(np.where(squares > 0, squares, np.nan))
    return products / np.outer(norms, norms)


def cka(*layers: Float[np.ndarray, "n ..."]) -> Float[np.ndarray, "t t"]:
    """Return the debiased linear CKA of all pairs of layers, from the features of the same n images in memory."""
    vectors = []
    for features in layers:
        gram = Gram(len(features))
        gram.add(features.reshape(len(features), -1))
        vectors.append(u_centered(gram.products))
    return normalized(hsic(np.array(vectors)))


def levels(values: Float[np.ndarray, " pairs"]) -> Int32[np.ndarray, " pairs"]:
    """Number the distinct values in rising order, and return the number of each value."""
    return np.unique(values, return_inverse=True)[1].astype(np.int32)


def unit_ranks(
    level: Int[np.ndarray, " pairs"], weights: Float[np.ndarray, " pairs"] | None = None
) -> Float[np.ndarray, " pairs"]:
    """Return the ranks of values with these `levels`, the mean rank for ties, centered and with norm 1; float32.

    All are NaN if the values are all equal.

    Args:
        weights: How often each value occurs; once without.
    """
    counts = np.bincount(level, weights)
    rank = np.cumsum(counts) - counts / 2 - counts.sum() / 2
    norm = np.sqrt(counts @ np.square(rank)) or np.nan
    return (rank / norm).astype(np.float32)[level]


def correlations(level: Int[np.ndarray, "t pairs"]) -> Float[np.ndarray, "t t"]:
    """Return the Spearman correlations of vectors with these `levels`."""
    ranks = np.array([unit_ranks(one) for one in level])
    return (ranks @ ranks.T).astype(np.float64)


def bootstrap_hsic(
    vectors: Float[np.ndarray, "t pairs"],
    pairs: Sequence[Pair],
    resamples: int,
    generator: np.random.Generator,
) -> Float[np.ndarray, "pairs resamples"]:
    """Return the `hsic` of pairs of layers for images drawn with replacement, without pairs of one image with itself.

    An image that is drawn twice makes a pair that is no pair of images: its entry is a squared norm, from the diagonal
    that the estimator leaves out, and with many features it would raise every resampled CKA. Each of the other pairs
    counts w_i w_j times, where w_i says how often image i was drawn. The centering stays that of all images: its change
    has no first-order effect on HSIC, because a centered matrix has a mean of 0 over the images in each row.
    """
    n = images_of(vectors.shape[1])
    above = _above_diagonal(n)
    drawn = generator.multinomial(n, np.full(n, 1 / n), resamples).astype(np.float32)
    counts = n**2 - np.square(drawn, dtype=np.float64).sum(axis=1)
    square, found = np.zeros((n, n), np.float32), np.empty((len(pairs), resamples))
    for place, (a, b) in enumerate(pairs):
        square[above] = vectors[a] * vectors[b]
        found[place] = 2 * np.einsum("rn,rn->r", drawn @ square, drawn) / counts
    return found


def bootstrap_correlations(
    level: Int[np.ndarray, "t pairs"],
    pairs: Sequence[Pair],
    resamples: int,
    generator: np.random.Generator,
) -> Iterator[Float[np.ndarray, " pairs"]]:
    """Yield the Spearman correlations of pairs of RDMs, for images drawn with replacement.

    The pairs of an image that is drawn twice with itself, whose dissimilarity is 0 in every RDM, are left out, because
    they would raise the correlations. The other dissimilarities are ranked anew.
    """
    n = images_of(level.shape[1])
    above = _above_diagonal(n)
    first, second = np.transpose(pairs)
    chosen, column = np.unique(second, return_inverse=True)
    for _ in range(resamples):
        drawn = generator.multinomial(n, np.full(n, 1 / n)).astype(np.float32)
        weights = np.outer(drawn, drawn)[above]
        kept = np.flatnonzero(weights)
        weights = weights[kept]
        ranks = np.array([unit_ranks(one, weights) for one in level[:, kept]])
        yield (ranks @ (ranks[chosen] * weights).T)[first, column]


def permutation_p(
    vectors: Float[np.ndarray, "t pairs"],
    pairs: Sequence[Pair],
    permutations: int,
    generator: np.random.Generator,
) -> Float[np.ndarray, " pairs"]:
    """Test whether two vectors are more similar than if the images of one were exchanged at random.

    Rows and columns of the second matrix of each pair are permuted together, as in Mantel's (1967) test. U-centering,
    ranks and norms do not change with the order of the images, so inner products are compared.

    Returns:
        (1 + number of permutations that are at least as similar) / (1 + permutations), for each pair: one-sided.
    """
    n = images_of(vectors.shape[1])
    above = _above_diagonal(n)
    place = np.zeros((n, n), np.int32)
    place[above] = np.arange(vectors.shape[1])
    place += place.T
    first, second = np.transpose(pairs)
    chosen, column = np.unique(second, return_inverse=True)
    lengths = np.linalg.norm(vectors, axis=1)
    lengths[lengths == 0] = 1

    def similarities(others: Float[np.ndarray, "c pairs"]) -> Float[np.ndarray, " pairs"]:
        return (vectors @ others.T)[first, column] / (lengths[first] * lengths[second])

    observed = similarities(vectors[chosen])
    exceeded = np.zeros(len(pairs))
    for _ in range(permutations):
        order = generator.permutation(n)
        shuffled = place[order][:, order][above]
        permuted = np.array([vectors[one][shuffled] for one in chosen])
        exceeded += similarities(permuted) >= observed - _TOLERANCE
    return (1 + exceeded) / (1 + permutations)
