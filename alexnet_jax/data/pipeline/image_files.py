"""An indexable sequence of image files, decoded by threads or processes and cached on disk."""

import contextlib
import errno
import hashlib
import json
import logging
import os
import pathlib
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8

from alexnet_jax import files
from alexnet_jax.data.pipeline import cache, images, workers
from alexnet_jax.data.pipeline.images import Job
from alexnet_jax.data.pipeline.workers import Threads
from alexnet_jax.errors import DataError, StorageError, listed, printable
from alexnet_jax.specs import Exif

#: Maximum size of a decoded dataset in the cache folder; a larger one is decoded again for each batch.
CACHE_LIMIT_BYTES = 8 * 2**30
#: Maximum size of resized arrays in memory; larger ones are resized again for each batch.
MEMORY_LIMIT_BYTES = 2**30
#: Number of images from which processes decode them: some seconds of work, where a process starts in half a second.
FEWEST_FOR_PROCESSES = 2048
#: Maximum size of the array that is decoded into at once.
PART_BYTES = 2**28
_REPORT_SECONDS = 5.0
_CHUNK = 1024
_ALL = "; alexnet doctor PATH lists all such images"

log = logging.getLogger(__name__)


class UnreadableImages(DataError):
    """Images that cannot be decoded.

    Attributes:
        faults: An error message for each of them.
        count: Number of images that were decoded or tried.
        hint: Suffix of the message.
    """

    def __init__(self, faults: Sequence[str], count: int, hint: str = "") -> None:
        super().__init__((faults[0] if len(faults) == 1 else undecodable(faults, count)) + hint)
        self.faults, self.count, self.hint = list(faults), count, hint


def undecodable(faults: Sequence[str], count: int) -> str:
    """Describe how many of `count` images have `faults`, and list the first of these."""
    shown = listed([printable(fault.removesuffix("; remove or replace it")) for fault in faults])
    return f"{len(faults):,} of {count:,} images cannot be read: {shown}"


