"""Initial weights (§5)."""

from flax import linen as nn

from alexnet_jax.errors import ConfigError


def initializer(kind: str, std: float, copies: int) -> nn.initializers.Initializer:
    """§5: a Gaussian of deviation `std`; 'he' and 'glorot' (of Keras) go by the shape.

    copies: leading axes of a kernel that hold one kernel each.
    """
    axes = tuple(range(copies))
    scaling = nn.initializers.variance_scaling
    match kind:
        case "gaussian":
            return nn.initializers.normal(std)
        case "he":
            return scaling(2.0, "fan_in", "normal", batch_axis=axes)
        case "glorot":
            return scaling(1.0, "fan_avg", "uniform", batch_axis=axes)
    raise ConfigError(f"model.init {kind!r} is not gaussian, he or glorot")
