"""Files that outlive a process: written atomically, and validated when they are read.

A file may come from anywhere and be damaged in any way: reading one never executes it, never takes more memory than
the limits here allow, and fails with a typed error that names the file and the fault.
"""

from alexnet_jax.files.arrays import Shape, read_all_arrays, read_array, read_arrays
from alexnet_jax.files.disk import (
    cache_folder,
    existing_parent,
    is_locked,
    is_utf8,
    lock,
    not_regular,
    open_regular,
    replacing,
    sha256_of,
    sync_folder,
    write_atomically,
)
from alexnet_jax.files.json_files import (
    MOST_JSON_BYTES,
    Number,
    check,
    parse_json,
    read_json,
    read_json_lines,
)
from alexnet_jax.files.nested import flatten, unflatten

__all__ = [
    "MOST_JSON_BYTES", "Number", "Shape", "cache_folder", "check", "existing_parent", "flatten", "is_locked", "is_utf8",
    "lock", "not_regular", "open_regular", "parse_json", "read_all_arrays", "read_array", "read_arrays", "read_json",
    "read_json_lines", "replacing", "sha256_of", "sync_folder", "unflatten", "write_atomically",
]  # fmt: skip
