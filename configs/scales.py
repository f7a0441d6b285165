"""The authors' net, reduced to smaller sets of pictures: the base of sweeps.

Command: alexnet train --config scales:cifar10 --workdir runs/base \
             --config.data.path=/data/cifar10
         The variants are the functions below; ablations:no_lrn,cifar10 removes a part.
Cost:    imagenet as configs/krizhevsky2012.py; the others as given in their docstrings.
Expect:  imagenet as configs/krizhevsky2012.py; nothing was published for the others.

A scale keeps all parts of the authors' net: five convolutions, two towers that are connected in conv3 and
in the fully-connected layers, two kinds of response normalization, overlapping pools, dropout, crops,
color noise, and the schedule with all its changes in the same proportions. Maps and units are
fewer and kernels smaller. Initial weights grow with the square root of the reduction of inputs, so that the
signal in each layer is as strong as in the full net with 0.01 and 0.03.
"""

from ml_collections import config_dict

from . import krizhevsky2012


def get_config(arg="cifar10"):
    config = krizhevsky2012.get_config()
    shrink(config, arg)
    config.name = f"scales:{arg}"
    return config


def shrink(config, scale):
    """Reduce `config`, the authors' net with or without a part, to `scale`."""
    if scale not in SCALES:
        raise ValueError(f"the scale is one of {', '.join(SCALES)}, not {scale!r}")
    SCALES[scale](config)
    if config.augment.crop == "random_resized" and config.data.image_size == 32:
        config.augment.min_area = 0.25  # 0.08 would be 9x9 pixels
    # All keys of a rate, so that sweeps can set them.
    for rate in filter(None, (config.schedule.weights, config.schedule.biases)):
        rate.update(max_drops=3, patience=5, min_improvement=0.001, target=1.0, plateaus=1)


def imagenet(config):
    """Not reduced: 91 epochs of 1,281,167 images."""


def tiny_imagenet(config):
    """100,000 pictures of 64x64 in a hundred or more classes: half the maps, crops of 48x48.

    25 million multiply-adds per image, 40 epochs.
    """
    config.model.num_classes = config_dict.placeholder(int)  # counted
    _narrow(config.model, convs=1 / 2, fcs=1 / 4, kernels=dict(conv1=7))
    config.model.convs.conv1.update(stride=2, pad=(1, 2))
    config.data.image_size = 64
    config.augment.crop_size = 48
    _hasten(config, 40.0, drops=(25.0, 35.0))
    config.evaluation.batch_size = 250


def flowers17(config):
    """1,088 flowers of 256x256: a quarter of the maps, 61 million multiply-adds, 120 epochs."""
    config.model.num_classes = 17
    _narrow(config.model, convs=1 / 4, fcs=1 / 8, kernels={}, side=13)
    _hasten(config, 120.0, drops=(80.0, 108.0))
    config.train.batch_size = 32
    config.train.log_every = 17
    config.evaluation.every_epochs = 10.0
    config.evaluation.batch_size = 68


def cifar10(config):
    """50,000 pictures of 32x32 in ten classes, cut to 24x24: 1.9 million multiply-adds, 7 epochs.

    A run takes 4.7 minutes of one core of an AMD EPYC (AVX2), start and evaluations included. One
    with seed 0 ended at 39.6 % test error, on images that had been JPEG of quality 75 (2026-11-22).
    """
    config.model.num_classes = 10
    _narrow(config.model, convs=1 / 8, fcs=1 / 16, kernels=dict(conv1=5))
    config.model.convs.conv1.update(stride=1, pad=(1, 2))
    # The first layer learns 16 times more slowly; at raw pixels it limits the rate of the others.
    config.augment.scale = 1 / 4
    config.model.convs.conv1.init_std *= 4
    config.model.dropout.rate = 0.2  # few units and few epochs: 0.5 underfits
    config.data.source = "cifar10"
    config.data.image_size = 32
    config.augment.crop_size = 24
    _hasten(config, 7.0, drops=(5.0, 6.3))
    config.train.batch_size = 64
    config.train.log_every = 100
    config.evaluation.batch_size = 500
    config.evaluation.every_epochs = 1.0
    config.evaluation.final_views = ("center",)


def digits(config):
    """1,438 embedded digits, for tests: a few seconds each once compiled."""
    config.model.num_classes = 10
    _narrow(config.model, convs=1 / 16, fcs=1 / 64, kernels=dict(conv1=5))
    config.model.convs.conv1.update(stride=1, pad=(1, 2))
    config.data.source = "digits"
    config.data.image_size = 32
    config.augment.crop_size = 24
    config.augment.flip = False  # a mirrored digit is not a digit
    _hasten(config, 4.0, drops=(3.0,))
    config.train.batch_size = 32
    config.train.log_every = 15
    config.train.checkpoint_every = 45
    config.evaluation.every_epochs = 2.0
    config.evaluation.batch_size = 359
    config.evaluation.final_views = ("center",)


def _narrow(model, *, convs, fcs, kernels, side=5):
    """Keep the share `convs` of the maps and `fcs` of the units; conv3 to conv5 are `side` wide."""
    places = (side // 2) ** 2  # inputs of fc6 per map
    for name, row in model.convs.items():
        kernel = kernels.get(name, row.kernel)
        inputs = 1 if name == "conv1" else convs
        row.init_std *= row.kernel / kernel / inputs**0.5
        row.update(features=round(row.features * convs), kernel=kernel)
        if "pool" in row.then and row.pool.kind == "average":  # of a whole map
            row.pool.update(window=side, stride=side)
    for name, row in model.fcs.items():
        inputs = convs * places / 36 if name == "fc6" else fcs
        row.init_std /= inputs**0.5
        if row.features is not None:
            row.features = round(row.features * fcs)


def _hasten(config, epochs, drops):
    """Lower the rates after `drops`; scale all other changes during training to `epochs`."""
    factor = epochs / config.train.epochs
    config.train.epochs = epochs
    config.augment.color_off_epoch *= factor
    config.schedule.weights.drops = drops
    for name, changes in config.schedule.layer_factors.items():
        scaled = tuple((epoch * factor, by) for epoch, by in changes)
        config.schedule.layer_factors[name] = scaled
    config.data.shuffle = "epoch"
    config.augment.crop_chunk = 1  # for batches of a few images, 32 are too many


SCALES = {
    function.__name__: function
    for function in (imagenet, tiny_imagenet, flowers17, cifar10, digits)
}
