"""The source of each value in configs/: a section of the paper, a file of the authors' program, or a choice.

`alexnet describe --diff` prints it beside the keys in which two configs differ. A note refers to a value that the
config itself sets; for an inherited value the note is that of the config it begins from.
"""

from fnmatch import fnmatchcase


def note(name: str, key: str) -> str:
    """The source of the value that config `name` sets for `key` ("model.convs.conv1.pad"); "" if unknown."""
    variant, _, scale = name.partition(",")
    family = variant.partition(":")[0]
    is_scaled = scale and family not in OF_A_SCALE
    for entry in (f"scales:{scale}", "scales") if is_scaled else (variant, family):
        for pattern, text in SOURCES.get(entry, {}).items():
            if fnmatchcase(key, pattern):
                return text
    return ""


def base(name: str) -> str | None:
    """The config that config `name` begins from; None for the paper's own and for unknown ones.

    A variant that is brought to a scale ("ablations:no_lrn,cifar10") begins from the variant.
    """
    variant, _, scale = name.partition(",")
    family = variant.partition(":")[0]
    if family in OF_A_SCALE:
        return f"scales:{scale}" if scale else "scales"
    if scale:
        return variant if is_known(variant) else None
    return BASES.get(variant, BASES.get(family))


def other_file(name: str) -> str | None:
    """The nearest config in another file that config `name` begins from, directly or not; None if there is none."""
    ancestor = base(name)
    while ancestor and ancestor.partition(":")[0] == name.partition(":")[0]:
        ancestor = base(ancestor)
    return ancestor


def argument(name: str) -> str:
    """The value of --config for config `name`, without configs/: "ablations.py:no_lrn,cifar10"."""
    file, colon, variant = name.partition(":")
    return f"{file}.py{colon}{variant}"


def is_known(name: str) -> bool:
    """Whether config `name` is from a file in configs/."""
    family = name.partition(":")[0]
    return family in {entry.partition(":")[0] for entry in SOURCES}


#: File or variant -> the config that it begins from.
BASES = {
    "krizhevsky2012": "paper",
    "ablations": "krizhevsky2012",
    "scales": "krizhevsky2012",
    "ladder:he_init": "krizhevsky2012",
    "ladder:batch_norm": "ladder:he_init",
    "ladder:one_tower": "ladder:batch_norm",
    "ladder:equal_rates": "ladder:one_tower",
    "ladder:cosine": "ladder:equal_rates",
    "ladder:global_pooling": "ladder:cosine",
    "ladder:label_smoothing": "ladder:global_pooling",
    "ladder:random_resized_crop": "ladder:label_smoothing",
    "cuda_convnet2": "krizhevsky2012",
    "one_weird_trick": "cuda_convnet2",
    "caffe": "paper",
    "lars": "caffe:alexnet",
    "torchvision": "paper",
    "cats_vs_dogs": "paper",
    "folder": "paper",
    "flowers17": "paper",
    "flowers17:krizhevsky2012": "krizhevsky2012",
    "tiny_imagenet": "paper",
    "quickstart": "paper",
    "cifar10": "paper",
    "figure1": "cifar10",
}
#: Files whose variants begin from a scale: "transfer:finetune,cifar10" from "scales:cifar10".
OF_A_SCALE = ("transfer",)

_OURS = "our choice"
_KNOWN = "from general knowledge"
_NO_BIAS_DECAY = _OURS + ": none, as in the authors' program"
_ADAM = "Keras variant, " + _KNOWN

#: The net of folder:small and tiny_imagenet:start.
_SMALL = {
    "model.convs.conv[345].init_std": "layers-145.cfg: initW=0.03",
    "model.*.bias": "bvlc_alexnet: 0.1",
    "model.init": _OURS,
    "model.batch_norm.momentum": _OURS,
    "model.convs.*": _OURS,
    "model.fcs.*": _OURS,
    "model.dropout.rate": _OURS,
    "augment.*": _OURS,
}

