"""Stand-ins for torch that know the shapes of parameters and nothing else, to look at an export without torch."""

import sys
import types
from collections.abc import Iterator
from typing import Any


class Shaped(tuple):
    """The shape of a tensor, which survives a product with a number."""

    def __rmul__(self, factor: Any) -> "Shaped":
        return self


class Module:
    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def register_buffer(self, name: str, value: Shaped) -> None:
        setattr(self, name, value)

    def shapes(self, prefix: str = "") -> Iterator[tuple[str, tuple[int, ...]]]:
        """(name, shape) of each tensor of the state dict, but for counters of batches."""
        for name, value in vars(self).items():
            if isinstance(value, Module):
                yield from value.shapes(f"{prefix}{name}.")
            elif isinstance(value, Shaped):
                yield f"{prefix}{name}", tuple(value)


class Sequential(Module):
    def __init__(self, modules: dict[str, Module]) -> None:
        for name, module in modules.items():
            setattr(self, name, module)


class Conv2d(Module):
    def __init__(
        self, inputs: int, outputs: int, *, kernel_size: int, stride: int, padding: int = 0, groups: int = 1
    ) -> None:  # fmt: skip
        self.weight = Shaped((outputs, inputs // groups, kernel_size, kernel_size))
        self.bias = Shaped((outputs,))


class Linear(Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        self.weight, self.bias = Shaped((outputs, inputs)), Shaped((outputs,))


class BatchNorm(Module):
    def __init__(self, features: int, *, eps: float, momentum: float) -> None:
        self.weight = self.bias = self.running_mean = self.running_var = Shaped((features,))


def installed() -> dict[str, types.ModuleType]:
    """The modules to put into sys.modules."""
    functional = types.ModuleType("torch.nn.functional")
    plain = "LocalResponseNorm ReLU Tanh Sigmoid Softplus MaxPool2d AvgPool2d ZeroPad2d Dropout"
    nn: Any = types.ModuleType("torch.nn")
    vars(nn).update({name: type(name, (Module,), {}) for name in plain.split()})
    nn.Module, nn.Sequential, nn.Conv2d, nn.Linear = Module, Sequential, Conv2d, Linear
    nn.BatchNorm1d = nn.BatchNorm2d = BatchNorm
    nn.Parameter, nn.functional = lambda shape: shape, functional
    torch: Any = types.ModuleType("torch")
    torch.nn, torch.Tensor = nn, object
    torch.zeros = torch.randn = lambda *shape: Shaped(shape)
    # The real one imports torch.
    safetensors: Any = types.ModuleType("safetensors.torch")
    safetensors.load_file = None
    modules = (torch, nn, functional, safetensors)
    return {module.__name__: module for module in modules}


def without_torch(monkeypatch: Any) -> None:
    """Make torch and its extensions those above."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "torch"]:
        monkeypatch.delitem(sys.modules, name)
    for name, module in installed().items():
        monkeypatch.setitem(sys.modules, name, module)
