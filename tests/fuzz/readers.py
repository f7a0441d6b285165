"""Every reader of files and requests, with good inputs for it: `READERS`, by name."""

import contextlib
import dataclasses
import functools
import io
import json
import os
import shutil
import socket
import struct
import sys
import tarfile
import threading
import types
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from tests.fuzz import mutate

SCHEMA1 = Path(__file__).parents[1] / "reliability" / "schema1"


class Reader(NamedTuple):
    seeds: Callable[[Path], Sequence[bytes]]
    """Good inputs; a folder for scratch is given."""
    mutate: mutate.Mutation
    prepare: Callable[[Path], Callable[[bytes], object]]
    """Of a folder for scratch: what reads an input."""


def _in_file(name: str, read: Callable[[Path], object]) -> Callable[[Path], Callable]:
    """A reader of a file of this name."""

    def prepare(folder: Path) -> Callable[[bytes], object]:
        def reads(content: bytes) -> object:
            (folder / name).write_bytes(content)
            return read(folder / name)

        return reads

    return prepare


def _one(make: Callable[..., bytes], *arguments: Any) -> Callable[[Path], Sequence[bytes]]:
    return lambda _: [make(*arguments)]


# weights


def _weights(folder: Path) -> Sequence[bytes]:
    from alexnet_jax import config, files
    from alexnet_jax.data.pipeline import statistics
    from alexnet_jax.inference import trained, weights

    tree = config.load("tests/tiny.py", ["--config.model.num_classes=2"])
    spec = config.with_classes(config.parse(tree), 2)
    draws = np.random.default_rng(0)
    tensors = {
        name: draws.normal(0, 0.1, shape).astype(np.float32)
        for name, shape in weights.shapes(spec).items()
    }
    params = files.unflatten(tensors)["params"]
    plain = json.loads(config.to_json(tree))
    run = trained.TrainedModel(spec, plain, 0, params, {}, statistics.zeros(16), ("cat", "dog"))
    return [trained.save(folder / "seed.safetensors", run).read_bytes()]


def _read_weights(path: Path) -> object:
    from alexnet_jax.inference import trained

    return trained.load_file(path)


@functools.cache
def _narrow_caffe() -> tuple[Any, dict, bytes]:
    from alexnet_jax import config
    from tests.interop import nets, test_caffe

    overrides = [*nets.NARROW, "--config.augment.crop_size=103"]
    loaded = config.load("configs/caffe.py", [*overrides, "--config.data.path=x"])
    spec, tree = config.parse(loaded), json.loads(config.to_json(loaded))
    net = nets.random_run("configs/caffe.py", (*overrides, "--config.data.path=x"))
    layers = {}
    for name, _ in (*spec.model.convs, *spec.model.fcs):
        kernel, bias = net.params[name]["kernel"], net.params[name]["bias"]
        order = (3, 2, 0, 1) if kernel.ndim == 4 else (1, 0)
        layers[name] = kernel.transpose(order), bias
    return spec, tree, test_caffe.caffemodel(layers, test_caffe.ALEXNET)


def _read_caffe(path: Path) -> object:
    from alexnet_jax.interop import caffe

    spec, tree, _ = _narrow_caffe()
    return caffe.load(path, spec, tree)


def _read_binaryproto(path: Path) -> object:
    from alexnet_jax.interop import caffe

    return caffe.read_mean(path)


def _onnx(folder: Path) -> Sequence[bytes]:
    from alexnet_jax.inference import trained
    from alexnet_jax.interop import onnx

    (folder / "net.safetensors").write_bytes(_weights(folder)[0])
    return [onnx.model(trained.load_file(folder / "net.safetensors")).SerializeToString()]


def _read_onnx(path: Path) -> object:
    from alexnet_jax.interop import onnx

    return onnx.load(path)


def _foreign(_: Path) -> Sequence[bytes]:
    content = io.BytesIO()
    kernel, bias = np.zeros((8, 3, 5, 5), np.float32), np.zeros(8, np.float32)
    np.savez_compressed(content, conv1_w=kernel, conv1_b=bias)
    return [content.getvalue()]


def _identify(path: Path) -> object:
    from alexnet_jax.interop import contents, identify

    return identify.identify(contents.read(path))


