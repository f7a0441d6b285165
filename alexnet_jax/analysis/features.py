"""Write the outputs of named layers for many images to a .npz file, for use in other programs.

alexnet features --workdir W --layer fc7 [--layer conv5] --split train --out fc7.npz
alexnet features --workdir W --layer fc7 --images FOLDER --out mine.npz

The file has a float32 array [n ...] for each layer, under its name; `labels` and `indices` of a split, or `files`; and
`class_names`, `step` and `request` (the arguments of the command). After an interruption, even by kill -9, repeat the
command to continue; the result has the same bytes.
"""

import argparse
import contextlib
import hashlib
import io
import json
import math
import os
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from alexnet_jax import cli, files
from alexnet_jax.analysis import pictures
from alexnet_jax.errors import ConfigError, DataError, StorageError, WorkdirError

if TYPE_CHECKING:
    from alexnet_jax.data.pipeline.image_files import ImageFiles
    from alexnet_jax.inference.network import Network
    from alexnet_jax.inference.trained import TrainedModel
    from alexnet_jax.specs import DataSpec

#: Approximate size of each part file; two parts are in memory at a time.
PART_BYTES = 2**26


class Source(NamedTuple):
    """The images whose features are computed."""

    #: `images[indices]` -> uint8 [b s s 3].
    images: Any
    #: String that changes if any image changes.
    identity: str
    #: Arrays [n] to save with the features: labels and indices, or file names.
    metadata: dict[str, np.ndarray]


def main(arguments: list[str]) -> None:
    """Run `alexnet features`."""
    from alexnet_jax.evaluation import target

    parser = cli.parser(__doc__ or "")
    parser.add_argument("--workdir", required=True, help="a run folder, or a .safetensors file")
    cli.add_step(parser)
    parser.add_argument(
        "--layer", required=True, action="append",
        help="a layer such as fc7, or an operation in a layer such as conv1/linear; can be repeated",
    )  # fmt: skip
    images = parser.add_mutually_exclusive_group()
    images.add_argument("--split", help=target.SPLIT_HELP)
    images.add_argument(
        "--images", nargs="+", metavar="PATH", help="image files, folders and patterns in quotes"
    )
    parser.add_argument(
        "--data-path", help="present location of the images; default: as in training"
    )
    parser.add_argument("--out", required=True, metavar="FILE.npz", help="output file")
    options = parser.parse_args(arguments)
    path = Path(options.out)
    if path.suffix != ".npz":
        raise ConfigError(f"--out must end in .npz, not {path}")
    from alexnet_jax.inference import network

    net = network.load(options.workdir, options.step)
    for layer in options.layer:
        net.shape_of(layer)  # raises ConfigError before any work
    source = file_source(net, options.images) if options.images else split_source(net, options)
    print(extract(net, source, options.layer, path))


def split_source(net: "Network", options: argparse.Namespace) -> Source:
    """Return the images of a split. Raises DataError."""
    name, dataset = pictures.load_split(net.trained, options.data_path, options.split)
    split = dataset.splits[name]
    indices = np.arange(len(split.labels), dtype=np.int64)
    metadata = {"labels": split.labels, "indices": indices}
    return Source(split.images, f"{name} of {dataset.fingerprint}", metadata)


def file_source(net: "Network", paths: list[str]) -> Source:
    """Return the images in files and folders. Raises DataError."""
    from alexnet_jax.data.pipeline import digests

    image_paths, spec = pictures.list_files(paths), net.trained.config.data
    names = list(map(str, image_paths))
    try:
        hashed = digests.of_files("", names, spec.threads)
    except OSError as error:
        raise DataError(f"cannot read {error.filename}: {error.strerror}") from None
    key = digests.cache_key(
        hashed.digests, hashed.times, *(os.fsencode(path).hex() for path in image_paths)
    )
    return Source(open_files(image_paths, spec), f"files {key}", {"files": np.array(names)})


def open_files(paths: Sequence[Path], spec: "DataSpec") -> "ImageFiles":
    """Return images that are decoded, at the size of `spec`, when they are read."""
    from alexnet_jax.data.pipeline.image_files import ImageFiles

    return ImageFiles(
        lambda i: (str(paths[i]), paths[i]), len(paths), spec.image_size,
        threads=spec.threads, processes=spec.workers, identity=None, exif=spec.exif,
    )  # fmt: skip


