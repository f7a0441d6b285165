"""AlexNet (Krizhevsky, Sutskever and Hinton, 2012) in JAX and Flax."""

__version__ = "0.1.0"


def load(path, step=None):
    """The trained network of a run folder or of a .safetensors file, an `alexnet_jax.inference.network.Network`.

    net.predict(images), net.top(images), net.features(images, "fc7"). Raises alexnet_jax.errors.StorageError.
    """
    from alexnet_jax.inference import (
        network,  # JAX starts with the first network, not with this package
    )

    return network.load(path, step)