def _binaryproto() -> bytes:
    from tests.interop import test_caffe

    return test_caffe.blob(np.zeros((1, 3, 8, 8), np.float32), old=True)


# archives


def _png(size: int = 12, **options: Any) -> bytes:
    return _image("PNG", size, **options)


def _image(form: str, size: int = 12, mode: str = "RGB", **options: Any) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (size, size + 3, 3), dtype=np.uint8)
    made = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(made, form, **options)
    return made.getvalue()


def _tar(form: int) -> bytes:
    made, long = io.BytesIO(), "long" * (10 if form == tarfile.USTAR_FORMAT else 60)
    with tarfile.open(fileobj=made, mode="w", format=form) as archive:
        for name in ("train/cat/a.png", "train/dog/b.png", "train/" + long + "/c.png"):
            entry = tarfile.TarInfo(name)
            entry.size = len(_png())
            archive.addfile(entry, io.BytesIO(_png()))
    return made.getvalue()


def _zip(compression: int) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", compression) as archive:
        for name in ("train/cat/a.png", "train/dog/b.png"):
            archive.writestr(name, _png())
    return made.getvalue()


def _read_archive(path: Path) -> object:
    from alexnet_jax.data.sources import archives

    return [member.read() for member in archives.members(path, (".png",))]


# data


def _images() -> dict[str, Callable[[Path], Sequence[bytes]]]:
    found: dict[str, Callable[[Path], Sequence[bytes]]] = {
        "jpeg": lambda _: [_image("JPEG"), _image("JPEG", mode="CMYK"), _image("JPEG", progressive=True),
                           _image("JPEG", exif=_exif())],
        "png": lambda _: [_png(), _png(mode="P"), _png(mode="RGBA"), _png(mode="I;16"), _png(mode="1")],
        "bmp": lambda _: [_image("BMP"), _image("BMP", mode="P"), _image("BMP", mode="1")],
        "gif": lambda _: [_image("GIF", mode="P")],
        "tiff": lambda _: [_image("TIFF"), _image("TIFF", compression="tiff_lzw"),
                           _image("TIFF", compression="jpeg"), _image("TIFF", mode="I;16")],
        "webp": lambda _: [_image("WEBP"), _image("WEBP", lossless=True), _image("WEBP", mode="RGBA")],
        "ppm": lambda _: [_image("PPM"), _image("PPM", mode="1"), b"P2 2 2 255 1 2 3 4"],
    }  # fmt: skip
    with contextlib.suppress(Exception):  # a Pillow without it
        avif = _image("AVIF", size=32)
        found["avif"] = lambda _: [avif]
    return found


def _exif() -> Image.Exif:
    made = Image.Exif()
    made[0x0112] = 6
    return made


def _decode(path: Path) -> object:
    from alexnet_jax.data.pipeline import images

    return images.decode(path, 16, exif="apply")


def _saved(**arrays: Any) -> bytes:
    made = io.BytesIO()
    np.savez(made, **arrays)
    return made.getvalue()


def _array(array: np.ndarray) -> bytes:
    made = io.BytesIO()
    np.save(made, array)
    return made.getvalue()


def _arrays() -> bytes:
    images, labels = np.zeros((6, 8, 8, 3), np.uint8), np.arange(6) % 2
    names = np.array(["cat", "dog"])
    return _saved(train_images=images, train_labels=labels, test_images=images, test_labels=labels,
                  class_names=names)  # fmt: skip


def _spec(source: str, path: Path, **changes: Any) -> Any:
    from alexnet_jax import config

    data = config.parse(config.load("tests/tiny.py", [])).data
    changes = {"validation": 0.0, "image_size": 8} | changes
    return dataclasses.replace(data, source=source, path=str(path), **changes)


def _read_dataset(source: str) -> Callable[[Path], object]:
    def read(path: Path) -> object:
        from alexnet_jax.data import sources

        found = sources.open_dataset(_spec(source, path), 0)
        return found.splits["train"].images[np.arange(2)]

    return read


def _copies(name: str, pattern: str) -> Callable[[Path], Sequence[bytes]]:
    """The first file of a copy of a dataset (tests/data/copies.py) that fits the pattern."""
    return lambda folder: [next(iter(sorted(_copy(folder, name).glob(pattern)))).read_bytes()]


