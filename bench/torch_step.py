"""The paper's network (§3.5) and its training step in PyTorch, channels last."""

import torch
import torch.nn.functional as F
from torch import nn

from bench import programs


def build(options, images, labels, *, mode: str | None, written: bool):
    """(run(steps) -> the last loss, facts). The images are padded beforehand, at no cost to the step.

    options: `threads`, `device` ('cpu' or 'cuda'), `dtype`: below float32 by autocast; on a GPU float32 is TF32.
    mode: of torch.compile, or None for eager.
    """
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    device, dtype = torch.device(options.device), getattr(torch, options.dtype)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    # cuDNN times its algorithms at once if a graph captures the kernels, and else in tune(), without others beside it.
    graph = mode in ("reduce-overhead", "max-autotune")
    torch.backends.cudnn.benchmark = graph
    normalize = WrittenNormalization if written else TowerNormalization
    model = network(normalize).to(device, memory_format=torch.channels_last).train()
    inputs = torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float() / 255
    inputs = F.pad(inputs, (0, 3, 0, 3)).contiguous(memory_format=torch.channels_last)
    targets = torch.from_numpy(labels).to(device)
    # One kernel for each tensor: the fastest of torch's three forms of it.
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=programs.RATE,
        momentum=programs.MOMENTUM,
        weight_decay=programs.DECAY,
        fused=True,
    )

    def loss_of(inputs, targets):
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            return F.cross_entropy(model(inputs), targets)

    forward = torch.compile(loss_of, mode=mode) if mode else loss_of

    def run(steps):
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

    def tune():
        torch.backends.cudnn.benchmark = True

    count = sum(p.numel() for p in model.parameters())
    return run, {"version": f"torch {torch.__version__}", "parameters": count, "tune": tune}


def network(normalize) -> nn.Sequential:
    """On images [b 3 227 227]: the 224 of the paper and 3 zeros on the right and at the bottom."""

    def pool():
        return nn.MaxPool2d(3, 2)

    def relu():
        return nn.ReLU(inplace=True)

    layers = [
        *(nn.Conv2d(3, 96, 11, 4), relu(), normalize(), pool()),
        *(nn.Conv2d(96, 256, 5, padding=2, groups=2), relu(), normalize(), pool()),
        *(nn.Conv2d(256, 384, 3, padding=1), relu()),
        *(nn.Conv2d(384, 384, 3, padding=1, groups=2), relu()),
        *(nn.Conv2d(384, 256, 3, padding=1, groups=2), relu(), pool(), nn.Flatten()),
        *(nn.Linear(9216, 4096), relu(), nn.Dropout(0.5)),
        *(nn.Linear(4096, 4096), relu(), nn.Dropout(0.5)),
        nn.Linear(4096, programs.CLASSES),
    ]
    for i, layer in enumerate(layers):
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.normal_(layer.weight, 0, 0.01)
            nn.init.constant_(layer.bias, 0.0 if i in (0, 8, len(layers) - 1) else 1.0)
    return nn.Sequential(*layers)


class TowerNormalization(nn.Module):
    """§3.3 with PyTorch's own layer on each tower; it divides alpha by the window."""

    def __init__(self):
        super().__init__()
        self.normalize = nn.LocalResponseNorm(5, 5e-4, 0.75, 2.0)

    def forward(self, x):
        return torch.cat([self.normalize(tower) for tower in x.chunk(2, 1)], 1)


class WrittenNormalization(nn.Module):
    """The same by hand, which is faster on a CPU and when compiled: shifted slices for the window, no power."""

    def forward(self, x):
        maps = x.shape[1] // 2
        squares = F.pad((x * x).unflatten(1, (2, maps)), (0, 0, 0, 0, 2, 2))
        total = sum(squares[:, :, i : i + maps] for i in range(5))
        root = torch.rsqrt(2 + 1e-4 * total.flatten(1, 2).float())
        return (x * (root * root.sqrt())).to(x.dtype)
