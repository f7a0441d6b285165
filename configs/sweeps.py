"""Sweeps: sets of configurations (members), at a scale of configs/scales.py, that answer one question.

Command: alexnet sweep ablations --scale cifar10 --out runs/ablations --data /data/cifar10
         The sweeps are the functions below. The command prints the commands of all members;
         --local and --slurm run them, --collect makes the tables.
Cost:    the cost of the scale, times the number of members and seeds.
Expect:  tables with the paper's and the authors' results beside each member (alexnet_jax/config/published.py).

Not a config itself. The first member of a sweep is the base of all comparisons; a member that two
sweeps have in common is trained once.
"""

from typing import NamedTuple

from . import ablations, ladder, scales

#: Images of each line of the log in the sweep `init`.
LOGGED_IMAGES = 1280


class Member(NamedTuple):
    """A configuration that a sweep trains."""

    name: str
    #: Argument of --config.
    config: str
    #: Config key -> value.
    overrides: dict
    seeds: int = 3


def members(sweep: str, scale: str) -> list[Member]:
    """Return the members of a sweep at a scale, the base first. Raises ValueError."""
    for kind, name, known in (("sweep", sweep, SWEEPS), ("scale", scale, scales.SCALES)):
        if name not in known:
            raise ValueError(f"unknown {kind} {name!r}; known: {', '.join(known)}")
    return SWEEPS[sweep](scale)


def figure1(scale):
    """§3.1, Figure 1: ReLU against tanh, each at several learning rates; compare the fastest run of each.

    At scale cifar10, all runs together take 224 epochs of 50,000 images, 12 million multiply-adds per image.
    """
    if scale not in ("cifar10", "digits"):
        raise ValueError(
            "the sweep figure1 trains a net for CIFAR-10: use --scale cifar10 or digits"
        )
    epochs, settings = dict(relu=16.0, tanh=40.0), {"evaluation.every_epochs": 8.0}
    if scale == "digits":
        epochs = dict(relu=10.0, tanh=20.0)
        settings |= {"data.source": "digits", "train.log_every": 11, "evaluation.batch_size": 359}
    return [
        Member(
            f"{activation}_{rate}",
            f"configs/figure1.py:{activation}",
            settings | {"train.epochs": epochs[activation], "schedule.weights.learning_rate": rate},
            seeds=1,
        )
        for activation in epochs
        for rate in (0.0005, 0.001, 0.002, 0.004)
    ]


def ablations_of_the_paper(scale):
    """All ablations of configs/ablations.py."""
    return [_base(scale), *(_ablation(name, scale) for name in ablations.ABLATIONS)]


def normalization(scale):
    """§3.3: which response normalizations help, with which constants, in which order of operations."""
    return [
        _base(scale),
        _ablation("no_lrn", scale),
        _ablation("lrn_layer1_only", scale),
        _changed("no_spatial", scale, {"convs.conv2.then": ("act", "lrn", "pool")}),
        _changed("spatial_only", scale, {
            "convs.conv1.then": ("pool", "act"), "convs.conv2.then": ("act", "spatial_norm", "pool"),
        }),
        _changed("alpha_of_the_paper", scale, {"lrn_constants.alpha": 1e-4}),
        _changed("alpha_times_25", scale, {"lrn_constants.alpha": 5e-4}),
        _changed("k_1", scale, {"lrn_constants.k": 1.0}),
        _changed("n_3", scale, {"lrn_constants.n": 3}),
        _changed("n_9", scale, {"lrn_constants.n": 9}),
        _changed("act_lrn_pool", scale, {"convs.conv1.then": ("act", "lrn", "pool")}),
        _changed("act_pool_lrn", scale, {
            "convs.conv1.then": ("act", "pool", "lrn"),
            "convs.conv2.then": ("act", "pool", "lrn", "spatial_norm"),
        }),
        _changed("batch_norm", scale, {
            "convs.conv1.then": ("batch_norm", "pool", "act"),
            "convs.conv2.then": ("batch_norm", "act", "pool"),
        }),
    ]  # fmt: skip


