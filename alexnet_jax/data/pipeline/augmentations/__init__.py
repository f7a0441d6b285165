"""Further augmentations, one in each module of this package; config.augment.extra names those to apply.

A module has a function `apply(crops, draws)`, which is called inside the jitted step with the crops after all other
augmentation: mean subtracted, mirrored, colored and scaled.
"""

import importlib
from collections.abc import Callable

from jaxtyping import Array, Float

from alexnet_jax.data.pipeline.draws import Draws

Augmentation = Callable[[Float[Array, "b c c 3"], Draws], Float[Array, "b c c 3"]]


def load(name: str) -> Augmentation:
    """Return the augmentation in the module `name`."""
    return importlib.import_module(f"{__name__}.{name}").apply
