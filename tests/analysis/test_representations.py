"""CKA, RDMs, their intervals and tests, against definitions that are written out here."""

import numpy as np
import pytest
from scipy import stats
from scipy.spatial import distance

from alexnet_jax.analysis import representations
from alexnet_jax.analysis.representations import Gram, cka


def gram(features, block=7) -> Gram:
    found = Gram(len(features))
    for start in range(0, features.shape[1], block):
        found.add(features[:, start : start + block].astype(np.float32))
    return found


def vectors(*layers) -> np.ndarray:
    return np.array([representations.u_centered(gram(one).products) for one in layers])


def direct_hsic(x, y) -> float:
    """The estimator as Song et al. print it, from features."""
    n, one = len(x), np.ones(len(x))
    k, m = x @ x.T, y @ y.T
    np.fill_diagonal(k, 0)
    np.fill_diagonal(m, 0)
    trace, ends = np.trace(k @ m), (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
    return (trace + ends - 2 / (n - 2) * one @ k @ m @ one) / (n * (n - 3))


def biased_cka(x, y) -> float:
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    norms = np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)
    return float(np.linalg.norm(x.T @ y) ** 2 / norms)


@pytest.fixture
def random():
    return np.random.default_rng(0)


@pytest.fixture
def related(random):
    """Three layers of 40 images; the second shares a part with the first, far from the origin."""
    x = random.normal(size=(40, 30)) + 5
    y = np.concatenate([x[:, :10] @ random.normal(size=(10, 8)), random.normal(size=(40, 12))], 1)
    return x, y - 20, random.normal(size=(40, 15))


def test_hsic_is_the_unbiased_estimator(related):
    found = representations.hsic(vectors(*related))
    expected = np.array([[direct_hsic(x, y) for y in related] for x in related])
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-5 * expected.max())


def test_cka_does_not_change_with_rotation_scale_and_origin(related, random):
    x, y, _ = related
    rotation = np.linalg.qr(random.normal(size=(30, 30)))[0]
    found = cka(x, 3.7 * x @ rotation + 2, y)
    assert found[0, 1] == pytest.approx(1, abs=1e-5)
    assert found[0, 2] == pytest.approx(found[1, 2], abs=1e-5)
    assert 0.05 < found[0, 2] < 0.95
    stretched = x * np.linspace(0.1, 3, 30)  # CKA is not invariant to any linear map
    assert cka(x, stretched)[0, 1] < 0.95


def test_debiased_cka_of_independent_features_is_zero(random):
    """With more features than images the biased one is near 1."""
    x, y = random.normal(size=(60, 500)), random.normal(size=(60, 400))
    assert biased_cka(x, y) > 0.8
    assert abs(cka(x, y)[0, 1]) < 0.1
    many = [cka(*random.normal(size=(2, 30, 100)))[0, 1] for _ in range(60)]
    assert abs(np.mean(many)) < 3 * np.std(many) / 60**0.5


def test_batches_estimate_the_same_hsic(random):
    """The mean over disjoint random batches, and the estimate from all images, agree in expectation."""
    mixing = random.normal(size=(4, 3))

    def once():
        x = random.normal(size=(48, 4))
        y = x @ mixing + random.normal(size=(48, 3))
        whole = representations.hsic(vectors(x, y))[0, 1]
        parts = [representations.hsic(vectors(x[i::4], y[i::4]))[0, 1] for i in range(4)]
        return whole, np.mean(parts)

    whole, parts = np.transpose([once() for _ in range(200)])
    error = np.std(parts - whole) / 200**0.5
    assert abs(np.mean(parts - whole)) < 3 * error < 0.2 * np.mean(whole)


def test_a_constant_layer_has_no_cka_and_no_rdm(related):
    dead = np.zeros((40, 6))
    found = cka(related[0], dead)
    assert np.isnan(found[0, 1]) and np.isnan(found[1, 1]) and found[0, 0] == pytest.approx(1)
    assert gram(dead).rdm() is None
    one_dead = related[0].copy()
    one_dead[3] = 0
    assert gram(one_dead).is_constant.tolist() == [i == 3 for i in range(40)]
    assert gram(one_dead).rdm() is None


def test_rdms_are_one_minus_pearson_correlations(related):
    for features in related:
        expected = distance.pdist(features.astype(np.float32), "correlation")
        np.testing.assert_allclose(gram(features).rdm(), expected, rtol=1e-4, atol=2e-6)
    near = 100 + 0.1 * related[0]  # a mean far larger than the differences
    expected = distance.pdist(near, "correlation")
    np.testing.assert_allclose(gram(near).rdm(), expected, rtol=0.01, atol=1e-3)


