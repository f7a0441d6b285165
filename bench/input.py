"""Compare the images per second of the input pipeline with those of common loaders, on one or a few cores.

    alexnet bench input --from IMAGES
    alexnet bench input --from IMAGES --threads 2 --json input.json

IMAGES is any input of `alexnet prepare`. A JPEG store and a raw store are made from it in a temporary folder and read
in shuffled batches. The programs are measured in turn, on the same cores:

  store jpeg, raw     read batches as in training: order, digest, records, decoding
  simplejpeg          only decode the same JPEG records
  pil                 torch.utils.data.DataLoader over files with the same JPEGs, decoded by Pillow
  pil originals       the same over the original files, resized and cropped as by torchvision's transforms
  tf.data             decode_jpeg over the same JPEGs, if TensorFlow is installed
  prepare             convert the originals to a JPEG store
  pil prepare         the same with Pillow only
"""

import argparse
import contextlib
import io
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from alexnet_jax import cli
from alexnet_jax.cli import markdown
from alexnet_jax.data.pipeline import batches
from alexnet_jax.data.prepare import command as prepare
from alexnet_jax.data.prepare import discovery
from alexnet_jax.data.sources import store, store_format
from alexnet_jax.errors import ConfigError

from . import output
from .hardware import machine

if TYPE_CHECKING:
    from PIL import Image

BATCH = 128
#: Program of this project -> the programs that it is compared with.
RATIOS = {
    "store jpeg": ("simplejpeg", "pil", "pil originals", "tf.data"),
    "store raw": ("pil", "pil originals"),
    "prepare": ("pil prepare",),
}


