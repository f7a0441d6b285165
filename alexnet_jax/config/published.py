"""Published numbers as data: the paper (§6, Tables 1 and 2), the authors' log, Caffe, torchvision, cuda-convnet2.

The log is the comments in layers/layer-params-*.cfg of the authors' release of 2025. Errors are fractions, as logged.
`python -m alexnet_jax.config.published` writes `table`, the comparable results, into the README.
"""

from pathlib import Path
from typing import Literal, NamedTuple

from alexnet_jax.cli import markdown

Confidence = Literal["stated", "inferred", "not stated"]
BEGIN, END = (
    "<!-- python -m alexnet_jax.config.published writes from here -->\n",
    "<!-- to here: published -->\n",
)


class Result(NamedTuple):
    """Measured errors of one network."""

    #: Experiment number in the log, or a name.
    net: str
    #: What differs from an earlier experiment.
    change: str
    #: The images on which the errors were measured; "" if not stated.
    data: str
    #: "center", "ten" or "" if not stated.
    views: str
    #: Negative log-likelihood in nats.
    nll: float | None
    top1: float
    top5: float | None
    #: How certain `data` and `views` are; the numbers are always stated.
    confidence: Confidence = "stated"
    note: str = ""


class Verdict(NamedTuple):
    """An experiment of the log whose outcome is described in words only."""

    net: str
    change: str
    outcome: str


class Claim(NamedTuple):
    """Published effect of an ablation, in percentage points of top-1 / top-5 error."""

    #: According to the paper, with the section; "" if the paper has no number.
    paper: str
    #: According to the log, with the experiments compared.
    log: str
    #: What else differed between those experiments, or why the number cannot be checked.
    caution: str = ""


VAL12, VAL10, TEST10 = "ILSVRC-2012 validation", "ILSVRC-2010 validation", "ILSVRC-2010 test"
#: Classes of ImageNet; no published error is comparable to that of a net with others.
CLASSES = 1000
#: Header of `rows`.
HEADER = (f"{VAL12}, one net", "center crop", "ten views")
Y2012 = "ILSVRC-2012"
IN09 = "ImageNet 2009"

#: Top-1 errors of AlexNet (torchvision's weights, center crop) on ImageNet-C, means over severities 1 to 5, which are
#: the denominators of the mean corruption error: Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to
#: Common Corruptions and Perturbations" (2019), Table 1, with the digits of the authors' program.
IMAGENET_C = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.922640,
    "defocus_blur": 0.819880,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.798360,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
}
#: The error of the same net on the images of ImageNet without corruption.
IMAGENET_C_CLEAN = 0.435

