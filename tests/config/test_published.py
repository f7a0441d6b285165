"""Published numbers: they agree with each other, and the README shows them."""

from pathlib import Path

import pytest

from alexnet_jax.config import published
from configs import ablations

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def test_the_readme_has_the_published_table():
    assert published.BEGIN + published.table() + published.END in README


@pytest.mark.parametrize(
    ("claim", "net", "base", "data"),
    [
        ("no_lrn", "148", "145", published.VAL12),
        ("non_overlapping_pooling", "147", "145", published.VAL12),
        ("one_tower", "145-half", "145", published.TEST10),
        ("no_communication", "150", "145", published.VAL12),
        ("lrn_layer1_only", "167", "145", published.VAL12),
        ("dexp", "170", "145", published.VAL12),
        ("exp", "155", "145", published.VAL12),
    ],
)
def test_what_a_claim_says_is_the_difference_of_two_runs_of_the_log(claim, net, base, data):
    one, other = published.result(net, data, "ten"), published.result(base, data, "ten")
    assert one.top5 is not None and other.top5 is not None
    points = f"{100 * (one.top1 - other.top1):+.2f} / {100 * (one.top5 - other.top5):+.2f}"
    assert published.CLAIMS[claim].log.startswith(points)


def test_the_papers_numbers_are_those_of_the_log():
    for data, views in (
        (published.TEST10, "ten"),
        (published.TEST10, "center"),
        (published.VAL12, "ten"),
    ):
        logged = published.result("145", data, views)
        printed = next(
            r for r in published.PAPER if (r.net, r.data, r.views) == ("1 CNN", data, views)
        )
        assert round(logged.top1, 3) == printed.top1
        assert logged.top5 is not None and round(logged.top5, 3) == printed.top5


def test_every_number_says_on_what_it_was_measured():
    for found in (*published.LOG, *published.PAPER, *published.PEERS):
        assert 0 < found.top1 < 1 and (found.top5 or 0) < found.top1
        assert (found.data and found.views) or found.confidence != "stated"
    keys = [(r.net, r.data, r.views) for r in published.LOG]
    assert len(set(keys)) == len(keys) > 60
    assert len(published.VERDICTS) > 35


def test_every_ablation_has_its_published_effect():
    assert set(ablations.ABLATIONS) - {"init_001"} <= set(published.CLAIMS)
