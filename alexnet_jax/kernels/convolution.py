"""Linear operations: grouped convolutions (§3.2, §3.5), locally-connected layers and dense layers."""

import dataclasses
import functools
import math
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from alexnet_jax.kernels.forms import PLAIN, Forms
from alexnet_jax.kernels.windows import conv_size

#: Convolutions over fewer input maps use blocks of pixels, which have stride^2 times as many maps, because tensor cores
#: need aligned rows.
FEW_CHANNELS = 8


@dataclass(frozen=True)
class Blocks:
    """Padded images cut into blocks of stride x stride pixels; `convolution` accepts them instead of images.

    Attributes:
        values: The pixels of each block, row by row.
        channels: Channels of the images.
        side: Side of a block in pixels: the stride of the convolution.
    """

    values: Float[Array, "b h/s w/s s*s*c"]
    channels: int
    side: int

    @property
    def dtype(self) -> Any:
        return self.values.dtype

    def astype(self, dtype: Any) -> "Blocks":
        return dataclasses.replace(self, values=self.values.astype(dtype))


def convolution(
    x: Float[Array, "b h w c"] | Blocks,
    kernel: Float[Array, "kh kw c/groups f"],
    *,
    stride: int,
    pad: tuple[int, int],
    groups: int = 1,
    forms: Forms = PLAIN,
) -> Float[Array, "b oh ow f"]:
    """Convolve images or maps; a last window that does not fit is dropped (§3.5).

    Args:
        x: Images or maps, or Blocks of them.
        pad: Zeros before and after, the same for height and width.
        groups: Group g of the features takes only group g of the input maps, as the towers of §3.2.
        forms: The forms for the device.
    """
    convolve = functools.partial(_convolve, stride=stride, pad=pad, forms=forms)
    if groups == 1 or isinstance(x, Blocks):
        return convolve(x, kernel)
    if forms.groups == "feature_groups":
        return _plain(x, kernel, stride, pad, groups)
    maps, kernels = split(x, groups), split(kernel, groups)
    return jnp.concatenate([convolve(m, k) for m, k in zip(maps, kernels, strict=True)], axis=-1)


def _convolve(x, kernel, *, stride, pad, forms: Forms):
    if isinstance(x, Blocks):
        return _convolve_blocks(x, kernel)
    if in_blocks(forms, kernel.shape[2], stride):
        return _convolve_blocks(to_blocks(x, kernel.shape[0], stride, pad), kernel)
    return _plain(x, kernel, stride, pad)


def _plain(x, kernel, stride, pad, groups=1):
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=(pad, pad),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def in_blocks(forms: Forms, channels: int, stride: int) -> bool:
    """Whether a convolution over this many input maps uses blocks of pixels (Forms.strided)."""
    return forms.strided == "blocks" and stride > 1 and channels < FEW_CHANNELS


def to_blocks(x: Float[Array, "b h w c"], kernel: int, stride: int, pad: tuple[int, int]) -> Blocks:
    """Pad `x` and cut it into blocks (space to depth) for kernels of side `kernel`.

    A stride of s pixels becomes a stride of one block, and the kernel is padded with zeros to a multiple of s. The
    11x11 kernels of §3.5 with stride 4 over 3 channels become 3x3 kernels over 48 channels, which takes 1.19 times the
    multiply-adds, but on aligned rows.
    """
    b, *sides, channels = x.shape
    padding = [(0, 0, 0)]
    for side in sides:
        outputs = conv_size(side, kernel, stride, pad)
        total = (outputs - 1 + math.ceil(kernel / stride)) * stride
        padding.append((pad[0], total - side - pad[0], 0))
    x = lax.pad(x, jnp.zeros((), x.dtype), [*padding, (0, 0, 0)])
    values = _cut(x, stride).reshape(b, *(side // stride for side in x.shape[1:3]), -1)
    return Blocks(values, channels, stride)


def _convolve_blocks(blocks: Blocks, kernel):
    side, stride = kernel.shape[0], blocks.side
    missing = -side % stride
    kernel = jnp.pad(kernel, ((0, missing), (0, missing), (0, 0), (0, 0)))
    # [kh kw c f] -> [kh/s kw/s s*s*c f], in the order of the pixels of a block.
    count, features = kernel.shape[0] // stride, kernel.shape[3]
    cut = kernel.reshape(count, stride, count, stride, blocks.channels, features)
    cut = cut.transpose(0, 2, 1, 3, 4, 5).reshape(count, count, -1, features)
    return _plain(blocks.values, cut, 1, (0, 0))


def _cut(x, stride):
    """Cut maps [b h w c] into blocks [b h/s w/s s s c]."""
    b, height, width, channels = x.shape
    cut = x.reshape(b, height // stride, stride, width // stride, stride, channels)
    return cut.transpose(0, 1, 3, 2, 4, 5)


def locally_connected(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "oh ow kh kw c f"],
    *,
    stride: int,
    pad: tuple[int, int],
) -> Float[Array, "b oh ow f"]:
    """Convolve with a separate kernel for each output position."""
    height, width, kernel_height, kernel_width = kernel.shape[:4]
    x = jnp.pad(x, ((0, 0), pad, pad, (0, 0)))
    # [b oh ow kh*kw c]: the input patch of each output position.
    patches = jnp.stack(
        [
            x[
                :,
                i : i + (height - 1) * stride + 1 : stride,
                j : j + (width - 1) * stride + 1 : stride,
            ]
            for i in range(kernel_height)
            for j in range(kernel_width)
        ],
        axis=3,
    )
    kernel = kernel.reshape(height, width, kernel_height * kernel_width, *kernel.shape[4:])
    return jnp.einsum("bhwpc,hwpcf->bhwf", patches, kernel)


def dense(
    x: Float[Array, "b n"],
    kernel: Float[Array, "n f"] | Float[Array, "groups n/groups f/groups"],
    dtype: Any = None,
) -> Float[Array, "b f"]:
    """Multiply by `kernel`; with groups, group g of the outputs takes only group g of the inputs.

    Args:
        dtype: The type of the outputs, by default that of `x`. Sums are float32.
    """
    multiply = functools.partial(jnp.matmul, preferred_element_type=dtype)
    if kernel.ndim == 2:
        return multiply(x, kernel)
    parts = zip(split(x, len(kernel)), kernel, strict=True)
    return jnp.concatenate([multiply(part, weights) for part, weights in parts], axis=-1)


def flatten(x: Float[Array, "b h w c"], groups: int = 1) -> Float[Array, "b h*w*c"]:
    """Flatten maps group by group, so that the units of a tower are contiguous."""
    return jnp.concatenate([m.reshape(m.shape[0], -1) for m in split(x, groups)], axis=-1)


def split(x: Float[Array, "*place c"], groups: int) -> list[Float[Array, "*place c/groups"]]:
    """Split the last axis into equal parts."""
    return list(lax.split(x, [x.shape[-1] // groups] * groups, axis=x.ndim - 1))


def channels(x: Float[Array, "b *place c"] | tuple[Array, ...] | Blocks) -> int:
    """Return the number of maps or units in an array, in the arrays of several groups, or in the images of blocks."""
    if isinstance(x, Blocks):
        return x.channels
    return sum(part.shape[-1] for part in x) if isinstance(x, tuple) else x.shape[-1]