# fmt: off
#: Runs with numbers, by experiment. From 153 on the files name no year; the errors indicate ILSVRC-2012.
LOG = (
    Result("inet-5layer-conv94-2gpu", "ancestor of June 2012: random sparse channels in conv2 to conv4, LRN window 9",
           TEST10, "ten", None, 0.38107167346938753, 0.17608947619047613, "inferred", "killed 90"),
    Result("98-16kinit", "the same, begun from a net for 16,000 classes", TEST10, "ten",
           None, 0.37132068707483007, 0.1679778095238095, "inferred", "killed 71"),
    Result("2009-101", "low-resolution pathway, 32+32 first maps; 10,184 classes", IN09, "",
           3.4620055494832287, 0.69382157140195966, 0.43646610858041701, "not stated", "killed 33"),
    Result("106b", "101 with contrast normalization after the second LRN", TEST10, "ten",
           1.5942473039940013, 0.3705782743769917, 0.16672222296297284, "inferred", "an earlier run: wrong gradient"),
    Result("112", "101 with LRN window 5, not 9", TEST10, "ten",
           1.6064990917001289, 0.37237829837731168, 0.16815557540767209, "inferred"),
    Result("118", "112 with a constraint on the contrast of conv2's weights; JPEG", TEST10, "ten",
           1.640873252105713, 0.37831333333333333, 0.17355999999999999, "inferred"),
    Result("120", "106 with window 5; JPEG", "", "", 1.634692, 0.378533, 0.172360, "not stated", "killed 106"),
    Result("120-2012", "120", VAL12, "ten", 1.765247, 0.410440, 0.187140, note="killed 95"),
    Result("131", "120 with the first LRN before the pool, on the maps of conv1", VAL12, "ten",
           1.755725, 0.409340, 0.185740, note="kept in all later nets; killed 100"),
    Result("131-2009", "131; 10,184 classes", IN09, "", 3.466260, 0.694209, 0.437308, "not stated", "killed 36"),
    Result("135", "131 with k = 2 in LRN", VAL12, "ten", 1.757653, 0.410700, 0.184160, "inferred", "killed 96"),
    Result("137", "135 with same-map response normalization, not contrast normalization", Y2012, "",
           1.751138, 0.407820, 0.183440, "not stated", "killed 99"),
    Result("137", "the same", VAL10, "center", 1.727592, 0.394153, 0.182784),
    Result("137", "the same", VAL10, "ten", 1.632875, 0.377960, 0.171020),
    Result("137", "the same", TEST10, "ten", 1.623185, 0.376167, 0.171247),
    Result("141", "137 with a sixth convolution; trained on 2012, 2009, then 2010", "ILSVRC-2010", "",
           1.511725, 0.356707, 0.154893, "not stated", "more data than the published net had"),
    Result("141", "the same, then on 2012", Y2012, "ten", 1.671316, 0.395620, 0.172060),
    Result("141", "the same", Y2012, "center", 1.779082, 0.415920, 0.186780),
    Result("145", "137 without the low-resolution pathway, 48+48 first maps", TEST10, "ten",
           1.614660, 0.374727, 0.169987, note="the paper's 37.5 / 17.0"),
    Result("145", "the same", TEST10, "center", 1.706031, 0.390247, 0.182953, note="the paper's 39.0 / 18.3"),
    Result("145", "the same", VAL12, "ten", 1.741473, 0.406640, 0.182100, "inferred", "the paper's 40.7 / 18.2"),
    Result("145 rewarmed", "rate back to 0.001, color noise on, annealed again (epochs 92 to 135)", VAL12, "ten",
           1.725738, 0.402500, 0.179940, "inferred"),
    Result("145-half", "one tower: 48, 128, 192, 192 and 256 maps", TEST10, "ten", 1.702802, 0.391680, 0.182287),
    Result("146-2012-2009", "145 with a sixth convolution, pre-trained on 2009", VAL12, "ten",
           1.646452, 0.391000, 0.168760),
    Result("146-2012-2011", "the same, pre-trained on fall 2011 (21,843 classes)", VAL12, "ten",
           1.633191, 0.389900, 0.166220, note="the paper's 39.0 / 16.6"),
    Result("147", "145 with 2x2 pools, 2 apart", VAL12, "ten", 1.757644, 0.410580, 0.185100, "inferred",
           "conv2 padded by 1 and conv5 by 0; the end of the color noise is not logged"),
    Result("148", "145 without any normalization", VAL12, "ten", 1.822358, 0.420340, 0.193620, "inferred",
           "LRN of both layers and the same-map normalization"),
    Result("150", "145 without communication; conv2 160+160, hidden layers 4096+4096 and 2048+2048", VAL12, "ten",
           1.811173, 0.418280, 0.193300),
    Result("155", "145, rates exp[4000] from 0.02", VAL12, "center", 1.861853, 0.426530, 0.199652),
    Result("155", "the same", VAL12, "ten", 1.750063, 0.407440, 0.185240),
    Result("156", "exp[2000] from 0.02", VAL12, "center", 1.870253, 0.428933, 0.198336),
    Result("156", "the same", VAL12, "ten", 1.751178, 0.407640, 0.183500),
    Result("157", "exp[8000] from 0.04", VAL12, "center", 1.880485, 0.431177, 0.203271),
    Result("157", "the same", VAL12, "ten", 1.767696, 0.411140, 0.187040),
    Result("158", "exp[20000] from 0.04", VAL12, "center", 1.862656, 0.428884, 0.199910),
    Result("158", "the same", VAL12, "ten", 1.757155, 0.410260, 0.185380),
    Result("160", "dexp[2000,4] from 0.02", VAL12, "center", 1.884187, 0.433855, 0.205452),
    Result("160", "the same", VAL12, "ten", 1.789202, 0.413740, 0.190360),
    Result("162", "dexp[1000,3] from 0.01", VAL12, "center", 1.894451, 0.438533, 0.207935),
    Result("163", "dexp[1000,4] from 0.01, twice the decay of the fully-connected layers", VAL12, "center",
           1.849131, 0.429085, 0.199072),
    Result("165", "163 with dexp[500,4], biases dexp[10,2]", VAL12, "center", 1.847919, 0.427840, 0.198452, "inferred"),
    Result("165", "the same", VAL12, "ten", 1.757196, 0.409820, 0.183920),
    Result("166", "dexp[1000,4], biases dexp[10,2]; normalizations of layer 2 before its ReLU", VAL12, "center",
           1.863109, 0.428586, 0.201039, "inferred"),
    Result("166", "the same", VAL12, "ten", 1.768124, 0.410960, 0.186740),
    Result("167", "dexp[1000,4], biases dexp[10,2]; no normalization in layer 2", VAL12, "center",
           1.851845, 0.426772, 0.197590, "inferred"),
    Result("167", "the same", VAL12, "ten", 1.738715, 0.404880, 0.181180),
    Result("169", "145, dexp[500,4] from 0.01, biases dexp[10,2] from 0.02, 95 epochs", VAL12, "center",
           1.841218, 0.425298, 0.195489, "inferred", "noise off at 60, conv1 frozen at 73"),
    Result("169", "the same", VAL12, "ten", 1.735123, 0.405960, 0.181120),
    Result("169-80", "169 in 80 epochs", VAL12, "center", 1.866277, 0.429784, 0.200178, "inferred"),
    Result("170", "169 with dexp[250,4]: 0.01 to 4e-5", VAL12, "center", 1.838933, 0.423407, 0.195827, "inferred",
           "noise off at 68, conv1 frozen at 74"),
    Result("170", "the same", VAL12, "ten", 1.730076, 0.405280, 0.180480),
    Result("170-fade", "170, 5 % of the images mixed with another", VAL12, "center",
           1.831731, 0.422944, 0.195334, "inferred", "noise off at 61, conv1 frozen at 76"),
    Result("170-fade", "the same", VAL12, "ten", 1.726111, 0.402500, 0.181160),
    Result("170-fade-0.15", "15 % mixed, 5 % from epoch 74", VAL12, "center",
           1.836181, 0.425008, 0.196351, "inferred"),
    Result("170-256-double", "batches of 256, rates doubled", VAL12, "center", 1.840643, 0.422726, 0.196598, "inferred",
           "after 84 epochs; as 170 there"),
    Result("170-quant", "half precision between the GPUs", VAL12, "center", 1.861123, 0.425700, 0.199970, "inferred"),
    Result("170-quant", "the same", VAL12, "ten", 1.749848, 0.405240, 0.184160),
    Result("171", "dexp[500,5]", VAL12, "center", 1.843676, 0.423356, 0.197664, "inferred"),
    Result("171", "the same", VAL12, "ten", 1.735358, 0.404200, 0.181400),
    Result("174", "jdexp[500,4], jumps to the geometric mean; from 169 at 24", VAL12, "center",
           1.825121, 0.425222, 0.193946, "inferred", "killed 86"),
    Result("174", "the same", VAL12, "ten", 1.729982, 0.404380, 0.180420),
    Result("175", "dexp[125,4]: 0.01 to 8e-5, by 250 from epoch 91", VAL12, "center",
           1.842557, 0.425160, 0.194863, "inferred"),
    Result("177", "170 with dropout that keeps 0.8 of conv4", VAL12, "center",
           1.836304, 0.424376, 0.197056, "inferred"),
    Result("177", "the same", VAL12, "ten", 1.744414, 0.406900, 0.183040),
    Result("178", "170 with stochastic pools in layer 2 until epoch 31", VAL12, "center",
           1.845021, 0.424038, 0.197017, "inferred", "second run; the first is a verdict"),
)

