"""AlexNet in one file: the network and the training of Krizhevsky, Sutskever and Hinton (2012).

    python examples/alexnet.py                   # handwritten digits: a minute on two CPU cores
    python examples/alexnet.py --data FOLDER     # CIFAR-10: where data_batch_1.bin ... are

Section numbers (§) are those of "ImageNet Classification with Deep Convolutional Neural Networks".
`AlexNet()` is the paper's network: 61 million parameters, 1000 classes, images of 224 x 224.
`SMALL` has the same layers, with fewer and smaller maps for the 32 x 32 images used here.
"""

import argparse
import functools
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

SIZE, CROP = 32, 28  # §4.1 crops 224 x 224 out of 256 x 256
BATCH, LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 128, 0.01, 0.9, 0.0005  # §5


class AlexNet(nn.Module):
    """The network of §3.5 and Figure 2.

    The paper splits it over two GPUs: each holds half of the maps of every layer, a "tower", and
    sees the other half in conv3 and the dense layers only (§3.2). On one device this means that
    conv2, conv4 and conv5 have two groups, and that normalization does not cross the towers.
    """

    classes: int = 1000
    maps: tuple[int, ...] = (96, 256, 384, 384, 256)  # output channels of conv1 to conv5
    units: int = 4096  # of fc6 and fc7
    kernel: int = 11  # side of conv1's kernels
    stride: int = 4  # pixels between their positions
    init_std: float = 0.01  # §5

    @nn.compact
    def __call__(self, images: jax.Array, dropout_key: jax.Array | None = None) -> jax.Array:
        """Images [b h w 3], mean subtracted, to logits [b classes]. The key is for training only."""
        gaussian = nn.initializers.normal(self.init_std)
        conv = functools.partial(nn.Conv, kernel_init=gaussian, conv_general_dilated=grouped_conv)
        dense = functools.partial(nn.Dense, kernel_init=gaussian)
        # §5: biases of 1 give the ReLUs of these layers positive inputs at the start.
        one = nn.initializers.ones

        maps1, maps2, maps3, maps4, maps5 = self.maps
        key6, key7 = (None, None) if dropout_key is None else jax.random.split(dropout_key)
        # 224 = 54 * 4 + 11 - 3: the last kernel reaches 3 pixels over the edge, as in the authors'
        # program, for 55 x 55 positions. Images of 227 x 227 give as many without reaching over.
        kernel, edge = (self.kernel, self.kernel), (0, self.stride - 1)
        x = conv(maps1, kernel, self.stride, padding=(edge, edge), name="conv1")(images)
        x = max_pool(local_response_norm(nn.relu(x)))

        x = conv(maps2, (5, 5), feature_group_count=2, bias_init=one, name="conv2")(x)
        x = max_pool(local_response_norm(nn.relu(x)))

        x = nn.relu(conv(maps3, (3, 3), name="conv3")(x))
        x = nn.relu(conv(maps4, (3, 3), feature_group_count=2, bias_init=one, name="conv4")(x))
        x = nn.relu(conv(maps5, (3, 3), feature_group_count=2, bias_init=one, name="conv5")(x))
        x = max_pool(x).reshape(len(x), -1)

        x = dropout(nn.relu(dense(self.units, bias_init=one, name="fc6")(x)), key6)
        x = dropout(nn.relu(dense(self.units, bias_init=one, name="fc7")(x)), key7)
        return dense(self.classes, name="fc8")(x)


# Weights with a larger deviation, as each layer sums over fewer inputs.
SMALL = AlexNet(10, (16, 32, 48, 48, 32), units=128, kernel=7, stride=2, init_std=0.07)


def grouped_conv(x, kernel, *args, feature_group_count, **kwargs):
    """One convolution for each group: on a CPU twice as fast as XLA's grouped convolution."""
    inputs, kernels = (jnp.split(array, feature_group_count, axis=-1) for array in (x, kernel))
    convolve = functools.partial(jax.lax.conv_general_dilated, **kwargs)
    outputs = [convolve(*group, *args) for group in zip(inputs, kernels, strict=True)]
    return jnp.concatenate(outputs, axis=-1)


