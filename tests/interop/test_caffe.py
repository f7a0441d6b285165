import struct
import tracemalloc

import numpy as np
import pytest

import alexnet_jax
from alexnet_jax.errors import AlexNetError, CheckpointError
from alexnet_jax.interop import caffe, import_weights, protobuf
from tests.interop import nets

NARROW = [*nets.NARROW, "--config.augment.crop_size=103"]
CAFFENET = {"conv1": ("ReLU", "Pooling", "LRN"), "conv2": ("ReLU", "Pooling", "LRN")}
ALEXNET = {"conv1": ("ReLU", "LRN", "Pooling"), "conv2": ("ReLU", "LRN", "Pooling")}
REST = {
    "conv3": ("ReLU",), "conv4": ("ReLU",), "conv5": ("ReLU", "Pooling"),
    "fc6": ("ReLU", "Dropout"), "fc7": ("ReLU", "Dropout"), "fc8": ("SoftmaxWithLoss",),
}  # fmt: skip
OLD_TYPES = {
    "Convolution": 4, "InnerProduct": 14, "ReLU": 18, "LRN": 15, "Pooling": 17, "Dropout": 6,
    "SoftmaxWithLoss": 21, "Data": 5,
}  # fmt: skip


# An encoder of protocol buffers, written apart from what it tests.
def number(value):
    value &= 2**64 - 1  # as two's complement
    encoded = bytearray()
    while value > 127:
        encoded.append(value % 128 + 128)
        value //= 128
    return bytes(encoded) + bytes([value])


def integer(field, value):
    return number(field * 8) + number(value)


def message(field, content):
    return number(field * 8 + 2) + number(len(content)) + content


def blob(array, *, old=False, packed=True, doubles=False):
    if old:  # num, channels, height, width
        lengths = (1,) * (4 - array.ndim) + array.shape
        encoded = b"".join(integer(i + 1, length) for i, length in enumerate(lengths))
    elif packed:
        encoded = message(7, message(1, b"".join(map(number, array.shape))))
    else:
        encoded = message(7, b"".join(integer(1, length) for length in array.shape))
    field, kind, code = (8, 1, "d") if doubles else (5, 5, "f")
    if packed:
        return encoded + message(field, array.astype(f"<{code}").tobytes())
    tag = number(field * 8 + kind)
    return encoded + b"".join(tag + struct.pack(f"<{code}", value) for value in array.ravel())


def layer(name, kind, blobs=(), *, old=False):
    fields = dict(name=4, type=5, blobs=6) if old else dict(name=1, type=2, blobs=7)
    encoded = message(fields["name"], name.encode())
    if old:
        encoded += integer(fields["type"], OLD_TYPES[kind])
    else:
        encoded += message(fields["type"], kind.encode())
    encoded += message(3, b"top")  # a field that is not read
    return message(
        2 if old else 100, encoded + b"".join(message(fields["blobs"], b) for b in blobs)
    )


def caffemodel(weights, order, *, old=False, **form):
    """`weights`: layer -> (weight, bias) as Caffe has them."""
    encoded = message(1, b"AlexNet") + layer("data", "Data", old=old)
    for name, arrays in weights.items():
        kind = "Convolution" if name.startswith("conv") else "InnerProduct"
        encoded += layer(name, kind, [blob(a, old=old, **form) for a in arrays], old=old)
        for following in (order | REST)[name]:
            encoded += layer(f"{following}{name}", following, old=old)
    return encoded