#: Runs without numbers.
VERDICTS = (
    Verdict("96-16k", "16,649 classes; dropout from epoch 6", "began 98"),
    Verdict("99", "97 with another second normalization, then bounded kernels", "many kernels of conv2 stay random"),
    Verdict("100", "97 with LRN scale 0.001, power 0.25", "slightly worse, killed 43"),
    Verdict("106a, 107", "contrast normalization; constraint on the weights of conv1 and conv2",
            "106a killed at 31 for the constraint, later the other way round"),
    Verdict("109", "three hidden layers of 1536+1536", "overfits"),
    Verdict("110", "101 without normalization", "about a point worse than 101, killed 75"),
    Verdict("111", "three hidden layers of 2048+2048, dropout in each", "underfits, clearly worse"),
    Verdict("113, 116, 117", "conv3 takes conv1's maps too; four GPUs", "no outcome"),
    Verdict("114", "three hidden layers of 3072+3072, 140,523,240 parameters", "worse than 115 with two"),
    Verdict("115-jpeg", "two hidden layers of 3072+3072, window 9, JPEG", "killed 58"),
    Verdict("120-2012-full", "120 on whole pictures", "ran to 94, no number"),
    Verdict("120-4gpu", "four towers, 99.7 million parameters", "overfits, killed 56"),
    Verdict("121", "120 with contrast normalization in layer 1 too", "worse than 120"),
    Verdict("126", "one tower is trained on mirror images", "no good, killed 19"),
    Verdict("127", "no communication at conv3, 256+256 maps", "significantly worse, killed 36"),
    Verdict("128", "conv4 communicates too, 128+128 maps", "on hold"),
    Verdict("129, 130", "four towers, conv5 64 each; 130 with twice the conv2",
            "129 lost; 130 hardly better than two GPUs"),
    Verdict("132, 133", "communication at conv4, not conv3; 133 with LRN before the pool", "both worse than 131"),
    Verdict("134", "k = 0.25 in LRN", "stopped at 13"),
    Verdict("135-2009-2012", "135 pre-trained on 2009", "2.00 nats, the net with conv6 1.97 at that time"),
    Verdict("136", "one mean for all pixels", "no better"),
    Verdict("137, batch 1024", "8 batches of 128 accumulated", "not good, killed 34"),
    Verdict("137, brightness", "noise along the first component alone, late", "failure"),
    Verdict("137-tree, 146-2009-tree", "output weights tied along the hierarchy", "2.17 nats, some 2.06 expected"),
    Verdict("139", "constraint on the contrast of conv2's weights", "0.01 nats worse than 137"),
    Verdict("141", "137 with a sixth convolution, from scratch", "seems to overfit, killed 60; began others"),
    Verdict("141-2009-half", "141 with 10,184 outputs on half of 2009",
            "test error a little above 131's; the paper's ImageNet 2009 net, but no number"),
    Verdict("146-2009, 146-2011", "pre-training; 2011 with a narrow layer below 21,843 outputs", "stopped at 6.6, 8.1"),
    Verdict("149", "LRN after conv5 too", "no outcome, the file ends at 66"),
    Verdict("153", "linear rates", "abandoned at 18"),
    Verdict("154", "exp[1000] from 0.01", "the run was spoiled"),
    Verdict("161, 180", "jdexp[1000,4], jdexp[250,4]", "no outcome"),
    Verdict("170-256, 170-256-0.015", "batches of 256, rates as before or times 1.5", "no outcome"),
    Verdict("170-contfade", "170 with mixed images and rates reset by hand, epochs 96 to 137 and on", "no number"),
    Verdict("170-gpu-1-2", "170 on GPUs without direct access, to compare 170-quant with", "no number"),
    Verdict("178, first run", "stochastic pools until epoch 69", "1.85 nats, disappointing"),
    Verdict("172", "jdexp[1000,4], jumps to the rate before", "1.898 nats when killed at 84"),
    Verdict("170-4gpu, 170-4gpu-exp, 183, 184", "four GPUs, 10,184 outputs",
            "no better than 146; exp bad; 183 has too many parameters"),
    Verdict("flickr-102, 103, 105", "10,003 logistic outputs", "not ImageNet"),
)

