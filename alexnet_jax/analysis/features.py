"""Write the outputs of named layers for many images to a .npz file, for other programs to learn from.

alexnet features --workdir W --layer fc7 [--layer conv5] --split train --out fc7.npz
alexnet features --workdir W --layer fc7 --images FOLDER --out mine.npz

The file has a float32 array [n ...] for each layer, by name; `labels` and `indices` of a split, or `files`; and
`class_names`, `step` and `request`, the arguments of the command. If the command is interrupted, even by kill -9, the
same command continues it and produces the same bytes.
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
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from alexnet_jax import cli, files
from alexnet_jax.analysis import pictures
from alexnet_jax.errors import ConfigError, DataError, StorageError, WorkdirError

if TYPE_CHECKING:
    from alexnet_jax.inference.network import Network
    from alexnet_jax.inference.trained import TrainedModel

#: Approximate size of the parts on disk; two are in memory at a time.
PART_BYTES = 2**26


class Source(NamedTuple):
    """The images whose features are computed."""

    #: `images[indices]` -> uint8 [b s s 3].
    images: Any
    #: Changes when any image does.
    identity: str
    #: Arrays [n] that identify the images in the file.
    described: dict[str, np.ndarray]


def main(arguments: list[str]) -> None:
    from alexnet_jax.evaluation import target

    parser = cli.parser(__doc__ or "")
    parser.add_argument("--workdir", required=True, help="a run folder, or a .safetensors file")
    cli.add_step(parser)
    parser.add_argument(
        "--layer", required=True, action="append",
        help="a layer such as fc7, or an operation of one such as conv1/linear; can be repeated",
    )  # fmt: skip
    images = parser.add_mutually_exclusive_group()
    images.add_argument("--split", help=target.SPLIT_HELP)
    images.add_argument(
        "--images", nargs="+", metavar="PATH", help="image files or folders of them"
    )
    parser.add_argument(
        "--data-path", help="where the images are now; default: where they were in training"
    )
    parser.add_argument("--out", required=True, metavar="FILE.npz", help="the file to write")
    options = parser.parse_args(arguments)
    path = Path(options.out)
    if path.suffix != ".npz":
        raise ConfigError(f"--out names a file that ends in .npz, not {path}")
    from alexnet_jax.inference import network

    net = network.load(options.workdir, options.step)
    source = of_files(net, options.images) if options.images else None
    print(extract(net, source or of_split(net, options), options.layer, path))


def of_split(net: "Network", options: argparse.Namespace) -> Source:
    """The images of a split. Raises DataError."""
    name, dataset = pictures.load_split(net.trained, options.data_path, options.split)
    split = dataset.splits[name]
    numbers = np.arange(len(split.labels), dtype=np.int64)
    described = {"labels": split.labels, "indices": numbers}
    return Source(split.images, f"{name} of {dataset.fingerprint}", described)


def of_files(net: "Network", paths: list[str]) -> Source:
    """The images in files and folders. Raises DataError."""
    from alexnet_jax.data.pipeline import digests
    from alexnet_jax.data.pipeline.image_files import ImageFiles

    found, spec = pictures.list_files(paths), net.trained.config.data
    try:
        known = digests.of_files("", list(map(str, found)), spec.threads)
    except OSError as error:
        raise DataError(f"cannot read {error.filename}: {error.strerror}") from None
    images = ImageFiles(
        lambda i: (str(found[i]), found[i]), len(found), spec.image_size,
        threads=spec.threads, identity=None, exif=spec.exif,
    )  # fmt: skip
    named = digests.cache_key(
        known.digests, known.times, *(os.fsencode(path).hex() for path in found)
    )
    return Source(images, f"files {named}", {"files": np.array([str(p) for p in found])})


def extract(net: "Network", source: Source, layers: list[str], path: Path) -> Path:
    """Write the features [n ...] of all images to `path`, keeping the parts that an interrupted command wrote.

    Raises:
      ConfigError: There is no such layer, or `path` holds something else.
      StorageError: The file cannot be written.
      WorkdirError: Another process writes the same file.
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
                described = source.described | {
                    "class_names": np.array(net.class_names),
                    "step": np.array(net.trained.step),
                    "request": np.array(json.dumps(request)),
                }
                _join(parts, len(source.images), shapes, described, path)
        if folder.exists():
            shutil.rmtree(folder)
    except OSError as error:
        raise StorageError(
            f"cannot write {error.filename or path}: {error.strerror}; the same command continues"
        ) from None
    return path