#: Config -> pattern of keys -> source; the first pattern that matches counts.
SOURCES: dict[str, dict[str, str]] = {
    "paper": {
        "model.activation": "paper §3.1",
        "model.lrn": "paper §3.3",
        "model.lrn_constants.alpha": "paper §3.3: not divided by n",
        "model.lrn_constants.within_towers": "paper §3.2, Figure 2: nothing crosses in the first two layers",
        "model.lrn_constants.*": "paper §3.3",
        "model.overlapping_pooling": "paper §3.4",
        "model.towers": "paper §3.2",
        "model.convs.conv1.pad": "paper §3.5 prints no padding; 224 -> 55 needs it",
        "model.convs.*.init_std": "paper §5: 0.01 everywhere",
        "model.convs.*.bias": "paper §5: 1 in conv2, conv4, conv5 and the hidden layers",
        "model.convs.conv[12].then": "paper §3.5: act, lrn, pool",
        "model.convs.conv[34].then": "paper §3.5: act, no lrn and no pool",
        "model.convs.conv5.then": "paper §3.5: act, pool",
        "model.convs.*.pool.rounding": "layer.py rounds up; as printed, both ways are the same",
        "model.convs.*.pool*": "paper §3.4",
        "model.convs.*.groups": "paper §3.2, Figure 2",
        "model.convs.*": "paper §3.5, Figure 2",
        "model.fcs.*.init_std": "paper §5: 0.01 everywhere",
        "model.fcs.*.bias": "paper §5: 1 in conv2, conv4, conv5 and the hidden layers",
        "model.fcs.*.then": "paper §4.2: dropout in the first two",
        "model.fcs.*.before": "paper §4.2: dropout in the first two",
        "model.fcs.*": "paper §3.5, Figure 2",
        "model.init": "paper §5: Gaussian",
        "model.dropout.rate": "paper §4.2: 0.5",
        "model.dropout.scale_at": "paper §4.2: outputs times 0.5 at test time",
        "model.spatial_norm.alpha": "layers-145.cfg: scale=0.001; layer.py divides it by 25 pixels",
        "model.spatial_norm.*": "layers-145.cfg; not in the paper",
        "model.batch_norm.*": "Keras, " + _KNOWN + "; not in the paper",
        "model.num_classes": "paper §2",
        "data.shuffle": "not printed",
        "data.image_size": "paper §2",
        "augment.color_basis": "paper §4.1: eigenvalue times N(0, 0.1^2)",
        "augment.color_std": "paper §4.1: 0.1",
        "augment.color_rescale": "paper §4.1: nothing is divided",
        "augment.color_off_epoch": "paper §4.1: throughout",
        "augment.mean": "paper §2: the mean of each pixel",
        "augment.scale": "paper §2: raw RGB values",
        "augment.crop_chunk": "paper §4.1: random patches",
        "augment.resize": "paper §2: images are stored at 256",
        "augment.min_area": "Szegedy et al. (2015), section 6; not in the paper",
        "augment.extra": "not in the paper",
        "augment.*": "paper §4.1",
        "optimizer.bias_weight_decay": "paper §5: the update rule is the same for biases",
        "optimizer.b[12]": "Kingma and Ba (2015); not in the paper",
        "optimizer.epsilon": "Kingma and Ba (2015); not in the paper",
        "optimizer.*": "paper §5",
        "schedule.bias*": "paper §5: an equal rate for all layers",
        "schedule.layer_factors*": "paper §5: an equal rate for all layers",
        "schedule.weights.learning_rate": "paper §5: 0.01",
        "schedule.weights.max_drops": "paper §5: three times",
        "schedule.weights.patience": "not printed; " + _OURS,
        "schedule.weights.min_improvement": "not printed; " + _OURS,
        "schedule.*": "paper §5: divided by 10 when the validation error stalls",
        "train.epochs": "paper §5: roughly 90 cycles",
        "train.batch_size": "paper §5",
        "train.loss": "paper §3.5",
        "train.label_smoothing": "paper §3.5: the log-probability of the label",
        "evaluation.final_views": "paper §4.1: ten patches",
    },
    "krizhevsky2012": {
        "model.lrn_constants.alpha": "layer.py: scale=1e-4 divided by size=5",
        "model.convs.conv1.then": "layers-145.cfg: rnorm1, then pool1 with neuron=relu",
        "model.convs.conv2.then": "layers-145.cfg: cnorm2, 5x5 pixels of one map",
        "model.convs.conv5.then": "layers-145.cfg: pool3 with neuron=relu",
        "model.convs.conv[345].init_std": "layers-145.cfg: initW=0.03",
        "optimizer.bias_weight_decay": "layer.cu: the weight decay of biases is 0",
        "data.shuffle": "python_util/data.py (2014): batches keep their order",
        "augment.crop_chunk": "convdata_jpeg.py: 32 images share a crop and a flip",
        "augment.mean": "convdata_jpeg.py: the center of the mean image for every crop",
        "augment.color_basis": "convdata_jpeg.py: standard deviation times N(0, 0.1^2)",
        "augment.color_rescale": "convdata_jpeg.py: divided by 1 + 0.1",
        "augment.color_off_epoch": "layer-params-145.cfg: off at 67",
        "schedule.weights.*": "layer-params-145.cfg: 0.01, lowered at 25, 51, 79",
        "schedule.biases*": "layer-params-145.cfg: epsB=0.02 at the end; at the start inferred",
        "schedule.layer_factors.conv1": "layer-params-145.cfg: slowed at 67, frozen at 72",
        "train.epochs": "layer-params-145.cfg: killed at 91",
    },
    "krizhevsky2012:conv6": {"model.convs.conv6.*": "layers-146*.cfg: conv6"},
    "krizhevsky2012:ilsvrc2010": {
        "augment.color_off_epoch": "layer-params-145-2010.cfg: off at 68",
        "schedule.weights.drops": "layer-params-145-2010.cfg: 23, 51, 78",
        "schedule.biases.drops": "layer-params-145-2010.cfg: epsB=0.002 at the end; when, inferred",
        "schedule.layer_factors.conv1": "layer-params-145-2010.cfg: slowed at 68, frozen at 72",
        "train.epochs": "layer-params-145-2010.cfg: killed at 93",
    },
    "ablations:no_lrn": {"model.lrn": "experiment #148"},
    "ablations:non_overlapping_pooling": {"model.overlapping_pooling": "experiment #147"},
    "ablations:tanh": {"model.activation": "paper §3.1, Figure 1"},
    "ablations:one_tower": {
        "model.towers": "experiment #145-half",
        "model.convs.*.features": "experiment #145-half",
        "model.convs.*.groups": "experiment #145-half",
    },
    "ablations:no_communication": {
        "model.*.features": "experiment #150",
        "model.*.groups": "experiment #150",
    },
    "ablations:lrn_layer1_only": {"model.convs.conv2.then": "experiment #167"},
    "ablations:no_color": {"augment.color_std": "paper §4.1"},
    "ablations:no_dropout": {"model.fcs.*.then": "paper §4.2"},
    "ablations:no_augmentation": {
        "augment.crop": "paper §4.1: without",
        "augment.color_std": "paper §4.1: without",
        "augment.flip": "paper §4.1: without",
    },
    "ablations:no_conv3": {"model.convs.conv3.*": "paper §7"},
    "ablations:no_conv4": {"model.convs.conv4.*": "paper §7"},
    "ablations:no_conv5": {"model.convs.conv[45].*": "paper §7; the pool moves to conv4"},
    "ablations:init_001": {"model.convs.*.init_std": "paper §5: 0.01 everywhere"},
    "scales": {
        "model.num_classes": "the dataset",
        "model.*.init_std": "times sqrt(n), where a layer has n times fewer inputs",
        "model.*": _OURS,
        "data.*": _OURS,
        "augment.color_off_epoch": "layer-params-145.cfg: off at 67 of 91, in proportion",
        "augment.*": _OURS,
        "schedule.layer_factors.conv1": "layer-params-145.cfg: at 67 and 72 of 91, in proportion",
        "schedule.*": _OURS,
        "train.*": _OURS,
        "evaluation.*": _OURS,
    },
    "scales:cifar10": {
        "model.convs.conv1.init_std": "times sqrt(n) for n times fewer inputs, times 4: " + _OURS,
    },
    "ladder:he_init": {"model.init": "He et al. (2015)", "model.*.bias": "He et al. (2015)"},
    "ladder:batch_norm": {"model.convs.*.then": "Ioffe and Szegedy (2015): batch normalization"},
    "ladder:one_tower": {"model.towers": "one GPU", "model.convs.*.groups": "one GPU"},
    "ladder:equal_rates": {
        "schedule.bias*": _OURS,
        "schedule.layer_factors*": _OURS,
        "augment.color_off_epoch": _OURS,
    },
    "ladder:cosine": {"schedule.weights.kind": "Loshchilov and Hutter (2017): cosine"},
    "ladder:global_pooling": {
        "model.convs.conv5.*": "Lin et al. (2014): global average pooling",
        "model.fcs.*": "Lin et al. (2014): no hidden layers",
    },
    "ladder:label_smoothing": {"train.label_smoothing": "Szegedy et al. (2016), section 7"},
    "transfer:slow": {
        "schedule.layer_factors.*": "Caffe's example of fine-tuning, " + _KNOWN + ": a tenth",
    },
    "transfer": {
        "model.num_classes": "counted",
        "data.*": _OURS,
        "augment.color_off_epoch": _OURS + ": never",
        "schedule.*": _OURS,
        "train.*": _OURS,
        "evaluation.*": _OURS,
    },
    "ladder:random_resized_crop": {
        "augment.crop": "Szegedy et al. (2015), section 6",
        "augment.crop_chunk": _OURS,
        "augment.min_area": "Szegedy et al. (2015), section 6: 8 %; 25 % of 32x32 is our choice",
    },
    "cuda_convnet2": {
        "model.*": "layers-imagenet-1gpu.cfg (2014)",
        "augment.crop_chunk": _KNOWN,
        "augment.color_off_epoch": "wiki TrainingExample (2014): 0.1 throughout",
        "schedule.*": "layer-params-imagenet-1gpu.cfg (2014)",
        "train.epochs": "wiki TrainingExample (2014)",
    },
    "caffe": {
        "model.lrn_constants.alpha": "lrn_layer.cpp: alpha divided by the window",
        "model.lrn_constants.k": "caffe.proto: k = 1 by default",
        "model.towers": "lrn_layer.cpp: across the maps of both groups",
        "model.dropout.scale_at": "dropout_layer.cpp",
        "model.*": "bvlc_*/train_val.prototxt",
        "augment.crop_size": "bvlc_*/train_val.prototxt: 227x227 crops",
        "augment.color_std": "bvlc_*/train_val.prototxt: no color noise",
        "optimizer.bias_weight_decay": "bvlc_*/train_val.prototxt: decay_mult: 0",
        "schedule.bias_factor": "bvlc_*/train_val.prototxt: lr_mult: 2",
        "schedule.*": "bvlc_*/solver.prototxt: stepsize 100,000",
        "train.*": "bvlc_*/solver.prototxt, train_val.prototxt: 450,000 times 256",
        "evaluation.final_views": "center crop, as reported",
    },
    "one_weird_trick": {
        "schedule.*": "One weird trick (2014), " + _KNOWN + ": rate times k",
        "train.batch_size": "One weird trick (2014), Table 1, " + _KNOWN,
        "train.split_dense": "One weird trick (2014)",
        "train.*": _OURS,
        "evaluation.final_views": "center crop, as reported",
    },
    "lars": {
        "model.convs.*.then": "You et al. (2017): AlexNet-BN, " + _KNOWN,
        "optimizer.*": "You et al. (2017), Algorithm 1, " + _KNOWN,
        "schedule.bias_factor": "sgd_solver.cpp (NVIDIA): the ratio replaces lr_mult",
        "schedule.*": "You et al. (2017), tables, " + _KNOWN,
        "train.epochs": "You et al. (2017), " + _KNOWN,
        "train.batch_size": "You et al. (2017), tables, " + _KNOWN,
        "train.*": _OURS,
    },
    "torchvision": {
        "model.convs.*.bias": "PyTorch draws them; zero here",
        "model.*.init_std": "PyTorch's default: 1 / sqrt(3 fan_in)",
        "model.fcs.*.bias": "PyTorch draws them; zero here",
        "model.*": "torchvision/models/alexnet.py",
        "augment.*": "references/classification, " + _KNOWN,
        "optimizer.weight_decay": "references/classification, " + _KNOWN,
        "optimizer.bias_weight_decay": "references/classification: as the weights, by default",
        "schedule.*": "references/classification, " + _KNOWN,
        "train.batch_size": "references/classification, " + _KNOWN,
        "evaluation.final_views": "center crop, as reported",
    },
    "cats_vs_dogs": {
        "model.lrn_constants.alpha": "PyTorch: alpha divided by n",
        "model.convs.conv[345].init_std": "layers-145.cfg: initW=0.03",
        "model.*.bias": "bvlc_alexnet: 0.1",
        "model.num_classes": "2 classes",
        "model.towers": _OURS,
        "model.convs.*.groups": _OURS,
        "model.convs.conv1.pad": _OURS,
        "model.dropout.scale_at": _OURS,
        "data.*": _OURS,
        "optimizer.bias_weight_decay": _NO_BIAS_DECAY,
        "schedule.*": _OURS,
        "train.*": _OURS,
        "evaluation.batch_size": _OURS,
    },
    "folder:small": {**_SMALL, "data.image_size": _OURS, "evaluation.*": _OURS},
    "tiny_imagenet:start": _SMALL,
    "folder": {
        "model.convs.conv2.init_std": _OURS,
        "model.convs.conv[345].init_std": "layers-145.cfg: initW=0.03",
        "model.*.bias": "bvlc_alexnet: 0.1",
        "model.num_classes": "counted",
        "data.exif": _OURS,
        "optimizer.bias_weight_decay": _NO_BIAS_DECAY,
        "schedule.*": _OURS,
        "train.*": _OURS,
        "evaluation.batch_size": _OURS,
    },
    "flowers17:krizhevsky2012": {
        "data.shuffle": _OURS,
        "augment.crop_chunk": _OURS,
        "augment.color_off_epoch": _OURS,
    },
    "flowers17:batchnorm": {
        "model.num_classes": "17 flowers",
        "model.*": _ADAM,
        "augment.*": _ADAM,
        "optimizer.*": _ADAM,
        "schedule.*": _ADAM,
    },
    "flowers17": {
        "model.num_classes": "17 flowers",
        "optimizer.bias_weight_decay": _NO_BIAS_DECAY,
        "schedule.*": _OURS,
        "train.*": _OURS,
        "evaluation.*": _OURS,
    },
    "tiny_imagenet": {
        "model.num_classes": "100 classes",
        "model.convs.conv2.init_std": _OURS,
        "model.convs.conv[345].init_std": "layers-145.cfg: initW=0.03",
        "model.*.bias": "bvlc_alexnet: 0.1",
        "model.convs.*.features": _OURS,
        "model.convs.conv1.*": _OURS,
        "model.fcs.*": _OURS,
        "data.image_size": "the dataset",
        "optimizer.bias_weight_decay": _NO_BIAS_DECAY,
        "augment.*": _OURS,
        "schedule.*": _OURS,
        "train.*": _OURS,
        "evaluation.*": _OURS,
    },
    "quickstart": {
        "model.num_classes": "10 digits",
        "optimizer.bias_weight_decay": _NO_BIAS_DECAY,
        "model.*.bias": "bvlc_alexnet: 0.1",
        "model.*": _OURS,
        "data.*": _OURS,
        "augment.*": _OURS,
        "schedule.*": _OURS,
        "train.*": _OURS,
        "evaluation.*": _OURS,
    },
    "cifar10:resized": {
        "model.*": "tutorials, " + _KNOWN,
        "augment.*": "tutorials, " + _KNOWN,
        "optimizer.*": "tutorials, " + _KNOWN,
        "schedule.*": "tutorials, " + _KNOWN,
        "train.*": "tutorials, " + _KNOWN,
    },
    "cifar10": {
        "model.lrn_constants.alpha": "layers-conv-local-11pct.cfg; layer.py divides scale by size=9",
        "model.lrn_constants.*": "layers-conv-local-11pct.cfg",
        "model.spatial_norm.alpha": "layers-18pct.cfg; layer.py divides scale by 9 pixels",
        "model.spatial_norm.*": "layers-18pct.cfg",
        "model.num_classes": "10 classes",
        "model.*": "layers-*pct.cfg, layers-80sec.cfg",
        "data.*": "the dataset",
        "augment.*": "convdata_cifar.py",
        "optimizer.bias_weight_decay": "layer.cu: the weight decay of biases is 0",
        "optimizer.*": "layer-params-*.cfg: wc",
        "schedule.weights.drops": "layer-params-*.cfg, in part inferred",
        "schedule.*": "layer-params-*.cfg: epsW=0.001, epsB=0.002",
        "train.epochs": "layer-params-*.cfg, in part inferred",
        "train.*": _OURS,
        "evaluation.final_views": "convdata_cifar.py",
        "evaluation.*": _OURS,
    },
    "figure1": {
        "model.activation": "paper §3.1, Figure 1",
        "model.*": "paper §3.1: no regularization; the net is inferred",
        "optimizer.*": "paper §3.1: no regularization",
        "schedule.*": "paper §3.1: as fast as possible; the rates are not printed",
        "train.epochs": _OURS,
    },
}