#: Conclusions from the log, inferred by this project.
LESSONS = (
    "Nets that differ only in details span 0.4 points of top-1: 145 40.66, 137 40.78, 131 40.93, 120 41.04, 135 41.07.",
    "The schedule matters as much as the net: by hand 40.66, rewarmed 40.25, dexp[250] 40.53, dexp[2000] 41.37.",
    "Rates that end at 2e-5 to 4e-5 (169 to 171, 174) beat those that end at 1e-5 or below (155 to 163, 166).",
    "Normalization in layer 2 seems unnecessary (167: 40.49 without); removing all of it costs 1.4 points (148).",
    "Towers without connections cost 1.2 points (150); more than two towers do not help (129, 130).",
)

#: Test errors in the names and comments of the authors' CIFAR-10 files; the log has no others.
CIFAR10 = {"18pct": 0.18, "19pct": 0.19, "19pct, translations, no decay": 0.142, "80sec": 0.26,
           "conv-local-13pct": 0.13, "conv-local-12pct": 0.12}  # fmt: skip

PAPER = (
    Result("1 CNN", "Table 1", TEST10, "ten", None, 0.375, 0.170),
    Result("1 CNN", "§4.1", TEST10, "center", None, 0.390, 0.183),
    Result("1 CNN", "Table 2", VAL12, "ten", None, 0.407, 0.182),
    Result("5 CNNs", "Table 2, averaged", VAL12, "ten", None, 0.381, 0.164, note="test 16.4; members not recorded"),
    Result("1 CNN*", "Table 2, six convolutions, pre-trained", VAL12, "ten", None, 0.390, 0.166),
    Result("7 CNNs*", "Table 2, averaged, two of them pre-trained", VAL12, "ten", None, 0.367, 0.154, note="test 15.3"),
    Result("1 CNN", "§6, six convolutions, pre-training not stated", IN09, "", None, 0.674, 0.409, "inferred"),
)