def init(scale):
    """§5: initial weights (0.03 in conv3 to conv5, 0.01 everywhere, or He's) by biases (1, 0.1, 0) by batch size.

    Batches of a quarter of that of the scale, of that itself, and of four times it, all at the rates of the scale: what
    a run is in which train.batch_size alone is changed. Members without "batch" in their name have that of the scale.
    --collect also says which runs leave the plateau of the loss at ln(classes), and when.
    """
    layers = ("convs.conv2", "convs.conv4", "convs.conv5", "fcs.fc6", "fcs.fc7")
    base = scales.get_config(scale).train.batch_size
    found = []
    for batch in (base, base // 4, 4 * base):
        # A loss is the mean over as many images in every batch: whether it left must not depend on its noise.
        sizes = {"train.log_every": max(1, LOGGED_IMAGES // batch)}
        suffix = ""
        if batch != base:
            sizes["train.batch_size"], suffix = batch, f"_batch_{batch}"
        for name, config, overrides in (
            ("003", f"configs/scales.py:{scale}", {}),
            ("001", f"configs/ablations.py:init_001,{scale}", {}),
            ("he", f"configs/scales.py:{scale}", {"model.init": "he"}),
        ):
            for bias in (1.0, 0.1, 0.0):
                biases = {f"model.{layer}.bias": bias for layer in layers} if bias < 1 else {}
                member = f"std_{name}_bias_{bias:g}{suffix}"
                found.append(Member(member, config, overrides | biases | sizes))
    return found


def pooling(scale):
    """§3.4: overlap, size and kind of the pools."""
    pools = [f"convs.{name}.pool" for name in ("conv1", "conv2", "conv5")]
    return [
        _base(scale),
        _ablation("non_overlapping_pooling", scale),
        _changed("window_2", scale, {f"{pool}.window": 2 for pool in pools}),
        _changed("window_4", scale, {f"{pool}.window": 4 for pool in pools}),
        _changed("average", scale, {f"{pool}.kind": "average" for pool in pools}),
    ]


def towers(scale):
    """§3.2: two towers that meet in conv3, never, everywhere, or only one."""
    joined = {f"convs.{name}.groups": 1 for name in ("conv2", "conv4", "conv5")}
    return [
        _base(scale),
        _ablation("one_tower", scale),
        _ablation("no_communication", scale),
        _changed("joined", scale, joined),
        _changed("joined_and_lrn_across", scale, joined | {"towers": 1}),
        _changed("lrn_across", scale, {"towers": 1}),
    ]


def schedule(scale):
    """§5: learning rates lowered at given epochs, at a plateau of the error, or by a formula of the 2012 program."""
    epochs = scales.get_config(scale).train.epochs
    kind, weights = "schedule.weights.kind", "schedule.weights."
    plateau = {kind: "plateau", "evaluation.every_epochs": epochs / 30}
    if scale != "imagenet":  # on ImageNet, the authors watched the error on the validation images
        plateau["data.validation"] = 0.1
    dexp = {kind: "dexp", weights + "target": 250.0, weights + "plateaus": 4}  # experiment #170
    biases = {"schedule.biases.kind": "dexp", "schedule.biases.target": 10.0,
              "schedule.biases.plateaus": 2}  # fmt: skip
    base = f"configs/scales.py:{scale}"
    return [
        _base(scale),
        Member("constant", base, {weights + "drops": ()}),
        Member("plateau", base, plateau),
        Member("dexp", base, dexp | biases),
        Member("exp", base, {kind: "exp", weights + "target": 1000.0}),
        Member("linear", base, {kind: "linear", weights + "target": 1000.0}),
        Member("cosine", base, {kind: "cosine"}),
    ]


def large_batch(scale):
    """You et al. (2017): the rule of §5 and LARS in batches of 128 to 4,096, for the same number of epochs.

    Both have the schedule of configs/lars.py, a warm-up and a polynomial, and the rates and decays of §5. Compare the
    best of the three rates of each rule in each batch. For the rule of §5 they are around k times the rate of the
    scale, for k times its batch ("One weird trick", Krizhevsky, 2014); for LARS around 4 times the square root of the
    batch over 512, which includes those of the paper (2 at 512, 10 at 4,096).

    At scale cifar10, all 30 runs take 210 epochs, 2.4 hours of one core of an AMD EPYC (AVX2).
    """
    base = scales.get_config(scale)
    batches = (32, 128, 512) if scale in ("digits", "flowers17") else (128, 512, 1024, 2048, 4096)
    weights, logged = "schedule.weights.", base.train.log_every * base.train.batch_size
    per_image = base.schedule.weights.learning_rate / base.train.batch_size
    common = {
        weights + "kind": "poly",
        weights + "warmup_epochs": base.train.epochs / 10,  # of the paper's 100 epochs, 2 to 5
        "schedule.biases": None,
        "schedule.bias_factor": 2.0,
    }
    found = []
    for batch in batches:
        centers = {"momentum": per_image * batch, "lars": 4.0 * (batch / 512) ** 0.5}
        sizes = {"train.batch_size": batch, "train.log_every": max(logged // batch, 1)}
        for kind, center in centers.items():
            for factor in (0.5, 1.0, 2.0):
                rate = float(f"{center * factor:.2g}")
                changes = {"optimizer.kind": kind, weights + "learning_rate": rate}
                name = f"{kind}_{batch}_{rate:g}"
                config = f"configs/scales.py:{scale}"
                found.append(Member(name, config, common | sizes | changes, seeds=1))
    return found


def from_2012_to_today(scale):
    """All steps of configs/ladder.py, each added to those before it."""
    steps = [Member(name, f"configs/ladder.py:{name},{scale}", {}) for name in ladder.STEPS]
    return [_base(scale), *steps]


def _base(scale):
    return Member("base", f"configs/scales.py:{scale}", {})


def _ablation(name, scale):
    return Member(name, f"configs/ablations.py:{name},{scale}", {})


def _changed(name, scale, overrides):
    """Return a member that is the base with other values for keys of config.model."""
    changes = {f"model.{key}": value for key, value in overrides.items()}
    return Member(name, f"configs/scales.py:{scale}", changes)


SWEEPS = {
    "figure1": figure1,
    "ablations": ablations_of_the_paper,
    "normalization": normalization,
    "init": init,
    "pooling": pooling,
    "towers": towers,
    "schedule": schedule,
    "large_batch": large_batch,
    "ladder": from_2012_to_today,
}
