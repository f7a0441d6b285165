"""From 2012 to today: the authors' net with modern changes, each added to those before it.

Command: alexnet train --config ladder:batch_norm,cifar10 --workdir runs/batch_norm \
             --config.data.path=/data/cifar10
         The variants are the functions below; each includes all before it. Without a scale of
         configs/scales.py the net is the one for ImageNet.
Cost:    as the scale; one_tower and later variants have up to twice the multiply-adds in convolutions.
Expect:  no published errors for these variants.

Each change replaces its counterpart in the net of 2012. Learning rates are not tuned again.
"""

from . import krizhevsky2012, scales


def get_config(arg="he_init"):
    name, _, scale = arg.partition(",")
    if name not in STEPS:
        raise ValueError(f"configs/ladder.py:NAME: unknown {name!r}; known: {', '.join(STEPS)}")
    config = krizhevsky2012.get_config()
    names = list(STEPS)
    for step in names[: names.index(name) + 1]:
        STEPS[step](config)
    if scale:
        scales.shrink(config, scale)
    config.name = f"ladder:{arg}"
    return config


def he_init(config):
    """He et al. (2015): variance 2 / fan-in, biases of 0."""
    config.model.init = "he"
    for layer in (*config.model.convs.values(), *config.model.fcs.values()):
        layer.bias = 0.0


def batch_norm(config):
    """Ioffe and Szegedy (2015): after each convolution, instead of both response normalizations."""
    for layer in config.model.convs.values():
        kept = (op for op in layer.then if op not in ("lrn", "spatial_norm"))
        layer.then = ("batch_norm", *kept)


def one_tower(config):
    """One tower on one GPU: every map is computed from all maps of the layer before."""
    config.model.towers = 1
    for layer in config.model.convs.values():
        layer.groups = 1


def equal_rates(config):
    """The learning rate of the weights for biases too, no slowing of conv1, and color noise to the end."""
    config.schedule.biases = None
    del config.schedule.layer_factors.conv1
    config.augment.color_off_epoch = config.train.epochs


def cosine(config):
    """Loshchilov and Hutter (2017): half a cosine instead of drops."""
    config.schedule.weights.kind = "cosine"


def global_pooling(config):
    """Lin et al. (2014): average pooling of conv5's maps instead of the two hidden layers and their dropout."""
    del config.model.fcs.fc6, config.model.fcs.fc7
    config.model.convs.conv5.then = ("batch_norm", "act", "pool")
    config.model.convs.conv5.pool = dict(kind="average", window=13, stride=13, rounding="ceil")


def label_smoothing(config):
    """Szegedy et al. (2016): a tenth of the probability of each label is spread over all classes."""
    config.train.label_smoothing = 0.1


def random_resized_crop(config):
    """Szegedy et al. (2015): one crop per image, of random size and aspect ratio, resized."""
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
