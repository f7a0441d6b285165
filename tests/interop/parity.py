"""Logits, features and input gradients of exported modules of PyTorch beside ours, for every configuration.

    python -m tests.interop.parity docs/results/2026-11-27-pytorch-export.md [NAME ...]

writes the table of that page, or measures the configurations NAME again; sections after the table stay. Needs torch.
"""

import functools
import importlib.util
import platform
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from alexnet_jax.data.pipeline import augment, views
from alexnet_jax.inference import trained
from alexnet_jax.inference.predict_step import resized_statistics
from alexnet_jax.interop import export_weights, layout
from alexnet_jax.model import alexnet, operations
from alexnet_jax.specs import NO_FILES
from tests.config import test_configs
from tests.interop import nets

#: The norm of a difference over the norm of ours.
TOLERANCE = 1e-5
#: Measured with all their units; layers of other nets have at most 256.
WHOLE = ("paper", "torchvision", "caffe:alexnet")
#: Compiled to machine code, with all kinds of operations among them; others are only captured and differentiated.
INDUCTOR = (
    "paper",
    "quickstart",
    "cifar10:18pct",
    "cifar10:11pct",
    "flowers17:batchnorm",
    "scales:digits",
)

#: With channels last, inductor of torch 2.13 computes wrong gradients on CPUs where a linear layer follows a pool.
COMPILED_WITH = {"layout_optimization": False}

#: Gradients that differ, with the reason; docs/results/2026-11-27-pytorch-export.md has the numbers.
KNOWN = {
    "cifar10:18pct": "inductor's gradient of AvgPool2d(ceil_mode=True) is wrong",
    "ladder:one_tower": "rounding decides the gradient of one image",
}

#: Undo the flags of tests/conftest.py, with which XLA computes some gradients of pools wrong on CPUs.
OPTIMIZED = {"xla_backend_optimization_level": 3, "xla_llvm_disable_expensive_passes": False}


class Ours(NamedTuple):
    """Channels first; gradients are those of the sum of logits times `factors`, by the crops [b 3 c c]."""

    crops: np.ndarray
    factors: np.ndarray
    logits: np.ndarray
    features: dict[str, np.ndarray]
    gradients: np.ndarray


class Parity(NamedTuple):
    """Norm ratios: of features the largest one of any feature."""

    logits: float
    features: float
    gradients: float
    #: Of the module under torch.compile; None if it was not compiled.
    compiled: float | None
    compiled_gradients: float | None
    #: Images whose gradients cannot be compared, because rounding decides a ReLU or the largest value of a pool.
    undecided: int

    @property
    def worst(self) -> float:
        return max(value for value in self[:5] if value is not None)


def exported(run: trained.TrainedModel, folder: Path) -> Any:
    """The module that the command writes for a net, imported."""
    trained.save(folder / "ours.safetensors", run)
    arguments = ["--workdir", str(folder / "ours.safetensors"), "--out", str(folder / "mynet.py")]
    export_weights.main([*arguments, "--format", "pytorch"])
    return imported(folder / "mynet.py")


def imported(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def of_ours(run: trained.TrainedModel, count: int) -> Ours:
    """Apply our net to center crops of random images."""
    spec, size = run.config, run.config.augment.crop_size
    images = np.asarray(augment.resized(nets.pictures(run, count), spec.augment), np.float32)
    [(top, left, _)] = views.center(images.shape[1], size)
    net, statistics = alexnet.from_config(spec), resized_statistics(run.statistics, spec)
    factors = np.random.default_rng(2).standard_normal(
        (count, len(run.class_names)), dtype=np.float32
    )

    @functools.partial(jax.jit, compiler_options=OPTIMIZED)
    @functools.partial(jax.grad, has_aux=True)
    def gradients(images, variables):
        crops = augment.test_images(images, statistics, spec.augment, (top, left))
        outputs: Any = net.apply(variables, crops, train=False)
        return (outputs[0] * factors).sum(), outputs

    by_images, (logits, features) = gradients(images, run.variables)
    inner = slice(top, top + size)
    crops, by_crops = (_first(np.asarray(x)[:, inner, inner]) for x in (images, by_images))
    found = {name: _first(np.asarray(value)) for name, value in features.items()}
    flat = spec.model.fcs[0][0]
    for name in found:
        if name.startswith(f"{flat}/before/"):  # maps flattened with channels last
            found[name] = found[name][:, layout.input_order(spec, flat)]
    return Ours(crops, factors, np.asarray(logits), found, by_crops)


def _first(x: np.ndarray) -> np.ndarray:
    """Maps [b h w c] with channels first."""
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2)) if x.ndim == 4 else x


