"""Every member of every sweep at every scale parses, and differs from its base only as intended."""

import pathlib

import pytest

from alexnet_jax import config
from alexnet_jax.run import resume
from alexnet_jax.specs import Config
from configs import ablations, ladder, scales, sweeps

ROOT = pathlib.Path(__file__).parents[2]
QUICK = ("cifar10", "digits")
CASES = [
    pytest.param(sweep, scale, marks=[] if scale in QUICK else [pytest.mark.full])
    for sweep in sweeps.SWEEPS
    for scale in scales.SCALES
    if sweep != "figure1" or scale in QUICK
]


@pytest.fixture(autouse=True)
def _in_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def load(member: sweeps.Member):
    changes = [f"--config.{key}={value}" for key, value in member.overrides.items()]
    return anywhere(config.load(member.config, changes))


def anywhere(loaded):
    loaded.data.path = "images"
    return loaded


def spec_of(argument: str) -> Config:
    return config.parse(config.load(argument, []), needs_images=False)


@pytest.mark.parametrize(("sweep", "scale"), CASES)
def test_members_parse_and_are_different_runs(sweep, scale):
    members = sweeps.members(sweep, scale)
    configs = [load(member) for member in members]
    for loaded in configs:
        config.parse(loaded)
    assert len({member.name for member in members}) == len(members) > 1
    assert len({resume.identity(loaded) for loaded in configs}) == len(members)


@pytest.mark.parametrize("scale", scales.SCALES)
def test_every_ablation_applies_at_every_scale(scale):
    base = spec_of(f"configs/scales.py:{scale}")
    for name in ablations.ABLATIONS:
        ablation = spec_of(f"configs/ablations.py:{name},{scale}")
        assert (ablation.model, ablation.augment) != (base.model, base.augment), name
        assert (ablation.schedule, ablation.train) == (base.schedule, base.train), name


def test_the_scale_of_imagenet_is_the_authors_net():
    assert spec_of("configs/scales.py:imagenet").model == spec_of("configs/krizhevsky2012.py").model
    ours, theirs = spec_of("configs/scales.py:imagenet"), spec_of("configs/krizhevsky2012.py")
    assert (ours.schedule, ours.train, ours.augment) == (
        theirs.schedule,
        theirs.train,
        theirs.augment,
    )


@pytest.mark.parametrize("scale", [name for name in scales.SCALES if name != "imagenet"])
def test_a_scale_keeps_what_the_net_is_made_of(scale):
    small, full = spec_of(f"configs/scales.py:{scale}"), spec_of("configs/krizhevsky2012.py")
    for (name, ours), (other, theirs) in zip(small.model.convs, full.model.convs, strict=True):
        assert (name, ours.ops, ours.groups, ours.bias) == (
            other,
            theirs.ops,
            theirs.groups,
            theirs.bias,
        )
        fan_ins = [row.kernel**2 * (1 if name == "conv1" else share) for row, share in
                   ((ours, small.model.convs[0][1].features / 96), (theirs, 1))]  # fmt: skip
        pixels = small.augment.scale if name == "conv1" else 1
        stds = (ours.init_std * pixels, theirs.init_std)
        gains = [std * fan_in**0.5 for std, fan_in in zip(stds, fan_ins, strict=True)]
        assert gains[0] == pytest.approx(gains[1]), name
    assert small.model.towers == 2 and small.optimizer == full.optimizer
    factor = small.train.epochs / full.train.epochs
    assert small.schedule.layer_factors["conv1"][1][0] == pytest.approx(72 * factor)
    assert small.augment.color_off_epoch == pytest.approx(67 * factor)


def test_init_has_three_batches_and_shares_the_runs_of_one():
    members = {member.name: member for member in sweeps.members("init", "cifar10")}
    assert len(members) == 27 and next(iter(members)) == "std_003_bias_1"
    for name, member in members.items():
        loaded = load(member)
        _, _, batch = name.partition("_batch_")
        assert loaded.train.batch_size == int(batch or 64), name
        # The mean loss of a line is of as many images in every batch.
        assert loaded.train.batch_size * loaded.train.log_every == sweeps.LOGGED_IMAGES
        assert loaded.schedule.weights.learning_rate == 0.01
    before = anywhere(config.load("configs/scales.py:cifar10", []))
    assert resume.identity(load(members["std_003_bias_1"])) == resume.identity(before)


def test_the_ladder_only_adds():
    names = list(ladder.STEPS)
    last = spec_of(f"configs/ladder.py:{names[-1]},cifar10")
    assert last.model.init == "he" and last.model.towers == 1
    assert all(row.ops[0] == "batch_norm" for _, row in last.model.convs)
    assert last.schedule.weights.kind == "cosine" and last.schedule.biases is None
    assert [name for name, _ in last.model.fcs] == ["fc8"]
    assert last.train.label_smoothing == 0.1
    assert (last.augment.crop, last.augment.crop_chunk) == ("random_resized", 1)
    assert last.augment.min_area == 0.25
    assert spec_of(f"configs/ladder.py:{names[-1]},flowers17").augment.min_area == 0.08


@pytest.mark.parametrize(
    ("sweep", "scale", "words"),
    [
        ("nonsense", "digits", "figure1, ablations"),
        ("pooling", "mnist", "cifar10, digits"),
        ("figure1", "flowers17", "CIFAR-10"),
    ],
)
def test_what_does_not_exist_is_refused_with_what_does(sweep, scale, words):
    with pytest.raises(ValueError, match=words):
        sweeps.members(sweep, scale)
