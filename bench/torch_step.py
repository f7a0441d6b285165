"""The paper's network (§3.5) and its training step in PyTorch, channels last."""

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from . import workload


def build(
    options: argparse.Namespace, images: np.ndarray, labels: np.ndarray, *,
    mode: str | None, written: bool,
) -> tuple[Callable[[int], float], dict[str, Any]]:  # fmt: skip
    """Build the program: run(steps) -> the last loss, and facts. Images are padded beforehand, outside the step.

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
    normalize = WrittenNormalization if written else TowerNormalization
    model = network(normalize).to(device, memory_format=torch.channels_last).train()
    inputs = torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float() / 255
    inputs = F.pad(inputs, (0, 3, 0, 3)).contiguous(memory_format=torch.channels_last)
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


def network(normalize: Callable[[], nn.Module]) -> nn.Sequential:
    """The network for images [b 3 227 227]: those of the paper with 3 zeros at the right and bottom."""

    def pool() -> nn.Module:
        return nn.MaxPool2d(3, 2)

    def relu() -> nn.Module:
        return nn.ReLU(inplace=True)

    layers = [
        *(nn.Conv2d(3, 96, 11, 4), relu(), normalize(), pool()),
        *(nn.Conv2d(96, 256, 5, padding=2, groups=2), relu(), normalize(), pool()),
        *(nn.Conv2d(256, 384, 3, padding=1), relu()),
        *(nn.Conv2d(384, 384, 3, padding=1, groups=2), relu()),
        *(nn.Conv2d(384, 256, 3, padding=1, groups=2), relu(), pool(), nn.Flatten()),
        *(nn.Linear(9216, 4096), relu(), nn.Dropout(0.5)),
        *(nn.Linear(4096, 4096), relu(), nn.Dropout(0.5)),
        nn.Linear(4096, workload.CLASSES),
    ]
    for i, layer in enumerate(layers):
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.normal_(layer.weight, 0, 0.01)
            nn.init.constant_(layer.bias, 0.0 if i in (0, 8, len(layers) - 1) else 1.0)
    return nn.Sequential(*layers)


class TowerNormalization(nn.Module):
    """Response normalization (§3.3) by PyTorch's layer on each tower; it divides alpha by the window."""

    def __init__(self) -> None:
        super().__init__()
        self.normalize = nn.LocalResponseNorm(5, 5e-4, 0.75, 2.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.normalize(tower) for tower in x.chunk(2, 1)], 1)


class WrittenNormalization(nn.Module):
    """The same from shifted slices and square roots, which is faster on a CPU and when compiled."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = x.shape[1] // 2
        squares = F.pad((x * x).unflatten(1, (2, maps)), (0, 0, 0, 0, 2, 2))
        total = sum(squares[:, :, i : i + maps] for i in range(5))
        root = torch.rsqrt(2 + 1e-4 * total.flatten(1, 2).float())
        return (x * (root * root.sqrt())).to(x.dtype)