def local_response_norm(x, k=2.0, n=5, alpha=1e-4, beta=0.75):
    """§3.3: divide each activity by a power of the energy in n adjacent maps of its tower."""
    *shape, maps = x.shape
    squares = jnp.square(x).reshape(*shape, 2, maps // 2)
    squares = jnp.pad(squares, [(0, 0)] * x.ndim + [(n // 2, n // 2)])
    energy = sum(squares[..., i : i + maps // 2] for i in range(n))
    return x / (k + alpha * energy.reshape(x.shape)) ** beta


def max_pool(x):
    """§3.4: windows of 3 x 3, 2 apart, so that they overlap; the last may reach over the edge."""
    return nn.max_pool(x, (3, 3), strides=(2, 2), padding=((0, 1), (0, 1)))


def dropout(x, key):
    """§4.2: in training, zero each unit with probability 0.5; in tests, multiply all by 0.5."""
    return 0.5 * x if key is None else jnp.where(jax.random.bernoulli(key, 0.5, x.shape), x, 0)


@functools.partial(jax.jit, static_argnames="net")
def train_step(net, params, velocity, images, labels, dropout_key, rate):
    """Minimize the cross-entropy (§3.5) by the update rule of §5, for all parameters alike."""

    def loss_fn(params):
        logits = net.apply({"params": params}, images, dropout_key)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    def next_velocity(v, w, gradient):
        return MOMENTUM * v - WEIGHT_DECAY * rate * w - rate * gradient

    loss, gradients = jax.value_and_grad(loss_fn)(params)
    velocity = jax.tree.map(next_velocity, velocity, params, gradients)
    return jax.tree.map(jnp.add, params, velocity), velocity, loss


@functools.partial(jax.jit, static_argnames="mirror")
def augment(images, mean, components, key, mirror):
    """§4.1: a random crop of each image, mirrored half of the time, its colors shifted."""

    def augment_one(image, key):
        crop_key, mirror_key, color_key = jax.random.split(key, 3)
        top, left = jax.random.randint(crop_key, (2,), 0, SIZE - CROP + 1)
        image = jax.lax.dynamic_slice(image, (top, left, 0), (CROP, CROP, 3))
        if mirror:
            image = jnp.where(jax.random.bernoulli(mirror_key), image[:, ::-1], image)
        return image + components @ (0.1 * jax.random.normal(color_key, (3,)))

    return jax.vmap(augment_one)(images - mean, jax.random.split(key, len(images)))


@functools.partial(jax.jit, static_argnames=("net", "mirror"))
def predict(net, params, images, mean, mirror):
    """§4.1: average the softmax over the corner crops, the center crop, and their mirror images."""
    end, center = SIZE - CROP, (SIZE - CROP) // 2
    places = [(0, 0), (0, end), (end, 0), (end, end), (center, center)]
    crops = [(images - mean)[:, i : i + CROP, j : j + CROP] for i, j in places]
    if mirror:
        crops += [crop[:, :, ::-1] for crop in crops]
    probabilities = nn.softmax(net.apply({"params": params}, jnp.concatenate(crops)))
    return probabilities.reshape(len(crops), len(images), -1).mean(axis=0).argmax(axis=-1)


def digits():
    """Scikit-learn's 1,797 digits of 8 x 8 gray pixels, 0 to 16, enlarged; each fifth is a test."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    images = images.reshape(-1, 8, 8, 1) * (255 / 16)
    images = np.asarray(jax.image.resize(images, (len(labels), SIZE, SIZE, 3), "linear"))
    test = np.arange(len(labels)) % 5 == 0
    return images[~test], labels[~test], images[test], labels[test]


def cifar10(folder):
    """The binary version of CIFAR-10: records of a label, then the red, green and blue planes."""

    def read(*names):
        records = [np.fromfile(pathlib.Path(folder, name), np.uint8) for name in names]
        records = np.concatenate(records).reshape(-1, 1 + 3 * SIZE * SIZE)
        images = records[:, 1:].reshape(-1, 3, SIZE, SIZE).transpose(0, 2, 3, 1)
        return images, records[:, 0].astype(np.int32)

    return *read(*(f"data_batch_{i}.bin" for i in range(1, 6))), *read("test_batch.bin")


def main(arguments=None):
    parser = argparse.ArgumentParser(description="Train a small AlexNet.")
    parser.add_argument("--data", metavar="FOLDER", help="CIFAR-10 (binary) in place of digits")
    parser.add_argument("--epochs", type=int, default=30)
    options = parser.parse_args(arguments)
    images, labels, test_images, test_labels = cifar10(options.data) if options.data else digits()
    mirror = bool(options.data)  # a mirrored digit is not a digit

    mean = images.mean(axis=0, dtype=np.float64).astype(np.float32)  # §2: of each pixel
    # §4.1: principal components of pixels in [0, 1], times their eigenvalues; back in 0 to 255.
    eigenvalues, eigenvectors = np.linalg.eigh(np.cov(images[::10].reshape(-1, 3).T / 255))
    components = np.float32(255 * eigenvectors * eigenvalues)

    key, shuffle = jax.random.key(0), np.random.default_rng(0)
    params = jax.jit(SMALL.init)(key, np.zeros((1, CROP, CROP, 3)))["params"]
    velocity = jax.tree.map(jnp.zeros_like, params)
    for epoch in range(options.epochs):
        # §5 divides the rate by 10 when the validation error stalls. Here: in the last fifth.
        rate = LEARNING_RATE if epoch < 0.8 * options.epochs else LEARNING_RATE / 10
        order = shuffle.permutation(len(labels))
        for batch in order[: len(order) // BATCH * BATCH].reshape(-1, BATCH):
            key, crop_key, dropout_key = jax.random.split(key, 3)
            crops = augment(images[batch], mean, components, crop_key, mirror)
            params, velocity, loss = train_step(
                SMALL, params, velocity, crops, labels[batch], dropout_key, rate
            )
        print(f"epoch {epoch + 1}: loss {loss:.3f} in the last batch")

    predicted = [predict(SMALL, params, x, mean, mirror) for x in np.split(test_images, 20)]
    print(f"test error {100 * np.mean(np.concatenate(predicted) != test_labels):.1f} %")


if __name__ == "__main__":
    main()
