"""Random access to the records of TFRecord files, without TensorFlow."""

import os
import struct
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64

from alexnet_jax.errors import DataError

#: Bytes before a record (its length as uint64, and a checksum of that) and after it (its checksum).
_HEADER, _FOOTER = 12, 4


class TFRecords:
    """The records of the files `paths` as one sequence of bytes objects. Checksums are not compared."""

    def __init__(self, paths: Sequence[str | os.PathLike]):
        self._paths = [os.fspath(path) for path in paths]
        found = [_index(path) for path in self._paths]
        self._files = np.repeat(np.arange(len(found)), [len(one) for one in found])
        self._spans = np.concatenate([np.zeros((0, 2), np.int64), *found])

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, i: int) -> bytes:
        start, length = self._spans[i]
        # Opened for each record, because a process may not keep a thousand shards open.
        with open(self._paths[self._files[i]], "rb", buffering=0) as file:
            return os.pread(file.fileno(), int(length), int(start))


def _index(path: str) -> Int64[np.ndarray, "n 2"]:
    """Return (start, length) of every record. Raises DataError."""
    spans = []
    try:
        with open(path, "rb", buffering=0) as file:
            end, offset = os.fstat(file.fileno()).st_size, 0
            while offset < end:
                header = os.pread(file.fileno(), _HEADER, offset)
                length = struct.unpack("<Q", header[:8])[0] if len(header) == _HEADER else end
                spans.append((offset + _HEADER, length))
                offset += _HEADER + length + _FOOTER
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None
    if offset != end:
        raise DataError(f"{path} is cut off or not a TFRecord file: copy or prepare it again")
    return np.array(spans, np.int64).reshape(-1, 2)
