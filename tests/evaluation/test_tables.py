"""Tables 1 and 2: which nets a row is of, and that the paper's rows are the paper's."""

import json

import numpy as np
import pytest

from alexnet_jax.config import published
from alexnet_jax.errors import ConfigError, StorageError
from alexnet_jax.evaluation import tables
from alexnet_jax.inference import trained
from alexnet_jax.run import reading


def literal_error(probabilities, labels, top):
    wrong = 0
    for row, label in zip(probabilities, labels, strict=True):
        wrong += sum(value >= row[label] for i, value in enumerate(row) if i != label) >= top
    return wrong / len(labels)


@pytest.fixture(scope="module")
def answered():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 8, 300)
    nets = rng.dirichlet(np.ones(8), (4, 300))
    nets[:, np.arange(300), labels] += rng.random((4, 300)) / 2
    return nets, labels


def test_stars_are_for_nets_begun_with_others_and_rows_for_several(answered):
    nets, labels = answered
    found = tables.tables(list(zip(nets, (False, True, False, True), strict=True)), labels)
    rows = {row["model"]: row for row in found["table2"]}
    assert list(rows) == ["1 CNN", "2 CNNs", "1 CNN*", "4 CNNs*"]
    assert [row["model"] for row in found["table1"]] == ["1 CNN", "1 CNN*"]
    each = [literal_error(net, labels, 1) for net in nets]
    assert rows["1 CNN"]["top1"] == pytest.approx((each[0] + each[2]) / 2)
    assert rows["1 CNN*"]["sd"] == pytest.approx(abs(each[1] - each[3]) / 2**0.5)
    two, four = (nets[0] + nets[2]) / 2, sum(nets) / 4
    assert rows["2 CNNs"]["top5"] == pytest.approx(literal_error(two, labels, 5))
    assert rows["4 CNNs*"]["top1"] == pytest.approx(literal_error(four, labels, 1))
    assert rows["4 CNNs*"]["sd"] is None


def test_one_net_has_one_row_and_nothing_to_deviate_from(answered):
    nets, labels = answered
    found = tables.tables([(nets[0], False)], labels)
    assert found["table1"] == found["table2"] and found["table2"][0]["sd"] is None
    assert [row["model"] for row in found["table2"]] == ["1 CNN"]


def test_the_papers_rows_are_its_results():
    for data, rows in ((published.TEST10, published.TABLE_1), (published.VAL12, published.TABLE_2)):
        results = {
            (one.net, one.top1, one.top5)
            for one in published.PAPER
            if one.data == data and one.views == "ten"
        }
        printed = {tuple(row[:3]) for row in rows if "CNN" in row[0]}
        assert printed == {("CNN" if data == published.TEST10 else n, a, b) for n, a, b in results}


def test_begun_with_other_weights_is_in_the_history(tmp_path):
    assert reading.begun_from(tmp_path) is None
    lines = [{"command": "a", "init_from": "runs/other"}, {"command": "b", "init_from": None}]
    (tmp_path / "history.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"comma')
    assert reading.begun_from(tmp_path) == "runs/other"
    assert [start["command"] for start in reading.history(tmp_path)] == ["a", "b"]


def test_nets_of_different_configs_are_no_seeds_of_one(two_nets, tmp_path):
    run = trained.load_file(two_nets[1])
    tree = json.loads(json.dumps(run.config_tree))
    tree["schedule"]["weights"]["learning_rate"] = 0.5
    tree["data"]["threads"] = 7  # moves no number
    other = trained.save(tmp_path / "other.safetensors", run._replace(config_tree=tree))
    files = [str(two_nets[0]), str(other)]
    with pytest.raises(
        ConfigError, match=r"not seeds of one config \(schedule.*rate: 0.002 -> 0.5\)"
    ):
        tables.main(["--workdir", *files, "--views", "center"])


def test_weights_files_give_both_tables(two_nets, tmp_path, capsys):
    files = list(map(str, two_nets))
    tables.main(["--workdir", *files, "--views", "center", "--out", str(tmp_path / "out")])
    printed = capsys.readouterr().out
    assert printed == (tmp_path / "out/tables.md").read_text()
    assert "| 7 CNNs*, the paper | 36.7 | 15.4 | 15.3 |" in printed and "center crop" in printed
    made = json.loads((tmp_path / "out/tables.json").read_text())
    assert [row["model"] for row in made["table2"]] == ["1 CNN", "2 CNNs"]
    assert f"| 2 CNNs, ours | {100 * made['table2'][1]['top1']:.1f} | " in printed
    with pytest.raises(ConfigError, match=r"net0.* and .*net0.* have the same seed 0"):
        tables.main(["--workdir", files[0], files[0], "--views", "center"])
    with pytest.raises(StorageError, match="cannot write to"):
        tables.main(["--workdir", files[0], "--views", "center", "--out", files[0]])
    with pytest.raises(ConfigError, match="--workdir"):
        tables.main(["--views", "center"])