def extract(net: "Network", source: Source, layers: list[str], path: Path) -> Path:
    """Write the features [n ...] of all images to `path`, reusing the parts of an interrupted command.

    Raises:
      ConfigError: The network has no such layer, or `path` exists with other content.
      StorageError: The file cannot be written.
      WorkdirError: Another process is writing the same file.
    """
    shapes = {layer: net.shape_of(layer) for layer in layers}
    request = {
        "schema": 1, "layers": list(shapes), "images": source.identity, "count": len(source.images),
        "network": _digest(net.trained), "step": net.trained.step,
    }  # fmt: skip
    folder = path.with_name(path.name + ".parts")
    try:
        if not _is_done(path, request):
            folder.mkdir(parents=True, exist_ok=True)
            with _locked(folder):
                _check_same(folder, request)
                parts = _write_parts(net, source.images, shapes, folder)
                metadata = source.metadata | {
                    "class_names": np.array(net.class_names),
                    "step": np.array(net.trained.step),
                    "request": np.array(json.dumps(request)),
                }
                _join(parts, len(source.images), shapes, metadata, path)
        if folder.exists():
            shutil.rmtree(folder)
    except OSError as error:
        raise StorageError(
            f"cannot write {error.filename or path}: {error.strerror}; run the same command again to continue"
        ) from None
    return path


def _write_parts(
    net: "Network", images: Any, shapes: dict[str, tuple[int, ...]], folder: Path
) -> list[Path]:
    """Write the outputs of all layers, concatenated to [images values], in files of about PART_BYTES each."""
    from alexnet_jax.data.pipeline.splits import View

    values = sum(map(math.prod, shapes.values()))
    batch = net.trained.config.evaluation.batch_size
    rows = batch * max(PART_BYTES // (4 * values * batch), 1)
    function = flattened(net, list(shapes))
    parts = []
    for start in range(0, len(images), rows):
        parts.append(folder / f"{start:09}.npy")
        stop = min(start + rows, len(images))
        if not parts[-1].exists():
            # Parts are whole batches, since the rounding may depend on the batch size.
            part = View(images, np.arange(start, stop))
            features = np.concatenate(list(net.map_batches(function, part)))
            encoded = io.BytesIO()
            np.save(encoded, features)
            files.write_atomically(parts[-1], encoded.getvalue())
            print(f"{stop} of {len(images)} images", file=sys.stderr)
    return parts


def flattened(net: "Network", layers: list[str]) -> Callable[..., Any]:
    """Return f(variables, pixels) -> the outputs of layers, concatenated to float32 [images values], jitted."""
    import jax.numpy as jnp

    def compute(variables: Any, pixels: Any) -> Any:
        outputs = net.all_features(variables, pixels)
        flat = [outputs[layer].reshape(len(pixels), -1).astype(jnp.float32) for layer in layers]
        return jnp.concatenate(flat, axis=1)

    return net.jitted(f"features {layers}", compute)


def _join(
    parts: list[Path], count: int, shapes: dict[str, tuple[int, ...]],
    metadata: dict[str, np.ndarray], path: Path,
) -> None:  # fmt: skip
    """Join the parts to one .npz file, reading one at a time; it has no dates, so its bytes are reproducible."""
    with files.replacing(path) as file, zipfile.ZipFile(file, "w") as archive:
        column = 0
        for layer, shape in shapes.items():
            columns = slice(column, column + math.prod(shape))
            column = columns.stop
            header: dict[str, Any] = {
                "descr": "<f4",
                "fortran_order": False,
                "shape": (count, *shape),
            }
            with archive.open(f"{layer}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array_header_1_0(member, header)
                for part in parts:
                    member.write(_load(part)[:, columns].tobytes())
        for name, array in metadata.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def _load(part: Path) -> np.ndarray:
    remedy = "remove it and run the same command again"
    return files.read_array(part, ("images", "values"), "float32", mapped=True, remedy=remedy)


def _is_done(path: Path, request: dict[str, Any]) -> bool:
    """Whether `path` is the result of `request`. Raises ConfigError if it exists with other content."""
    if not path.exists():
        return False
    if other := files.not_regular(path):
        raise ConfigError(f"--out {path}: {other}")
    saved = None
    with contextlib.suppress(StorageError, ValueError):
        text = str(files.read_arrays(path, {"request": ((), "text")})["request"])
        saved = files.parse_json(text, dict)
    if saved != request:
        raise ConfigError(f"{path} exists with other content; remove it or choose another --out")
    return True


def _check_same(folder: Path, request: dict[str, Any]) -> None:
    """Raise ConfigError if the parts in `folder` belong to another request."""
    file = folder / "request.json"
    text = json.dumps(request, indent=1)
    if not file.exists():
        files.write_atomically(file, text)
    elif file.read_text(encoding="utf-8") != text:
        raise ConfigError(
            f"{folder} has parts for another network, other layers or other images; "
            "remove it or choose another --out"
        )


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock of `folder`. Raises WorkdirError if another process holds it."""
    lock = files.lock(folder / ".lock")
    if lock is None:
        raise WorkdirError(f"{folder} is in use by another process; wait for it")
    with lock:
        yield


def _digest(trained: "TrainedModel") -> str:
    """Hash the config, parameters and statistics that the features depend on."""
    import jax

    digest = hashlib.sha256(json.dumps(trained.config_tree, sort_keys=True).encode())
    for leaf in jax.tree.leaves((trained.params, trained.batch_stats, trained.statistics)):
        digest.update(np.ascontiguousarray(leaf).data)
    return digest.hexdigest()


if __name__ == "__main__":
    cli.run(main)
