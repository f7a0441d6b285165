"""The table of a network, and the differences between two."""

import json
import pathlib
import subprocess
import sys

import pytest

from alexnet_jax import config
from alexnet_jax.analysis import describe
from alexnet_jax.config import provenance
from alexnet_jax.errors import ConfigError
from configs import krizhevsky2012, paper

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
PAPER, PROGRAM = str(CONFIGS / "paper.py"), str(CONFIGS / "krizhevsky2012.py")


def printed(capsys, *arguments: str) -> str:
    assert describe.main(list(arguments)) == 0
    return capsys.readouterr().out


def plain(loaded) -> dict:
    return json.loads(config.to_json(loaded))


def test_table_of_the_paper(capsys):
    lines = printed(capsys, "--config", PAPER).splitlines()
    conv1 = next(line for line in lines if line.startswith("conv1 ")).split()
    assert conv1[1:6] == ["55x55x96", "34,944", "105,415,200", "11", "4"]
    assert any(line.split() == ["all", "60,965,224", "724,406,816"] for line in lines)
    conv5 = next(line for line in lines if line.startswith("conv5/pool")).split()
    assert conv5[4:6] == ["195", "32"]


def test_operations_are_told_in_their_order(capsys):
    lines = printed(capsys, "--config", PROGRAM).splitlines()
    conv2 = next(i for i, line in enumerate(lines) if line.startswith("conv2 "))
    assert lines[conv2].endswith("conv 5x5/1 pad 2, 2 groups, act, lrn, spatial_norm")
    assert next(line for line in lines if line.startswith("conv1/pool")).endswith("max 3x3/2, act")


def test_json_has_the_same_numbers(capsys):
    description = json.loads(printed(capsys, "--config", PAPER, "--json"))
    assert description["parameters"] == 60_965_224
    assert [layer["name"] for layer in description["layers"]][:3] == [
        "conv1",
        "conv1/pool",
        "conv2",
    ]


def test_values_can_be_set_on_the_command_line(capsys):
    text = printed(capsys, "--config", PAPER, "--config.model.convs.conv2.groups=1")
    assert "61,272,424" in text  # 307,200 weights more


def test_classes_that_are_counted_are_said_to_be(capsys):
    text = printed(capsys, "--config", str(CONFIGS / "folder.py"))
    assert "classes counted from the data (1000 here)" in text
    assert "60,965,224" in text


def test_differences_are_one_a_line_with_their_sources(capsys):
    lines = printed(capsys, "--config", PAPER, "--diff", PROGRAM).splitlines()
    line = next(line for line in lines if line.startswith("model.convs.conv3.init_std"))
    assert line.split()[1:3] == ["0.01", "0.03"]
    assert line.endswith("paper §5: 0.01 everywhere; layers-145.cfg: initW=0.03")


def test_a_config_does_not_differ_from_itself(capsys):
    assert "0 differences" in printed(capsys, "--config", PAPER, "--diff", PAPER)


def test_differences_tell_rows_that_only_one_has():
    one, two = plain(krizhevsky2012.get_config()), plain(krizhevsky2012.get_config("conv6"))
    found = describe.differences(one, two)
    assert {d.key.rsplit(".", 1)[0] for d in found} == {"model.convs.conv6"}
    assert all(d.first is None and d.source for d in found)
    assert [d.second for d in describe.differences(two, one)] == [None] * len(found)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--config", "configs/nowhere.py"],
        ["--config", PAPER, "--nonsense"],
        ["--config", PAPER, "--config.model.lrm=False"],
        ["--config", PAPER, "--diff", "configs/nowhere.py"],
    ],
)
def test_wrong_usage_is_one_line(arguments):
    with pytest.raises(ConfigError) as error:
        describe.main(arguments)
    assert "\n" not in error.value.line()


@pytest.mark.usefixtures("without_xla_flags")
def test_command_exits_with_2_on_wrong_usage_and_0_on_help_without_importing_jax():
    script = """
import sys
from alexnet_jax import cli
from alexnet_jax.analysis import describe
for arguments in (["--nonsense"], ["--help"], ["--config", sys.argv[1]]):
    sys.argv[1:] = arguments
    try:
        cli.run(describe.main)
    except SystemExit as end:
        print("end:", end.code, "jax" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, PAPER],
        capture_output=True,
        text=True,
        cwd=CONFIGS.parent,
    )
    ends = [line for line in done.stdout.splitlines() if line.startswith("end:")]
    assert ends == ["end: 2 False", "end: 0 False", "end: 0 False"], done.stderr


def test_paper_values_have_sections():
    assert describe.source("paper", "optimizer.momentum", 0.9) == "paper §5"
    assert paper.get_config().optimizer.momentum == 0.9
    assert provenance.note("paper", "no.such.key") == ""


def test_decay_of_biases_is_printed_and_not_programmed(capsys):
    lines = printed(capsys, "--config", PAPER, "--diff", PROGRAM).splitlines()
    [line] = [line for line in lines if line.startswith("optimizer.")]
    assert line.split()[:3] == ["optimizer.bias_weight_decay", "0.0005", "0.0"]
    assert line.endswith(
        "paper §5: the update rule is the same for biases; layer.cu: the weight decay of biases is 0"
    )
    assert not [line for line in lines if "within_towers" in line]  # both stay within the tower


def test_a_value_of_the_command_line_is_not_the_files(capsys):
    overrides = ["--config.model.lrn=False", "--config.model.lrn_constants.within_towers=False"]
    lines = printed(capsys, "--config", PAPER, *overrides, "--diff", PAPER).splitlines()
    found = {line.split()[0]: line for line in lines if line.startswith("model.")}
    assert found["model.lrn"].endswith(" not as in configs/paper.py; paper §3.3")
    within = found["model.lrn_constants.within_towers"]
    assert within.split()[1:3] == ["false", "true"]
    assert within.endswith("paper §3.2, Figure 2: nothing crosses in the first two layers")
    assert "2 differences" in lines


def test_without_lrn_is_not_labeled_by_its_alpha(capsys):
    ablation = str(CONFIGS / "ablations.py:no_lrn")
    lines = printed(capsys, "--config", PROGRAM, "--diff", ablation).splitlines()
    [line] = [line for line in lines if line.startswith("model.lrn")]
    assert line.endswith("paper §3.3; experiment #148")


def test_configs_of_other_names_have_no_sources(tmp_path):
    mine = plain(paper.get_config())
    mine["name"], mine["model"]["lrn"] = "../mine:x", False
    [found] = describe.differences(mine, plain(paper.get_config()))
    assert found == ("model.lrn", False, True, "paper §3.3")


def test_lrn_over_all_maps_is_told_and_counted(capsys):
    override = "--config.model.lrn_constants.within_towers=False"
    text = printed(capsys, "--config", PAPER, override)
    assert "2 groups, act, lrn over all maps" in text
    assert ["conv1/lrn", "12,100", "12,100"] in [line.split() for line in text.splitlines()]
    one = printed(capsys, "--config", str(CONFIGS / "caffe.py"))
    assert "over all maps" not in one
