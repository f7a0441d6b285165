"""Your own pictures: the paper's network, adapted to datasets of a few thousand images.

Command: alexnet train --config folder --workdir runs/mine \
             --config.data.path=/data/mine
         The folder contains train/ and val/ or test/ (or both), each with a folder per class. With
         train/ only, --config.data.validation=0.2 holds out a fifth of its images.
Cost:    100 epochs of your images, 4.1 GFLOP each, 32 per step.
Expect:  a loss below ln(number of classes) within the first epoch or two (seen with 17 classes of 64
         images: 2.39 after 40 steps); the final error depends on the images.

Differs from configs/paper.py: the classes are counted; photos are rotated by their EXIF orientation;
the initial weights of the authors' program and Caffe's biases make the loss fall from the start; no
decay of biases, and learning rates for a small dataset (our choice).
"""

from ml_collections import config_dict

from . import paper


def get_config():
    config = paper.get_config()
    config.name = "folder"
    begin_quickly(config.model)
    config.model.num_classes = config_dict.placeholder(int)  # counted from the data
    config.data.exif = "apply"

    del config.optimizer.bias_weight_decay  # our choice: no decay, as in the authors' program
    # Drops at fixed epochs, because detecting a plateau needs a validation split.
    config.schedule.weights = dict(
        kind="epochs", learning_rate=0.005, factor=0.1, drops=(60.0, 85.0)
    )
    config.schedule.bias_factor = 2.0

    train = config.train
    train.epochs = 100.0
    train.batch_size = 32
    train.log_every = 20
    train.checkpoint_every = 500
    config.evaluation.batch_size = 64
    return config


def begin_quickly(model):
    """Set initial weights large enough, and biases small enough, for the loss to fall from the start."""
    for name in ("conv2", "conv3", "conv4", "conv5"):
        model.convs[name].init_std = 0.03  # layers-145.cfg has it in conv3 to conv5
    for layer in (*model.convs.values(), *model.fcs.values()):
        layer.bias = 0.1 if layer.bias else 0.0  # bvlc_alexnet


def shrink(config):
    """Make the net small: 0.9 million parameters, 19 million multiply-adds per image of 64x64 pixels."""
    model = config.model
    begin_quickly(model)
    model.init = "he"
    model.convs.conv1.update(features=32, kernel=7, stride=2, pad=(1, 2))
    for name, features in (("conv2", 96), ("conv3", 128), ("conv4", 128), ("conv5", 96)):
        model.convs[name].features = features
    for layer in model.convs.values():
        layer.then = ("batch_norm", *(op for op in layer.then if op != "lrn"))
    model.batch_norm.momentum = 0.9
    model.fcs.fc6.features = 512
    model.fcs.fc7.features = 256
    config.data.image_size = 64
    config.augment.crop_size = 56
    config.augment.scale = 1 / 64
    config.schedule.weights = dict(kind="cosine", learning_rate=0.02)
    config.schedule.bias_factor = 2.0
