"""Images in tar and zip archives, read in place: nothing is ever extracted under a name of theirs.

`tarfile` and `zipfile` are not used: their filters have been bypassed by links before, and a member
is needed only as a place in a file, which any process can read. The first thing in an archive
that is not a plain file with a plain name ends the reading with a DataError.
"""

import itertools
import os
import re
import struct
import unicodedata
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from alexnet_jax.errors import DataError

MAX_ENTRIES = 2_000_000
MAX_FILE_BYTES = 64 * 2**20
MAX_TOTAL_BYTES = 300 * 2**30
"""ImageNet's training images are 148 GB."""
MAX_RATIO = 200
"""Unpacked to packed; deflate itself ends near 1,000."""
GZIP_SUFFIXES = (".tar.gz", ".tgz")
TAR_SUFFIXES = (".tar", *GZIP_SUFFIXES)
SUFFIXES = (*TAR_SUFFIXES, ".zip")

_BLOCK = 512
_MAX_HEADER_BYTES = 64 * 2**10
"""Of a long name or a pax header."""
_CHUNK = 2**20
_TAR_KINDS = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a character device",
    b"4": "a block device",
    b"6": "a FIFO",
    b"S": "a sparse file",
}
_STORED, _DEFLATED = 0, 8
_ENCRYPTED, _SIZES_FOLLOW, _UTF8 = 0x1, 0x8, 0x800


class Member(NamedTuple):
    """A file within an archive: `read` takes it from there, in any process."""

    name: str
    """With '/', within the archive; of a tar in a tar, the name of the inner one comes first."""
    archive: str
    offset: int
    packed: int
    """Bytes in the archive."""
    size: int
    """Bytes of the file."""
    deflated: bool
    checksum: int | None
    """CRC-32, which tar does not have."""
    shown: str
    """The archive as people know it, before it was unpacked."""

    @property
    def title(self) -> str:
        return f"{self.shown}: {self.name}"

    def read(self) -> bytes:
        """The content. Raises DataError where it is not what the archive says."""
        packed = _read_at(self.archive, self.offset, self.packed, self.title)
        if not self.deflated:
            content = packed
        else:
            inflater = zlib.decompressobj(-zlib.MAX_WBITS)
            try:
                content = inflater.decompress(packed, self.size + 1)
            except zlib.error as error:
                raise DataError(f"{self.title} is damaged: {error}") from None
            if len(content) != self.size or not inflater.eof:
                raise DataError(f"{self.title} does not unpack to the {self.size} bytes it states")
        if self.checksum is not None and zlib.crc32(content) != self.checksum:
            raise DataError(f"{self.title} is damaged: its checksum is wrong")
        return content


