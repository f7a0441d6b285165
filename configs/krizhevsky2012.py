"""The authors' net (experiment #145) with the settings of their 2012 program.

Command: alexnet train --config krizhevsky2012 --workdir runs/krizhevsky2012 \
             --config.data.path=/data/imagenet
         --config krizhevsky2012:conv6 adds the sixth convolution of experiment #146;
         --config krizhevsky2012:ilsvrc2010 follows the schedule of the ILSVRC-2010 run.
Cost:    91 epochs of 1,281,167 images: 910,800 steps of 4.1 GFLOP per image.
Expect:  40.66 % top-1, 18.21 % top-5 error and 1.741 nats on the validation images, ten views;
         :ilsvrc2010 on that year's data: 37.47 % and 17.00 % on the test images, ten views;
         :conv6 has no published error without pre-training (39.0 % and 16.6 % with it).

This is configs/paper.py with the lines in which the program differs. File names are those of the
authors' release of 2025; what its files do not say is marked "inferred". Their epochs count from 1:
a change logged "at 25" is taken to follow 25 whole epochs (inferred).
"""

from . import paper


def get_config(arg=""):
    config = paper.get_config()
    config.name = f"krizhevsky2012:{arg}" if arg else "krizhevsky2012"

    model = config.model
    model.lrn_constants.alpha = 1e-4 / 5  # layer.py divides scale=1e-4 by size=5
    # layers-145.cfg: rnorm1, pool1 with neuron=relu.
    model.convs.conv1.then = ("lrn", "pool", "act")
    # layers-145.cfg: cnorm2 normalizes each map over 5x5 pixels; scale 0.001 divided by 25 is 4e-5.
    model.convs.conv2.then = ("act", "lrn", "spatial_norm", "pool")
    model.convs.conv5.then = ("pool", "act")  # layers-145.cfg: pool3 with neuron=relu
    for name in ("conv3", "conv4", "conv5"):
        model.convs[name].init_std = 0.03  # layers-145.cfg: initW=0.03

    del config.optimizer.bias_weight_decay  # layer.cu: the weight decay of biases is 0

    config.data.shuffle = "once"  # data batches keep their order (python_util/data.py of 2014)

    augment = config.augment
    augment.crop_chunk = 32  # convdata_jpeg.py: 32 images share a crop and a flip
    augment.mean = "image_center"  # convdata_jpeg.py: the center of the mean image for every crop
    augment.color_basis = "std"  # convdata_jpeg.py: 0.1 standard deviations, not eigenvalues
    augment.color_rescale = True  # convdata_jpeg.py: the noisy image is divided by 1.1
    augment.color_off_epoch = 67.0  # layer-params-145.cfg, as all that follows

    schedule = config.schedule
    schedule.weights = dict(kind="epochs", learning_rate=0.01, factor=0.1, drops=(25.0, 51.0, 79.0))
    # 0.02 at the end of the 2012 run; that it was so from the start is inferred from files of related runs.
    schedule.biases = dict(kind="epochs", learning_rate=0.02, factor=0.1, drops=())
    # conv1 from 1e-4 to 1e-5, then frozen; that this applies to its biases too is inferred.
    schedule.layer_factors.conv1 = ((67.0, 0.1), (72.0, 0.0))
    config.train.epochs = 91.0

    if arg:
        if arg not in VARIANTS:
            raise ValueError(f"krizhevsky2012:{arg} is not one of {', '.join(sorted(VARIANTS))}")
        VARIANTS[arg](config)
    return config


def conv6(config):
    """Experiment #146, the net that §6 pre-trains: one more layer on the 6x6 maps of both towers."""
    config.model.convs.conv6 = dict(
        kind="conv", features=256, kernel=3, stride=1, pad=(1, 1), groups=1,
        init_std=0.03, bias=1.0, then=("act",),
    )  # fmt: skip


def ilsvrc2010(config):
    """layer-params-145-2010.cfg: the run behind Table 1."""
    config.augment.color_off_epoch = 68.0
    config.schedule.weights.drops = (23.0, 51.0, 78.0)
    # Its bias rate ended at 0.002. The epoch of this drop is not recorded; that it is the first one of
    # the weights is inferred from run4.sh.
    config.schedule.biases.drops = (23.0,)
    config.schedule.layer_factors.conv1 = ((68.0, 0.1), (72.0, 0.0))
    config.train.epochs = 93.0


VARIANTS = {"conv6": conv6, "ilsvrc2010": ilsvrc2010}
