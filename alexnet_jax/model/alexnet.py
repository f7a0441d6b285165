"""AlexNet (§3.5, Figure 2): a table of rows, carried out one after the other."""

import functools
import itertools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from alexnet_jax.errors import ConfigError
from alexnet_jax.kernels import convolution, elementwise
from alexnet_jax.kernels.convolution import Blocks
from alexnet_jax.kernels.forms import Forms
from alexnet_jax.model import ops, towers
from alexnet_jax.model.geometry import conv_size, lrn_reach, whole_on_each
from alexnet_jax.specs import Config, ConvSpec, FCSpec, ModelSpec


class AlexNet(nn.Module):
    """The network of `spec` (switches applied, num_classes filled in).

    `axis_name`: mesh axis over which batch-normalization statistics are averaged, if any.
    `split`: inside shard_map, each device of the mesh axis 'tower' has one tower and its parameters (§3.2).
    `forms`: how operations are written for the device; None: as for the default backend.
    `precision`: of float32 products, 'default' (TF32 where the device has it) or 'highest'; `of_config` sets it.
    """

    spec: ModelSpec
    axis_name: str | None = None
    split: bool = False
    forms: Forms | None = None
    precision: str = "default"

    @nn.compact
    def __call__(self, images, *, train: bool, example_keys=None):
        """Images [b h w 3] float, mean subtracted -> (logits [b classes] float32, features).

        Features are named "conv1/linear", "conv1/act", ..., and "conv1" is the row's last one;
        `before` operations "fc6/before/dropout". `example_keys` [b], needed in training with
        dropout: the mask of an example depends on its key and the place in the network only, not
        on the batch around it or the number of devices. One key (no axis) makes one draw for all.
        With `split`, features are this tower's, logits whole. `images` may be the Blocks of the first row.
        """
        with jax.default_matmul_precision(self.precision):
            return self._layers(images, train, _DropoutKeys(example_keys))

    def _layers(self, images, train: bool, dropout_keys: "_DropoutKeys"):
        forms = ops.of_backend(self.forms)
        x = images.astype(self.spec.compute_dtype)
        features: dict[str, jax.Array] = {}
        rows = (*self.spec.convs, *self.spec.fcs)
        apart = False  # whether x holds the maps of this tower only
        for (name, row), (_, following) in zip(rows, (*rows[1:], rows[-1]), strict=True):
            last, whole = name == rows[-1][0], whole_on_each(self.spec, name)
            if apart and row.groups == 1:  # the crossings of Figure 2
                x, apart = (towers.gather_for_all if whole else towers.gather)(x), False
            part = self.split and not whole
            arrays = 1
            if forms.towers == "apart" and train and not part and isinstance(following, ConvSpec):
                arrays = following.groups if following.groups == self.spec.towers else 1
            layer = _Row(
                self.spec, row, self.axis_name, last, part, apart, forms, arrays, name=name
            )
            outputs = layer(x, train=train, dropout_keys=dropout_keys)
            features |= {f"{name}/{operation}": _joined(output) for operation, output in outputs}
            x, apart = outputs[-1][1], part
            features[name] = _joined(x)
        if apart:  # towers that never met
            x = towers.gather_for_all(x)
        logits = features[rows[-1][0]] = x.astype(jnp.float32)
        return logits, features


def of_config(config: Config, forms: Forms | None = None) -> AlexNet:
    """The network that `config` says, products as precise as its `train.matmul_precision`."""
    return AlexNet(config.model, forms=forms, precision=config.train.matmul_precision)


def init(model: AlexNet, key, input_size: int) -> dict[str, Any]:
    """{"params": ..., "batch_stats": ...} of `model` for square images; jit it or eval_shape it."""
    images = jnp.zeros((1, input_size, input_size, 3), jnp.float32)
    variables = model.init(key, images, train=False)
    return {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}


def _is_apart(x) -> bool:
    """Whether the maps of each group are an array of their own (Forms.towers)."""
    return isinstance(x, tuple)