class ImageFiles:
    """Images of any format and size as squares of size x size pixels, decoded when indexed.

    Args:
        read: Function that returns, for image i, its name in errors and its source, as in `images.Job`; called from
            several threads. With processes, the source must be picklable.
        processes: Number of processes that decode, if there are at least FEWEST_FOR_PROCESSES images. None: one per
            core; 0: none, `threads` decode.
        identity: A string that changes with the content of any image. If given, the first access decodes all images
            into the cache folder, provided that they fit and are at most CACHE_LIMIT_BYTES.
        title: Name of the images in messages.
        exif: As in `images.decode`.
        check: Called after all images were decoded into the cache; raises DataError if the sources have changed and
            `identity` no longer describes them.
        paths: The path of each image, for those in archives within the archive; if they have paths.
    """

    def __init__(
        self,
        read: Callable[[int], tuple[str | None, Any]],
        count: int,
        size: int,
        *,
        threads: int,
        identity: str | None,
        processes: int | None = 0,
        title: str = "images",
        exif: Exif = "ignore",
        check: Callable[[], None] | None = None,
        paths: Sequence[str] | None = None,
    ) -> None:
        self.paths = paths
        self._read, self._count, self.size, self._threads = read, count, size, threads
        self._identity, self._title, self._check = identity, title, check
        self._exif: Exif = exif
        self._processes = processes if count >= FEWEST_FOR_PROCESSES else 0
        self._pool: Threads | None = None
        self._cached: np.ndarray | None = None
        self._lock = threading.RLock()
        self._is_written = False  # whether this object wrote the cached file

    def __len__(self) -> int:
        return self._count

    @property
    def nbytes(self) -> int:
        """Size of all decoded images in bytes."""
        return self._count * self.size * self.size * 3

    def __getitem__(self, indices: np.ndarray) -> UInt8[np.ndarray, "b size size 3"]:
        with self._lock:
            if self._identity is not None:
                self._cached, self._identity = self._open_or_cache(self._identity), None
                self._check = None
        indices = np.asarray(indices)
        return self._decode(indices) if self._cached is None else self._cached[indices]

    def check(self) -> list[tuple[int, str]]:
        """Return (index, fault) of each image that cannot be decoded, without caching anything."""
        faults: list[tuple[int, str]] = []
        for start in range(0, self._count, _CHUNK):
            self._decode(range(start, min(start + _CHUNK, self._count)), faults)
        return faults

    def unreadable(self) -> list[tuple[int, str]]:
        """Return (index, fault) of each image that cannot be decoded, and cache the others.

        These images must not be indexed later. Raises DataError if the others are too large for the cache.
        """
        identity = f"{self._identity} skip"
        path = self._path(identity)
        faults_path = path.with_suffix(".npz")
        known = _read_faults(faults_path) if path.exists() else None
        if known is None or any(self._can_read(i) for i, _ in known):
            known = None
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
        found: list[tuple[int, str]] = []
        self._cached, self._identity = self._open_or_cache(identity, found), None
        if self._cached is None and self.nbytes > CACHE_LIMIT_BYTES:
            raise DataError(
                f"config.data.skip_unreadable decodes all images at the start, and {self._title} are "
                f"{self.nbytes >> 20:,} MB, more than can be cached in {path.parent}: prepare a store from them, with "
                "--max-bad-share"
            )
        if known is not None and not self._is_written:
            return known
        if not self._is_written:
            # Nothing can be cached, or another process has cached the images but not yet written the faults.
            self._cached = None
            return self.check()
        text = np.frombuffer(json.dumps(found).encode(), np.uint8)
        with (
            contextlib.suppress(OSError),
            cache.replacing(faults_path, len(text) + 1024) as temporary,
            open(temporary, "wb") as file,
        ):
            np.savez(file, faults=text)
        return found

    def _can_read(self, i: int) -> bool:
        out = np.empty((1, self.size, self.size, 3), np.uint8)
        try:
            return not images.decode_all([Job(0, *self._read(i))], out, self._exif)
        except DataError:
            return False

    def _decode(
        self, indices: Sequence[int] | np.ndarray, faults: list[tuple[int, str]] | None = None
    ) -> UInt8[np.ndarray, "b size size 3"]:
        """Decode the images `indices`.

        Args:
            faults: If given, unreadable images become zeros, and (index, fault) of each is appended.

        Raises:
            UnreadableImages: Some images are unreadable and `faults` is None.
        """
        bad: list[tuple[int, str]] = []
        most = max(PART_BYTES // self.size**2 // 3, 1)
        if len(indices) <= most:
            decoded = self._decode_part(indices, bad)
        else:
            decoded = np.empty((len(indices), self.size, self.size, 3), np.uint8)
            for i in range(0, len(indices), most):
                decoded[i : i + most] = self._decode_part(indices[i : i + most], bad)
        bad.sort()  # independent of the number of threads
        if faults is not None:
            faults += bad
        elif bad:
            raise UnreadableImages([fault for _, fault in bad], len(indices), _ALL)
        return decoded

    def _decode_part(
        self, indices: Sequence[int] | np.ndarray, faults: list[tuple[int, str]]
    ) -> UInt8[np.ndarray, "b size size 3"]:
        pool = self._start()
        decoded, block = pool.empty((len(indices), self.size, self.size, 3))

        def fill(rows: range) -> None:
            jobs, bad = [], []
            for row in rows:
                try:
                    jobs.append(Job(row, *self._read(int(indices[row]))))
                except DataError as error:
                    decoded[row] = 0
                    bad.append((row, str(error)))
            bad += pool.decode(jobs, decoded, block, self._exif)
            faults.extend((int(indices[row]), fault) for row, fault in bad)

        step = min(max(len(indices) // (4 * pool.count), pool.fewest), 64)
        chunks = [range(i, min(i + step, len(indices))) for i in range(0, len(indices), step)]
        for _ in pool.threads.map(fill, chunks):
            pass
        return decoded

    def _start(self) -> Threads:
        """Start the threads or processes if there are none, and return them."""
        with self._lock:
            if self._pool is None:
                count = workers.default() if self._processes is None else self._processes
                self._pool = workers.shared(count) if count else Threads(self._threads)
            return self._pool

    def _path(self, identity: str) -> pathlib.Path:
        text = f"{identity} {self.size} {images.VERSION} {self._exif}"
        return files.cache_folder() / f"images-{hashlib.sha256(text.encode()).hexdigest()[:32]}.npy"

    def _open_or_cache(
        self, identity: str, faults: list[tuple[int, str]] | None = None
    ) -> np.ndarray | None:
        """Open the cached images, or decode and cache them first; return None if they do not fit."""
        if self.nbytes > CACHE_LIMIT_BYTES:
            return None
        path = self._path(identity)
        shape = (self._count, self.size, self.size, 3)
        cached = _open(path, shape)
        if cached is None:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                if shutil.disk_usage(path.parent).free < 1.1 * self.nbytes:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                with cache.replacing(path, self.nbytes) as temporary:
                    self._write(temporary, shape, faults)
                    if self._check is not None:
                        self._check()
            except OSError as error:
                cache.warn(
                    "cannot cache %d MB of decoded images in %s (%s): decoding them again for each batch",
                    self.nbytes >> 20,
                    path.parent,
                    error.strerror,
                )
                return None
            self._pool, cached = None, _open(path, shape)
        return cached

    def _write(
        self, path: pathlib.Path, shape: tuple[int, ...], faults: list[tuple[int, str]] | None
    ) -> None:
        # Write without a memory map: a full disk then raises OSError instead of killing the process with SIGBUS.
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        started = reported = time.monotonic()
        bad: list[tuple[int, str]] = []
        with open(path, "wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            file.truncate(file.tell() + self.nbytes)  # so that other processes see the final size
            for start in range(0, self._count, _CHUNK):
                stop = min(start + _CHUNK, self._count)
                self._decode(range(start, stop), bad).tofile(file)
                if time.monotonic() - reported > _REPORT_SECONDS:
                    reported = time.monotonic()
                    log.info("decoding %s: %d of %d", self._title, stop, self._count)
        if faults is not None:
            faults += bad
        elif bad:
            raise UnreadableImages([fault for _, fault in bad], self._count)
        self._is_written = True
        if reported > started:
            log.info("decoded %s in %.0f s", self._title, time.monotonic() - started)


def fitted(
    pixels: UInt8[np.ndarray, "n h w *c"],
    size: int,
    threads: int,
    limit: int = MEMORY_LIMIT_BYTES,
) -> UInt8[np.ndarray, "n size size 3"] | ImageFiles:
    """Resize an array of images: at once if the result has at most `limit` bytes, else on access.

    An array that has the size is returned as it is.
    """
    if pixels.shape[1:] == (size, size, 3):
        return pixels
    resized = ImageFiles(
        lambda i: (None, pixels[i]), len(pixels), size, threads=threads, identity=None
    )
    return resized[np.arange(len(pixels))] if resized.nbytes <= limit else resized


def _read_faults(path: pathlib.Path) -> list[tuple[int, str]] | None:
    """Read the faults that `ImageFiles.unreadable` wrote; return None if the file is missing or damaged."""
    try:
        text = files.read_arrays(path, {"faults": (("bytes",), "uint8")})["faults"].tobytes()
        cache.touch(path)
        return [(int(i), str(fault)) for i, fault in files.parse_json(text, list[list])]
    except (StorageError, ValueError, TypeError):
        return None


def _open(path: pathlib.Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """Open cached images as a read-only memory map; return None if they are missing or have another shape."""
    try:
        cached = files.read_array(path, shape, "uint8", mapped=True)
    except StorageError:
        return None
    cache.touch(path)
    return cached
