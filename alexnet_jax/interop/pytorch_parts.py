"""The definitions that the files of interop/pytorch.py contain, each copied where it is needed.

Nothing imports this module: it is read as text, and torch need not be installed. The constants below stand for those
that an export sets.
"""

import json
import math
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

IMAGE_SIZE, RESIZE, CROP_SIZE, USE_EXIF = 256, 256, 224, False


def layer(**modules: nn.Module) -> nn.Sequential:
    """Return modules that are applied one after the other, by name."""
    return nn.Sequential(OrderedDict(modules))


class ScaledTanh(nn.Module):
    """LeCun's tanh, which is 1 at 1 and -1 at -1."""

    def forward(self, x: Tensor) -> Tensor:
        return 1.7159 * torch.tanh(x * (2 / 3))


class AbsTanh(nn.Module):
    """|tanh x|."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x).abs()


class TowerNorm(nn.LocalResponseNorm):
    """Local response normalization whose windows end at the border of a tower."""

    def __init__(self, size: int, alpha: float, beta: float, k: float, towers: int) -> None:
        super().__init__(size, alpha, beta, k)
        self.towers = towers

    def forward(self, x: Tensor) -> Tensor:
        settings = (self.size, self.alpha, self.beta, self.k)
        parts = x.chunk(self.towers, dim=1)
        # torch.fx cannot iterate over the parts.
        parts = [F.local_response_norm(parts[i], *settings) for i in range(self.towers)]
        return torch.cat(parts, dim=1)


class SpatialNorm(nn.Module):
    """x / (1 + alpha * sum of x^2 over size x size positions of the same map)^beta."""

    def __init__(self, size: int, alpha: float, beta: float) -> None:
        super().__init__()
        self.size, self.alpha, self.beta = size, alpha, beta

    def forward(self, x: Tensor) -> Tensor:
        before, after = self.size // 2, (self.size - 1) // 2
        squares = F.pad(x * x, (before, after, before, after))
        total = F.avg_pool2d(squares, self.size, stride=1, divisor_override=1)
        return x * (1 + self.alpha * total) ** -self.beta


class PaperDropout(nn.Module):
    """Dropout that multiplies by 1 - p at test time, as the paper, and not in training."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.p, self.training) * (1 - self.p)


class GroupedLinear(nn.Module):
    """A linear layer whose units take only the inputs of their group, as nn.Conv2d with groups."""

    def __init__(self, inputs: int, outputs: int, groups: int) -> None:
        super().__init__()
        self.groups, std = groups, (groups / inputs) ** 0.5
        self.weight = nn.Parameter(std * torch.randn(groups, outputs // groups, inputs // groups))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        x = x.unflatten(1, (self.groups, -1))
        return torch.einsum("bgi,goi->bgo", x, self.weight).flatten(1) + self.bias


class LocallyConnected(nn.Module):
    """A convolution with separate kernels and biases at every position; `pad` is before and after the maps."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        out_size: int,
        kernel_size: int,
        stride: int,
        pad: tuple[int, int],
    ) -> None:
        super().__init__()
        self.out_size, self.kernel_size, self.stride = out_size, kernel_size, stride
        self.pad = (*pad, *pad)
        places, patch = out_size**2, inputs * kernel_size**2
        self.weight = nn.Parameter(patch**-0.5 * torch.randn(places, patch, outputs))
        self.bias = nn.Parameter(torch.zeros(places, 1, outputs))

    def forward(self, x: Tensor) -> Tensor:
        patches = F.unfold(F.pad(x, self.pad), self.kernel_size, stride=self.stride)
        y = torch.baddbmm(self.bias, patches.permute(2, 0, 1), self.weight)
        return y.permute(1, 2, 0).unflatten(2, (self.out_size, self.out_size)).contiguous()


AlexNet = nn.Module


def load(path: str | Path | None = None) -> AlexNet:
    """Load the trained network, by default from the .safetensors file beside this one, in evaluation mode.

    `net.class_names` are the names of its classes.
    """
    path = path or Path(__file__).with_suffix(".safetensors")
    net = AlexNet()
    net.load_state_dict(load_file(path))
    with safe_open(path, framework="pt") as file:
        net.class_names = json.loads(file.metadata()["class_names"])
    return net.eval()


def preprocess(image: str | Path | Image.Image) -> Tensor:
    """Return the center crop of an image for the network: float32 [3 CROP_SIZE CROP_SIZE], RGB from 0 to 255.

    The image, a path or a Pillow image, is cut to its central square and resized to IMAGE_SIZE.

    Raises:
        ValueError: It has more than 8 bits per channel.
    """
    pixels = _pixels(image)
    height, width = pixels.shape[:2]
    side = min(height, width)
    top, left = (height - side) / 2, (width - side) / 2
    if side == IMAGE_SIZE:  # cut at whole pixels
        top, left = top // 1, left // 1
    if side < IMAGE_SIZE:
        sides = (IMAGE_SIZE, IMAGE_SIZE)
        box = (left, top, left + side, top + side)
        pixels = Image.fromarray(pixels).resize(sides, Image.Resampling.BICUBIC, box=box)
    else:
        pixels = pixels[:, int(left) : int(left) + side + 1]
        pixels = _averages(pixels, top, side).swapaxes(0, 1)
        pixels = _averages(pixels, left % 1, side).swapaxes(0, 1).round()
    x = torch.tensor(np.array(pixels, np.float32)).permute(2, 0, 1)
    if RESIZE:
        x = F.interpolate(x[None], (RESIZE, RESIZE), mode="bilinear", antialias=True)[0]
    start = (x.shape[1] - CROP_SIZE) // 2
    return x[:, start : start + CROP_SIZE, start : start + CROP_SIZE].contiguous()


def _pixels(image: str | Path | Image.Image) -> np.ndarray:
    """Return the RGB values of an image, uint8 [h w 3]; transparent pixels become white."""
    if not isinstance(image, Image.Image):
        with Image.open(image) as file:
            return _pixels(file)
    if image.mode.startswith(("I", "F")):
        raise ValueError(
            f"the image has more than 8 bits per channel (mode {image.mode}): convert it to 8 bits"
        )
    if USE_EXIF:
        image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image.convert("RGB"))


def _averages(pixels: np.ndarray, start: float, side: int) -> np.ndarray:
    """Average rows of pixels over IMAGE_SIZE equal cells from `start`; a row on a border counts by its share."""
    edges = np.linspace(start, start + side, IMAGE_SIZE + 1)
    first, total = np.floor(edges[:-1]).astype(int), np.float32(0)
    for i in range(math.ceil(side / IMAGE_SIZE) + 1):
        covered = np.minimum(first + i + 1, edges[1:]) - np.maximum(first + i, edges[:-1])
        weight = (covered.clip(0) * (IMAGE_SIZE / side)).astype(np.float32)
        total = total + pixels[np.minimum(first + i, len(pixels) - 1)] * weight[:, None, None]
    return total
