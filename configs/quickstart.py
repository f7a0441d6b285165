"""AlexNet in a minute: 1,797 handwritten digits that come with scikit-learn, on any computer.

Command: alexnet train --config quickstart --workdir runs/quickstart
Cost:    20 epochs of 1,438 images, 449 steps: well under a minute on two CPU cores.
Expect:  about 1 % error on the 359 test images, center crop (0.6 to 1.4 % with seeds 0 to 2).

The layers, towers, normalization, overlapping pools, crops, dropout and update rule of
configs/paper.py, with few and small maps. Sizes, learning rates and no decay of biases are our choice.
"""

from . import paper


def get_config():
    config = paper.get_config()
    config.name = "quickstart"

    model = config.model
    model.num_classes = 10
    model.convs.conv1.update(features=32, stride=2, pad=(4, 5))
    for name, features in (("conv2", 64), ("conv3", 96), ("conv4", 96), ("conv5", 64)):
        model.convs[name].features = features
    model.convs.conv2.update(kernel=3, pad=(1, 1))
    for name in ("fc6", "fc7"):
        model.fcs[name].features = 256
    for name, layer in (*model.convs.items(), *model.fcs.items()):
        layer.bias = 0.1 if layer.bias else 0.0  # bvlc_alexnet
        # Near He's values for these sizes. 0.01 (§5) in conv1 alone, so that its kernels show what is learned and
        # not the colors of their initial values, which gray digits never change.
        layer.init_std = 0.01 if name == "conv1" else 0.1

    config.data.source = "digits"  # 8x8 digits, enlarged
    config.data.image_size = 32
    augment = config.augment
    augment.crop_size = 28
    augment.flip = False  # a mirrored digit is not a digit
    augment.scale = 1 / 64
    augment.color_std = 0.0  # the images are gray

    del config.optimizer.bias_weight_decay  # our choice: none, as in the authors' program
    config.schedule.weights = dict(kind="epochs", learning_rate=0.02, factor=0.1, drops=(16.0,))
    train = config.train
    train.epochs = 20.0
    train.batch_size = 64
    train.log_every = 20
    train.checkpoint_every = 200
    evaluation = config.evaluation
    evaluation.every_epochs = 4.0
    evaluation.batch_size = 180
    evaluation.final_views = ("center",)
    return config