def _copy(folder: Path, name: str) -> Path:
    from tests.data import copies
    from tests.data.imagenet_tars import Picture

    root = folder / "copy"
    if not root.exists():
        found = [Picture(s, f"{s}_{i}.png", _png(9 + i)) for s in copies.WORDS for i in range(2)]
        copies.COPIES[name](root, found, found)
    return root


def _copy_reader(name: str, pattern: str) -> Callable[[Path], Callable[[bytes], object]]:
    """A copy of a dataset with one file replaced."""

    def prepare(folder: Path) -> Callable[[bytes], object]:
        root = _copy(folder, name)
        path = sorted(root.glob(pattern))[0]
        read = _read_dataset("folder")

        def reads(content: bytes) -> object:
            path.write_bytes(content)
            return read(root)

        return reads

    return prepare


#: Copies of datasets -> a file of each and how it is changed.
COPIES: dict[str, list[tuple[str, mutate.Mutation]]] = {
    "kaggle": [
        ("LOC_val_solution.csv", mutate.damaged),
        ("LOC_synset_mapping.txt", mutate.damaged),
    ],
    "parquet": [("data/train-*.parquet", mutate.damaged)],
    "saved": [
        ("train/data-*.arrow", mutate.damaged),
        ("train/state.json", mutate.json_file),
        ("train/dataset_info.json", mutate.json_file),
        ("dataset_dict.json", mutate.json_file),
    ],
    "webdataset": [("imagenet1k-train-0000.tar", mutate.tar)],
    "labels-csv": [("train.csv", mutate.damaged)],
}


def _read_cifar(path: Path) -> object:
    from alexnet_jax.data.sources import cifar10

    return cifar10.records(path.read_bytes(), str(path))


def _tfrecord() -> bytes:
    return b"".join(struct.pack("<Q", n) + bytes(4) + bytes(n) + bytes(4) for n in (3, 100, 0, 7))


def _read_tfrecord(path: Path) -> object:
    from alexnet_jax.data.sources import tfrecord

    records = tfrecord.TFRecords([path])
    return [records[i] for i in range(min(len(records), 100))]


STORE_SIZE, STORE_COUNT = 8, 6


def _store(folder: Path, form: str) -> Path:
    from alexnet_jax.data.prepare import command as prepare

    out = folder / f"store-{form}"
    if not out.exists():
        for name in ("cat", "dog"):
            for split in ("train", "val"):
                (folder / "pictures" / split / name).mkdir(parents=True, exist_ok=True)
                for i in range(3):
                    content = _png(10 + i)
                    (folder / "pictures" / split / name / f"{i}.png").write_bytes(content)
        arguments = [
            "--from",
            str(folder / "pictures"),
            "--out",
            str(out),
            "--format",
            form,
            "--jobs",
            "1",
        ]
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            prepare.main([*arguments, "--size", str(STORE_SIZE)])
    return out


def _of_store(pattern: str, form: str = "raw") -> Callable[[Path], Sequence[bytes]]:
    return lambda folder: [next(_store(folder, form).glob(pattern)).read_bytes()]


def _store_reader(pattern: str, read: Callable, form: str = "raw") -> Callable:
    def prepare(folder: Path) -> Callable[[bytes], object]:
        from alexnet_jax.data.sources import store_format

        place = _store(folder, form)
        index, path = store_format.read_index(place), next(place.glob(pattern))

        def reads(content: bytes) -> object:
            path.write_bytes(content)
            return read(place, index, path)

        return reads

    return prepare


def _read_index(folder: Path, *_: object) -> object:
    from alexnet_jax.data import sources
    from alexnet_jax.data.prepare import doctor, report
    from alexnet_jax.data.sources import store_format

    found = sources.open_dataset(_spec("store", folder), 0)
    index = store_format.read_index(folder)
    list(doctor._report(index))
    list(report.summary(index))
    return found.splits["train"].images[np.arange(2)]


def _read_labels(folder: Path, index: Any, _: Path) -> object:
    from alexnet_jax.data.sources import store_format

    return store_format.read_labels(folder, index, "train")


