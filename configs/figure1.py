"""Figure 1: a four-layer net learns CIFAR-10 faster with ReLUs than with tanh.

Command: alexnet train --config figure1:relu --workdir runs/figure1_relu \
             --config.data.path=/data/cifar-10-batches-bin
         or --config figure1:tanh; for class folders add --config.data.source=folder.
Cost:    40 epochs of 50,000 images of 32x32 with 12 million multiply-adds.
Expect:  25 % training error about six times sooner with relu than with tanh (§3.1).

The paper does not give the net, the learning rates or the preprocessing. Inferred: the authors' 18 %
net (three convolutions and the output layer) without its normalization; no weight decay, crops,
flips or dropout ("no regularization of any kind").
"""

from . import cifar10

# "The learning rates for each network were chosen independently to make training as fast as
# possible"; the paper does not give them. Measured over 15 epochs, 0.002 is the fastest of 0.001,
# 0.002 and 0.004 for ReLUs, and the faster of 0.001 and 0.002 for tanh.
LEARNING_RATES = dict(relu=0.002, tanh=0.002)


def get_config(arg="relu"):
    if arg not in LEARNING_RATES:
        raise ValueError(
            f"configs/figure1.py:NAME: unknown {arg!r}; known: {', '.join(LEARNING_RATES)}"
        )
    config = cifar10.get_config("18pct")
    config.name = f"figure1:{arg}"
    config.model.activation = arg
    config.model.convs.conv1.then = ("pool", "act")
    config.model.convs.conv2.then = ("act", "pool")
    for name in ("conv1", "conv2", "conv3", "fc4"):
        config.optimizer.layer_weight_decay[name] = 0.0
    # A constant rate, because the figure compares the times to 25 % training error.
    config.schedule.weights = dict(
        kind="epochs", learning_rate=LEARNING_RATES[arg], factor=0.1, drops=()
    )
    config.train.epochs = 40.0
    return config
