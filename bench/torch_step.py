"""The network of a config and its training step in PyTorch, channels last."""

import argparse
import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from alexnet_jax.errors import ConfigError
from alexnet_jax.kernels.windows import lrn_reach
from alexnet_jax.model import geometry
from alexnet_jax.model.operations import Maps
from alexnet_jax.specs import Config, ConvSpec, LRNSpec, ModelSpec, SpatialNormSpec

from . import workload


def build(
    options: argparse.Namespace, spec: Config, *, mode: str | None, written: bool
) -> tuple[Callable[[int], float], dict[str, Any]]:
    """Build the program: run(steps) -> the last loss, and facts. The first layer's padding is outside the step.

    Args:
      options: `threads`; `device`: 'cpu' or 'cuda'; `dtype`: below float32 by autocast. On a GPU float32 is TF32.
      mode: The mode of torch.compile, or None for eager.
      written: Normalize by WrittenNormalization instead of torch's layer.
    """
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    device, dtype = torch.device(options.device), getattr(torch, options.dtype)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    # With CUDA graphs cuDNN must choose algorithms in the first step; otherwise tune() does, with the GPU to itself.
    graph = mode in ("reduce-overhead", "max-autotune")
    torch.backends.cudnn.benchmark = graph
    images, labels = workload.examples(spec)
    inputs = torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float() / 255
    before, after = padding(spec.model)
    inputs = F.pad(inputs, 2 * (before, after)).contiguous(memory_format=torch.channels_last)
    model = network(spec, written=written).to(device, memory_format=torch.channels_last).train()
    targets = torch.from_numpy(labels).to(device)
    # fused=True is the fastest of torch's implementations.
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=workload.RATE,
        momentum=workload.MOMENTUM,
        weight_decay=workload.DECAY,
        fused=True,
    )

    def loss_of(inputs: Any, targets: Any) -> Any:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            return F.cross_entropy(model(inputs), targets)

    forward = torch.compile(loss_of, mode=mode) if mode else loss_of

    def run(steps: int) -> float:
        loss = torch.zeros(())
        for _ in range(steps):
            if graph:
                torch.compiler.cudagraph_mark_step_begin()
            optimizer.zero_grad(set_to_none=True)
            loss = forward(inputs, targets)
            loss.backward()
            optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return float(loss.detach())

    def tune() -> None:
        torch.backends.cudnn.benchmark = True

    count = sum(p.numel() for p in model.parameters())
    return run, {"version": f"torch {torch.__version__}", "parameters": count, "tune": tune}


def padding(model: ModelSpec) -> tuple[int, int]:
    """Return the zeros that images for `network` have at the top and left, and at the bottom and right."""
    first = model.layers[0][1]
    return first.pad if isinstance(first, ConvSpec) and first.kind == "conv" else (0, 0)


def network(spec: Config, *, written: bool = False) -> nn.Sequential:
    """The network of a config, for images [b 3 s s] padded by `padding`. Raises ConfigError for what has no peer."""
    model, modules = spec.model, []
    walked = geometry.walk(model, spec.augment.crop_size, model.num_classes or 1000)
    for number, (node, inputs, outputs) in enumerate(walked):
        name, layer = node.operation.name, node.spec
        if name == "conv":
            (before, after), given = layer.pad, number == 0
            if before != after and not given:
                modules.append(nn.ZeroPad2d((before, after, before, after)))
            side = 0 if given or before != after else before
            kernel = (layer.kernel, layer.stride, side)
            modules.append(
                nn.Conv2d(inputs.channels, outputs.channels, *kernel, groups=layer.groups)
            )
        elif name == "local":
            modules.append(Local(inputs, outputs, layer))
        elif name == "dense":
            if not any(isinstance(module, nn.Flatten) for module in modules):
                modules.append(nn.Flatten())
            if layer.groups > 1:
                raise ConfigError(
                    f"config.model.fcs.{node.layer}.groups={layer.groups} has no peer"
                )
            modules.append(nn.Linear(inputs.channels, outputs.channels))
        elif name == "act":
            if model.activation not in ACTIVATIONS:
                raise ConfigError(f"config.model.activation={model.activation} has no peer")
            modules.append(ACTIVATIONS[model.activation]())
        elif name == "pool":
            pool = layer.pool
            options: dict[str, Any] = {"ceil_mode": pool.rounding == "ceil"}
            if pool.kind == "average":
                options["count_include_pad"] = False
            kind = nn.MaxPool2d if pool.kind == "max" else nn.AvgPool2d
            modules.append(kind(pool.window, pool.stride, **options))
        elif name == "lrn":
            kind = WrittenNormalization if written else TowerNormalization
            towers = model.towers if model.lrn_constants.within_towers else 1
            modules.append(kind(model.lrn_constants, towers))
        elif name == "spatial_norm":
            modules.append(SpatialNormalization(model.spatial_norm))
        elif name == "batch_norm":
            constants = (model.batch_norm.epsilon, 1 - model.batch_norm.momentum)
            kind = nn.BatchNorm2d if isinstance(layer, ConvSpec) else nn.BatchNorm1d
            modules.append(kind(outputs.channels, *constants))
        elif name == "dropout":
            modules.append(nn.Dropout(model.dropout.rate))
        else:
            raise ConfigError(f"the operation {name!r} of {node.layer} has no peer in PyTorch")
        if node.operation.is_linear:
            nn.init.normal_(modules[-1].weight, 0, layer.init_std)
            nn.init.constant_(modules[-1].bias, layer.bias)
    return nn.Sequential(*modules)