def _read_store_statistics(folder: Path, index: Any, _: Path) -> object:
    from alexnet_jax.data.sources import store_format

    return store_format.read_statistics(folder, index.size)


def _read_raw(_: Path, index: Any, path: Path) -> object:
    from alexnet_jax.data.sources import store

    return store.RawShards([path], [STORE_COUNT], index.size)[np.arange(STORE_COUNT)]


def _read_records(_: Path, index: Any, path: Path) -> object:
    from alexnet_jax.data.pipeline import images
    from alexnet_jax.data.sources import store

    shards = store.JpegShards([path], [STORE_COUNT])
    return [images.decode(shards.one(i), index.size, name="image") for i in range(STORE_COUNT)]


# run folders


def _config_json() -> bytes:
    from alexnet_jax import config

    return config.to_json(config.load("tests/tiny.py", [])).encode()


ERRORS = {"count": 40, "top1_error": 0.25, "top5_error": 0.125, "nll": 1.5}
RESULTS = {"schema": 1, "step": 6, "epoch": 2.0, "config": "tiny", "seconds": 300.0, "images_per_second": 9.0,
           "splits": {"val": {"center": ERRORS}, "test": {"center": ERRORS, "ten": ERRORS}}}  # fmt: skip
STATUS = {"state": "running", "step": 6, "saved": True, "saved_step": 6, "code": None, "reason": "", "pid": 1,
          "host": "elsewhere", "slurm": [7, 0], "heartbeat": "2012-09-30T12:00:00Z"}  # fmt: skip
RUN = {"time": "2012-09-30T12:00:00Z", "command": ["main.py", "--config", "c.py"], "commit": "c0ffee",
       "uncommitted_changes": False, "devices": ["cpu:0"], "processes": 1, "versions": {"jax": "0.10.2"},
       "numerics": {"float32": "highest"}, "data": {"notes": []}}  # fmt: skip
START = {"time": "2012-09-30T12:00:00Z", "command": "main.py", "config_sha256": "0" * 64,
         "changes": {"train.epochs": [1.0, 2.0]}, "init_from": None}  # fmt: skip
LAUNCHED = {"member": "base", "seed": 0, "config": "configs/quickstart.py", "overrides": ["--config.seed=0"],
            "starts": [{"time": "t", "code": 75, "saved_step": 6}, {"time": "t"}], "slurm": "7_0"}  # fmt: skip
CARD = {
    "sha256": "0" * 64,
    "config": "tiny",
    "seed": 0,
    "step": 0,
    "splits": {"test": {"center": ERRORS}},
}


def _lines(*rows: dict) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def _metrics() -> bytes:
    rows: list[dict] = [
        {"step": i, "epoch": i / 4, "time": 0.0, "train_loss": 3 / i, "train_top1_error": 0.5, "grad_norm": 1.0,
         "learning_rate": 0.1, "images_per_second": 9.0, "data_wait_fraction": 0.0, "batch_hash": "00"}
        for i in range(1, 9)
    ]  # fmt: skip
    rows[5] |= {"eval_val_center_top1_error": 0.25, "eval_val_center_nll": 1.0}
    return _lines(*rows)


def _run_folder(folder: Path) -> Path:
    run = folder / "run"
    if not run.exists():
        shutil.copytree(SCHEMA1, run / "checkpoints")
        (run / "checkpoints" / "sums.txt").unlink()
        (run / "predictions").mkdir()
        for name, content in {
            "config.json": _config_json(), "status.json": json.dumps(STATUS).encode(),
            "run.json": json.dumps(RUN).encode(), "results.json": json.dumps(RESULTS).encode(),
            "history.jsonl": _lines(START, START), "metrics.jsonl": _metrics(),
            "dataset.npz": _dataset(), "predictions/test_center_6.npz": _predictions(),
        }.items():  # fmt: skip
            (run / name).write_bytes(content)
    return run


def _dataset() -> bytes:
    digests, labels = np.arange(6, dtype=np.uint64), np.arange(6, dtype=np.int32) % 2
    return _saved(fingerprint=np.array("x"), class_names=np.array(["a", "b"]), times=np.array(""),
                  train_digests=digests, train_labels=labels)  # fmt: skip


