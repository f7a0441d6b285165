"""Hybrid parallelism: Krizhevsky (2014), "One weird trick for parallelizing convolutional neural networks".

Command: alexnet train --config one_weird_trick:1024 --workdir runs/one_weird_trick \
             --config.data.path=/data/imagenet
         The variants are batch sizes: 128, 256, 512 and 1024, for 1, 2, 4 and 8 devices.
Cost:    90 epochs of 1,281,167 images: 900,800 steps of 128, 112,600 of 1,024.
Expect:  top-1 error on the validation images of 2012, center crop (Table 1): 42.33 % (128),
         42.63 % (256), 42.59 % (512), 43.28 % (1024); 1.95, 3.74 and 6.25 times as fast on 2, 4 and
         8 GPUs (K20) as on one.

Convolutions are computed on the examples of each device, fully-connected layers on the units of each device, for the
whole batch (train.split_dense; docs/devices.md). Of the three schemes of the paper this is (a), which exchanges all
activations before the fully-connected layers. One batch makes one update of all layers, so the rows of Table 1 with a
batch of 128 in the fully-connected layers (42.86 % on 8 GPUs) are not reproduced.

The net and the schedule are configs/cuda_convnet2.py. On batch sizes the paper says that theory suggests to multiply
the learning rate by the square root of k for k times the batch, but that k worked best for the sizes of the table; k is
used here. The paper's last layer has 1,000 logistic units where this net has a softmax, so losses cannot be compared.
What is cited is from general knowledge of the paper, not checked against its text.
"""

from . import cuda_convnet2

BATCH_SIZES = ("128", "256", "512", "1024")


def get_config(arg="128"):
    if arg not in BATCH_SIZES:
        raise ValueError(
            f"configs/one_weird_trick.py:NAME needs one of {', '.join(BATCH_SIZES)}, not {arg!r}"
        )
    config = cuda_convnet2.get_config()
    config.name = f"one_weird_trick:{arg}"
    k = int(arg) // config.train.batch_size
    config.train.batch_size *= k
    config.schedule.weights.learning_rate *= k
    config.schedule.biases.learning_rate *= k
    config.train.log_every = 100 // k
    config.train.checkpoint_every = 2000 // k
    config.train.split_dense = True
    config.evaluation.final_views = ("center",)
    return config
