"""Compare the images per second of the input pipeline with those of common loaders, on one or a few cores.

    alexnet bench input --from IMAGES
    alexnet bench input --from IMAGES --threads 1 2 --json input.json

IMAGES is any input of `alexnet prepare`. As many of its images as are measured are written to class folders, from which
a JPEG store and a raw store are made, in a temporary folder. The programs are measured in turn, on the same cores:

  folder              decode and reduce the original files in shuffled batches, as in training from class folders
  store jpeg, raw     read batches as in training: order, digest, records, decoding
  ... in threads      the same without processes, on more than one core
  simplejpeg          only decode the same JPEG records
  pillow              decode, resize and crop the original files with Pillow, in one thread
  pil                 torch.utils.data.DataLoader over files with the same JPEGs, decoded by Pillow
  pil originals       the same over the original files, resized and cropped as by torchvision's transforms
  tf.data             decode_jpeg over the same JPEGs, if TensorFlow is installed
  prepare             convert the originals to a JPEG store
  pil prepare         the same with Pillow only, in one thread

With several numbers of cores, each round measures all of them, and a table shows the rates per core.
"""

import argparse
import contextlib
import functools
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
from alexnet_jax.data.pipeline import batches, image_files
from alexnet_jax.data.pipeline.image_files import ImageFiles
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
    "folder": ("pillow", "pil originals"),
    "prepare": ("pil prepare",),
}
_SIZE = 256


def main(arguments: list[str]) -> int:
    parser = cli.parser(__doc__ or "")
    parser.add_argument("--from", required=True, dest="source", metavar="IMAGES")
    parser.add_argument(
        "--threads",
        type=int,
        nargs="+",
        default=[1],
        help="numbers of cores, threads, and processes of the other loaders",
    )
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each program")
    parser.add_argument("--images", type=int, default=1024, help="images per measurement")
    output.add_json(parser)
    options = parser.parse_args(arguments)
    cores = sorted(os.sched_getaffinity(0))
    if not all(1 <= number <= len(cores) for number in options.threads):
        raise ConfigError(f"--threads {options.threads}: there are {len(cores)} cores")
    image_files.FEWEST_FOR_PROCESSES = 1  # a few images stand for a large set
    with tempfile.TemporaryDirectory() as folder:
        reports = measure(options, Path(folder), cores)
    print("\n\n".join([table(report) for report in reports] + scaling(reports)))
    several = {str(report["threads"]): report for report in reports}
    output.write_json(options.json, reports[0] if len(reports) == 1 else several)
    return 0


def measure(options: argparse.Namespace, folder: Path, cores: list[int]) -> list[dict[str, Any]]:
    """Measure the images per second of every program in every round; return a report for each number of cores."""
    originals = _write_originals(options, folder)
    for kind in ("jpeg", "raw"):
        _prepare(folder, folder / kind, kind, max(options.threads))
    content = _Content(folder, options.images, originals)
    programs, rates = {}, {}
    for threads in options.threads:
        os.sched_setaffinity(0, cores[:threads])
        programs[threads] = _programs(content, threads)
        rates[threads] = {name: [] for name in programs[threads]}
        for name, program in programs[threads].items():
            if "prepare" not in name:
                program()  # starts processes, and reads files into the page cache
    for number in range(options.rounds):
        for threads in options.threads:
            os.sched_setaffinity(0, cores[:threads])
            for name in list(programs[threads])[:: 1 if number % 2 else -1]:
                begin = time.perf_counter()
                count = programs[threads][name]()
                rates[threads][name].append(count / (time.perf_counter() - begin))
    shared = {
        "machine": machine(),
        "images": options.images,
        "order_and_hash_seconds": _order_and_hash(),
    }
    return [shared | {"threads": threads, "rates": rates[threads]} for threads in options.threads]


def _write_originals(options: argparse.Namespace, folder: Path) -> list[Path]:
    """Write the images of the source, again and again, to class folders."""
    found = discovery.find(options.source, folder / "work").splits["train"]
    images = [(name, image) for name, chosen in found.items() for image in chosen]
    if not isinstance(images[0][1].read(), bytes):
        raise ConfigError(f"--from {options.source} has arrays; this measures the reading of files")
    paths = []
    for i in range(options.images):
        name, image = images[i % len(images)]
        content: Any = image.read()
        path = folder / "originals" / "train" / name / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        paths.append(path)
    return paths