def _predictions() -> bytes:
    return _saved(probabilities=np.full((6, 3), 1 / 3, np.float32), labels=np.arange(6) % 3)


def _statistics() -> bytes:
    from alexnet_jax.data.pipeline import statistics

    return _saved(**statistics.zeros(8)._asdict())


def _reads_run(name: str) -> Callable[[Path], Callable[[bytes], object]]:
    """All that reads a run folder, with one of its files replaced."""

    def prepare(folder: Path) -> Callable[[bytes], object]:
        run = _run_folder(folder)

        def reads(content: bytes) -> None:
            (run / name).write_bytes(content)
            _read_run(run, name)

        return reads

    return prepare


def _read_run(run: Path, changed: str) -> None:
    """Each reader of the changed file in turn, so that an error of one does not hide another."""
    from alexnet_jax import config
    from alexnet_jax.analysis import convergence, curves, report_evaluation, report_training
    from alexnet_jax.data.pipeline import identity
    from alexnet_jax.errors import AlexNetError
    from alexnet_jax.inference import predictions, trained
    from alexnet_jax.run import reading, workdir
    from alexnet_jax.train import log, writers

    owned = workdir.Workdir(run, steal=True)
    new = types.SimpleNamespace(to_dict=lambda: json.loads(_config_json()))
    spec = config.parse(json.loads(_config_json()))

    def cut_back() -> None:
        metrics = (run / "metrics.jsonl").read_bytes()
        writers.cut_back(run / "metrics.jsonl", 6)
        (run / "metrics.jsonl").write_bytes(metrics)

    readers: dict[str, list[Callable[[], object]]] = {
        "config.json": [lambda: trained.load_config(run), lambda: owned.changes(new), lambda: convergence.read(run)],
        "status.json": [lambda: reading.read_status(run), owned.check],
        "run.json": [lambda: reading.read_environment(run), lambda: report_training.reproduction(run)],
        "results.json": [lambda: log.summary(reading.read_results(run) or RESULTS),
                         lambda: report_evaluation.results(run, [])],
        "history.jsonl": [lambda: reading.history(run), lambda: reading.begun_from(run),
                          lambda: report_training.reproduction(run)],
        "metrics.jsonl": [lambda: curves.read(run), lambda: convergence.read(run), cut_back,
                          lambda: report_training.learning_curves(run),
                          lambda: reading.validation_errors(reading.read_metrics(run), spec)],
        "dataset.npz": [lambda: identity.run_fingerprint(run, "")],
        "predictions/test_center_6.npz": [lambda: predictions.load(run, "test", "center", 6).wrong()],
    }  # fmt: skip
    faults = []
    for read in readers[changed]:
        try:
            read()
        except AlexNetError as error:
            faults.append(error)
    if faults:
        raise faults[0]


def _checkpoint_reader(name: str) -> Callable[[Path], Callable[[bytes], object]]:
    """A checkpoint with one file replaced under sums that fit."""

    def prepare(folder: Path) -> Callable[[bytes], object]:
        run = _run_folder(folder)
        target = run / "checkpoints" / "6"

        def reads(content: bytes) -> object:
            from alexnet_jax import files
            from alexnet_jax.inference import checkpoints
            from alexnet_jax.run.schemas import TrainingMeta

            (target / name).write_bytes(content)
            if name != "COMMIT.json":
                parts = [p for p in target.rglob("*") if p.is_file() and p.name != "COMMIT.json"]
                names = sorted(str(p.relative_to(target)) for p in parts)
                text = checkpoints.commit_text(6, checkpoints.sums(target, names))
                (target / "COMMIT.json").write_text(text)
            meta = checkpoints.verify(run / "checkpoints", 6)
            files.check(meta, TrainingMeta, target / "meta.json")
            return checkpoints.load_statistics(run / "checkpoints", 6)

        return reads

    return prepare


def _launch_reader(folder: Path) -> Callable[[bytes], object]:
    from launch import runs

    run = runs.Run("base", 0, "configs/quickstart.py", (), folder, "0" * 16)
    run.record.parent.mkdir(parents=True, exist_ok=True)

    def reads(content: bytes) -> object:
        run.record.write_bytes(content)
        runs.from_record(folder, run.identity)
        runs.begin(run)
        runs.end(run, 75)
        return runs.state(run)

    return reads


