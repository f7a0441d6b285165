"""The networks of PyTorch that `bench peers` measures are those of our configs."""

import dataclasses
from importlib import util

import jax
import numpy as np
import pytest

from alexnet_jax import files
from alexnet_jax.errors import ConfigError
from alexnet_jax.interop import layout, pytorch
from alexnet_jax.model import alexnet
from bench import workload
from tests.interop import nets

pytestmark = pytest.mark.skipif(not util.find_spec("torch"), reason="PyTorch is not installed")


@pytest.mark.parametrize("written", [False, True])
@pytest.mark.parametrize(
    "name",
    [
        "cifar10:80sec", "cifar10:18pct", "cifar10:13pct", "cifar10:11pct", "quickstart", "scales:cifar10",
        "flowers17:batchnorm", "paper",
    ],
)  # fmt: skip
def test_logits_are_ours(name, written):
    import torch

    from bench import torch_step

    narrow = [change for change in nets.NARROW if "image_size" not in change]
    run = nets.random_run(name, narrow if name in ("paper", "flowers17:batchnorm") else ())
    spec, size = run.config, run.config.augment.crop_size
    pixels = np.random.default_rng(2).standard_normal((2, size, size, 3), np.float32)
    variables = {"params": run.params, "batch_stats": run.batch_stats}
    # Without dropout: PyTorch scales in training, the paper at test time.
    dropout = dataclasses.replace(spec.model.dropout, rate=0.0)
    model = dataclasses.replace(spec, model=dataclasses.replace(spec.model, dropout=dropout))
    network = alexnet.from_config(model)
    ours = jax.jit(lambda variables: network.apply(variables, pixels, train=False)[0])(variables)

    twin = torch_step.network(spec, written=written).eval()
    _fill(twin, spec, run)
    before, after = torch_step.padding(spec.model)
    padded = np.pad(pixels, ((0, 0), (before, after), (before, after), (0, 0)))
    with torch.no_grad():
        theirs = twin(torch.from_numpy(padded.transpose(0, 3, 1, 2))).numpy()
    np.testing.assert_allclose(theirs, ours, rtol=1e-4, atol=1e-4 * np.abs(ours).max())


def test_networks_can_be_compiled():
    import torch

    from bench import torch_step

    spec = nets.random_run("quickstart").config
    twin = torch_step.network(spec).eval()
    before, after = torch_step.padding(spec.model)
    size = spec.augment.crop_size + before + after
    images = torch.rand(2, 3, size, size)

    def double(images):  # from another module, as the loss of the bench is
        return 2 * twin(images)

    compiled = torch.compile(double, backend="eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(images), double(images))


def _fill(network, spec, run):
    """Give a network of PyTorch the weights of `run`."""
    import torch

    names = pytorch.tensor_names(spec.model)
    tensors = layout.to_torch(spec, files.flatten(run.variables))
    network.load_state_dict(
        {names[n]: torch.from_numpy(np.array(array)) for n, array in tensors.items()}
    )


def test_what_has_no_peer_is_refused():
    with pytest.raises(ConfigError, match="no peers"):
        workload.without_augmentation("cifar10:resized", 2, "float32")
