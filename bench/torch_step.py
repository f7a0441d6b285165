"""The network of a config and its training step in PyTorch, channels last."""

import argparse
import atexit
import dataclasses
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from alexnet_jax.config import find
from alexnet_jax.interop import pytorch
from alexnet_jax.kernels.windows import lrn_reach
from alexnet_jax.specs import Config, ConvSpec, ModelSpec

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


def network(spec: Config, *, written: bool = False) -> nn.Module:
    """The network of a config, for images [b 3 s s] padded by `padding`, in the form that is fastest to train.

    It is the module of `alexnet export --format pytorch`, without the normalization of images.

    Args:
      written: Normalize by WrittenNormalization instead of torch's layer.
    """
    plain = dataclasses.replace(spec.augment, mean="none", scale=1.0)
    net = _exported(dataclasses.replace(spec, augment=plain))
    first = getattr(net, spec.model.layers[0][0])
    if hasattr(first, "pad"):
        del first.pad
    elif isinstance(first.linear, nn.Conv2d):
        first.linear.padding = (0, 0)
    for parent in list(net.modules()):
        for name, module in parent.named_children():
            if isinstance(module, nn.ReLU):
                module.inplace = True
            elif isinstance(module, nn.LocalResponseNorm) and written:
                setattr(parent, name, WrittenNormalization(module))
            elif (
                type(module).__name__ == "PaperDropout"
            ):  # scaled in training, without another product
                setattr(parent, name, nn.Dropout(module.p))
    for name, layer in spec.model.layers:
        linear = getattr(net, name).linear
        nn.init.normal_(linear.weight, 0, layer.init_std)
        nn.init.constant_(linear.bias, layer.bias)
    return net


def _exported(spec: Config) -> nn.Module:
    """The module of an export, imported; torch.compile reads its source, so that it stays until the program ends."""
    folder = tempfile.mkdtemp(prefix="alexnet-jax-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = Path(folder) / "net.py"
    path.write_text(pytorch.source(spec), encoding="utf-8")
    module = find.execute(path)
    sys.modules[module.__name__] = module  # torch.compile looks up its globals by this name
    return module.AlexNet()


class WrittenNormalization(nn.Module):
    """Response normalization (§3.3) from shifted slices and, for beta = 3/4, square roots.

    This is faster on a CPU and when compiled.
    """

    def __init__(self, module: nn.LocalResponseNorm) -> None:
        super().__init__()
        self.n, self.beta, self.k = module.size, module.beta, module.k
        self.alpha, self.towers = module.alpha / module.size, getattr(module, "towers", 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = x.shape[1] // self.towers
        squares = F.pad((x * x).unflatten(1, (self.towers, maps)), (0, 0, 0, 0, *lrn_reach(self.n)))
        total = sum(squares[:, :, i : i + maps] for i in range(self.n))
        bracket = self.k + self.alpha * total.flatten(1, 2).float()
        if self.beta != 0.75:
            return (x * bracket**-self.beta).to(x.dtype)
        root = torch.rsqrt(bracket)
        return (x * (root * root.sqrt())).to(x.dtype)