def _read_card(path: Path) -> object:
    from alexnet_jax.interop import verify

    card = verify._card(path.with_suffix(".safetensors"))
    return verify._errors(card["splits"])


def _card_reader(folder: Path) -> Callable[[bytes], object]:
    (folder / "card.safetensors").write_bytes(b"")
    return _in_file("card.json", _read_card)(folder)


# the command line and the served page


def _overrides(_: Path) -> Sequence[bytes]:
    from alexnet_jax import config
    from alexnet_jax.errors import ConfigError

    def flat(tree: dict, prefix: str) -> list[bytes]:
        found = []
        for key, value in tree.items():
            name = f"{prefix}.{key}"
            if isinstance(value, dict):
                found += flat(value, name)
            elif value is not None:  # which no override can write
                text = tuple(value) if isinstance(value, list) else value
                found.append(f"{name}={text}".encode())
        return found

    def is_taken(
        override: bytes,
    ) -> bool:  # one that would change nothing in this config is refused
        try:
            return bool(config.load("tests/tiny.py", [override.decode()]))
        except ConfigError:
            return False

    tree = json.loads(config.to_json(config.load("tests/tiny.py", [])))
    return [b"\n".join(filter(is_taken, flat(config.completed(tree), "--config")))]


def _read_overrides(_: Path) -> Callable[[bytes], object]:
    def reads(content: bytes) -> object:
        from alexnet_jax import cli, config
        from alexnet_jax.train.plan import Plan

        arguments = cli.config_overrides([os.fsdecode(one) for one in content.split(b"\n")])
        found = config.load("tests/tiny.py", arguments)
        spec = config.parse(found)
        config.digest(found)
        return Plan(spec, 1000).last_step

    return reads


REQUESTS = [
    b"GET / HTTP/1.1\r\nHost: localhost:PORT\r\n\r\n",
    b"POST /explain?class=1 HTTP/1.1\r\nHost: localhost:PORT\r\nOrigin: http://localhost:PORT\r\n"
    + b"Content-Length: %d\r\n\r\n" % len(_png()) + _png(),
]  # fmt: skip


def _serve(_: Path) -> Callable[[bytes], object]:
    from alexnet_jax import config
    from alexnet_jax.analysis import serve

    spec = config.parse(config.load("tests/tiny.py", []))
    trained: Any = types.SimpleNamespace(config=spec, step=1, class_names=("cat", "dog"))
    net: Any = types.SimpleNamespace(trained=trained, class_names=trained.class_names)

    faults: list[BaseException | None] = []

    class Server(serve.Server):
        def explain(self, pixels: np.ndarray, class_number: int | None = None) -> dict:
            return {"class_number": class_number, "sum": int(pixels.sum())}

        def handle_error(self, *_: object) -> None:
            error = sys.exc_info()[1]
            if not isinstance(error, ConnectionError | TimeoutError):
                faults.append(error)

    server = Server(net, "a net")
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()  # fmt: skip
    port = str(server.server_port).encode()

    def reads(content: bytes) -> None:
        with socket.create_connection(("127.0.0.1", server.server_port), timeout=9) as connection:
            with contextlib.suppress(OSError):  # the server has refused it already
                connection.sendall(content.replace(b"PORT", port))
                connection.shutdown(socket.SHUT_WR)
            try:
                answer = connection.makefile("rb").read()
            except ConnectionError:
                return
        if b"<html" in answer and b"Content-Security-Policy" not in answer:
            raise AssertionError("a page of http.server")
        if b" 500 " in answer[:20] or faults:
            raise AssertionError(f"the page failed: {faults!r}")

    return reads