#: Model, top-1 and top-5 error on the test images of ILSVRC-2010, as printed.
TABLE_1 = (("Sparse coding", 0.471, 0.282), ("SIFT + FVs", 0.457, 0.257), ("CNN", 0.375, 0.170))

#: Model, top-1 and top-5 error on the validation images of ILSVRC-2012, top-5 error on its test images, as printed.
TABLE_2 = (
    ("SIFT + FVs", None, None, 0.262),
    ("1 CNN", 0.407, 0.182, None),
    ("5 CNNs", 0.381, 0.164, 0.164),
    ("1 CNN*", 0.390, 0.166, None),
    ("7 CNNs*", 0.367, 0.154, 0.153),
)

PEERS = (
    Result("Caffe AlexNet", "bvlc_alexnet: k = 1, LRN over both groups, biases 0.1", VAL12, "center",
           None, 0.429, 0.198, note="iteration 360,000; best in training 42.742, loss 1.83948"),
    Result("CaffeNet", "bvlc_reference_caffenet: pool before LRN", VAL12, "center",
           None, 0.426, 0.196, note="iteration 310,000; best in training 42.588, loss 1.82328"),
    Result("torchvision", "alexnet: 64, 192, 384, 256, 256 maps, no LRN, no groups", VAL12, "center",
           None, 0.43478, 0.20934),
    Result("cuda-convnet2", "one GPU (2014)", VAL12, "center", 1.863741, 0.425480, 0.198100),
    Result("cuda-convnet2", "the same", VAL12, "ten", 1.734335, 0.404200, 0.181500),
)
# fmt: on