def random_weights(widths=(8, 12, 16, 12, 12), hidden=(32, 24), maps=3, classes=10):
    """Of bvlc_alexnet, or of CaffeNet: conv2, conv4 and conv5 have two groups."""
    a, b, c, d, e = widths
    shapes = {
        "conv1": (a, 3, 11, 11), "conv2": (b, a // 2, 5, 5), "conv3": (c, b, 3, 3),
        "conv4": (d, c // 2, 3, 3), "conv5": (e, d // 2, 3, 3),
        "fc6": (hidden[0], e * maps * maps), "fc7": (hidden[1], hidden[0]), "fc8": (classes, hidden[1]),
    }  # fmt: skip
    draws = np.random.default_rng(0)
    return {
        name: (
            draws.standard_normal(shape, np.float32) * np.float32((2 / np.prod(shape[1:])) ** 0.5),
            draws.normal(0, 0.2, shape[0]).astype(np.float32),
        )
        for name, shape in shapes.items()
    }


def torch_logits(weights, crops, order):
    """bvlc_alexnet in PyTorch; `crops` are B, G, R minus the mean."""
    import torch
    import torch.nn.functional as F

    w = {name: [torch.from_numpy(array) for array in arrays] for name, arrays in weights.items()}

    def then(x, operations):
        for operation in operations:
            if operation == "ReLU":
                x = F.relu(x)
            elif operation == "LRN":  # PyTorch and Caffe both divide alpha by the size
                x = F.local_response_norm(x, 5, alpha=1e-4, beta=0.75, k=1.0)
            else:
                x = F.max_pool2d(x, 3, 2, ceil_mode=True)
        return x

    with torch.no_grad():
        x = then(F.conv2d(torch.from_numpy(crops), *w["conv1"], stride=4), order["conv1"])
        x = then(F.conv2d(x, *w["conv2"], padding=2, groups=2), order["conv2"])
        x = F.relu(F.conv2d(x, *w["conv3"], padding=1))
        x = F.relu(F.conv2d(x, *w["conv4"], padding=1, groups=2))
        x = F.relu(F.conv2d(x, *w["conv5"], padding=1, groups=2))
        x = F.max_pool2d(x, 3, 2, ceil_mode=True).flatten(1)
        x = F.relu(F.linear(x, *w["fc6"]))
        x = F.relu(F.linear(x, *w["fc7"]))
        return F.linear(x, *w["fc8"]).numpy()


def compare_with_torch(variant, weights, folder, arguments=()):
    order = {"alexnet": ALEXNET, "caffenet": CAFFENET}[variant]
    file, out = folder / "net.caffemodel", folder / "net.safetensors"
    file.write_bytes(caffemodel(weights, order))
    size = 136 if arguments else 256
    mean = np.random.default_rng(2).uniform(80, 140, (1, 3, size, size)).astype(np.float32)
    (folder / "mean.binaryproto").write_bytes(blob(mean, old=True))
    import_weights.main([
        str(file), "--format", "caffe", "--config", f"configs/caffe.py:{variant}", "--out", str(out),
        "--mean", str(folder / "mean.binaryproto"), *arguments,
    ])  # fmt: skip
    run = alexnet_jax.load(out).trained
    pixels = nets.pictures(run)
    blue_first = pixels[..., ::-1].transpose(0, 3, 1, 2) - mean
    crop = run.config.augment.crop_size
    start = (size - crop) // 2
    crops = np.ascontiguousarray(blue_first[:, :, start : start + crop, start : start + crop])
    theirs = torch_logits(weights, crops, order)
    return nets.largest_difference(nets.logits(run, pixels), theirs)


@pytest.mark.parametrize("variant", ["alexnet", "caffenet"])
def test_logits_are_those_of_caffe_s_definition(variant, tmp_path):
    pytest.importorskip("torch")
    assert compare_with_torch(variant, random_weights(), tmp_path, NARROW) < 1e-5


@pytest.mark.full
@pytest.mark.parametrize("variant", ["alexnet", "caffenet"])
def test_logits_of_the_whole_net_are_those_of_caffe_s_definition(variant, tmp_path):
    pytest.importorskip("torch")
    weights = random_weights((96, 256, 384, 384, 256), (4096, 4096), maps=6, classes=1000)
    difference = compare_with_torch(variant, weights, tmp_path)
    print(f"configs/caffe.py:{variant}", difference)
    assert difference < 1e-4


@pytest.fixture(scope="module")
def net():
    return nets.random_run("configs/caffe.py:alexnet", NARROW)


@pytest.fixture
def load(net, tmp_path):
    """Reads bytes as a .caffemodel."""

    def load(encoded, mean=None):
        file = tmp_path / "net.caffemodel"
        file.write_bytes(encoded)
        return caffe.load(file, net.config, net.config_tree, mean)

    return load


FORMS = [dict(), dict(old=True), dict(packed=False), dict(doubles=True), dict(packed=False, doubles=True)]  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_every_way_to_write_the_same_weights_is_read(load, form):
    weights = random_weights()
    run = load(caffemodel(weights, ALEXNET, **form))
    kernel, (conv1, bias) = run.params["conv1"]["kernel"], weights["conv1"]
    assert kernel.dtype == np.float32 and np.array_equal(run.params["conv1"]["bias"], bias)
    for color, caffes in ((0, 2), (1, 1), (2, 0)):  # red is Caffe's last
        assert np.array_equal(kernel[3, 7, color], conv1[:, caffes, 3, 7])
    assert np.array_equal(run.params["conv2"]["kernel"][1, 2, 3], weights["conv2"][0][:, 3, 1, 2])
    # Of the 12 maps of 3x3 that fc6 sees, place (2, 1) of map 7.
    seen = run.params["fc6"]["kernel"][(2 * 3 + 1) * 12 + 7]
    assert np.array_equal(seen, weights["fc6"][0][:, 7 * 9 + 2 * 3 + 1])
    assert np.array_equal(run.params["fc8"]["kernel"], weights["fc8"][0].T)


def test_the_mean_is_red_first_and_has_a_default(load, tmp_path):
    weights = caffemodel(random_weights(), ALEXNET)
    means = load(weights).statistics
    assert means.mean_image.shape == (136, 136, 3) and means.channel_mean.tolist() == [
        123,
        117,
        104,
    ]
    path, image = tmp_path / "mean.binaryproto", np.random.default_rng(0).random((1, 3, 136, 136))
    path.write_bytes(blob(image, old=True))
    means = load(weights, path).statistics
    assert np.array_equal(means.mean_image[5, 6], image[0, ::-1, 5, 6].astype(np.float32))
    path.write_bytes(blob(np.array([[[1.0]], [[2.0]], [[3.0]]])))
    assert load(weights, path).statistics.mean_image[9, 9].tolist() == [3, 2, 1]
    for wrong, said in (
        (blob(image[:, :, :7, :7]), "is the mean of 7x7 images, but config.data.image_size is 136"),
        (blob(image[:, :2]), "a mean has the shape"),
        (blob(image * np.nan), "not finite"),
        (blob(image)[:-3], "mean.binaryproto: a field has"),
    ):
        path.write_bytes(wrong)
        with pytest.raises(CheckpointError, match=said):
            load(weights, path)


def data_layer(values=(), mean_file=b"", crop=103):
    """A layer that reads images, with mean_value, mean_file and crop_size."""
    encoded = integer(3, crop) if crop else b""
    encoded += message(4, mean_file) if mean_file else b""
    encoded += b"".join(number(5 * 8 + 5) + struct.pack("<f", value) for value in values)
    return message(100, message(1, b"images") + message(100, encoded))


@pytest.mark.parametrize(
    ("layers", "mean"),
    [
        ([data_layer([104, 117, 123.5])], [123.5, 117, 104]),
        ([data_layer([104, 117, 123.5], crop=0)], [123.5, 117, 104]),
        ([data_layer([110])], [110, 110, 110]),
        ([data_layer([1, 2, 3]), data_layer([4, 5, 6])], [3, 2, 1]),
        ([data_layer(), data_layer([4, 5, 6])], [0, 0, 0]),
        ([data_layer(crop=0), data_layer([4, 5, 6])], [6, 5, 4]),
        ([data_layer(mean_file=b"mean.binaryproto")], [123, 117, 104]),
    ],
)
def test_the_mean_values_of_the_file_are_subtracted(load, tmp_path, layers, mean):
    encoded = b"".join([*layers, caffemodel(random_weights(), ALEXNET)])
    means = load(encoded).statistics
    assert means.channel_mean.tolist() == mean and means.mean_image[5, 6].tolist() == mean
    path = tmp_path / "mean.binaryproto"
    path.write_bytes(blob(np.array([[[1.0]], [[2.0]], [[3.0]]])))
    assert load(encoded, path).statistics.channel_mean.tolist() == [3, 2, 1]


@pytest.mark.parametrize("values", [(1, 2), (1, 2, 3, 4), (1, 2, np.nan)])
def test_mean_values_that_caffe_has_not_are_refused(load, values):
    encoded = data_layer(values) + caffemodel(random_weights(), ALEXNET)
    with pytest.raises(CheckpointError, match=r"not 1 or 3 numbers: .*; --mean gives another mean"):
        load(encoded)


def edited(name, function):
    weights = random_weights()
    arrays = function(*weights[name])
    return caffemodel({**weights, name: arrays}, ALEXNET)


def without(name):
    return caffemodel({n: a for n, a in random_weights().items() if n != name}, ALEXNET)


def one(content):
    """A net of one layer with one blob of that content."""
    return message(100, message(1, b"conv1") + message(7, content))


def flat(*lengths):
    return message(7, message(1, b"".join(map(number, lengths))))


FOUR = message(5, bytes(4))
WRONG = {
    "has no tensor params/conv3/bias": [without("conv3")],
    "has a tensor params/fc8/2": [edited("fc8", lambda w, b: (w, b, b))],
    r"conv2/kernel has shape \(12, 5, 5, 4\)": [edited("conv2", lambda w, b: (w.transpose(0, 2, 3, 1), b))],
    r"fc8/kernel has shape \(9, 24\)": [edited("fc8", lambda w, b: (w[:9], b[:9]))],
    "fc7/bias is not finite": [edited("fc7", lambda w, b: (w, b + np.inf))],
    "conv1 is followed by act, pool, lrn, in the config by act, lrn, pool": [caffemodel(random_weights(), CAFFENET)],
    "no layer with weights": [b"", message(1, b"name"), layer("data", "Data"), integer(77, 5)],
    "two of its layers": [one(flat(1) + FOUR) * 2],
    "first format": [message(2, message(1, b"\x00"))],
    "more than 1000 layers": [layer("data", "Data") * 1001],
    "more than 10 blobs": [message(100, message(7, flat(1) + FOUR) * 11)],
    "more than 10 axes": [one(flat(*[1] * 11) + FOUR), one(message(7, integer(1, 1) * 11) + FOUR)],
    r"a blob of shape \[.*\] has \d+ bytes": [
        one(FOUR), one(flat(2) + FOUR), one(flat(2**40, 2**40) + FOUR), one(flat(-1, -1) + FOUR), one(flat(0, 2**62)),
        one(flat(1) + message(5, bytes(5))), one(integer(1, -1) + FOUR), one(flat(1) + message(8, bytes(4))),
    ],
    r"a field has \d+ bytes, but only \d+ are left": [
        number(100 * 8 + 2) + number(2**63), number(100 * 8 + 2) + number(5), number(3 * 8 + 1) + bytes(7),
        one(number(5 * 8 + 2) + number(2**31) + bytes(4)),
    ],
    "longer than 64 bits": [number(100 * 8 + 2) + b"\xff" * 11, b"\xff" * 10 + b"\x01", b"\x80" * 9 + b"\x02"],
    "ends within a number": [b"\x80", one(flat(1))[:-1] + b"\x80", number(100 * 8 + 2)],
    "unknown type 3": [number(100 * 8 + 3)],
    "unknown type 7": [number(100 * 8 + 7)],
    "a field has the number 0": [bytes(100)],
}  # fmt: skip


CASES = [(said, i) for said, some in WRONG.items() for i in range(len(some))]


@pytest.mark.fault("F49")
@pytest.mark.parametrize(("said", "i"), CASES)
def test_a_wrong_or_hostile_file_is_refused_in_one_line(load, said, i):
    with pytest.raises(CheckpointError, match=said) as raised:
        load(WRONG[said][i])
    assert "net.caffemodel" in str(raised.value) and "\n" not in raised.value.line()


@pytest.mark.fault("F49")
def test_no_part_of_a_file_is_taken_for_the_whole(load):
    encoded = caffemodel(random_weights(), ALEXNET)
    load(encoded)
    cuts = np.random.default_rng(0).integers(0, encoded.rindex(b"fc8"), 40)
    for cut in (*range(30), *cuts):
        with pytest.raises(CheckpointError):
            load(encoded[:cut])


@pytest.mark.fault("F49")
def test_a_flipped_byte_never_makes_more_than_an_error(load):
    encoded = caffemodel(random_weights(), ALEXNET)
    draws = np.random.default_rng(0)
    for place in (*range(60), *draws.integers(0, len(encoded), 60)):
        damaged = bytearray(encoded)
        damaged[place] ^= 1 << draws.integers(8)
        try:
            run = load(bytes(damaged))
        except AlexNetError:
            continue
        assert all(np.isfinite(leaf).all() for row in run.params.values() for leaf in row.values())


@pytest.mark.fault("F49")
def test_what_a_file_claims_costs_no_memory(load):
    nested = b""
    for _ in range(1000):  # each level is one longer message within another
        nested = message(100, nested)
    claims = [
        nested, message(100, message(7, nested)), one(flat(2**20, 2**20) + FOUR),
        one(flat(2**31) + number(5 * 8 + 2) + number(2**31)), one(message(5, b"") * 5000),
        message(100, message(1, b"a" * 10**6)),
    ]  # fmt: skip
    for claim in claims:
        tracemalloc.start()
        with pytest.raises(CheckpointError):
            load(claim)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 4 * len(claim) + 500_000


def test_a_file_that_is_none_or_too_large(net, tmp_path):
    with pytest.raises(CheckpointError, match="cannot be read: No such file"):
        caffe.read_net(tmp_path / "none.caffemodel")
    with open(tmp_path / "hollow.caffemodel", "wb") as file:
        file.truncate(2**31)  # takes no room on the disk
    with pytest.raises(CheckpointError, match="2 GiB or more"):
        caffe.read_net(tmp_path / "hollow.caffemodel")


def test_numbers_are_read_as_they_are_written():
    for value in (0, 1, 127, 128, 300, 2**32, 2**63, 2**64 - 1):
        [field] = protobuf.fields(memoryview(integer(7, value)))
        assert (field.number, field.type, field.integer) == (7, protobuf.VARINT, value)
    two = message(5, b"abc") + number(6 * 8 + 5) + b"1234"
    assert [bytes(field.data) for field in protobuf.fields(memoryview(two))] == [b"abc", b"1234"]
