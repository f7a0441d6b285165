"""Nearest neighbors against a loop, and their figure."""

import json

import numpy as np
import pytest

from alexnet_jax.analysis import neighbors
from alexnet_jax.errors import ConfigError


def nearest(queries, rows, k):
    """Nearest neighbors by a loop."""
    found = []
    for query in queries:
        distances = [float(np.sqrt(sum((row - query) ** 2))) for row in rows.astype(np.float64)]
        found.append(sorted(range(len(rows)), key=lambda i: (distances[i], i))[:k])
    return np.array(found)


def test_the_nearest_are_those_of_a_loop_over_all_chunks():
    generator = np.random.default_rng(0)
    # Whole numbers, so that many are equally near; far from zero, where dot products would cancel.
    rows = generator.integers(1000, 1003, (50, 4)).astype(np.float32)
    queries = rows[[7, 0, 31]] + np.float32(0.5)
    parts = (rows[start : start + 7] for start in range(0, 50, 7))
    numbers, distances = neighbors.nearest(queries, parts, 6)
    expected = nearest(queries, rows, 6)
    assert np.array_equal(numbers, expected)
    far = np.linalg.norm(rows[expected] - queries[:, None], axis=-1)
    np.testing.assert_allclose(distances, far, rtol=1e-6)


def test_too_few_images_have_no_neighbors():
    with pytest.raises(ConfigError, match="cannot find 6 nearest images among 2"):
        neighbors.nearest(np.zeros((1, 3), np.float32), [np.zeros((2, 3), np.float32)], 6)


def test_the_figure_has_the_nearest_training_images(
    net, splits, answers, forward, weights_file, tmp_path
):
    arguments = ["--workdir", str(weights_file), "--out", str(tmp_path), "--count", "2"]
    neighbors.main(arguments)
    assert (tmp_path / "neighbors.png").stat().st_size > 0
    numbers = json.loads((tmp_path / "neighbors.json").read_text())
    assert numbers["layer"] == "fc6" and len(numbers["images"]) == 2
    images = splits["train"].images[np.arange(len(splits["train"].labels))]
    train = np.asarray(forward(net.inputs(images)[:, 0])["fc6"])
    for row in numbers["images"]:
        query = answers["fc6"][int(row["image"].split()[1])]
        expected = np.sort(np.linalg.norm(train - query, axis=1))[:6]
        found = [neighbor["distance"] for neighbor in row["neighbors"]]
        np.testing.assert_allclose(found, expected, rtol=1e-4)
