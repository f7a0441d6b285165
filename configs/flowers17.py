"""Oxford 17 Flowers, split into 1,088 training and 272 test images.

Command: alexnet train --config flowers17:krizhevsky2012 --workdir runs/flowers17 \
             --config.data.path=/data/flowers17
         The variants are paper, krizhevsky2012 and batchnorm. The folder contains train/ and test/.
Cost:    34 steps of 32 images per epoch; 200 epochs, batchnorm 100.
Expect:  no error is published for this split; chance is 94.1 % error. A loss that stays at
         ln 17 = 2.83 means that the network does not learn.

paper is configs/paper.py without weight decay of biases; krizhevsky2012 is
configs/krizhevsky2012.py. Both have learning rates for a small dataset. These changes are our choice.
batchnorm is a network common in Keras tutorials; it shares little but layer sizes with the paper.
"""

from . import krizhevsky2012 as krizhevsky2012_config
from . import paper as paper_config


def get_config(arg="krizhevsky2012"):
    if arg not in VARIANTS:
        raise ValueError(
            f"configs/flowers17.py:NAME needs one of {', '.join(VARIANTS)}, not {arg!r}"
        )
    config = VARIANTS[arg]()
    config.name = f"flowers17:{arg}"
    config.model.num_classes = 17
    train = config.train
    train.batch_size = 32
    train.log_every = 17
    train.checkpoint_every = 340  # 10 epochs
    config.evaluation.every_epochs = 5.0
    config.evaluation.batch_size = 68
    return config


def paper():
    config = paper_config.get_config()
    del config.optimizer.bias_weight_decay  # our choice: no decay, as in the authors' program
    _anneal(config)
    return config


def krizhevsky2012():
    config = krizhevsky2012_config.get_config()
    config.data.shuffle = "epoch"
    config.augment.crop_chunk = 1  # a chunk of 32 images would be the whole batch
    config.augment.color_off_epoch = 150.0
    config.schedule.biases = None
    del config.schedule.layer_factors.conv1
    _anneal(config)
    return config


def batchnorm():
    """Convolution, ReLU, pool, batch normalization; 224x224 center crops in [0, 1]; Adam."""
    config = paper_config.get_config()
    model = config.model
    model.towers = 1
    model.init = "glorot"
    model.dropout.update(rate=0.4, scale_at="train")
    kernels = dict(conv1=11, conv2=11, conv3=3, conv4=3, conv5=3)
    for name, layer in model.convs.items():
        pooled = ("pool",) if "pool" in layer.then else ()
        layer.update(
            kernel=kernels[name],
            pad=(0, 0),
            groups=1,
            bias=0.0,
            then=("act", *pooled, "batch_norm"),
        )
        if pooled:
            layer.pool.update(window=2, stride=2, rounding="floor")
    hidden = dict(
        features=4096, groups=1, init_std=0.01, bias=0.0, before=(),
        then=("act", "dropout", "batch_norm"),
    )  # fmt: skip
    model.fcs = dict(
        fc6=dict(hidden),
        fc7=dict(hidden),
        fc8=dict(hidden, features=1000),
        fc9=dict(features=None, groups=1, init_std=0.01, bias=0.0, before=(), then=()),
    )
    config.augment.update(crop="center", flip=False, mean="none", scale=1 / 255, color_std=0.0)
    config.optimizer.update(kind="adam", weight_decay=0.0)
    del config.optimizer.bias_weight_decay
    config.schedule.weights = dict(kind="epochs", learning_rate=0.001, factor=0.1, drops=())
    config.train.epochs = 100.0
    config.evaluation.final_views = ("center",)
    return config


def _anneal(config):
    """Set a learning rate of 0.01 that drops by 10 at epochs 120 and 170 of 200."""
    config.schedule.weights = dict(
        kind="epochs", learning_rate=0.01, factor=0.1, drops=(120.0, 170.0)
    )
    config.schedule.bias_factor = 2.0
    config.train.epochs = 200.0


VARIANTS = {"paper": paper, "krizhevsky2012": krizhevsky2012, "batchnorm": batchnorm}