#: Member of a sweep (configs/sweeps.py) -> published effect.
CLAIMS = {
    "no_lrn": Claim("+1.4 / +1.2 (§3.3)", "+1.37 / +1.15 (#148, #145)",
                    "#148 removes the same-map normalization too, and drops its rate at other epochs"),
    "non_overlapping_pooling": Claim("+0.4 / +0.3 (§3.4)", "+0.39 / +0.30 (#147, #145)", "#147 pads less"),
    "one_tower": Claim("+1.7 / +1.2 (§3.2)", "+1.70 / +1.23 (#145-half, #145, ILSVRC-2010 test)",
                       "conv5 is not halved"),
    "no_communication": Claim("", "+1.16 / +1.12 (#150, #145)", "conv2 and the hidden layers are wider"),
    "lrn_layer1_only": Claim("", "-0.18 / -0.09 (#167, #145)", "another schedule; against #170: -0.04 / +0.07"),
    "no_color": Claim("over +1 top-1 (§4.1)", "no run", "not traceable to a run"),
    "no_dropout": Claim("substantial overfitting (§4.2)", "no run"),
    "no_augmentation": Claim("substantial overfitting (§4.1)", "no run"),
    "no_conv3": Claim("about +2 top-1 (§7)", "no run"),
    "no_conv4": Claim("about +2 top-1 (§7)", "no run"),
    "no_conv5": Claim("about +2 top-1 (§7)", "no run"),
    "tanh": Claim("six times slower to 25 % training error (§3.1, CIFAR-10)", "no run"),
    "act_pool_lrn": Claim("", "no run", "CaffeNet against Caffe's AlexNet: -0.3 / -0.2, center crop"),
    "spatial_only": Claim("", "no run"),
    "k_1": Claim("", "#131 has k = 1, #135 k = 2: +0.14 / -0.16 by k = 2"),
    "n_9": Claim("", "#101 and #112, without a common number"),
    "dexp": Claim("", "-0.14 / -0.16 (#170, #145)"),
    "exp": Claim("", "+0.08 / +0.31 (#155, #145)", "exp[4000] from 0.02"),
    "linear": Claim("", "#153, abandoned at epoch 18"),
    "plateau": Claim("the schedule as the paper describes it (§5)", "by hand, at given epochs"),
}  # fmt: skip


def result(net: str, data: str, views: str) -> Result:
    """Return the first result in LOG, PEERS or PAPER for a net, test images and views. Raises KeyError."""
    for found in (*LOG, *PEERS, *PAPER):
        if (found.net, found.data, found.views) == (net, data, views):
            return found
    raise KeyError((net, data, views))


def rows() -> list[tuple[str, str, str]]:
    """Return rows (net, center crop, ten views) of top-1 / top-5 errors in percent, "" if not recorded.

    All are single networks trained on ILSVRC-2012 only, and evaluated on its validation images.
    """

    def errors(net: str, views: str) -> str:
        try:
            found = result(net, VAL12, views)
        except KeyError:  # not recorded
            return ""
        return f"{100 * found.top1:.2f} / {100 * (found.top5 or 0):.2f}"

    nets = {
        "the paper, Table 2": "1 CNN",
        "2012 log, #145: the paper's net": "145",
        "2012 log, #145 rewarmed": "145 rewarmed",
        "2012 log, #170: rates by a formula": "170",
        "2012 log, #167: LRN in layer 1 alone": "167",
        "cuda-convnet2, one GPU (2014)": "cuda-convnet2",
        "Caffe, CaffeNet": "CaffeNet",
        "Caffe, AlexNet": "Caffe AlexNet",
        "torchvision": "torchvision",
    }
    return [(name, errors(net, "center"), errors(net, "ten")) for name, net in nets.items()]


def table() -> str:
    """Format `rows` as Markdown."""
    return "\n".join(markdown.table(HEADER, rows())) + "\n"


def main() -> None:
    readme = Path(__file__).resolve().parents[2] / "README.md"
    text = readme.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    readme.write_text(before + BEGIN + table() + END + after, encoding="utf-8")


if __name__ == "__main__":
    main()
