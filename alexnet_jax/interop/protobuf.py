"""Parser of the protocol buffers wire format, as far as Caffe's and ONNX files need it; safe for untrusted files.

Lengths are checked against the remaining bytes before anything is allocated. Nested messages are not parsed: the caller
calls `fields` for those that it knows, so that deep nesting cannot exhaust the stack.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from alexnet_jax import files
from alexnet_jax.errors import CheckpointError

VARINT, EIGHT_BYTES, BYTES, FOUR_BYTES = 0, 1, 2, 5
#: Bytes; a message of protocol buffers cannot be longer.
LARGEST_FILE = 2**31
#: Axes of an array.
MOST_AXES = 10
LONGEST_NAME = 200


class Field(NamedTuple):
    """A field of a message."""

    number: int
    #: VARINT, EIGHT_BYTES, BYTES or FOUR_BYTES.
    type: int
    #: The value of a varint, unsigned and below 2^64; otherwise 0.
    integer: int
    #: The bytes of the other types.
    data: memoryview


def fields(message: memoryview) -> Iterator[Field]:
    """Yield the fields of a message in order. Raises CheckpointError."""
    offset = 0
    while offset < len(message):
        tag, offset = varint(message, offset)
        number, kind = tag >> 3, tag & 7
        if not 0 < number < 1 << 29:
            raise CheckpointError(
                f"a field has the number {number}: the file is damaged or has another format"
            )
        if kind == VARINT:
            integer, offset = varint(message, offset)
            yield Field(number, kind, integer, message[:0])
            continue
        if kind == BYTES:
            length, offset = varint(message, offset)
        elif kind in (EIGHT_BYTES, FOUR_BYTES):
            length = 8 if kind == EIGHT_BYTES else 4
        else:
            raise CheckpointError(
                f"a field has the unknown type {kind}: the file is damaged or has another format"
            )
        left = len(message) - offset
        if length > left:
            raise CheckpointError(f"a field has {length} bytes, but only {left} are left")
        yield Field(number, kind, 0, message[offset : offset + length])
        offset += length


def varint(message: memoryview, offset: int) -> tuple[int, int]:
    """Decode a base-128 varint, and return it and the offset of the next byte. Raises CheckpointError."""
    number = 0
    for shift in range(0, 70, 7):
        if offset >= len(message):
            raise CheckpointError("the file ends within a number")
        byte = message[offset]
        offset += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            if number >= 1 << 64:
                break
            return number, offset
    raise CheckpointError("a number is longer than 64 bits")


def integers(field: Field) -> list[int]:
    """Decode a varint or packed varints, such as the lengths of an array's axes. Raises CheckpointError."""
    if field.type == VARINT:
        return [field.integer]
    found: list[int] = []
    offset = 0
    while offset < len(field.data) and len(found) <= MOST_AXES:
        integer, offset = varint(field.data, offset)
        found.append(integer)
    return found


def text(value: memoryview) -> str:
    """Decode a name; a long one is cut."""
    return bytes(value[:LONGEST_NAME]).decode(errors="replace")


def read_file(path: str | Path) -> memoryview:
    """Read a whole file. Raises CheckpointError."""
    try:
        if Path(path).stat().st_size >= LARGEST_FILE:
            raise CheckpointError("it has 2 GiB or more, which no such file has")
        with files.open_regular(path) as file:
            return memoryview(file.read())
    except OSError as error:
        raise CheckpointError(f"cannot be read: {error.strerror}") from None


@contextlib.contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Begin the message of a CheckpointError with the name of the file."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
