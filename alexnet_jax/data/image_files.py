"""Many images behind one index, decoded by several threads, and kept once decoded."""

import errno
import hashlib
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from alexnet_jax.data import cache, images
from alexnet_jax.specs import Exif

CACHE_LIMIT_BYTES = 8 * 2**30
"""Sets that are larger when decoded are decoded again for every batch."""
MEMORY_LIMIT_BYTES = 2**30
"""Arrays brought to another size stay in memory up to this, else each batch is resized anew."""
_REPORT_SECONDS = 5.0
_CHUNK = 1024

log = logging.getLogger(__name__)


class ImageFiles:
    """`images[indices]` -> uint8 [b size size 3], whatever the formats and sizes of the sources.

    `read(i)` gives (name for errors, path or encoded bytes or pixels) of image i and runs in many
    threads at once; the pixels do not depend on their number. With `identity` (a text that changes
    with the content of any image) the first access decodes everything into a file of the cache
    folder, if that has room and the file would be within CACHE_LIMIT_BYTES. `check` is called when
    all are decoded and raises DataError if `identity` is no longer that of the sources. `exif` as
    of `images.decode`.
    """

    def __init__(
        self,
        read: Callable,
        count: int,
        size: int,
        *,
        threads: int,
        identity: str | None,
        title: str = "images",
        exif: Exif = "ignore",
        check: Callable[[], None] | None = None,
    ):
        self._read, self._count, self.size, self._threads = read, count, size, threads
        self._identity, self._title, self._check = identity, title, check
        self._exif: Exif = exif
        self._pool: ThreadPoolExecutor | None = None
        self._kept: np.ndarray | None = None
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._count

    @property
    def nbytes(self) -> int:
        """Bytes of all images, decoded."""
        return self._count * self.size * self.size * 3

    def __getitem__(self, indices: np.ndarray) -> np.ndarray:
        with self._lock:
            if self._identity is not None:
                self._kept, self._identity = self._keep(self._identity), None
                self._check = None
            if self._pool is None and self._kept is None:
                self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="decode")
        indices = np.asarray(indices)
        return self._decode(indices) if self._kept is None else self._kept[indices]

    def _decode(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        decoded = np.empty((len(indices), self.size, self.size, 3), np.uint8)

        def fill(places: range) -> None:
            for place in places:
                name, source = self._read(int(indices[place]))
                images.decode(source, self.size, exif=self._exif, name=name, out=decoded[place])

        step = min(max(len(indices) // (4 * self._threads), 1), 64)
        pieces = [range(i, min(i + step, len(indices))) for i in range(0, len(indices), step)]
        assert self._pool is not None
        # In order, so that of several bad images the same one is reported at any number of threads.
        for _ in self._pool.map(fill, pieces):
            pass
        return decoded

    def _keep(self, identity: str) -> np.ndarray | None:
        """All images, first decoded into the cache folder if need be; None if they do not fit."""
        if self.nbytes > CACHE_LIMIT_BYTES:
            return None
        text = f"{identity} {self.size} {images.VERSION} {self._exif}"
        path = cache.folder() / f"images-{hashlib.sha256(text.encode()).hexdigest()[:32]}.npy"
        shape = (self._count, self.size, self.size, 3)
        kept = _open(path, shape)
        if kept is None:
            self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="decode")
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                if shutil.disk_usage(path.parent).free < 1.1 * self.nbytes:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                with cache.replacing(path, self.nbytes) as temporary:
                    self._write(temporary, shape)
                    if self._check is not None:
                        self._check()
            except OSError as error:
                cache.warn(
                    "cannot keep %d MB of decoded images in %s (%s): every batch decodes its own",
                    self.nbytes >> 20,
                    path.parent,
                    error.strerror,
                )
                return None
            self._pool.shutdown()
            self._pool, kept = None, _open(path, shape)
        return kept

    def _write(self, path, shape: tuple[int, ...]) -> None:
        # Plain writes: a full disk is then an error, where a memory map would end the process.
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        started = reported = time.monotonic()
        with open(path, "wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            file.truncate(file.tell() + self.nbytes)  # what other processes see as taken
            for start in range(0, self._count, _CHUNK):
                stop = min(start + _CHUNK, self._count)
                self._decode(range(start, stop)).tofile(file)
                if time.monotonic() - reported > _REPORT_SECONDS:
                    reported = time.monotonic()
                    log.info("decoding %s: %d of %d", self._title, stop, self._count)
        if reported > started:
            log.info("decoded %s in %.0f s", self._title, time.monotonic() - started)


def fitted(pixels: np.ndarray, size: int, threads: int):
    """uint8 [n h w] or [n h w 3] as `images` of [size size 3]; pixels of that shape stay."""
    if pixels.shape[1:] == (size, size, 3):
        return pixels
    resized = ImageFiles(
        lambda i: (None, pixels[i]), len(pixels), size, threads=threads, identity=None
    )
    return resized[np.arange(len(pixels))] if resized.nbytes <= MEMORY_LIMIT_BYTES else resized


def _open(path, shape: tuple[int, ...]) -> np.ndarray | None:
    """The kept images as a read-only memory map, or None where there are none of this shape."""
    try:
        kept = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    if kept.shape != shape or kept.dtype != np.uint8:
        return None
    cache.touch(path)
    return kept
