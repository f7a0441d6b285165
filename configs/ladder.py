"""From 2012 to today: the authors' net with modern changes, each on top of those before.

Command: alexnet train --config ladder:batch_norm,cifar10 --workdir runs/batch_norm \
             --config.data.path=/data/cifar10
         The variants are the functions below; each includes all before it. Without a scale of
         configs/scales.py it is the net for ImageNet.
Cost:    as the scale; from one_tower on, convolutions have up to twice the multiply-adds.
Expect:  no published errors for these variants.

Each change replaces what the net of 2012 had in its place. Learning rates are not retuned.
"""

from . import krizhevsky2012, scales


def get_config(arg="he_init"):
    name, _, scale = arg.partition(",")
    if name not in STEPS:
        raise ValueError(f"configs/ladder.py:NAME needs one of {', '.join(STEPS)}, not {name!r}")
    config = krizhevsky2012.get_config()
    names = list(STEPS)
    for step in names[: names.index(name) + 1]:
        STEPS[step](config)
    if scale:
        scales.shrink(config, scale)
    config.name = f"ladder:{arg}"
    return config


def he_init(config):
    """He et al. (2015): variance 2 / inputs, biases of 0."""
    config.model.init = "he"
    for row in (*config.model.convs.values(), *config.model.fcs.values()):
        row.bias = 0.0


def batch_norm(config):
    """Ioffe and Szegedy (2015): after each convolution, instead of both response normalizations."""
    for row in config.model.convs.values():
        row.then = ("batch_norm", *(o for o in row.then if o not in ("lrn", "spatial_norm")))


def one_tower(config):
    """One GPU is enough: every map is computed from all maps below."""
    config.model.towers = 1
    for row in config.model.convs.values():
        row.groups = 1


def equal_rates(config):
    """Biases have the rate of the weights, the first layer learns to the end, and color noise stays on."""
    config.schedule.biases = None
    del config.schedule.layer_factors.conv1
    config.augment.color_off_epoch = config.train.epochs


def cosine(config):
    """Loshchilov and Hutter (2017): half a cosine instead of drops."""
    config.schedule.weights.kind = "cosine"


def global_pooling(config):
    """Lin et al. (2014): the last maps are averaged; both hidden layers are removed, and dropout with them."""
    del config.model.fcs.fc6, config.model.fcs.fc7
    config.model.convs.conv5.then = ("batch_norm", "act", "pool")
    config.model.convs.conv5.pool = dict(kind="average", window=13, stride=13, rounding="ceil")


def label_smoothing(config):
    """Szegedy et al. (2016): a tenth of each label is spread over all classes."""
    config.train.label_smoothing = 0.1


def random_resized_crop(config):
    """Szegedy et al. (2015): crops of random size and shape, one per image, resized."""
    config.augment.update(crop="random_resized", crop_chunk=1, min_area=0.08)


STEPS = {
    function.__name__: function
    for function in (
        he_init,
        batch_norm,
        one_tower,
        equal_rates,
        cosine,
        global_pooling,
        label_smoothing,
        random_resized_crop,
    )
}
