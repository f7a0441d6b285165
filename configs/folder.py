"""Your own pictures: a small trained network for up to 10,000 images, the paper's network for more.

Command: alexnet train --config folder --workdir runs/mine \
             --config.data.path=/data/mine
         The folder contains train/ and val/ or test/ (or both), each with a folder per class, or the
         folders of the classes alone. Without val/, --config.data.validation=0.2 holds out a fifth.
         The variants are small and full; without one, the number of training images decides.
Cost:    small: 80 epochs of your images, or 250 steps if that is more; 0.1 GFLOP each, 32 per step.
         full: 100 epochs, 4.1 GFLOP each.
Expect:  small: docs/results/2026-11-27-own-pictures.md. full: a loss below ln(number of classes)
         within the first epoch or two (seen with 17 classes of 64 images: 2.39 after 40 steps). The
         final error depends on the images.

Both differ from configs/paper.py: the classes are counted; photos are rotated by their EXIF
orientation; no decay of biases, and learning rates for a small dataset (our choice). full has the
initial weights of the authors' program and Caffe's biases, which make the loss fall from the start.
small has 64x64 images, a fortieth of the multiply-adds, batch normalization, and begins
from weights that configs/tiny_imagenet.py:start gave.
"""

from ml_collections import config_dict

from . import paper

#: Training images from which the paper's net is the default.
MANY = 10_000


def get_config(arg="full"):
    if arg not in VARIANTS:
        raise ValueError(f"configs/folder.py:NAME needs one of {', '.join(VARIANTS)}, not {arg!r}")
    config = paper.get_config()
    config.name = "folder" if arg == "full" else f"folder:{arg}"
    config.model.num_classes = config_dict.placeholder(int)  # counted from the data
    config.data.exif = "apply"

    del config.optimizer.bias_weight_decay  # our choice: no decay, as in the authors' program
    config.schedule.bias_factor = 2.0

    train = config.train
    train.batch_size = 32
    train.log_every = 20
    train.checkpoint_every = 500
    config.evaluation.batch_size = 64
    VARIANTS[arg](config)
    return config


def choose(images):
    """Return the variant for a number of training images (None: unknown), and the reason in one line."""
    limit = f"the default below {MANY:,}"
    if images is None:
        return "full", (
            f"the net of folder:full; if the training images are counted, folder:small is {limit}"
        )
    if images < MANY:
        return "small", (
            f"{images:,} training images: the small net, {limit}; --config folder:full is the paper's"
        )
    return "full", f"{images:,} training images: the paper's net; --config folder:small is {limit}"


def full(config):
    """The paper's network, from random weights."""
    begin_quickly(config.model)
    # Drops at fixed epochs, because detecting a plateau needs a validation split.
    config.schedule.weights = dict(
        kind="epochs", learning_rate=0.005, factor=0.1, drops=(60.0, 85.0)
    )
    config.train.epochs = 100.0


def small(config):
    """A network of 0.9 million parameters, from weights trained on Tiny ImageNet."""
    shrink(config)
    config.train.update(epochs=80.0, min_steps=250, patience=0.4, init_from="tiny_imagenet")
    config.evaluation.every_epochs = 4.0


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
    config.schedule.weights = dict(kind="cosine", learning_rate=0.01)
    config.schedule.bias_factor = 2.0


VARIANTS = {"small": small, "full": full}