def measure(
    run: trained.TrainedModel, module: Any, *, compiled: str | None = None, count: int = 3
) -> Parity:
    """Compare an exported module with our net.

    Args:
        compiled: The backend of torch.compile.
    """
    import torch

    ours, net = of_ours(run, count), module.load()
    features: dict[str, np.ndarray] = {}
    handles = [
        part.register_forward_hook(
            lambda _, __, output, name=name: features.update({name: output.detach().numpy()})
        )
        for name, part in net.named_modules()
    ]
    logits, gradients = _differentiated(net, ours)
    for handle in handles:
        handle.remove()
    theirs = {name: features[name.replace("/", ".")] for name in ours.features}
    decided = _decided(run, ours.features, theirs)
    assert decided.any(), "rounding decides something in every image"
    found: list[float | None] = [
        ratio(logits, ours.logits),
        max(ratio(theirs[name], value) for name, value in ours.features.items()),
        ratio(gradients[decided], ours.gradients[decided]),
        None,
        None,
    ]
    if compiled:
        torch.compiler.reset()
        options = COMPILED_WITH if compiled == "inductor" else None
        program = torch.compile(net, backend=compiled, options=options)
        logits, gradients = _differentiated(program, ours)
        found[3:] = ratio(logits, ours.logits), ratio(gradients[decided], ours.gradients[decided])
    return Parity(*found, undecided=int((~decided).sum()))  # type: ignore[arg-type]


def _differentiated(net: Any, ours: Ours) -> tuple[np.ndarray, np.ndarray]:
    import torch

    crops = torch.tensor(ours.crops, requires_grad=True)
    logits = net(crops)
    [gradients] = torch.autograd.grad((logits * torch.tensor(ours.factors)).sum(), crops)
    return logits.detach().numpy(), gradients.numpy()


