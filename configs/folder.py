"""Your own pictures: the paper's net, adapted to learn from a few thousand images.

Command: alexnet train --config folder --workdir runs/mine \
             --config.data.path=/data/mine
         The folder holds train/ and val/ or test/ (or both), each with a folder per class. Without
         the latter, --config.data.validation=0.2 holds out a fifth of train/.
Cost:    100 epochs of your images, 4.1 GFLOP each, 32 per step.
Expect:  a loss below ln(number of classes) within the first epoch or two (seen with 17 classes of 64
         images: 2.39 after 40 steps); the final error depends on the images.

Differs from configs/paper.py: the classes are counted; photos are rotated according to EXIF; initial
weights of the authors' program and Caffe's biases, with which it learns from the start; no decay of
biases, and learning rates for a small set (our choice).
"""

from ml_collections import config_dict

from . import paper


def get_config():
    config = paper.get_config()
    config.name = "folder"
    begin_quickly(config.model)
    config.model.num_classes = config_dict.placeholder(int)  # counted
    config.data.exif = "apply"  # photos are rotated as the camera was held

    del config.optimizer.bias_weight_decay  # our choice: none, as in the authors' program
    # Drops by epochs, as a plateau would need a validation split.
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
    """Set initial weights that let a signal reach the last layer, and biases small enough not to mask it."""
    for name in ("conv2", "conv3", "conv4", "conv5"):
        model.convs[name].init_std = 0.03  # layers-145.cfg has it in conv3 to conv5
    for row in (*model.convs.values(), *model.fcs.values()):
        row.bias = 0.1 if row.bias else 0.0  # bvlc_alexnet