ACTIVATIONS = {"relu": functools.partial(nn.ReLU, inplace=True), "tanh": nn.Tanh}


class Local(nn.Module):
    """A locally-connected layer: one product for each position."""

    def __init__(self, inputs: Maps, outputs: Maps, spec: ConvSpec) -> None:
        super().__init__()
        self.spec, self.size = spec, outputs.size
        places, patch = outputs.size**2, inputs.channels * spec.kernel**2
        self.weight = nn.Parameter(torch.empty(places, patch, outputs.channels))
        self.bias = nn.Parameter(torch.empty(places, 1, outputs.channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        before, after = self.spec.pad
        x = F.pad(x, (before, after, before, after))
        patches = F.unfold(x, self.spec.kernel, stride=self.spec.stride).permute(2, 0, 1)
        y = torch.baddbmm(self.bias, patches, self.weight)
        return y.permute(1, 2, 0).unflatten(2, (self.size, self.size))


class TowerNormalization(nn.Module):
    """Response normalization (§3.3) by PyTorch's layer on each tower; it divides alpha by the window."""

    def __init__(self, spec: LRNSpec, towers: int) -> None:
        super().__init__()
        if spec.n % 2 == 0:
            raise ConfigError(f"config.model.lrn_constants.n={spec.n}: PyTorch's windows are odd")
        self.towers = towers
        self.normalize = nn.LocalResponseNorm(spec.n, spec.alpha * spec.n, spec.beta, spec.k)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.normalize(tower) for tower in x.chunk(self.towers, 1)], 1)


class WrittenNormalization(nn.Module):
    """The same from shifted slices and, for beta = 3/4, square roots, which is faster on a CPU and when compiled."""

    def __init__(self, spec: LRNSpec, towers: int) -> None:
        super().__init__()
        self.spec, self.towers = spec, towers

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        spec, maps = self.spec, x.shape[1] // self.towers
        squares = F.pad((x * x).unflatten(1, (self.towers, maps)), (0, 0, 0, 0, *lrn_reach(spec.n)))
        total = sum(squares[:, :, i : i + maps] for i in range(spec.n))
        bracket = spec.k + spec.alpha * total.flatten(1, 2).float()
        if spec.beta != 0.75:
            return (x * bracket**-spec.beta).to(x.dtype)
        root = torch.rsqrt(bracket)
        return (x * (root * root.sqrt())).to(x.dtype)


class SpatialNormalization(nn.Module):
    """Normalization over places within each map, by average pooling."""

    def __init__(self, spec: SpatialNormSpec) -> None:
        super().__init__()
        if spec.size % 2 == 0:
            raise ConfigError(f"config.model.spatial_norm.size={spec.size} has no peer: it is even")
        self.spec = spec

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        size = self.spec.size
        total = F.avg_pool2d(x * x, size, 1, size // 2, divisor_override=1)
        return x * (1 + self.spec.alpha * total) ** -self.spec.beta