def is_archive(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def stem(name: str) -> str:
    """The name of an archive without its suffix."""
    return name[: -max(len(suffix) for suffix in SUFFIXES if name.lower().endswith(suffix))]


def members(
    path: str | os.PathLike,
    suffixes: tuple[str, ...] | None,
    *,
    nested: bool = False,
    shown: str | None = None,
) -> list[Member]:
    """The files of a plain tar or a zip, in its order; folders and hidden files are left out.

    Every other file must end in one of `suffixes` (None: any). `nested`: the files of a tar are
    tars themselves, whose members are given. `shown`: the archive's name in errors.
    Raises DataError for the first member that is no plain file, for unsafe or repeated names, for
    more than the limits above, and for damage.
    """
    archive = os.fspath(path)
    reader = _Reader(archive, suffixes, shown or archive)
    try:
        with open(archive, "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            if archive.lower().endswith(".zip"):
                if nested:
                    raise DataError(f"{reader.shown}: a zip of archives is not read; pack a tar")
                return list(reader.zip(file.fileno(), size))
            return list(reader.tar(file.fileno(), 0, size, "", nested))
    except OSError as error:
        raise DataError(f"cannot read {reader.shown}: {error.strerror}") from None


def gunzip(path: str | os.PathLike, target: str | os.PathLike, limit: int = MAX_TOTAL_BYTES):
    """Unpacks a .tar.gz into the plain tar `target`, a name that the caller chose.

    Raises DataError for damage, more than `limit` bytes or MAX_RATIO; OSError from writing.
    """
    with open(target, "wb") as file:
        for piece in _inflated(os.fspath(path), limit):
            file.write(piece)


def _inflated(path: str, limit: int) -> Iterator[bytes]:
    inflater, packed, unpacked = zlib.decompressobj(zlib.MAX_WBITS | 16), 0, 0
    for piece in _pieces(path):
        packed += len(piece)
        while piece:
            if inflater.eof:  # a further gzip member: what `cat a.gz b.gz` makes
                inflater = zlib.decompressobj(zlib.MAX_WBITS | 16)
            try:
                content = inflater.decompress(piece, _CHUNK)
            except zlib.error as error:
                raise DataError(f"{path} is damaged: {error}; download it again") from None
            piece = inflater.unconsumed_tail or inflater.unused_data
            unpacked += len(content)
            if unpacked > limit:
                raise DataError(f"{path} unpacks to more than {limit:,} bytes: refused")
            if unpacked > MAX_RATIO * packed + _CHUNK:
                raise DataError(f"{path} unpacks to more than {MAX_RATIO} times itself: refused")
            yield content
    if not inflater.eof:
        raise DataError(f"{path} is cut off: download it again")


def _pieces(path: str) -> Iterator[bytes]:
    try:
        with open(path, "rb") as file:
            while piece := file.read(_CHUNK):
                yield piece
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None


class _Reader:
    """What the members of one archive have in common: limits, and the names seen so far."""

    def __init__(self, archive: str, suffixes: tuple[str, ...] | None, shown: str):
        self._archive, self._suffixes, self.shown = archive, suffixes, shown
        self._seen: set[str] = set()
        self._entries = self._total = 0

    def fault(self, name: str, what: str) -> DataError:
        return DataError(f"{self.shown}: {_printable(name)} {what}")

    def count(self, name: str) -> None:
        self._entries += 1
        if self._entries > MAX_ENTRIES:
            raise self.fault(name, f"is entry {MAX_ENTRIES + 1:,}; no more are read")

    def admit(self, name: str, size: int, suffixes: tuple[str, ...] | None) -> bool:
        """Whether the file `name` counts: hidden ones do not. Raises DataError if it may not."""
        if size > MAX_FILE_BYTES:
            raise self.fault(name, f"has {size:,} bytes; more than {MAX_FILE_BYTES:,} is no image")
        self._total += size
        if self._total > MAX_TOTAL_BYTES:
            raise self.fault(name, f"brings the total to more than {MAX_TOTAL_BYTES:,} bytes")
        if any(part.startswith(".") or part == "__MACOSX" for part in name.split("/")):
            return False
        if suffixes is not None and not name.lower().endswith(suffixes):
            raise self.fault(
                name, f"ends in none of {' '.join(suffixes)}: remove it from the archive"
            )
        return True

    def checked_name(self, raw: bytes, prefix: str = "") -> str:
        """A relative name without surprises on any system. Raises DataError."""
        try:
            name = raw.decode("utf-8")
        except UnicodeDecodeError:
            raise self.fault(repr(raw), "has a name that is not UTF-8") from None
        if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in name):
            raise self.fault(name, "has a control character in its name")
        if name.startswith("/") or "\\" in name or re.match("[A-Za-z]:", name):
            raise self.fault(name, "has an absolute name, or one with a drive or a backslash")
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if ".." in parts:
            raise self.fault(name, "leads out of the archive by '..'")
        return prefix + "/".join(parts)

    def once(self, name: str) -> None:
        """Raises DataError where the name was there before, in any case or composition."""
        key = unicodedata.normalize("NFC", name).casefold()
        if key in self._seen:
            raise self.fault(name, "is there twice, but for upper and lower case")
        self._seen.add(key)

    # tar

    def tar(self, file: int, start: int, stop: int, prefix: str, nested: bool) -> Iterator[Member]:
        """The members of the tar at [start, stop) of the archive."""
        at, long_name, size_override = start, None, None
        title = prefix.rstrip("/") or "it"
        while True:
            block = os.pread(file, _BLOCK, at) if at + _BLOCK <= stop else b""
            if len(block) < _BLOCK:
                raise self.fault(title, "is cut off, or no tar archive: download or pack it again")
            if not any(block):
                self._nothing_behind(file, at, stop, title)
                return
            if not _checksum_fits(block):
                where = f"is damaged at byte {at}" if at > start else "is no tar archive"
                raise self.fault(title, where + ": download or pack it again")
            kind, size = block[156:157], self._size(block, title)
            data = at + _BLOCK
            at = data + -(-size // _BLOCK) * _BLOCK
            self.count(title)
            if kind in (b"L", b"K", b"x", b"g"):
                if size > _MAX_HEADER_BYTES or at > stop:
                    raise self.fault(title, f"has a header of {size:,} bytes at byte {data}")
                header = os.pread(file, size, data)
                if kind == b"L":
                    long_name = header.rstrip(b"\0")
                elif kind in b"xg":
                    path, longer = self._pax(header, title)
                    if kind == b"g" and (path is not None or longer is not None):
                        raise self.fault(title, "has one name or size for all of its members")
                    long_name = long_name if path is None else path
                    size_override = size_override if longer is None else longer
                continue
            raw = long_name if long_name is not None else _tar_name(block)
            name = self.checked_name(raw, prefix)
            if size_override is not None:
                size = size_override
                at = data + -(-size // _BLOCK) * _BLOCK
            long_name = size_override = None
            if kind == b"5" or (kind in b"\x00" and raw.endswith(b"/")):
                if size:
                    raise self.fault(name, "is a folder with content")
                continue
            if kind not in (b"0", b"\0"):
                what = _TAR_KINDS.get(kind, f"an entry of the unknown kind {kind!r}")
                raise self.fault(name, f"is {what}; only plain files are read")
            if data + size > stop:
                raise self.fault(name, "is cut off: download or pack the archive again")
            self.once(name)
            if nested:
                if not name.lower().endswith(".tar"):
                    raise self.fault(name, "is no .tar, as all files of this archive should be")
                yield from self.tar(file, data, data + size, name + "/", False)
            elif self.admit(name, size, self._suffixes):
                yield Member(name, self._archive, data, size, size, False, None, self.shown)

    def _size(self, block: bytes, title: str) -> int:
        field = block[124:136]
        if field[0] & 0x80:  # GNU: binary, for 8 GB and more
            size = int.from_bytes(field, "big") - (0x80 << 88)
            if field[0] != 0x80 or size >= 2**63:
                raise self.fault(title, "has a member with an impossible size")
            return size
        # int() alone would take signs and underscores.
        digits = re.fullmatch(rb"[ \0]*([0-7]*)[ \0]*", field)
        if not digits:
            raise self.fault(title, f"has a member with the size {field!r}")
        return int(digits[1] or b"0", 8)

    def _pax(self, header: bytes, title: str) -> tuple[bytes | None, int | None]:
        """(path, size) of an extended header, None where it has none."""
        path = size = None
        while header:
            match = re.match(rb"(\d{1,6}) ([^=]+)=", header)
            length = int(match[1]) if match else 0
            if not match or not match.end() < length <= len(header):
                raise self.fault(title, "has a damaged pax header")
            key, value = match[2], header[match.end() : length - 1]
            header = header[length:]
            if key == b"path":
                path = value
            elif key == b"size":
                if not re.fullmatch(rb"\d{1,15}", value):
                    raise self.fault(title, "has a member with an impossible size")
                size = int(value)
            elif key.startswith(b"GNU.sparse"):
                raise self.fault(title, "has a sparse file; only plain files are read")
        return path, size

    def _nothing_behind(self, file: int, at: int, stop: int, title: str) -> None:
        """Raises DataError where members follow the end mark: they would be missed silently."""
        while at < stop:
            piece = os.pread(file, min(_CHUNK, stop - at), at)
            if not piece or any(piece):
                raise self.fault(title, f"goes on behind its end mark, at byte {at}: pack it again")
            at += len(piece)

    # zip

    def zip(self, file: int, size: int) -> Iterator[Member]:
        """The members that the central directory lists, each compared with its local header."""
        first, count, length = self._zip_end(file, size)
        if count > MAX_ENTRIES:
            raise self.fault("it", f"has {count:,} entries; more than {MAX_ENTRIES:,} are not read")
        directory = _read_at(self._archive, first, length, self._archive)
        found, at = [], 0
        for _ in range(count):
            entry = directory[at : at + 46]
            if len(entry) < 46 or entry[:4] != b"PK\1\2":
                raise self.fault("it", "has a damaged directory: download or pack it again")
            entry = struct.unpack("<4xBB5H3L5H2L", entry)
            _, system, _, flags, method, _, _, checksum, packed, unpacked = entry[:10]
            name_length, extra_length, comment_length, _, _, external, offset = entry[10:]
            raw = directory[at + 46 : at + 46 + name_length]
            extra = directory[at + 46 + name_length : at + 46 + name_length + extra_length]
            at += 46 + name_length + extra_length + comment_length
            self.count(repr(raw))
            name = self.checked_name(raw)
            unpacked, packed, offset = self._zip64(name, extra, unpacked, packed, offset)
            mode = external >> 16 & 0o170000
            if system == 3 and mode not in (0, 0o100000, 0o040000):
                raise self.fault(name, f"is no plain file (mode {mode:o}); only those are read")
            if flags & _ENCRYPTED:
                raise self.fault(name, "is encrypted: pack the archive without a password")
            if raw.endswith(b"/") or mode == 0o040000:
                if unpacked:
                    raise self.fault(name, "is a folder with content")
                continue
            if method not in (_STORED, _DEFLATED):
                raise self.fault(name, f"is packed by method {method}; only deflate is read")
            if unpacked > MAX_RATIO * packed or (method == _STORED and unpacked != packed):
                raise self.fault(name, f"states {unpacked:,} bytes, packed in {packed:,}: refused")
            self.once(name)
            if offset >= first:
                raise self.fault(name, "is not where the directory says: download or pack it again")
            data = self._zip_local(file, name, raw, entry[2:10], offset)
            if data + packed > first:
                raise self.fault(name, "is cut off: download or pack the archive again")
            found.append((offset, data + packed, name))
            if self.admit(name, unpacked, self._suffixes):
                deflated = method == _DEFLATED
                yield Member(
                    name, self._archive, data, packed, unpacked, deflated, checksum, self.shown
                )
        if at != length:
            raise self.fault("it", "has a directory of another length than it states")
        found.sort()
        for (_, end, one), (start, _, other) in itertools.pairwise(found):
            if start < end:
                raise self.fault(other, f"overlaps {_printable(one)}: refused")

    def _zip_end(self, file: int, size: int) -> tuple[int, int, int]:
        """(offset, entries, length) of the central directory."""
        tail_at = max(size - 22 - 2**16, 0)
        tail = os.pread(file, size - tail_at, tail_at)
        place = tail.rfind(b"PK\5\6")
        damaged = self.fault("it", "is cut off, or no zip archive: download or pack it again")
        if place < 0 or len(tail) < place + 22:
            raise damaged
        disk, start_disk, _, count, length, first, comment = struct.unpack(
            "<4H2LH", tail[place + 4 : place + 22]
        )
        end = tail_at + place
        if (disk or start_disk) and (disk, start_disk) != (0xFFFF, 0xFFFF):
            raise self.fault("it", "is a part of a split zip archive: join the parts")
        if place + 22 + comment != len(tail):
            raise damaged
        if count == 0xFFFF or length == 0xFFFFFFFF or first == 0xFFFFFFFF:
            locator = os.pread(file, 20, end - 20) if end >= 20 else b""
            if locator[:4] != b"PK\6\7":
                raise damaged
            end = struct.unpack("<Q", locator[8:16])[0]
            record = os.pread(file, 56, end) if end < size else b""
            if len(record) < 56 or record[:4] != b"PK\6\6":
                raise damaged
            count, length, first = struct.unpack("<3Q", record[32:56])
        if first + length != end or length < 46 * count:
            raise damaged
        return first, count, length

    def _zip64(self, name: str, extra: bytes, *sizes: int) -> list[int]:
        """`sizes` with those that say 'see the extra field' taken from there."""
        wide = [size == 0xFFFFFFFF for size in sizes]
        found = list(sizes)
        while any(wide) and len(extra) >= 4:
            kind, length = struct.unpack("<2H", extra[:4])
            if kind == 1 and length >= 8 * sum(wide) and len(extra) >= 4 + length:
                values = iter(struct.unpack(f"<{sum(wide)}Q", extra[4 : 4 + 8 * sum(wide)]))
                return [next(values) if w else size for w, size in zip(wide, sizes, strict=True)]
            extra = extra[4 + length :]
        if any(wide):
            raise self.fault(name, "has an impossible size")
        return found

    def _zip_local(self, file: int, name: str, raw: bytes, stated: tuple, at: int) -> int:
        """Where the bytes of a member begin. Raises DataError if its own header disagrees."""
        header = os.pread(file, 30 + len(raw), at)
        if len(header) < 30 + len(raw) or header[:4] != b"PK\3\4":
            raise self.fault(name, "is not where the directory says: download or pack it again")
        _, flags, method, _, _, checksum, packed, size, name_length, extra_length = struct.unpack(
            "<5H3L2H", header[4:30]
        )
        _, stated_flags, stated_method, _, _, *sizes = stated
        same = header[30:] == raw and name_length == len(raw) and method == stated_method
        same &= not (flags ^ stated_flags) & (_ENCRYPTED | _UTF8 | _SIZES_FOLLOW)
        if not flags & _SIZES_FOLLOW and 0xFFFFFFFF not in (packed, size, *sizes):
            same &= [checksum, packed, size] == sizes
        if not same:
            raise self.fault(name, "has a header of its own that contradicts the directory")
        return at + 30 + name_length + extra_length


def _checksum_fits(block: bytes) -> bool:
    try:
        stated = int(block[148:156].strip(b" \0") or b"0", 8)
    except ValueError:
        return False
    return stated == sum(block) - sum(block[148:156]) + 8 * ord(" ")


def _tar_name(block: bytes) -> bytes:
    name = block[:100].split(b"\0", 1)[0]
    # GNU's own format keeps times where POSIX has a prefix.
    prefix = block[345:500].split(b"\0", 1)[0] if block[257:263] == b"ustar\0" else b""
    return prefix + b"/" + name if prefix else name


def _read_at(path: str, offset: int, size: int, title: str) -> bytes:
    try:
        with open(path, "rb", buffering=0) as file:
            pieces, left = [], size
            while left:
                piece = os.pread(file.fileno(), left, offset + size - left)
                if not piece:
                    raise DataError(f"{title} is cut off: download or pack the archive again")
                pieces.append(piece)
                left -= len(piece)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _printable(name: str) -> str:
    """What may go to a terminal, one line."""
    shown = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in name)
    return shown if len(shown) <= 200 else shown[:200] + " ..."
