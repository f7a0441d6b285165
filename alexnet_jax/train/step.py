"""The train step, over all devices."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from alexnet_jax.data.pipeline import augment
from alexnet_jax.data.pipeline.batches import Batch
from alexnet_jax.data.pipeline.placement import Pool
from alexnet_jax.data.pipeline.statistics import Statistics
from alexnet_jax.inference import predict_step
from alexnet_jax.kernels import convolution
from alexnet_jax.kernels.forms import Forms
from alexnet_jax.model import mesh as parallel
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.model.hybrid import sharding_of
from alexnet_jax.model.mesh import DATA, TOWER
from alexnet_jax.run import processes
from alexnet_jax.specs import Config
from alexnet_jax.train import optimizer
from alexnet_jax.train import state as states
from alexnet_jax.train.norms import Norms
from alexnet_jax.train.schedule import Rates
from alexnet_jax.train.state import AUGMENT, DROPOUT, RANDOM, State, stream


def make_train_step(
    spec: Config, model: AlexNet, statistics: Statistics, mesh: Mesh, pool: Pool | None = None
) -> Callable[..., tuple[State, dict[str, jax.Array]]]:
    """Make f(state, batch, rates, stop=False, save=False) -> (state, metrics). `state` is donated.

    If the loss or the gradient norm is not finite, parameters, optimizer state and batch statistics do not change, but
    the step still counts. With `train.accumulate` > 1 the batch is processed in that many parts: the same program runs
    on each part and adds to donated sums, so that memory contains the activations of one part, and one extra gradient.
    Batch normalization then uses the statistics of each part.

    Args:
        spec: The config; its batch size is divisible by the devices and the parts.
        statistics: Statistics of the training images.
        pool: The training images, if they are on the devices. A call then makes k steps, with the same results as k
            calls: `batch` and `rates` of all steps are stacked [k ...], with the indices of the examples instead of
            their images, and so are the metrics.

    Returns:
        The function. Its metrics are `loss`, the mean over the batch; `top1_errors`, a count in which ties are errors;
        `grad_norm`, the norm of the mean gradient over all parameters; `finite`; and `stop` and `save`, whether any
        process requested it, so that all processes act after the same step.
    """
    if spec.train.accumulate > 1:
        jitted: Any = _in_parts(spec, model, mesh)
    else:
        jitted = jit_train_step(spec, model, mesh, pool.gather if pool else None)
    forms, images = parallel.forms_of(model.forms, mesh), pool.images if pool else None
    everywhere, shared = (jax.NamedSharding(mesh, p) for p in (jax.P(), jax.P((DATA, TOWER))))
    keys = jax.random.key_data(jnp.stack([stream(spec.seed, name) for name in (AUGMENT, DROPOUT)]))
    constants = jax.jit(
        lambda statistics, keys: (statistics, *jax.random.wrap_key_data(keys, impl=RANDOM)),
        out_shardings=everywhere,
    )(jax.device_get(predict_step.resized_statistics(statistics, spec)), np.asarray(keys))
    rows = np.ones((mesh.size, 1), np.float32)
    requests = {
        (stop, save): processes.to_devices(rows * np.asarray([stop, save], np.float32), shared)
        for stop in (False, True)
        for save in (False, True)
    }
    weights: Any = None
    weights_source: Any = None  # the parameters of which `weights` is a copy

    def train_step(
        state: State, batch: Batch, rates: Rates, stop: bool = False, save: bool = False
    ) -> tuple[State, dict[str, jax.Array]]:
        nonlocal weights, weights_source
        if forms.weights == "kept" and state.params is not weights_source:
            shardings = jax.tree.map(lambda leaf: leaf.sharding, state.params)
            make = functools.partial(narrow, spec, forms)
            weights = jax.jit(make, out_shardings=shardings)(state.params)
        # The schedule stays on the host, so that reading it does not wait for the device.
        arguments = (state._replace(schedule=None), weights, batch, rates, requests[stop, save])
        on_device, weights, metrics = jitted(*arguments, constants, images)
        weights_source = on_device.params
        return on_device._replace(schedule=state.schedule), metrics

    return train_step


def jit_train_step(spec: Config, model: AlexNet, mesh: Mesh, gather: Callable | None = None) -> Any:
    """Return the jitted f(state, weights, batch, rates, requests, constants, images) -> (state, weights, metrics).

    It processes the whole batch at once. The seed and the statistics are arguments, so that runs that differ in them
    share a compiled program.

    Arguments of the function:
        state: The state without its schedule.
        weights: The result of `narrow`.
        requests: [devices 2], whether to stop and to save.
        constants: (statistics, key of the augmentation, key of dropout).
        images: None, or the images from which `gather` takes those of each step.
    """
    model, forms, placement, copies = _placed(spec, model, mesh)
    function: Any = functools.partial(_step, spec, model, mesh.shape[DATA], placement.params)
    batch, images = jax.P(DATA), None
    if gather:
        function = functools.partial(_steps, function, gather, forms.loops)
        each: Any = jax.P(None, DATA)
        batch, images = Batch(jax.P(), each, each, each), jax.P(DATA)
    inputs = (placement, copies, batch, jax.P(), jax.P((DATA, TOWER)), jax.P(), images)
    return parallel.jit(
        function, mesh, inputs, (placement, copies, jax.P()), donated=(0, 1),
        deterministic=spec.train.deterministic,
    )  # fmt: skip


def jit_part_and_update(
    spec: Config, model: AlexNet, mesh: Mesh
) -> tuple[Callable, Callable, Callable]:
    """Return the three jitted functions of a step in `train.accumulate` parts.

    Returns:
        zeros: () -> sums of gradient, loss and number of errors, each [devices ...] with one row per device, or
            one row for gradients of arrays that are split over these devices.
        part: (params, weights, batch_stats, step, sums, batch, number, rates, constants) -> (batch_stats, sums); adds
            part `number` of the batch to the sums, which are donated.
        update: (state, weights, sums, batch_stats, rates, requests) -> (state, weights, metrics); state and weights
            are donated.
    """
    model, _, placement, copies = _placed(spec, model, mesh)
    devices, scalar, row = mesh.shape[DATA], jax.P(), jax.P(DATA)
    sums = (jax.tree.map(_row_spec, placement.params), row, row)
    start = states.shapes(spec, model).params

    def zero_sums():
        def zero(p, where):
            return jnp.zeros((1 if DATA in where else devices, *p.shape), p.dtype)

        gradient = jax.tree.map(zero, start, placement.params)
        return gradient, jnp.zeros(devices, jnp.float32), jnp.zeros(devices, jnp.int32)

    def part(params, weights, batch_stats, step, sums, batch, number, rates, constants):
        batch_stats, found = _sums(
            spec, model, devices, params, weights, batch_stats, step, batch, rates,
            constants, parts=spec.train.accumulate, number=number,
        )  # fmt: skip
        return batch_stats, jax.tree.map(lambda total, x: total + x[None], sums, found)

    def update(state, weights, sums, batch_stats, rates, requests):
        sums = jax.tree.map(lambda total: total[0], sums)
        return _apply(
            spec, model, devices, placement.params, state, sums, batch_stats, rates,
            requests,
        )  # fmt: skip

    jit = functools.partial(parallel.jit, mesh=mesh, deterministic=spec.train.deterministic)
    zeros = jax.jit(zero_sums, out_shardings=parallel.shardings(mesh, sums))
    stats = placement.batch_stats
    inputs = (placement.params, copies, stats, scalar, sums, row, scalar, scalar, scalar)
    add = jit(part, inputs=inputs, outputs=(stats, sums), donated=(4,))
    inputs = (placement, copies, sums, stats, scalar, jax.P((DATA, TOWER)))
    outputs = (placement, copies, scalar)
    return zeros, add, jit(update, inputs=inputs, outputs=outputs, donated=(0, 1))


def _row_spec(where: jax.P) -> jax.P:
    """Return the PartitionSpec of sums [devices ...]; one row for an array whose parts are on those devices."""
    return jax.P(None if DATA in where else DATA, *where)


def _in_parts(spec: Config, model: AlexNet, mesh):
    """Return the function of `jit_train_step`, but for a step in parts."""
    zeros, part, update = jit_part_and_update(spec, model, mesh)

    def step(state, weights, batch, rates, requests, constants, _):
        batch_stats, sums = state.batch_stats, zeros()
        for number in range(spec.train.accumulate):
            batch_stats, sums = part(
                state.params, weights, batch_stats, state.step, sums, batch, np.int32(number),
                rates, constants,
            )  # fmt: skip
        return update(state, weights, sums, batch_stats, rates, requests)

    return step


def _placed(spec: Config, model: AlexNet, mesh):
    """Return the model for one device of `mesh`, its forms, and the PartitionSpecs of states and narrow weights."""
    placement, forms = states.partition(spec, model, mesh), parallel.forms_of(model.forms, mesh)
    model = model.clone(axis_name=DATA, sharding=sharding_of(spec, mesh), forms=forms)
    return model, forms, placement, placement.params if forms.weights == "kept" else None


def narrow(spec: Config, forms: Forms, params: Any) -> Any:
    """Cast kernels and biases to the compute type, to be kept between steps; None if each step casts them."""
    if forms.weights == "cast":
        return None
    dtype = jnp.dtype(spec.model.compute_dtype)

    def cast(path, leaf):
        return leaf.astype(dtype) if path[-1].key in ("kernel", "bias") else leaf

    return jax.tree_util.tree_map_with_path(cast, params)


def _step(
    spec: Config,
    model: AlexNet,
    num_devices: int,
    placement,
    state: State,
    weights,
    batch: Batch,
    rates: Rates,
    requests,
    constants,
    images=None,
):
    """Make a step on one device, with its share of the batch."""
    batch_stats, sums = _sums(
        spec, model, num_devices, state.params, weights, state.batch_stats, state.step, batch,
        rates, constants,
    )  # fmt: skip
    return _apply(spec, model, num_devices, placement, state, sums, batch_stats, rates, requests)


def _sums(
    spec: Config, model: AlexNet, num_devices: int, params, weights, batch_stats, step, batch: Any,
    rates: Any, constants, *, parts: int = 1, number=0,
):  # fmt: skip
    """Return (batch statistics, (gradient, loss, errors)) of one part of this device's share of the batch.

    Part `number` has every `parts`-th example, so that its examples do not depend on the number of devices. Loss and
    gradient are sums over the part, divided by the size of the whole batch. `batch` is a Batch and `rates` are Rates,
    of traced arrays.
    """
    statistics, augment_key, dropout_key = constants
    forms: Any = model.forms
    share = batch.labels.shape[0]
    device = jax.lax.axis_index(DATA)
    if parts > 1:
        batch = jax.tree.map(lambda x: _every(x, parts, number), batch)
    labels = batch.labels
    positions = device * share + number + parts * jnp.arange(share // parts)
    dropout_key = jax.random.fold_in(dropout_key, step)
    if spec.train.exact:
        keys = jax.vmap(functools.partial(jax.random.fold_in, dropout_key))(positions)
    else:  # one key per part
        keys = jax.random.split(jax.random.fold_in(dropout_key, device), parts)[number]

    def loss_of(params):
        images = augment.train_images(
            batch.images,
            statistics,
            spec.augment,
            seed_key=augment_key,
            indices=batch.indices,
            epochs=batch.epochs,
            step=step,
            positions=positions,
            color_std=rates.color_std,
            forms=forms,
            to_blocks=_to_blocks(spec, forms),
        )
        (logits, _), changed = model.apply(
            {"params": params, "batch_stats": batch_stats},
            images,
            train=True,
            example_keys=keys,
            mutable=["batch_stats"],
        )
        losses = LOSSES[spec.train.loss](logits, labels, spec.train.label_smoothing)
        loss = losses.sum() / (share * num_devices)
        return loss, (top1_errors(logits, labels), changed.get("batch_stats", batch_stats))

    (loss, (errors, batch_stats)), gradient = jax.value_and_grad(loss_of, has_aux=True)(
        params if weights is None else weights
    )
    gradient = jax.tree.map(lambda g, p: g.astype(p.dtype), gradient, params)
    return batch_stats, (gradient, loss, errors)


def _every(x, k: int, number):
    """Return x[number::k] for a traced number."""
    grouped = x.reshape(x.shape[0] // k, k, *x.shape[1:])
    return jax.lax.dynamic_index_in_dim(grouped, number, axis=1, keepdims=False)


def _apply(
    spec: Config, model: AlexNet, num_devices: int, placement, state: State, sums, batch_stats,
    rates: Rates, requests,
):  # fmt: skip
    """Add the sums of all devices, update the parameters, and return (state, weights, metrics)."""
    forms: Any = model.forms
    gradient, loss, errors = sums
    leaves, structure = jax.tree.flatten(gradient)
    # Layers that are split over these devices have the gradient of the whole batch already.
    parts = [i for i, where in enumerate(jax.tree.leaves(placement)) if DATA not in where]
    # Counts are float32, so that XLA combines everything into one all-reduce.
    total = ([leaves[i] for i in parts], loss, errors.astype(jnp.float32), *requests.sum(axis=0))
    if num_devices > 1:  # on CPU, XLA would copy the gradient even for a sum over one device
        total = jax.lax.psum(total, DATA)
    summed, loss, errors, *requested = total
    for i, leaf in zip(parts, summed, strict=True):
        leaves[i] = leaf
    gradient = jax.tree.unflatten(structure, leaves)
    stop, save = jax.lax.psum(requested, TOWER) if jax.lax.axis_size(TOWER) > 1 else requested
    norms = Norms(placement, forms)
    metrics = {"loss": loss, "top1_errors": errors, "grad_norm": norms.total(gradient)}
    metrics |= {"stop": stop > 0, "save": save > 0}
    state, metrics = _update(spec, state, rates, gradient, batch_stats, metrics, norms)
    return state, narrow(spec, forms, state.params), metrics


def _steps(step, gather, loops: str, state, weights, batch, rates, requests, constants, images):
    """Make several steps, over the leading axis of `batch` and `rates`; the metrics are stacked."""

    def one(carry, given):
        examples, rates = given
        examples = examples._replace(images=gather(images, examples.images))
        state, weights, metrics = step(*carry, examples, rates, requests, constants)
        return (state, weights), metrics

    carry: Any = (state, weights)
    if loops == "scan":
        carry, metrics = jax.lax.scan(one, carry, (batch, rates))
        return *carry, metrics
    made = []
    for number in range(batch.labels.shape[0]):
        carry, metrics = one(carry, jax.tree.map(lambda x, i=number: x[i], (batch, rates)))
        made.append(metrics)
    return *carry, jax.tree.map(lambda *each: jnp.stack(each), *made)


def _to_blocks(spec: Config, forms: Forms):
    """Return the function that cuts crops into blocks for the first layer (Forms.images); None if it takes images."""
    if forms.images == "plain" or not spec.model.convs:
        return None
    _, first = spec.model.convs[0]
    takes_blocks = first.kind == "conv" and first.groups == 1
    if not takes_blocks or not convolution.in_blocks(forms, 3, first.stride):
        return None
    return functools.partial(
        convolution.to_blocks, kernel=first.kernel, stride=first.stride, pad=first.pad
    )


def _update(spec: Config, state, rates: Rates, gradient, batch_stats, metrics, norms: Norms):
    """Update the state as in §5. If the loss or gradient is not finite, all rates are 0, so that nothing changes."""
    finite = _is_finite(metrics["loss"], metrics["grad_norm"])
    rates = jax.tree.map(lambda rate: jnp.where(finite, rate, 0), rates)
    updates, opt_state = optimizer.build(spec.optimizer, norms.forms).update(
        gradient, state.opt_state, state.params, rates=rates, norms=norms.each
    )
    params = optax.apply_updates(state.params, updates)
    batch_stats = jax.tree.map(functools.partial(jnp.where, finite), batch_stats, state.batch_stats)
    after = State(state.step + 1, params, opt_state, batch_stats, state.schedule)
    return after, metrics | {"finite": finite}


def _is_finite(loss, norm):
    """Whether loss and gradient are finite: an infinity or NaN in the gradient makes its norm infinite or NaN."""
    return jnp.isfinite(loss) & jnp.isfinite(norm)


def top1_errors(logits: Float[Array, "b classes"], labels: Int[Array, "b"]) -> Int[Array, ""]:
    """Count the examples whose label does not have the single highest logit; ties and NaN are errors."""
    own = jnp.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
    label = jnp.arange(logits.shape[1]) == labels[:, None]
    others = jnp.where(label, -jnp.inf, logits).max(axis=1)
    return jnp.sum(~(own > others))


def _cross_entropy(
    logits: Float[Array, "b classes"], labels: Int[Array, "b"], smoothing: float
) -> Float[Array, "b"]:
    """The multinomial logistic loss of §3.5; label smoothing as in Szegedy et al. (2016), section 7."""
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    if smoothing == 0:
        return loss
    uniform = -jax.nn.log_softmax(logits).mean(axis=1)
    return (1 - smoothing) * loss + smoothing * uniform


def _mean_squared_error(
    logits: Float[Array, "b classes"], labels: Int[Array, "b"], smoothing: float
) -> Float[Array, "b"]:
    """The mean over the classes of (probability - one-hot label)^2, as in Keras after a softmax.

    config.parse rejects label smoothing with this loss.
    """
    error = jax.nn.softmax(logits) - jax.nn.one_hot(labels, logits.shape[1])
    return jnp.mean(error**2, axis=1)


LOSSES: dict[str, Any] = {"cross_entropy": _cross_entropy, "mse": _mean_squared_error}