def _prepare(folder: Path, out: Path, kind: str, jobs: int) -> None:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        prepare.main(["--from", str(folder / "originals"), "--out", str(out), "--format", kind,
                      "--subset", "--jobs", str(jobs)])  # fmt: skip


class _Content:
    """What the programs read: original files, stores, and the records of the JPEG store as files."""

    def __init__(self, folder: Path, images: int, originals: list[Path]) -> None:
        self.folder, self.images, self.originals = folder, images, originals
        index = store_format.read_index(folder / "jpeg")
        shards = index.splits["train"]
        encoded = store.JpegShards(
            [folder / "jpeg" / shard.file for shard in shards], [shard.count for shard in shards]
        )
        self.jpegs = [encoded.one(i) for i in range(sum(shard.count for shard in shards))]
        (folder / "files").mkdir()
        self.paths = [folder / "files" / f"{i}.jpg" for i in range(len(self.jpegs))]
        for path, content in zip(self.paths, self.jpegs, strict=True):
            path.write_bytes(content)

    def prepare(self, jobs: int) -> int:
        with tempfile.TemporaryDirectory(dir=self.folder) as temporary:
            _prepare(self.folder, Path(temporary) / "store", "jpeg", jobs)
        return len(self.originals)


def _programs(content: _Content, threads: int) -> dict[str, Callable[[], int]]:
    originals, jpegs = content.originals, content.jpegs

    def ours(name: str, processes: int) -> Callable[[], int]:
        if name == "folder":
            images: Any = ImageFiles(
                lambda i: (None, originals[i]), len(originals), _SIZE,
                threads=threads, processes=processes, identity=None,
            )  # fmt: skip
        else:
            shards = content.folder / name.split()[1]
            index = store_format.read_index(shards)
            images = store.images(shards, index, "train", index.size, threads, processes=processes)
        return lambda: _read(images, content.images)

    def decode_only() -> int:
        import simplejpeg

        for i in range(content.images):
            simplejpeg.decode_jpeg(jpegs[i % len(jpegs)], colorspace="RGB")
        return content.images

    def pillow() -> int:
        for path in originals:
            np.asarray(_resized_and_cropped(path.read_bytes()))
        return len(originals)

    def prepare_with_pillow() -> int:
        for path in originals:
            _resized_and_cropped(path.read_bytes()).save(io.BytesIO(), "JPEG", quality=95)
        return len(originals)

    processes = threads if threads > 1 else 0
    programs = {name: ours(name, processes) for name in ("folder", "store jpeg", "store raw")}
    if processes:
        programs |= {f"{name} in threads": ours(name, 0) for name in ("folder", "store jpeg")}
    else:
        programs |= {
            "simplejpeg": decode_only,
            "pillow": pillow,
            "pil prepare": prepare_with_pillow,
        }
    if util.find_spec("torch") is not None:
        loader = functools.partial(_torch_loader, images=content.images, threads=threads)
        programs["pil"] = loader([path.read_bytes for path in content.paths], _decoded)
        programs["pil originals"] = loader(
            [path.read_bytes for path in originals], _resized_and_cropped
        )
    if util.find_spec("tensorflow") is not None:
        programs["tf.data"] = _tf_data(
            [str(path) for path in content.paths], content.images, threads
        )
    programs["prepare"] = lambda: content.prepare(threads)
    return programs


