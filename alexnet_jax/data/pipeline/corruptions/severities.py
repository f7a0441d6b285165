"""Parameters of the corruptions for each severity, at two sizes of images.

Most are the values with which ImageNet-C (224 pixels) and CIFAR-10-C (32 pixels) were made. Those of glass blur, snow,
frost and elastic transform, which are made in another way here, and some of motion and defocus blur at 32 pixels are
new: each severity is to be further from the original image than the one before.
"""

from typing import NamedTuple

Parameters = tuple[float, ...]


class Table(NamedTuple):
    """Parameters for images of about `size` pixels: name of the corruption -> its parameters at severities 1 to 5.

    Lengths are in pixels of an image of `size`, and are scaled to others.
    """

    size: int
    severities: dict[str, tuple[Parameters, ...]]


# fmt: off
SMALL = Table(32, {
    "gaussian_noise": ((.04,), (.06,), (.08,), (.09,), (.10,)),
    "shot_noise": ((500,), (250,), (100,), (75,), (50,)),
    "impulse_noise": ((.01,), (.02,), (.03,), (.05,), (.07,)),
    "defocus_blur": ((.3, .4), (.4, .5), (.5, .6), (1, .4), (1.5, .3)),
    "glass_blur": ((.2, .6, 1), (.3, .8, 1), (.4, 1, 1), (.4, 1, 2), (.45, 1.2, 2)),
    "motion_blur": ((6, 1), (6, 1.5), (6, 2), (8, 2.25), (9, 2.5)),
    "zoom_blur": ((1.06, .01), (1.11, .01), (1.16, .01), (1.21, .01), (1.26, .01)),
    "snow": ((.1, .2, 1, .6, 8, 3, .95), (.1, .25, 1.25, .6, 10, 4, .93), (.15, .3, 1.75, .6, 10, 4, .9),
             (.2, .3, 2.25, .6, 12, 6, .85), (.25, .3, 2.25, .6, 14, 8, .8)),
    "frost": ((1, .15), (1, .25), (1, .35), (.95, .45), (.9, .55)),
    "fog": ((.2, 3), (.5, 3), (.75, 2.5), (1, 2), (1.5, 1.75)),
    "brightness": ((.05,), (.1,), (.15,), (.2,), (.3,)),
    "contrast": ((.75,), (.5,), (.4,), (.3,), (.15,)),
    "elastic_transform": ((.3, 1.5, .4), (.45, 1.5, .6), (.6, 1.5, .8), (.8, 1.5, 1), (1, 1.5, 1.2)),
    "pixelate": ((.95,), (.9,), (.85,), (.75,), (.65,)),
    "jpeg_compression": ((80,), (65,), (58,), (50,), (40,)),
})
LARGE = Table(224, {
    "gaussian_noise": ((.08,), (.12,), (.18,), (.26,), (.38,)),
    "shot_noise": ((60,), (25,), (12,), (5,), (3,)),
    "impulse_noise": ((.03,), (.06,), (.09,), (.17,), (.27,)),
    "defocus_blur": ((3, .1), (4, .5), (6, .5), (8, .5), (10, .5)),
    "glass_blur": ((.7, 1, 2), (.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
    "motion_blur": ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
    "zoom_blur": ((1.11, .01), (1.16, .01), (1.21, .02), (1.26, .02), (1.31, .03)),
    "snow": ((.1, .3, 3, .5, 10, 4, .8), (.15, .3, 3, .5, 12, 4, .75), (.2, .3, 3, .5, 12, 6, .7),
             (.25, .3, 3.5, .5, 12, 8, .65), (.3, .3, 3.5, .5, 12, 10, .6)),
    "frost": ((1, .35), (.95, .5), (.9, .65), (.85, .8), (.8, .95)),
    "fog": ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
    "brightness": ((.1,), (.2,), (.3,), (.4,), (.5,)),
    "contrast": ((.4,), (.3,), (.2,), (.1,), (.05,)),
    "elastic_transform": ((2, 9, 3), (3, 9, 4), (4, 9, 5.5), (5.5, 9, 7), (7, 9, 9)),
    "pixelate": ((.6,), (.5,), (.4,), (.3,), (.25,)),
    "jpeg_compression": ((25,), (18,), (15,), (10,), (7,)),
})
# fmt: on


def of(name: str, severity: int, size: int) -> tuple[Parameters, float]:
    """Return the parameters of a corruption for images of `size` pixels, and the factor for its lengths.

    They are those of SMALL for images nearer to 32 than to 224 pixels by ratio, up to 84 pixels, else those of LARGE.
    """
    table = SMALL if size**2 < SMALL.size * LARGE.size else LARGE
    return table.severities[name][severity - 1], size / table.size
