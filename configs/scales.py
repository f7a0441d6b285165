"""The authors' net, reduced for smaller datasets: the base of the sweeps.

Command: alexnet train --config scales:cifar10 --workdir runs/base \
             --config.data.path=/data/cifar10
         The variants are the functions below; ablations:no_lrn,cifar10 removes a part.
Cost:    imagenet as configs/krizhevsky2012.py; the others as given in their docstrings.
Expect:  imagenet as configs/krizhevsky2012.py; there are no published results for the others.

A scale keeps all parts of the authors' net: five convolutions, two towers that are connected in conv3
and in the fully-connected layers, two kinds of response normalization, overlapping pools, dropout,
crops, color noise, and the schedule with all its changes in the same proportions. It has fewer maps and
units, and smaller kernels. Where a layer has n times fewer inputs, its initial weights are sqrt(n) times
larger, so that activations are as large as in the full net with standard deviations 0.01 and 0.03.
"""

from ml_collections import config_dict

from . import krizhevsky2012


def get_config(arg="cifar10"):
    config = krizhevsky2012.get_config()
    shrink(config, arg)
    config.name = f"scales:{arg}"
    return config


def shrink(config, scale):
    """Reduce `config`, the authors' net or an ablation of it, to a scale."""
    if scale not in SCALES:
        raise ValueError(f"unknown scale {scale!r}; known: {', '.join(SCALES)}")
    SCALES[scale](config)
    if config.augment.crop == "random_resized" and config.data.image_size == 32:
        config.augment.min_area = 0.25  # 0.08 would be 9x9 pixels
    # Give each schedule all its keys, so that sweeps can override them.
    for schedule in filter(None, (config.schedule.weights, config.schedule.biases)):
        schedule.update(max_drops=3, patience=5, min_improvement=0.001, target=1.0, plateaus=1)


def imagenet(config):
    """Not reduced: 91 epochs of 1,281,167 images."""


def tiny_imagenet(config):
    """100,000 images of 64x64 in a hundred classes or more: half of the maps, crops of 48x48.

    25 million multiply-adds per image, 40 epochs.
    """
    config.model.num_classes = config_dict.placeholder(int)  # counted in the data
    _narrow(config.model, convs=1 / 2, fcs=1 / 4, kernels=dict(conv1=7))
    config.model.convs.conv1.update(stride=2, pad=(1, 2))
    config.data.image_size = 64
    config.augment.crop_size = 48
    _shorten(config, 40.0, drops=(25.0, 35.0))
    config.evaluation.batch_size = 250


def flowers17(config):
    """1,088 images of 256x256: a quarter of the maps, 61 million multiply-adds per image, 120 epochs."""
    config.model.num_classes = 17
    _narrow(config.model, convs=1 / 4, fcs=1 / 8, kernels={}, side=13)
    _shorten(config, 120.0, drops=(80.0, 108.0))
    config.train.batch_size = 32
    config.train.log_every = 17
    config.evaluation.every_epochs = 10.0
    config.evaluation.batch_size = 68


def cifar10(config):
    """50,000 images of 32x32 in ten classes, cropped to 24x24: 1.9 million multiply-adds per image, 7 epochs.

    A run takes 4.7 minutes on one core of an AMD EPYC (AVX2), including startup and evaluations. With
    seed 0 it reached 39.6 % test error, on images decoded from JPEG of quality 75 (2026-11-22).
    """
    config.model.num_classes = 10
    _narrow(config.model, convs=1 / 8, fcs=1 / 16, kernels=dict(conv1=5))
    config.model.convs.conv1.update(stride=1, pad=(1, 2))
    # Makes the first layer learn 16 times more slowly; with raw pixels it would limit the learning rate.
    config.augment.scale = 1 / 4
    config.model.convs.conv1.init_std *= 4
    config.model.dropout.rate = 0.2  # few units and few epochs: 0.5 underfits
    config.data.source = "cifar10"
    config.data.image_size = 32
    config.augment.crop_size = 24
    _shorten(config, 7.0, drops=(5.0, 6.3))
    config.train.batch_size = 64
    config.train.log_every = 100
    config.evaluation.batch_size = 500
    config.evaluation.every_epochs = 1.0
    config.evaluation.final_views = ("center",)


def digits(config):
    """1,438 images that come with scikit-learn, for tests: a run takes a few seconds, plus compilation."""
    config.model.num_classes = 10
    _narrow(config.model, convs=1 / 16, fcs=1 / 64, kernels=dict(conv1=5))
    config.model.convs.conv1.update(stride=1, pad=(1, 2))
    config.data.source = "digits"
    config.data.image_size = 32
    config.augment.crop_size = 24
    config.augment.flip = False  # a mirrored digit is not a digit
    _shorten(config, 4.0, drops=(3.0,))
    config.train.batch_size = 32
    config.train.log_every = 15
    config.train.checkpoint_every = 45
    config.evaluation.every_epochs = 2.0
    config.evaluation.batch_size = 359
    config.evaluation.final_views = ("center",)


def _narrow(model, *, convs, fcs, kernels, side=5):
    """Keep the fraction `convs` of the maps and `fcs` of the units; maps of conv3 to conv5 are side x side."""
    inputs_per_map = (side // 2) ** 2  # of fc6
    for name, layer in model.convs.items():
        kernel = kernels.get(name, layer.kernel)
        inputs = 1 if name == "conv1" else convs
        layer.init_std *= layer.kernel / kernel / inputs**0.5
        layer.update(features=round(layer.features * convs), kernel=kernel)
        if "pool" in layer.then and layer.pool.kind == "average":  # global pooling
            layer.pool.update(window=side, stride=side)
    for name, layer in model.fcs.items():
        inputs = convs * inputs_per_map / 36 if name == "fc6" else fcs
        layer.init_std /= inputs**0.5
        if layer.features is not None:
            layer.features = round(layer.features * fcs)


def _shorten(config, epochs, drops):
    """Train for `epochs` with rate drops after the epochs `drops`; scale the epochs of all other changes."""
    factor = epochs / config.train.epochs
    config.train.epochs = epochs
    config.augment.color_off_epoch *= factor
    config.schedule.weights.drops = drops
    for name, changes in config.schedule.layer_factors.items():
        scaled = tuple((epoch * factor, by) for epoch, by in changes)
        config.schedule.layer_factors[name] = scaled
    config.data.shuffle = "epoch"
    config.augment.crop_chunk = 1  # chunks of 32 images are too large for small batches


SCALES = {
    function.__name__: function
    for function in (imagenet, tiny_imagenet, flowers17, cifar10, digits)
}
