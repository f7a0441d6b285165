"""100 classes of 64x64 images: the paper's network on enlarged images, or smaller networks.

Command: alexnet train --config tiny_imagenet:small --workdir runs/tiny \
             --config.data.path=/data/tiny-imagenet-100
         The variants are small, full and start. The folder contains train/ and val/.
Cost:    391 steps of 128 images per epoch, 38 million multiply-adds per image (small) or 721 (full).
         small took 7 CPU milliseconds per image, so two epochs should take 6 minutes on two cores.
Expect:  the loss of small falls below ln 100 = 4.61 (chance) after about 100 steps (seen with one
         seed).

small has the five convolutions, two towers, normalization and pools of configs/paper.py, with half the
feature maps and a first layer for crops of 56x56: maps are 27, 13, 6 and 3 wide (our choice).
"""

from . import folder, paper


def get_config(arg="small"):
    if arg not in VARIANTS:
        raise ValueError(
            f"configs/tiny_imagenet.py:NAME needs one of {', '.join(VARIANTS)}, not {arg!r}"
        )
    config = paper.get_config()
    config.name = f"tiny_imagenet:{arg}"
    config.model.num_classes = 100
    config.data.image_size = 64
    del config.optimizer.bias_weight_decay  # our choice: no decay, as in the authors' program
    config.train.checkpoint_every = 1000
    VARIANTS[arg](config)
    return config


def full(config):
    """The paper's network: images are enlarged to 256x256 on the device, with random 224x224 crops."""
    folder.begin_quickly(config.model)
    config.augment.resize = 256


def small(config):
    """A network of half the width for 56x56 crops."""
    model = config.model
    folder.begin_quickly(model)
    model.convs.conv1.update(features=48, kernel=7, stride=2, pad=(1, 2))
    for name, features in (("conv2", 128), ("conv3", 192), ("conv4", 192), ("conv5", 128)):
        model.convs[name].features = features
    for name in ("fc6", "fc7"):
        model.fcs[name].update(features=1024, init_std=0.03)
    model.fcs.fc8.init_std = 0.03

    config.augment.crop_size = 56
    config.schedule.weights = dict(
        kind="epochs", learning_rate=0.01, factor=0.1, drops=(25.0, 35.0)
    )
    config.schedule.bias_factor = 2.0
    config.train.epochs = 40.0
    config.train.log_every = 50
    config.evaluation.batch_size = 250


def start(config):
    """The net of configs/folder.py:small, whose shipped weights come from this variant."""
    folder.shrink(config)
    config.model.dropout.rate = 0.2  # few epochs of many images: 0.5 underfits
    config.schedule.weights.learning_rate = 0.02
    config.train.epochs = 12.0
    config.train.batch_size = 64
    config.train.log_every = 50
    config.evaluation.batch_size = 250
    config.evaluation.final_views = ("center",)


VARIANTS = {"small": small, "full": full, "start": start}
