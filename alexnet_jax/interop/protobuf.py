"""A reader of the wire format of protocol buffers: enough for Caffe's files, and safe for malicious ones.

Lengths are checked against the bytes of the file before anything is allocated. Messages are not parsed recursively: the
caller descends into those that it knows, so that nesting costs nothing.
"""

from collections.abc import Iterator
from typing import NamedTuple

from alexnet_jax.errors import CheckpointError

VARINT, EIGHT_BYTES, BYTES, FOUR_BYTES = 0, 1, 2, 5


class Field(NamedTuple):
    number: int
    type: int
    #: The value of a varint, unsigned and below 2^64; otherwise 0.
    integer: int
    #: The bytes of the other types.
    data: memoryview


def fields(message: memoryview) -> Iterator[Field]:
    """The fields of a message, in order. Raises CheckpointError."""
    place = 0
    while place < len(message):
        tag, place = varint(message, place)
        number, kind = tag >> 3, tag & 7
        if not 0 < number < 1 << 29:
            raise CheckpointError(
                f"a field has the number {number}: it is damaged, or of another format"
            )
        if kind == VARINT:
            integer, place = varint(message, place)
            yield Field(number, kind, integer, message[:0])
            continue
        if kind == BYTES:
            length, place = varint(message, place)
        elif kind in (EIGHT_BYTES, FOUR_BYTES):
            length = 8 if kind == EIGHT_BYTES else 4
        else:
            raise CheckpointError(
                f"a field has the unknown type {kind}: it is damaged, or of another format"
            )
        if length > len(message) - place:
            raise CheckpointError(
                f"a field of {length} bytes stands where {len(message) - place} are left"
            )
        yield Field(number, kind, 0, message[place : place + length])
        place += length


def varint(message: memoryview, place: int) -> tuple[int, int]:
    """The number at `place`, seven bits a byte, lowest first, and the place after it. Raises CheckpointError."""
    number = 0
    for shift in range(0, 70, 7):
        if place >= len(message):
            raise CheckpointError("it ends within a number")
        byte = message[place]
        place += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            if number >= 1 << 64:
                break
            return number, place
    raise CheckpointError("a number is longer than 64 bits")