def main(arguments: list[str]) -> int:
    parser = cli.parser(__doc__ or "")
    parser.add_argument("--from", required=True, dest="source", metavar="IMAGES")
    parser.add_argument(
        "--threads",
        type=int,
        default=1,
        help="number of cores, threads, and processes of the other loaders",
    )
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each program")
    parser.add_argument("--images", type=int, default=1024, help="images per measurement")
    output.add_json(parser)
    options = parser.parse_args(arguments)
    cores = sorted(os.sched_getaffinity(0))
    if not 1 <= options.threads <= len(cores):
        raise ConfigError(f"--threads {options.threads}: there are {len(cores)} cores")
    os.sched_setaffinity(0, cores[: options.threads])
    with tempfile.TemporaryDirectory() as folder:
        report = measure(options, Path(folder))
    print(table(report))
    output.write_json(options.json, report)
    return 0


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure the images per second of every program in every round."""
    for kind in ("jpeg", "raw"):
        _prepare(options, folder / kind, kind)
    programs = _programs(options, folder)
    rates: dict[str, list[float]] = {name: [] for name in programs}
    for number in range(options.rounds):
        for name in list(programs)[:: 1 if number % 2 else -1]:
            begin = time.perf_counter()
            count = programs[name]()
            rates[name].append(count / (time.perf_counter() - begin))
    return {"machine": machine(), "threads": options.threads, "images": options.images,
            "order_and_hash_seconds": _order_and_hash(), "rates": rates}  # fmt: skip


def _prepare(options: argparse.Namespace, out: Path, kind: str) -> None:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        prepare.main(["--from", options.source, "--out", str(out), "--format", kind, "--subset",
                      "--jobs", str(options.threads)])  # fmt: skip


def _programs(options: argparse.Namespace, folder: Path) -> dict[str, Callable[[], int]]:
    index = store_format.read_index(folder / "jpeg")
    total = sum(shard.count for shard in index.splits["train"])
    total_of_all_splits = sum(shard.count for shards in index.splits.values() for shard in shards)
    encoded = store.JpegShards(
        [folder / "jpeg" / s.file for s in index.splits["train"]],
        [s.count for s in index.splits["train"]],
    )
    jpegs = [encoded.one(i) for i in range(total)]
    files = folder / "files"
    files.mkdir()
    for i, content in enumerate(jpegs):
        (files / f"{i}.jpg").write_bytes(content)
    paths = [files / f"{i}.jpg" for i in range(total)]
    found = discovery.find(options.source, folder / "work").splits["train"]
    originals: list[Any] = [image for chosen in found.values() for image in chosen]

    def ours(kind: str) -> Callable[[], int]:
        opened = store_format.read_index(folder / kind)
        images = store.images(folder / kind, opened, "train", opened.size, options.threads)
        labels = store_format.read_labels(folder / kind, opened, "train")
        return lambda: _read(images, labels, options.images)

    def decode_only() -> int:
        import simplejpeg

        for i in range(options.images):
            simplejpeg.decode_jpeg(jpegs[i % total], colorspace="RGB")
        return options.images

    def prepare_again() -> int:
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            _prepare(options, Path(temporary) / "store", "jpeg")
        return total_of_all_splits

    def prepare_with_pillow() -> int:
        for image in originals:
            square = _resized_and_cropped(image.read())
            square.save(io.BytesIO(), "JPEG", quality=95)
        return total

    programs = {"store jpeg": ours("jpeg"), "store raw": ours("raw")}
    if options.threads == 1:
        programs["simplejpeg"] = decode_only
    if util.find_spec("torch") is not None:
        programs["pil"] = _torch_loader([path.read_bytes for path in paths], _decoded, options)
        programs["pil originals"] = _torch_loader(
            [image.read for image in originals], _resized_and_cropped, options
        )
    if util.find_spec("tensorflow") is not None:
        programs["tf.data"] = _tf_data([str(path) for path in paths], options)
    programs["prepare"] = prepare_again
    if options.threads == 1:
        programs["pil prepare"] = prepare_with_pillow
    return programs


def _read(images: Any, labels: np.ndarray, count: int) -> int:
    """Read `count` images in shuffled batches, as the training loop does."""
    digest = ""
    for step in range(count // BATCH):
        indices, epochs = batches.positions(
            step, batch_size=BATCH, num_examples=len(labels), seed=0, shuffle="epoch"
        )
        digest = batches.update_batch_digest(digest, labels[indices], indices, epochs)
        _ = images[indices]
    return count // BATCH * BATCH


def _order_and_hash() -> float:
    """Measure the seconds per batch for the order of the examples and its digest, over an epoch of ImageNet."""
    labels, steps = np.zeros(1_281_167, np.int32), 10_009
    begin = time.perf_counter()
    digest = ""
    for step in range(steps):
        indices, epochs = batches.positions(
            step, batch_size=BATCH, num_examples=len(labels), seed=1, shuffle="epoch"
        )
        digest = batches.update_batch_digest(digest, labels[indices], indices, epochs)
    return (time.perf_counter() - begin) / steps


def _decoded(content: bytes) -> "Image.Image":
    from PIL import Image

    return Image.open(io.BytesIO(content)).convert("RGB")


def _resized_and_cropped(content: bytes) -> "Image.Image":
    """Decode with Pillow, and apply Resize(256) and CenterCrop(256) as torchvision defines them."""
    from PIL import Image

    image = _decoded(content)
    scale = 256 / min(image.size)
    image = image.resize(
        (round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR
    )
    left, top = (image.width - 256) // 2, (image.height - 256) // 2
    return image.crop((left, top, left + 256, top + 256))


def _torch_loader(
    readers: list[Callable[[], bytes]],
    decode: Callable[[bytes], "Image.Image"],
    options: argparse.Namespace,
) -> Callable[[], int]:
    import torch  # pyright: ignore[reportMissingImports]

    class Images(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return options.images // BATCH * BATCH

        def __getitem__(self, i: int) -> Any:
            pixels = np.asarray(decode(readers[i * 7 % len(readers)]()))
            return torch.from_numpy(pixels.transpose(2, 0, 1).copy()), i

    def run() -> int:
        workers = options.threads if options.threads > 1 else 0
        torch.set_num_threads(options.threads)
        loader = torch.utils.data.DataLoader(Images(), batch_size=BATCH, num_workers=workers)
        return sum(len(numbers) for _, numbers in loader)

    return run


def _tf_data(paths: list[str], options: argparse.Namespace) -> Callable[[], int]:
    import tensorflow as tf  # pyright: ignore[reportMissingModuleSource]

    count = options.images // BATCH * BATCH
    numbers = [i * 7 % len(paths) for i in range(count)]
    settings = tf.data.Options()
    settings.threading.private_threadpool_size = options.threads

    def decoded(path: Any) -> Any:
        return tf.io.decode_jpeg(tf.io.read_file(path), channels=3)

    dataset = tf.data.Dataset.from_tensor_slices([paths[i] for i in numbers])
    dataset = dataset.map(decoded, num_parallel_calls=options.threads).batch(BATCH)
    dataset = dataset.with_options(settings)
    return lambda: sum(len(batch) for batch in dataset.as_numpy_iterator())


def table(report: dict[str, Any]) -> str:
    """Format the median and range of each program, and how many times faster this project's programs are."""
    rates, threads = report["rates"], report["threads"]
    rounds = len(next(iter(rates.values())))
    title = f"Images per second on {threads} core(s) of {report['machine']}, {rounds} rounds"
    header = (
        "program",
        "images/s, median",
        "min to max",
        "store jpeg is faster by",
        "store raw by",
        "prepare by",
    )
    rows = []
    for name, values in rates.items():
        cells = []
        for ours in ("store jpeg", "store raw", "prepare"):
            pairs = [a / b for a, b in zip(rates[ours], values, strict=True)]
            cells.append(f"{statistics.median(pairs):.2f}x" if name in RATIOS[ours] else "")
        spread = f"{min(values):,.0f} to {max(values):,.0f}"
        rows.append((name, f"{statistics.median(values):,.0f}", spread, *cells))
    share = report["order_and_hash_seconds"] * statistics.median(rates["store jpeg"]) / BATCH
    fastest = report["order_and_hash_seconds"] * statistics.median(rates["store raw"]) / BATCH
    last = (f"Order and digest for ImageNet: {report['order_and_hash_seconds'] * 1e6:.0f} us per batch of {BATCH}, "
            f"{share:.1%} of the time with the JPEG store, {fastest:.1%} with the raw store")  # fmt: skip
    return "\n".join([title, "", *markdown.table(header, rows, right=range(1, 6)), "", last])


if __name__ == "__main__":
    cli.run(main)