READERS: dict[str, Reader] = {
    "safetensors": Reader(_weights, mutate.safetensors, _in_file("net.safetensors", _read_weights)),
    "caffemodel": Reader(lambda _: [_narrow_caffe()[2]], mutate.damaged, _in_file("n.caffemodel", _read_caffe)),
    "identified safetensors": Reader(_weights, mutate.safetensors, _in_file("o.safetensors", _identify)),
    "identified caffemodel": Reader(lambda _: [_narrow_caffe()[2]], mutate.damaged,
                                    _in_file("o.caffemodel", _identify)),
    "identified npz": Reader(_foreign, mutate.npz, _in_file("o.npz", _identify)),
    "onnx": Reader(_onnx, mutate.damaged, _in_file("net.onnx", _read_onnx)),
    "binaryproto": Reader(_one(_binaryproto), mutate.damaged, _in_file("m.binaryproto", _read_binaryproto)),
    "tar": Reader(
        lambda _: [_tar(tarfile.USTAR_FORMAT), _tar(tarfile.GNU_FORMAT), _tar(tarfile.PAX_FORMAT)],
        mutate.tar, _in_file("a.tar", _read_archive),
    ),
    "zip": Reader(lambda _: [_zip(zipfile.ZIP_STORED), _zip(zipfile.ZIP_DEFLATED)], mutate.zip_,
                  _in_file("a.zip", _read_archive)),
    "store index": Reader(_of_store("index.json"), mutate.json_file, _store_reader("index.json", _read_index)),
    "store labels": Reader(_of_store("train-labels.npy"), mutate.npy,
                           _store_reader("train-labels.npy", _read_labels)),
    "store statistics": Reader(_of_store("statistics.npz"), mutate.npz,
                               _store_reader("statistics.npz", _read_store_statistics)),
    "store shard": Reader(_of_store("train-0*.npy"), mutate.npy, _store_reader("train-0*.npy", _read_raw)),
    "store records": Reader(_of_store("train-0*", "jpeg"), mutate.damaged,
                            _store_reader("train-0*", _read_records, "jpeg")),
    **{f"image {name}": Reader(seeds, mutate.png if name == "png" else mutate.damaged,
                               _in_file(f"image.{name}", _decode)) for name, seeds in _images().items()},
    **{f"{name} {pattern.rpartition('/')[2].replace('*', 'n')}": Reader(
        _copies(name, pattern), change, _copy_reader(name, pattern)
    ) for name, files in COPIES.items() for pattern, change in files},
    "arrays.npz": Reader(_one(_arrays), mutate.npz, _in_file("a.npz", _read_dataset("arrays"))),
    "cifar10": Reader(_one(lambda: (b"\3" + bytes(3072)) * 3), mutate.damaged, _in_file("b.bin", _read_cifar)),
    "tfrecord": Reader(_one(_tfrecord), mutate.damaged, _in_file("t.tfrecord", _read_tfrecord)),
    "config.json": Reader(_one(_config_json), mutate.json_file, _reads_run("config.json")),
    "status.json": Reader(_one(_lines, STATUS), mutate.json_file, _reads_run("status.json")),
    "run.json": Reader(_one(_lines, RUN), mutate.json_file, _reads_run("run.json")),
    "results.json": Reader(_one(_lines, RESULTS), mutate.json_file, _reads_run("results.json")),
    "history.jsonl": Reader(_one(_lines, START, START), mutate.json_lines, _reads_run("history.jsonl")),
    "metrics.jsonl": Reader(_one(_metrics), mutate.json_lines, _reads_run("metrics.jsonl")),
    "dataset.npz": Reader(_one(_dataset), mutate.npz, _reads_run("dataset.npz")),
    "predictions.npz": Reader(_one(_predictions), mutate.npz, _reads_run("predictions/test_center_6.npz")),
    "statistics.npz": Reader(_one(_statistics), mutate.npz, _checkpoint_reader("statistics.npz")),
    "meta.json": Reader(lambda _: [(SCHEMA1 / "6" / "meta.json").read_bytes()], mutate.json_file,
                        _checkpoint_reader("meta.json")),
    "COMMIT.json": Reader(lambda _: [(SCHEMA1 / "6" / "COMMIT.json").read_bytes()], mutate.json_file,
                          _checkpoint_reader("COMMIT.json")),
    "member of a sweep": Reader(_one(_lines, LAUNCHED), mutate.json_file, _launch_reader),
    "card of weights": Reader(_one(_lines, CARD), mutate.json_file, _card_reader),
    "command line": Reader(_overrides, mutate.overrides, _read_overrides),
    "http": Reader(lambda _: REQUESTS, mutate.http, _serve),
}  # fmt: skip
