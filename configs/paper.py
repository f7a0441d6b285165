"""AlexNet as printed in Krizhevsky, Sutskever and Hinton (2012): one net, ILSVRC-2012.

Command: python -m alexnet_jax.main --config configs/paper.py --workdir runs/paper \
             --config.data.path=/data/imagenet
Cost:    90 epochs of 1,281,167 images: 900,000 steps of 4.1 GFLOP per image.
Expect:  40.7 % top-1 and 18.2 % top-5 error on the validation images, ten views (Table 2).

Every number is the paper's, with its section. configs/krizhevsky2012.py has the numbers of the
authors' program.
"""

from typing import Any

from ml_collections import ConfigDict, config_dict


def overlapping():
    """§3.4: 3x3 windows with stride 2."""
    return dict(kind="max", window=3, stride=2, rounding="ceil")


def get_config() -> Any:
    config = ConfigDict()
    config.name = "paper"
    config.seed = 0

    model = config.model = ConfigDict()
    model.num_classes = 1000
    model.activation = "relu"  # §3.1
    model.lrn = True  # §3.3; False removes all response normalizations
    model.overlapping_pooling = True  # §3.4; False: window = stride, padding as in experiment #147
    model.towers = 2  # §3.2: two GPUs; normalization and groups stay within a tower
    model.init = "gaussian"  # §5: zero mean; each layer has its standard deviation, init_std
    model.compute_dtype = "float32"
    # §3.3; alpha is per squared term. The paper's sum runs over the N kernels of a layer. But in §3.2 and
    # Figure 2 the GPUs communicate in certain layers only, and the kernels of layer 2 take only the maps on
    # their own GPU; normalizing layer 1 over all maps would mix in maps of the other GPU. So LRN windows
    # end at the border of a tower. --config.model.lrn_constants.within_towers=False is the other reading.
    model.lrn_constants = dict(k=2.0, n=5, alpha=1e-4, beta=0.75)
    # Used by layers with 'spatial_norm' and 'batch_norm' only; the paper has none.
    model.spatial_norm = dict(size=5, alpha=4e-5, beta=0.75)
    model.batch_norm = dict(momentum=0.99, epsilon=1e-3)
    model.dropout = dict(rate=0.5, scale_at="test")  # §4.2: outputs times 0.5 at test time
    # §3.5 and Figure 2. groups=2: the kernels take only the maps on their own GPU.
    # 224 -> 55 needs 3 zeros on the right and at the bottom (the authors' program rounds up).
    # §5: bias 1 in conv2, conv4, conv5 and the hidden fully-connected layers.
    model.convs = dict(
        conv1=dict(
            kind="conv", features=96, kernel=11, stride=4, pad=(0, 3), groups=1, init_std=0.01, bias=0.0,
            then=("act", "lrn", "pool"), pool=overlapping(),
        ),
        conv2=dict(
            kind="conv", features=256, kernel=5, stride=1, pad=(2, 2), groups=2, init_std=0.01, bias=1.0,
            then=("act", "lrn", "pool"), pool=overlapping(),
        ),
        conv3=dict(
            kind="conv", features=384, kernel=3, stride=1, pad=(1, 1), groups=1, init_std=0.01, bias=0.0,
            then=("act",),
        ),
        conv4=dict(
            kind="conv", features=384, kernel=3, stride=1, pad=(1, 1), groups=2, init_std=0.01, bias=1.0,
            then=("act",),
        ),
        conv5=dict(
            kind="conv", features=256, kernel=3, stride=1, pad=(1, 1), groups=2, init_std=0.01, bias=1.0,
            then=("act", "pool"), pool=overlapping(),
        ),
    )  # fmt: skip
    model.fcs = dict(
        fc6=dict(
            features=4096, groups=1, init_std=0.01, bias=1.0, before=(), then=("act", "dropout")
        ),
        fc7=dict(
            features=4096, groups=1, init_std=0.01, bias=1.0, before=(), then=("act", "dropout")
        ),
        # The last layer has one output per class: its number of features is model.num_classes.
        fc8=dict(features=None, groups=1, init_std=0.01, bias=0.0, before=(), then=()),
    )

    data = config.data = ConfigDict()
    data.source = "folder"  # train/ and val/, with a folder per class
    data.path = config_dict.placeholder(str)
    data.name = config_dict.placeholder(str)  # name of a dataset of tensorflow-datasets
    data.image_size = 256  # §2: shorter side to 256, then the central 256x256
    data.classes = ()  # empty: all classes
    data.validation = 0.0  # fraction of the training images held out as 'val'
    data.shuffle = "epoch"  # 'once': the same order in every epoch, as in the authors' program
    data.threads = 4  # threads that decode images
    data.prefetch = 2  # batches read ahead
    data.placement = "auto"  # 'device': copy all images there at the start; 'host': copy each batch

    augment = config.augment = ConfigDict()
    augment.resize = config_dict.placeholder(int)  # on the device, before cropping
    augment.crop_size = 224  # §4.1
    augment.crop = "random"
    augment.crop_chunk = 1  # consecutive images that share a crop and a flip
    augment.flip = True
    augment.mean = "pixel"  # §2: the mean image, subtracted before the crop
    augment.scale = 1.0  # §2: raw RGB values, 0 to 255
    augment.color_std = 0.1  # §4.1
    augment.color_basis = "eigenvalue"  # §4.1 as printed, for pixel values in [0, 1]
    augment.color_rescale = False
    augment.color_off_epoch = config_dict.placeholder(float)  # None: never switched off

    optimizer = config.optimizer = ConfigDict()  # §5
    optimizer.kind = "momentum"
    optimizer.momentum = 0.9
    optimizer.weight_decay = 5e-4
    optimizer.bias_weight_decay = 5e-4  # the update rule as printed applies to all parameters
    optimizer.layer_weight_decay = ConfigDict()  # layer -> weight decay, if different

    schedule = config.schedule = ConfigDict()  # §5: divided by 10 when the validation error stalls
    schedule.weights = dict(
        kind="plateau",
        learning_rate=0.01,
        factor=0.1,
        max_drops=3,
        patience=5,
        min_improvement=0.001,
    )
    schedule.biases = None  # None: the rate of the weights, times bias_factor
    schedule.bias_factor = 1.0
    schedule.layer_factors = ConfigDict()  # layer -> ((from epoch, factor), ...)

    train = config.train = ConfigDict()
    train.epochs = 90.0  # §5: roughly 90 cycles
    train.max_steps = config_dict.placeholder(int)  # end after this many steps, if that is sooner
    train.batch_size = 128  # §5; over all devices
    train.accumulate = 1  # parts of a batch that are processed in turn; 2 need half of the memory
    train.split_towers = False  # §3.2: True puts each tower on a separate device
    train.loss = "cross_entropy"
    train.label_smoothing = 0.0  # fraction of each label that is spread over all classes
    train.log_every = 100  # steps
    train.checkpoint_every = 2000  # steps
    train.keep_every = config_dict.placeholder(int)  # keep checkpoints at multiples of this step
    train.keep_powers_of_two = False  # save and keep the checkpoints of steps 0, 1, 2, 4, 8 ...
    # The run ends with exit code 8 if no step completes for this long and for the time of 20 steps.
    train.stall_seconds = 300.0

    evaluation = config.evaluation = ConfigDict()
    evaluation.every_epochs = 1.0
    evaluation.batch_size = 128
    evaluation.views = "center"  # during training
    evaluation.final_views = ("center", "ten")  # at the end
    return config