def _read(images: Any, count: int) -> int:
    """Read `count` images in shuffled batches, as the training loop does."""
    labels = np.zeros(len(images), np.int32)

    def make(step: int) -> tuple[np.ndarray, ...]:
        indices, epochs = _positions(step, len(labels), seed=0)
        return images[indices], indices, epochs

    digest = ""
    with batches.Prefetch(make, range(count // BATCH), 2) as ahead:
        for _, (_, indices, epochs) in ahead:
            digest = batches.update_batch_digest(digest, labels[indices], indices, epochs)
    return count // BATCH * BATCH


def _order_and_hash() -> float:
    """Measure the seconds per batch for the order of the examples and its digest, over an epoch of ImageNet."""
    labels, steps = np.zeros(1_281_167, np.int32), 10_009
    begin = time.perf_counter()
    digest = ""
    for step in range(steps):
        indices, epochs = _positions(step, len(labels), seed=1)
        digest = batches.update_batch_digest(digest, labels[indices], indices, epochs)
    return (time.perf_counter() - begin) / steps


def _positions(step: int, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices and epochs of a shuffled batch of `count` images."""
    return batches.positions(step, batch_size=BATCH, num_examples=count, seed=seed, shuffle="epoch")


def _decoded(content: bytes) -> "Image.Image":
    from PIL import Image

    return Image.open(io.BytesIO(content)).convert("RGB")


def _resized_and_cropped(content: bytes) -> "Image.Image":
    """Decode with Pillow, and apply Resize(_SIZE) and CenterCrop(_SIZE) as torchvision defines them."""
    from PIL import Image

    image = _decoded(content)
    scale = _SIZE / min(image.size)
    image = image.resize(
        (round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR
    )
    left, top = (image.width - _SIZE) // 2, (image.height - _SIZE) // 2
    return image.crop((left, top, left + _SIZE, top + _SIZE))


def _torch_loader(
    readers: list[Callable[[], bytes]],
    decode: Callable[[bytes], "Image.Image"],
    *,
    images: int,
    threads: int,
) -> Callable[[], int]:
    import torch  # pyright: ignore[reportMissingImports]

    class Images(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return images // BATCH * BATCH

        def __getitem__(self, i: int) -> Any:
            pixels = np.asarray(decode(readers[i * 7 % len(readers)]()))
            return torch.from_numpy(pixels.transpose(2, 0, 1).copy()), i

    def run() -> int:
        workers = threads if threads > 1 else 0
        torch.set_num_threads(threads)
        loader = torch.utils.data.DataLoader(Images(), batch_size=BATCH, num_workers=workers)
        return sum(len(numbers) for _, numbers in loader)

    return run


def _tf_data(paths: list[str], images: int, threads: int) -> Callable[[], int]:
    import tensorflow as tf  # pyright: ignore[reportMissingModuleSource]

    count = images // BATCH * BATCH
    numbers = [i * 7 % len(paths) for i in range(count)]
    settings = tf.data.Options()
    settings.threading.private_threadpool_size = threads

    def decoded(path: Any) -> Any:
        return tf.io.decode_jpeg(tf.io.read_file(path), channels=3)

    dataset = tf.data.Dataset.from_tensor_slices([paths[i] for i in numbers])
    dataset = dataset.map(decoded, num_parallel_calls=threads).batch(BATCH)
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
        *(f"{ours} is faster by" for ours in RATIOS),
    )
    rows = []
    for name, values in rates.items():
        cells = [
            _ratio(rates[ours], values) if name in others else "" for ours, others in RATIOS.items()
        ]
        spread = f"{min(values):,.0f} to {max(values):,.0f}"
        rows.append((name, f"{statistics.median(values):,.0f}", spread, *cells))
    share = report["order_and_hash_seconds"] * statistics.median(rates["store jpeg"]) / BATCH
    fastest = report["order_and_hash_seconds"] * statistics.median(rates["store raw"]) / BATCH
    last = (f"Order and digest for ImageNet: {report['order_and_hash_seconds'] * 1e6:.0f} us per batch of {BATCH}, "
            f"{share:.1%} of the time with the JPEG store, {fastest:.1%} with the raw store")  # fmt: skip
    lines = markdown.table(header, rows, right=range(1, len(header)))
    return "\n".join([title, "", *lines, "", last])


def scaling(reports: list[dict[str, Any]]) -> list[str]:
    """Format the rate per core on more cores than one, beside that of one core and that of Pillow on one core."""
    one = next((report["rates"] for report in reports if report["threads"] == 1), None)
    if one is None:
        return []
    plain = {"folder": "pillow", "folder in threads": "pillow", "prepare": "pil prepare"}
    rows = []
    for report in [report for report in reports if report["threads"] > 1]:
        for name, values in report["rates"].items():
            per_core = [rate / report["threads"] for rate in values]
            beside = one.get(name.removesuffix(" in threads"))
            rows.append((name, report["threads"], f"{statistics.median(per_core):,.0f}",
                         _ratio(per_core, beside) if beside else "",
                         _ratio(per_core, one[plain[name]]) if name in plain else ""))  # fmt: skip
    header = (
        "program",
        "cores",
        "images/s per core",
        "beside one core",
        "beside Pillow on one core",
    )
    return ["\n".join(markdown.table(header, rows, right=range(1, 5)))] if rows else []


def _ratio(ours: list[float], theirs: list[float]) -> str:
    return f"{statistics.median(a / b for a, b in zip(ours, theirs, strict=True)):.2f}x"


if __name__ == "__main__":
    cli.run(main)
