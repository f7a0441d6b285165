import json

import numpy as np
import pytest

from alexnet_jax.data.pipeline.splits import held_out
from alexnet_jax.errors import ConfigError
from alexnet_jax.evaluation import ensemble


@pytest.fixture(scope="module")
def answered():
    """Probabilities of three nets, of which the last says nothing, and labels."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 6, 400)
    logits = rng.normal(size=(3, 400, 6))
    logits[0][np.arange(400), labels] += 2
    logits[1][np.arange(400), labels] += 1.5
    nets = np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)
    return list(nets), labels


def literal_nll(probabilities, weights, labels):
    total = 0.0
    for i, label in enumerate(labels):
        total -= np.log(
            sum(w * net[i, label] for w, net in zip(weights, probabilities, strict=True))
        )
    return total / len(labels)


def test_the_ensemble_is_the_mean_of_the_probabilities(answered):
    probabilities, labels = answered
    found = ensemble.ensemble(probabilities, labels)
    wrong = 0
    for i, label in enumerate(labels):
        row = [sum(net[i, k] for net in probabilities) / 3 for k in range(6)]
        wrong += row.index(max(row)) != label
    assert found["mean"]["top1_error"] == pytest.approx(wrong / 400)
    assert found["mean"]["nll"] == pytest.approx(literal_nll(probabilities, [1 / 3] * 3, labels))
    assert found["count"] == 400 and found["searched"] == 0 and "weighted" not in found
    assert [one["count"] for one in found["each"]] == [400] * 3


def test_the_weights_have_the_least_nll(answered):
    from scipy import optimize

    probabilities, labels = answered
    own = np.array([net[np.arange(400), labels] for net in probabilities])
    found = ensemble.best_weights(own)
    assert found.sum() == pytest.approx(1) and (found >= 0).all()

    def nll(logits):
        weights = np.exp(logits) / np.exp(logits).sum()
        return -np.log(weights @ own).mean()

    best = optimize.minimize(
        nll, np.zeros(3), method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-12}
    )
    assert -np.log(found @ own).mean() == pytest.approx(best.fun, abs=2e-6)
    assert found[2] < 0.05 < found[1] < found[0]


def test_a_search_reports_the_other_half_alone(answered):
    """What the searched half holds moves the weights, and no other number."""
    probabilities, labels = answered
    found = ensemble.ensemble(probabilities, labels, search=True)
    kept = held_out(labels, 0.5, np.random.default_rng(ensemble._HALVES_SEED))
    assert found["count"] == kept.sum() == 400 - found["searched"]
    assert abs(found["count"] - 200) <= 3
    halves = [net[kept] for net in probabilities]
    assert found["mean"]["nll"] == pytest.approx(literal_nll(halves, [1 / 3] * 3, labels[kept]))
    assert found["weighted"]["nll"] == pytest.approx(
        literal_nll(halves, found["weights"], labels[kept])
    )
    # Exchanged on the searched images, the nets exchange their weights.
    exchanged = [net.copy() for net in probabilities]
    exchanged[0][~kept], exchanged[1][~kept] = probabilities[1][~kept], probabilities[0][~kept]
    other = ensemble.ensemble(exchanged, labels, search=True)
    assert other["weights"] == pytest.approx([found["weights"][i] for i in (1, 0, 2)])
    assert other["each"] == found["each"] and other["mean"] == found["mean"]


def as_json(arguments, capsys) -> str:
    ensemble.main([*arguments, "--json"])
    return capsys.readouterr().out


def test_the_command_takes_weights_files(two_nets, capsys):
    arguments = ["--workdir", *map(str, two_nets), "--search"]
    ensemble.main(arguments)
    said = capsys.readouterr().out
    assert "mean of 2 nets" in said and "weighted mean" in said
    assert "torchvision" not in said, "published errors are those of 1,000 classes"
    said = ensemble._text(json.loads(as_json(arguments, capsys)), 1000)
    assert "7 CNNs*" in said and "torchvision" in said
    report = json.loads(as_json(arguments, capsys))
    assert (report["split"], report["views"]) == ("test", "center")
    assert report["count"] + report["searched"] == 128 and 58 <= report["count"] <= 70
    with pytest.raises(ConfigError, match="two nets or more"):
        ensemble.main(["--workdir", str(two_nets[0])])