def _channels(x) -> int:
    """Maps or units of x, in whatever form it comes."""
    if isinstance(x, Blocks):
        return x.channels
    return sum(part.shape[-1] for part in x) if _is_apart(x) else x.shape[-1]


def _joined(x):
    """One array [... c] of the arrays of several groups."""
    return jnp.concatenate(x, axis=-1) if _is_apart(x) else x


class _DropoutKeys:
    """Gives each dropout of the network its own keys [b], or its own key."""

    def __init__(self, example_keys):
        self.example_keys, self.used = example_keys, 0

    def next(self):
        if self.example_keys is None:
            raise ValueError("AlexNet(train=True) with dropout needs example_keys")
        self.used += 1
        if self.example_keys.ndim == 0:
            return jax.random.fold_in(self.example_keys, self.used)
        return jax.vmap(jax.random.fold_in, (0, None))(self.example_keys, self.used)


class _Row(nn.Module):
    """One row: its weights, and the operations before and after them."""

    model: ModelSpec
    row: ConvSpec | FCSpec
    axis_name: str | None
    last: bool
    part: bool
    """Whether only this tower's part of the row is computed here."""
    apart: bool
    """Whether the inputs are this tower's only."""
    forms: Forms
    arrays: int
    """In how many arrays, one for each group of the row behind it, the outputs go on."""

    @nn.compact
    def __call__(self, x: Any, *, train: bool, dropout_keys):
        """[(operation, its output)] in order. x and each output: an array, or a tuple with one for each group."""
        outputs, row = [], self.row
        if _is_apart(x) and row.groups != len(x):
            x = _joined(x)
        if isinstance(row, FCSpec) and x.ndim > 2:
            if x.shape[-1] % self._groups:
                raise ConfigError(
                    f"model.fcs.{self.name}: groups={row.groups} must divide the {x.shape[-1]} "
                    f"maps that it sees"
                )
            x = convolution.flatten(x, self._groups)
        for operation in row.pre_ops:
            x = self.forms.barrier(
                self._operate(operation, x, train, dropout_keys, prefix="before_")
            )
            x = self._perturb(f"before_{operation}", x)
            outputs.append((f"before/{operation}", x))
        x = self._perturb("linear", self.forms.barrier(self._linear(x)))
        outputs.append(("linear", x))
        for operation, following in itertools.zip_longest(row.ops, row.ops[1:]):
            if following is None and self.arrays > 1 and not _is_apart(x):
                x = tuple(convolution.split(x, self.arrays))
            # What a pool compares is not rounded before; the pool itself writes it, if need be.
            wide = following == "pool" and operation in ("lrn", "spatial_norm") and self._is_narrow
            x = self._operate(operation, x, train, dropout_keys, prefix="", wide=wide)
            x = self._perturb(operation, x if wide else self.forms.barrier(x))
            outputs.append((operation, x))
        return outputs

    def _perturb(self, name, x):
        """`x`, to which a caller may add something under this name (flax's `perturb`)."""
        if not _is_apart(x):
            return self.perturb(name, x)
        if not self.has_variable("perturbations", name):
            return x
        return tuple(convolution.split(self.perturb(name, _joined(x)), len(x)))

    @property
    def _is_narrow(self) -> bool:
        return self.model.compute_dtype != "float32"

    def _linear(self, x: Any):
        """§3.5: kernel * x + bias."""
        row, inputs, features = self.row, _channels(x), self._features
        if isinstance(row, FCSpec):
            shape: tuple[int, ...] = (inputs, features)
            if row.groups > 1:
                shape = (self._groups, inputs // self._groups, features // self._groups)
            kernel, bias = self._weights(shape, (features,), shape[:-2], x.dtype)
            # Logits stay float32: rounding them to bfloat16 would show in the loss.
            y = convolution.dense(x, kernel, jnp.float32 if self.last else x.dtype)
        elif row.kind == "local":
            places = tuple(conv_size(s, row.kernel, row.stride, row.pad) for s in x.shape[1:3])
            shape = (*places, row.kernel, row.kernel, inputs, features)
            kernel, bias = self._weights(shape, (*places, features), places, x.dtype)
            y = convolution.locally_connected(x, kernel, stride=row.stride, pad=row.pad)
        else:
            shape = (row.kernel, row.kernel, inputs // self._groups, features)
            kernel, bias = self._weights(
                shape, (features,), (), jnp.dtype(self.model.compute_dtype)
            )
            convolve = functools.partial(
                convolution.convolution, stride=row.stride, pad=row.pad, forms=self.forms
            )
            if _is_apart(x):
                parts = [convolution.split(array, len(x)) for array in (kernel, bias)]
                return tuple(
                    elementwise.add_bias(convolve(maps, weights), offsets, self.forms)
                    for maps, weights, offsets in zip(x, *parts, strict=True)
                )
            y = convolve(x, kernel, groups=self._groups)
        return elementwise.add_bias(y, bias, self.forms)

    @property
    def _parts(self) -> int:
        """Over how many devices the row is split."""
        return self.model.towers if self.part else 1

    @property
    def _groups(self) -> int:
        """Of the row, here."""
        return max(self.row.groups // self._parts, 1)

    @property
    def _features(self) -> int:
        """Of the row, here."""
        features = self.model.num_classes if self.row.features is None else self.row.features
        if features is None:
            raise ConfigError("model.num_classes is not filled in")
        return features // self._parts

    def _weights(self, kernel_shape, bias_shape, repeated, dtype):
        """float32 parameters, as `dtype`; the leading `repeated` axes of the kernel hold copies."""
        initialize = _initializer(self.model.init, self.row.init_std, len(repeated))
        kernel = self.param("kernel", initialize, kernel_shape, jnp.float32)
        bias = self.param("bias", nn.initializers.constant(self.row.bias), bias_shape, jnp.float32)
        return kernel.astype(dtype), bias.astype(dtype)

    def _operate(self, operation, x, train, dropout_keys, prefix, wide=False):
        """One operation; with `wide` the result is float32, whatever the compute type."""
        if _is_apart(x):
            if operation in ("batch_norm", "dropout") or self._crosses_towers(operation):
                y = self._operate(operation, _joined(x), train, dropout_keys, prefix, wide)
                return tuple(convolution.split(y, len(x)))
            towers_each = self.model.towers // len(x)
            return tuple(self._pointwise(operation, part, towers_each, wide) for part in x)
        if operation == "batch_norm":
            return self._batch_norm(x, train, prefix)
        if operation == "dropout":
            apart = self.apart if prefix else self.part
            return _dropout(x, self.model.dropout, train, dropout_keys, apart)
        if self._crosses_towers(operation):
            return self._normalize_all_maps(x, wide)
        return self._pointwise(operation, x, self.model.towers // self._parts, wide)

    def _crosses_towers(self, operation: str) -> bool:
        """Whether its windows run over the maps of all towers."""
        return operation == "lrn" and not self.model.lrn_constants.within_towers

    def _normalize_all_maps(self, x, wide: bool):
        """§3.3 over all maps of the layer, of which `x` holds this tower's where the towers are apart."""
        if not self.part:
            return self._pointwise("lrn", x, 1, wide)
        before, after = lrn_reach(self.model.lrn_constants.n)
        y = self._pointwise("lrn", towers.with_neighbors(x, before, after), 1, wide)
        return lax.slice_in_dim(y, before, before + x.shape[-1], axis=y.ndim - 1)

    def _pointwise(self, operation, x, towers: int, wide: bool):
        """An operation without parameters or draws, on the maps of so many towers."""
        model, pool = self.model, getattr(self.row, "pool", None)
        dtype = jnp.dtype("float32" if wide else model.compute_dtype)
        match operation:
            case "act":
                return ops.activation(x, model.activation, self.forms)
            case "lrn":
                c = model.lrn_constants
                return ops.local_response_normalization(
                    x, k=c.k, n=c.n, alpha=c.alpha, beta=c.beta, towers=towers, forms=self.forms, dtype=dtype
                )  # fmt: skip
            case "spatial_norm":
                s = model.spatial_norm
                return ops.spatial_response_normalization(
                    x, size=s.size, alpha=s.alpha, beta=s.beta, forms=self.forms, dtype=dtype
                )
            case "pool":
                assert pool  # config.parse refuses a row that says 'pool' and has none
                sides = dict(window=pool.window, stride=pool.stride, rounding=pool.rounding)
                if pool.kind == "average":
                    return ops.average_pool(x, **sides, dtype=dtype)
                return ops.max_pool(x, **sides, forms=self.forms, dtype=dtype)
        raise ConfigError(f"unknown operation {operation!r}")

    def _batch_norm(self, x, train, prefix):
        """Normalizes each map (or unit) by the statistics of the batch, all devices together."""
        features, settings = x.shape[-1], self.model.batch_norm
        scale = self.param(f"{prefix}scale", nn.initializers.ones, (features,), jnp.float32)
        offset = self.param(f"{prefix}offset", nn.initializers.zeros, (features,), jnp.float32)
        running_mean = self.variable("batch_stats", f"{prefix}mean", jnp.zeros, (features,))
        running_var = self.variable("batch_stats", f"{prefix}var", jnp.ones, (features,))
        wide = x.astype(jnp.float32)
        mean, var = running_mean.value, running_var.value
        if train:
            axes = tuple(range(x.ndim - 1))
            mean = self._over_devices(jnp.mean(wide, axes))
            var = self._over_devices(jnp.mean(jnp.square(wide - mean), axes))
            if not self.is_initializing():
                keep = settings.momentum
                running_mean.value = keep * running_mean.value + (1 - keep) * mean
                running_var.value = keep * running_var.value + (1 - keep) * var
        normal = (wide - mean) * lax.rsqrt(var + settings.epsilon)
        return (normal * scale + offset).astype(x.dtype)

    def _over_devices(self, x):
        return x if self.axis_name is None else lax.pmean(x, self.axis_name)


def _dropout(x, dropout, train, keys, apart):
    """§4.2: zero with probability `rate`; made up for by a factor, at test time or at once.

    apart: x is a tower's part; the mask is that part of the mask of all.
    """
    keep = 1 - dropout.rate
    if dropout.rate == 0:
        return x
    if not train:
        return x * jnp.asarray(keep, x.dtype) if dropout.scale_at == "test" else x
    width = x.shape[-1] * (lax.axis_size(towers.TOWER) if apart else 1)
    shape, key = (*x.shape[1:-1], width), keys.next()
    if key.ndim == 0:
        mask = _draw(key, keep, (x.shape[0], *shape))
    else:
        mask = jax.vmap(lambda key: jax.random.bernoulli(key, keep, shape))(key)
    mask = towers.own(mask) if apart else mask
    factor = 1.0 if dropout.scale_at == "test" else 1 / keep
    return jnp.where(mask, x * jnp.asarray(factor, x.dtype), jnp.zeros_like(x))


def _draw(key, keep: float, shape):
    """True with probability `keep`; of 8 bits each where they can say it exactly."""
    if (256 * keep).is_integer():
        return jax.random.bits(key, shape, jnp.uint8) < int(256 * keep)
    return jax.random.bernoulli(key, keep, shape)


def _initializer(kind, std, repeated):
    """§5: a Gaussian of the row's `std`; 'he' and 'glorot' (of Keras) go by the shape."""
    axes = tuple(range(repeated))
    scaling = nn.initializers.variance_scaling
    match kind:
        case "gaussian":
            return nn.initializers.normal(std)
        case "he":
            return scaling(2.0, "fan_in", "normal", batch_axis=axes)
        case "glorot":
            return scaling(1.0, "fan_avg", "uniform", batch_axis=axes)
    raise ConfigError(f"model.init {kind!r} is not gaussian, he or glorot")