def _write_parts(
    net: "Network", images: Any, shapes: dict[str, tuple[int, ...]], folder: Path
) -> list[Path]:
    """Write the concatenated outputs of all layers, [images values], in files of about PART_BYTES."""
    import jax.numpy as jnp

    from alexnet_jax.data.pipeline.splits import View

    def of_layers(variables: Any, pixels: Any) -> Any:
        made: Any = net.model.apply(variables, net.inputs(pixels)[:, 0], train=False)[1]
        flat = [made[layer].reshape(len(pixels), -1).astype(jnp.float32) for layer in shapes]
        return jnp.concatenate(flat, axis=1)

    values = sum(map(math.prod, shapes.values()))
    batch = net.trained.config.evaluation.batch_size
    rows = batch * max(PART_BYTES // (4 * values * batch), 1)
    function = net.jitted(f"features {list(shapes)}", of_layers)
    parts = []
    for start in range(0, len(images), rows):
        parts.append(folder / f"{start:09}.npy")
        stop = min(start + rows, len(images))
        if not parts[-1].exists():
            # Always with the same batches: other batch sizes may round differently.
            part = View(images, np.arange(start, stop))
            made = np.concatenate(list(net.map_batches(function, part)))
            encoded = io.BytesIO()
            np.save(encoded, made)
            files.write_atomically(parts[-1], encoded.getvalue())
            print(f"{stop} of {len(images)} images", file=sys.stderr)
    return parts


def _join(
    parts: list[Path], count: int, shapes: dict[str, tuple[int, ...]],
    described: dict[str, np.ndarray], path: Path,
) -> None:  # fmt: skip
    """Join all parts to one .npz file, reading one at a time. It has no dates, so the bytes are reproducible."""
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
        for name, array in described.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def _load(part: Path) -> np.ndarray:
    remedy = "remove it and give the same command again"
    return files.read_array(part, ("images", "values"), "float32", mapped=True, remedy=remedy)


def _is_done(path: Path, request: dict[str, Any]) -> bool:
    """Whether `path` already holds the result of `request`. Raises ConfigError if it holds anything else."""
    if not path.exists():
        return False
    if other := files.not_regular(path):
        raise ConfigError(f"--out {path}: {other}")
    held = None
    with contextlib.suppress(StorageError, ValueError):
        text = str(files.read_arrays(path, {"request": ((), "text")})["request"])
        held = files.parse_json(text, dict)
    if held != request:
        raise ConfigError(f"{path} holds something else; remove it or choose another --out")
    return True


def _check_same(folder: Path, request: dict[str, Any]) -> None:
    """Raise ConfigError if the parts in `folder` are of another request."""
    file = folder / "request.json"
    text = json.dumps(request, indent=1)
    if not file.exists():
        files.write_atomically(file, text)
    elif file.read_text(encoding="utf-8") != text:
        raise ConfigError(
            f"{folder} holds parts for another network, other layers or other images; "
            "remove it or choose another --out"
        )


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock of `folder`. Raises WorkdirError if another process does."""
    lock = files.lock(folder / ".lock")
    if lock is None:
        raise WorkdirError(f"{folder} is in use by another process; wait for it")
    with lock:
        yield


def _digest(run: "TrainedModel") -> str:
    """Hash all that the features depend on."""
    import jax

    digest = hashlib.sha256(json.dumps(run.config_tree, sort_keys=True).encode())
    for leaf in jax.tree.leaves((run.params, run.batch_stats, run.statistics)):
        digest.update(np.ascontiguousarray(leaf).data)
    return digest.hexdigest()


if __name__ == "__main__":
    cli.run(main)