def test_rank_correlations_are_scipys(random):
    a = np.round(random.normal(size=300), 1)  # with ties
    b = a + random.normal(size=300)
    weights = random.integers(0, 4, 300).astype(float)
    level = np.array([representations.levels(one) for one in (a, b)])
    found = representations.correlations(level)
    assert found[0, 1] == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-6)
    often = weights.astype(int)
    expected = stats.spearmanr(np.repeat(a, often), np.repeat(b, often)).statistic
    x, y = (representations.unit_ranks(one, weights) for one in level)
    assert weights @ (x * y) == pytest.approx(expected, abs=1e-6)
    assert np.isnan(representations.unit_ranks(np.zeros(5, np.int32))).all()


def test_resampled_correlations_leave_out_pairs_of_an_image_with_itself(random):
    x = random.normal(size=(12, 20))
    y = x[:, :10] + random.normal(size=(12, 10))
    squares = [distance.squareform(distance.pdist(one, "correlation")) for one in (x, y)]
    rdms = [representations.upper(one) for one in squares]
    level = np.array([representations.levels(one) for one in rdms])
    found = representations.bootstrap_correlations(level, [(0, 1)], 5, np.random.default_rng(3))
    generator = np.random.default_rng(3)
    for [value] in found:
        drawn = np.repeat(np.arange(12), generator.multinomial(12, np.full(12, 1 / 12)))
        chosen = [(i, j) for a, i in enumerate(drawn) for j in drawn[a + 1 :] if i != j]
        expected = stats.spearmanr(*([square[pair] for pair in chosen] for square in squares))
        assert value == pytest.approx(expected.statistic, abs=1e-6)


def test_resampled_hsic_counts_pairs_and_leaves_out_the_same_image(related):
    found, n = vectors(*related[:2]), 40
    resampled = representations.bootstrap_hsic(found, [(0, 1)], 4, np.random.default_rng(3))
    drawn = np.random.default_rng(3).multinomial(n, np.full(n, 1 / n), 4)
    square = distance.squareform(found[0].astype(float) * found[1])
    for value, w in zip(resampled[0], drawn, strict=True):
        weights = np.outer(w, w) * (1 - np.eye(n))
        expected = (weights * square).sum() / (n**2 - (w**2).sum())
        assert value == pytest.approx(expected, rel=1e-4)


def test_intervals_of_cka_cover_the_variation_of_new_images(random):
    """The deviation of resampled CKA is that of CKA over independent samples."""
    mixing = random.normal(size=(5, 5))

    def sample():
        x = random.normal(size=(60, 5)) * np.arange(1, 6)
        return vectors(x, x @ mixing + 3 * random.normal(size=(60, 5)))

    truth = [representations.normalized(representations.hsic(sample()))[0, 1] for _ in range(150)]
    deviations = []
    for _ in range(10):
        pairs = [(0, 1), (0, 0), (1, 1)]
        a, b, c = representations.bootstrap_hsic(sample(), pairs, 200, random)
        deviations.append(np.std(a / np.sqrt(b * c)))
    assert np.mean(deviations) == pytest.approx(np.std(truth), rel=0.3)


def test_p_values_are_uniform_for_unrelated_layers_and_small_for_related_ones(related, random):
    found = vectors(*related, related[0])
    pairs = [(0, 1), (0, 2), (0, 3)]
    ps = representations.permutation_p(found, pairs, 99, random)
    assert ps[0] == 0.01 and ps[1] > 0.01 and ps[2] == 0.01
    independent = [vectors(*random.normal(size=(2, 15, 10))) for _ in range(60)]
    ps = [representations.permutation_p(one, [(0, 1)], 39, random)[0] for one in independent]
    assert set(np.round(40 * np.array(ps), 6)) <= set(range(1, 41))
    assert 0.35 < np.mean(ps) < 0.65


def test_permuted_similarities_are_those_of_permuted_images(related):
    """One permutation by hand: it is counted exactly if it is at least as similar."""
    x, y, _ = related
    found, counted = vectors(x, y), []
    for seed in range(20):
        order = np.random.default_rng(seed).permutation(40)
        [p] = representations.permutation_p(found, [(0, 1)], 1, np.random.default_rng(seed))
        counted.append(p)
        assert p == (1 if cka(x, y[order])[0, 1] >= cka(x, y)[0, 1] else 0.5)
    [p] = representations.permutation_p(found[[0, 0]], [(0, 1)], 1, IdentityOrder())
    assert p == 1 and set(counted) == {0.5}


class IdentityOrder(np.random.Generator):
    """Permutes nothing."""

    def __init__(self):
        super().__init__(np.random.PCG64(0))

    def permutation(self, x, axis=0):
        return np.arange(x)
