"""A trained net applied to other pictures: fine-tuning and linear probes.

Command: alexnet train --config transfer:finetune,cifar10 --workdir runs/tuned \
             --init-from runs/base --allow-partial --config.data.path=/data/flowers
         runs/base is a run of configs/scales.py:cifar10, or a .safetensors file. The variant is
         one of TRANSFERS below and a scale of configs/scales.py. The data are class folders. The
         last layer does not fit other classes: --allow-partial leaves it as initialized. Without
         --init-from, finetune is training from scratch, for comparison.
Cost:    60 epochs of your images.
Expect:  at the scale cifar10, from CIFAR-10 to 1,088 flowers of 32x32, 8.5 points less error than
         from scratch after 10 epochs, and no difference after 60 (docs/results/2026-11-22-transfer.md).

The rate of a layer is that of the schedule times its factor: as below for the layers that have been
trained, 1 for the last. A tenth is the factor of Caffe's fine-tuning example.
--config.schedule.layer_factors.conv1="((0.0, 0.0),)" freezes one more layer, ((10.0, 1.0),) releases it
after ten epochs.
"""

from ml_collections import config_dict

from . import scales


def get_config(arg="finetune,cifar10"):
    name, _, scale = arg.partition(",")
    if name not in TRANSFERS:
        raise ValueError(
            f"configs/transfer.py:NAME,SCALE, such as finetune,cifar10, needs one of "
            f"{', '.join(TRANSFERS)}, not {name!r}"
        )
    config = scales.get_config(scale or "cifar10")
    config.name = f"transfer:{arg}"
    config.model.num_classes = config_dict.placeholder(int)  # counted in the data
    config.data.source = "folder"
    config.data.exif = "apply"  # photos are rotated upright
    config.augment.color_off_epoch = config_dict.placeholder(float)
    config.schedule.weights.drops = (40.0, 54.0)
    config.train.epochs = 60.0
    config.train.batch_size = 32
    config.train.log_every = 17
    config.evaluation.every_epochs = 10.0
    config.evaluation.batch_size = 68
    *trained, last = (*config.model.convs, *config.model.fcs)
    factors = config.schedule.layer_factors
    for layer in trained:
        factors[layer] = ((0.0, TRANSFERS[name]),)
    factors[last] = ((0.0, 1.0),)
    return config


#: The factor of all layers but the last; a probe trains the last layer alone.
TRANSFERS = {"finetune": 1.0, "slow": 0.1, "probe": 0.0}
