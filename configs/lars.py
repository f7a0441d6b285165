"""LARS: You, Gitman and Ginsburg (2017), "Large Batch Training of Convolutional Networks".

Command: alexnet train --config lars:8192 --workdir runs/lars_8192 \
             --config.data.path=/data/imagenet
         The variants are batch sizes: 512, 4096 and 8192 for AlexNet, 512bn, 4096bn, 8192bn, 16384bn
         and 32768bn for AlexNet-BN, which the paper needed for the largest.
Cost:    100 epochs of 1,281,167 images: 250,200 steps of 512, 15,600 of 8,192, 3,900 of 32,768. The
         gradient of a batch is computed 512 images at a time (train.accumulate), which takes the
         memory of a batch of 512; with n devices each computes 512 / n of them.
Expect:  top-1 error on the validation images of 2012, center crop:
         AlexNet     41.3 % (512), 41.5 % (4096), 41.8 % (8192);
         AlexNet-BN  39.8 % (512), 39.6 % (4096), 39.9 % (8192), 40.7 % (16384), 42.2 % (32768).
         "ImageNet Training in Minutes" (You et al., 2017) has 41.4 % for AlexNet-BN at 32,768.

The rule is Algorithm 1 of the paper. That weights and biases have ratios of their own, which replace
lr_mult, and that the warm-up begins at 0, are from sgd_solver.cpp of NVIDIA's and Intel's Caffe, in
which LARS was published. Rates, lengths of the warm-up and errors are from general knowledge of the
papers' tables, not checked against their text.

The net is configs/caffe.py:alexnet; where batch normalization stands in AlexNet-BN is our choice. Its statistics are
those of 512 images, as of one part of the batch.
"""

from typing import NamedTuple

from . import caffe, ladder

IMAGES = 1_281_167
PART = 512


class Recipe(NamedTuple):
    batch_size: int
    learning_rate: float
    warmup_epochs: float
    batch_norm: bool


RECIPES = {
    "512": Recipe(512, 2.0, 2.0, False),
    "4096": Recipe(4096, 10.0, 2.0, False),
    "8192": Recipe(8192, 10.0, 2.0, False),
    "512bn": Recipe(512, 2.0, 5.0, True),
    "4096bn": Recipe(4096, 10.0, 5.0, True),
    "8192bn": Recipe(8192, 14.0, 5.0, True),
    "16384bn": Recipe(16384, 23.0, 5.0, True),
    "32768bn": Recipe(32768, 22.0, 5.0, True),
}


def get_config(arg="8192"):
    if arg not in RECIPES:
        raise ValueError(f"configs/lars.py:NAME needs one of {', '.join(RECIPES)}, not {arg!r}")
    recipe = RECIPES[arg]
    config = caffe.get_config("alexnet")
    config.name = f"lars:{arg}"
    if recipe.batch_norm:
        ladder.batch_norm(config)  # AlexNet-BN: after each convolution, instead of LRN

    config.optimizer.kind = "lars"
    config.optimizer.trust_coefficient = 0.001  # eta
    config.optimizer.trust_ratio = "all"  # sgd_solver.cpp: for each blob
    config.schedule.weights = dict(
        kind="poly",
        power=2.0,
        learning_rate=recipe.learning_rate,
        warmup_epochs=recipe.warmup_epochs,
    )
    config.schedule.bias_factor = 1.0  # sgd_solver.cpp: the ratio replaces lr_mult

    train = config.train
    train.epochs = 100.0
    train.batch_size = recipe.batch_size
    train.accumulate = recipe.batch_size // PART
    train.log_every = max(51_200 // recipe.batch_size, 1)
    train.checkpoint_every = IMAGES // recipe.batch_size  # about an epoch
    return config