def _decided(run, ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> np.ndarray:
    """For each image, whether both nets have the same units above 0 and the same largest values in their pools."""
    import torch
    import torch.nn.functional as F

    decided, previous = np.ones(len(next(iter(ours.values()))), bool), ""
    for node in operations.all_nodes(run.config.model):
        choices = []
        for features in (ours, theirs):
            if node.key == "act" and run.config.model.activation == "relu":
                choices.append(features[node.feature] > 0)
            elif node.key == "pool" and node.spec.pool.kind == "max":
                pool, x = node.spec.pool, torch.tensor(features[previous])
                ceil = pool.rounding == "ceil"
                settings = dict(stride=pool.stride, ceil_mode=ceil, return_indices=True)
                values, places = F.max_pool2d(x, pool.window, **settings)
                # The ReLU before the pool passes nothing where all values are 0.
                choices.append((places * (values != 0)).numpy())
        if choices:
            same = choices[0] == choices[1]
            decided &= same.reshape(len(same), -1).all(axis=1)
        previous = node.feature
    return decided


def ratio(theirs: np.ndarray, ours: np.ndarray) -> float:
    """The norm of the difference over that of ours."""
    difference = np.subtract(theirs, ours, dtype=np.float64)
    return float(np.linalg.norm(difference) / np.linalg.norm(ours.astype(np.float64)))


def random_run(name: str) -> trained.TrainedModel:
    """A net of a config with random weights; layers of units are at most 256 wide, but for those of WHOLE."""
    spec = test_configs.spec_of(name)
    overrides = [] if spec.data.source in NO_FILES else ["--config.data.path=images"]
    if name not in WHOLE:
        layers = spec.model.fcs
        wide = [layer for layer, spec in layers if (spec.features or 0) > 256]
        overrides += [f"--config.model.fcs.{layer}.features=256" for layer in wide]
    file, _, variant = name.partition(":")
    return nets.random_run(f"configs/{file}.py:{variant}".rstrip(":"), overrides)


def distinct() -> dict[str, list[str]]:
    """The first config of each net and input -> all that have them."""
    found: dict[Any, list[str]] = {}
    for name in test_configs.NAMES:
        spec, seen = test_configs.spec_of(name), test_configs.spec_of(name).augment
        key = spec.model, seen.mean, seen.scale, seen.crop_size, seen.resize, spec.data.image_size
        found.setdefault(key, []).append(name)
    return {names[0]: names for names in found.values()}


def backend(name: str) -> str:
    """The backend of torch.compile for a config."""
    return "inductor" if name in INDUCTOR else "aot_eager"


COLUMNS = """\
| configurations | logits | features | gradients | compiled: logits | gradients | images without gradients |
|---|--:|--:|--:|--:|--:|--:|"""


def line(names: list[str], parity: Parity) -> str:
    """The line of the table of the page for configs with the same net."""
    numbers = " | ".join("" if value is None else f"{value:.1e}" for value in parity[:5])
    return f"| {', '.join(f'`{one}`' for one in names)} | {numbers} | {parity.undecided or ''} |"


HEADING = """\
# Parity of the PyTorch export

{date}, commit {commit}, {machine}, {versions}; written by

<!-- long -->
```sh
python -m tests.interop.parity docs/results/2026-11-27-pytorch-export.md
```

Each net has random weights, of a size at which logits are neither tiny nor huge, and {count} random images. A number is
the norm of the difference between the exported module and our net over the norm of ours: of the logits, of the feature
that differs most, and of the gradient, by the pixels of the crops, of a random combination of the logits; eager, and
under `torch.compile`: with inductor, without its layout optimization ([why](#gradients-of-compiled-modules)), in
{inductor}; with aot_eager, which captures and differentiates the module but writes no machine code, in
the others. Layers of units are narrowed to 256, except in {whole}. Configurations in one line have the same net and the
same input.

A gradient jumps where the input of a ReLU is 0, or where two values of a pool are equal. Images in which rounding
decides one of these differently in the two programs are in the last column, and not in the gradients.
"""


def heading(count: int) -> str:
    commit = subprocess.run(
        ["git", "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    found = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "jax", "jaxlib"))
    date = subprocess.run(["date", "+%F"], capture_output=True, text=True, check=True).stdout
    whole, inductor = (", ".join(f"`{name}`" for name in names) for names in (WHOLE, INDUCTOR))
    return HEADING.format(
        date=date.strip(), commit=commit, machine=f"CPU ({platform.machine()})", count=count,
        versions=f"{found}, Python {platform.python_version()}", whole=whole, inductor=inductor,
    )  # fmt: skip


def main(arguments: list[str]) -> None:
    path, *names = arguments
    page, nets_of_configs = Path(path), distinct()
    for name in names or nets_of_configs:
        with tempfile.TemporaryDirectory() as folder:
            run = random_run(name)
            found = measure(run, exported(run, Path(folder)), compiled=backend(name))
        print(name, found, flush=True)
        old = page.read_text(encoding="utf-8") if page.exists() else ""
        table, section, rest = old.partition("\n## ")
        lines = {row.split("`")[1]: row for row in table.splitlines() if row.startswith("| `")}
        lines[name] = line(nets_of_configs[name], found)
        rows = [lines[one] for one in nets_of_configs if one in lines]
        text = "\n".join([heading(3), COLUMNS, *rows, ""])
        page.write_text(text + section + rest, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
