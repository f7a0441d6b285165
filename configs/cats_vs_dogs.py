"""Cats or dogs: AlexNet without groups, for two classes.

Command: alexnet train --config cats_vs_dogs --workdir runs/cats_vs_dogs \
             --config.data.path=/data/cats_vs_dogs
         The folder holds train/cat and train/dog; a tenth is held out as 'val'.
Cost:    60 epochs of 22,500 images: 42,000 steps of 32 images, 6.6 GFLOP each.
Expect:  no published error for this net; a loss that stays at ln 2 = 0.69 means that it does not learn.

Differs from configs/paper.py: one tower, a padding of 2 in the first layer, PyTorch's alpha (divided by
n), the initial weights of the authors' program, Caffe's biases without weight decay, photos rotated
according to EXIF, and learning rates of our choice.
"""

from . import paper


def get_config():
    config = paper.get_config()
    config.name = "cats_vs_dogs"

    model = config.model
    model.num_classes = 2
    model.towers = 1
    model.lrn_constants.alpha = 1e-4 / 5
    model.dropout.scale_at = "train"
    model.convs.conv1.pad = (2, 2)
    for layer in model.convs.values():
        layer.update(groups=1, bias=0.1 if layer.bias else 0.0)
    for name in ("conv3", "conv4", "conv5"):
        model.convs[name].init_std = 0.03  # layers-145.cfg
    for name in ("fc6", "fc7"):
        model.fcs[name].bias = 0.1

    config.data.validation = 0.1
    config.data.exif = "apply"  # photos are rotated upright
    del config.optimizer.bias_weight_decay  # our choice: none, as in the authors' program
    config.schedule.weights = dict(
        kind="epochs", learning_rate=0.001, factor=0.1, drops=(30.0, 50.0)
    )
    config.schedule.bias_factor = 2.0

    train = config.train
    train.epochs = 60.0
    train.batch_size = 32
    train.checkpoint_every = 1000
    config.evaluation.batch_size = 64
    return config
