"""Caffe's AlexNet models: bvlc_alexnet, and bvlc_reference_caffenet, which pools before LRN.

Command: alexnet train --config caffe:alexnet --workdir runs/caffe \
             --config.data.path=/data/imagenet
         or --config caffe:caffenet
Cost:    450,000 steps of 256 images, 90 epochs.
Expect:  on the 2012 validation images, center crop: 42.9 % top-1 and 19.8 % top-5 error (alexnet),
         42.6 % and 19.6 % (caffenet).

The values are from models/bvlc_*/{train_val,solver}.prototxt and from the defaults in caffe.proto.
Differs from Caffe: images are resized by their shorter side instead of stretched to 256x256.
"""

from . import paper

EPOCH = 1_281_167 / 256  # iterations


def get_config(arg="alexnet"):
    if arg not in VARIANTS:
        raise ValueError(f"configs/caffe.py:NAME needs one of {', '.join(VARIANTS)}, not {arg!r}")
    config = paper.get_config()
    config.name = f"caffe:{arg}"

    model = config.model
    model.towers = 1  # lrn_layer.cpp sums over the maps of both groups
    # lrn_layer.cpp divides alpha by the window size, as the authors' program does; k is 1 by default.
    model.lrn_constants = dict(k=1.0, n=5, alpha=1e-4 / 5, beta=0.75)
    model.dropout.scale_at = "train"  # dropout_layer.cpp
    model.convs.conv1.pad = (0, 0)
    for name in ("fc6", "fc7"):
        model.fcs[name].init_std = 0.005
    VARIANTS[arg](model)

    config.augment.crop_size = 227
    config.augment.color_std = 0.0

    del config.optimizer.bias_weight_decay  # decay_mult: 0

    schedule = config.schedule
    # stepsize: 100000
    drops = tuple(iterations / EPOCH for iterations in (100_000, 200_000, 300_000, 400_000))
    schedule.weights = dict(kind="epochs", learning_rate=0.01, factor=0.1, drops=drops)
    schedule.bias_factor = 2.0  # lr_mult: 2
    config.train.batch_size = 256
    config.train.epochs = 450_000 / EPOCH  # max_iter
    config.evaluation.final_views = ("center",)
    return config


def alexnet(model):
    """Biases of 0.1 instead of the paper's 1; with 1 the loss reportedly did not fall."""
    for layer in (
        model.convs.conv2,
        model.convs.conv4,
        model.convs.conv5,
        model.fcs.fc6,
        model.fcs.fc7,
    ):
        layer.bias = 0.1


def caffenet(model):
    """Pools before response normalization in the first two layers."""
    model.convs.conv1.then = ("act", "pool", "lrn")
    model.convs.conv2.then = ("act", "pool", "lrn")


VARIANTS = {"alexnet": alexnet, "caffenet": caffenet}
