"""The network that torchvision calls alexnet: "One weird trick" without normalization.

Command: alexnet train --config torchvision --workdir runs/torchvision \
             --config.data.path=/data/imagenet
Cost:    90 epochs of 1,281,167 images: 450,400 steps of 256.
Expect:  43.48 % top-1 and 20.93 % top-5 error on the validation images of 2012, center crop, as
         torchvision's weights. Differences from their recipe are marked.

The layers are torchvision/models/alexnet.py; the recipe is that of references/classification for
AlexNet, from general knowledge: rate 0.01, 32 images on each of 8 devices, decay 1e-4.
"""

import math

from . import paper

FEATURES = dict(conv1=64, conv2=192, conv3=384, conv4=256, conv5=256)


def get_config():
    config = paper.get_config()
    config.name = "torchvision"

    model = config.model
    model.towers = 1
    model.dropout.scale_at = "train"
    model.convs.conv1.pad = (2, 2)
    inputs = 3
    for name, features in FEATURES.items():
        layer = model.convs[name]
        layer.update(features=features, groups=1, then=tuple(o for o in layer.then if o != "lrn"))
        layer.update(init_std=_init_std(inputs * layer.kernel**2), bias=0.0)
        if "pool" in layer.then:
            layer.pool.rounding = "floor"
        inputs = features
    # Dropout comes before the hidden layers, on the pooled maps first.
    model.fcs.fc6.update(
        before=("dropout",), then=("act",), init_std=_init_std(256 * 6 * 6), bias=0.0
    )
    model.fcs.fc7.update(before=("dropout",), then=("act",), init_std=_init_std(4096), bias=0.0)
    model.fcs.fc8.init_std = _init_std(4096)

    # Differs: random 224x224 crops of 256x256, not crops of random size and shape.
    augment = config.augment
    augment.mean = "channel"
    augment.scale = 1 / (255 * 0.226)  # the mean of its three standard deviations
    augment.color_std = 0.0

    config.optimizer.weight_decay = 1e-4
    config.optimizer.bias_weight_decay = 1e-4  # as the weights, by default
    config.schedule.weights = dict(
        kind="epochs", learning_rate=0.01, factor=0.1, drops=(30.0, 60.0)
    )
    config.train.batch_size = 256
    config.evaluation.final_views = ("center",)
    return config


def _init_std(fan_in):
    """Return the standard deviation of PyTorch's default weights, which are uniform in +-1/sqrt(fan_in).

    Differs: weights are drawn from a Gaussian here, and biases, which are uniform there too, are zero.
    """
    return 1 / math.sqrt(3 * fan_in)
