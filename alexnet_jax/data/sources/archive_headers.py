"""Offsets of the members of tar and zip archives, from the headers that `tarfile` and `zipfile` parse."""

import os
import re
import struct
import tarfile
import zipfile
from collections.abc import Iterator
from typing import Any

#: Maximum size of a long name or pax header of a tar, and of the directory of a zip.
_MAX_HEADER_BYTES, _MAX_DIRECTORY_BYTES = 64 * 2**10, 256 * 2**20
_CHUNK = 2**20
_HEADER_KINDS = (
    tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE,
)  # fmt: skip
#: Octal digits, or a binary number below 2^63 in 8 bytes; int() alone would accept signs and underscores.
_TAR_SIZE = re.compile(rb"[ \0]*[0-7]*[ \0]*|\x80\0\0\0[\0-\x7f].{7}", re.DOTALL)
ENCRYPTED, _SIZES_FOLLOW, _UTF8 = 0x1, 0x8, 0x800
AGAIN = "download or pack it again"


class Refused(Exception):
    """An archive or member is not acceptable; the message is a predicate, and the caller adds the name."""


def tar_headers(file: int, start: int, stop: int) -> Iterator[tuple[tarfile.TarInfo, int]]:
    """Yield (header, first byte of the content) for the members of the tar at [start, stop) of a file.

    Raises Refused for damage, for irregularities that tarfile ignores, and for data behind the end mark.
    """
    section: Any = _Section(file, start, stop, _MAX_HEADER_BYTES + tarfile.BLOCKSIZE)
    end = -1
    try:
        tar: Any = tarfile.TarFile(
            fileobj=section, tarinfo=_TarHeader, encoding="utf-8", errors="surrogateescape"
        )
        while (header := tar.next()) is not None:
            tar.members.clear()  # tarfile would keep all headers in memory
            size = header.pax_headers.get("size", "0")
            if header.size < 0 or tar.offset <= end or not re.fullmatch("[0-9]{1,15}", size):
                raise Refused("has a member with an impossible size")
            if {"path", "size"} & tar.pax_headers.keys():
                raise Refused("has one name or size for all of its members")
            end = tar.offset
            yield header, start + header.offset_data
    except (Refused, OSError):
        raise
    except Exception as error:  # tarfile does not document what it raises for damaged archives
        if end >= 0:
            raise Refused(f"is damaged behind byte {start + end} ({error}): {AGAIN}") from None
        what = "is cut off, or " if stop - start < tarfile.BLOCKSIZE else "is "
        raise Refused(f"{what}no tar archive: {AGAIN}") from None
    _check_tar_end(file, start + tar.offset, stop)


def _check_tar_end(file: int, at: int, stop: int) -> None:
    """Check that only zeros follow from `at` to `stop`, because tarfile stops at damage without an error."""
    mark = os.pread(file, tarfile.BLOCKSIZE, at) if at + tarfile.BLOCKSIZE <= stop else b""
    if not mark:
        raise Refused(f"is cut off, or no tar archive: {AGAIN}")
    if any(mark):
        raise Refused(f"is damaged at byte {at}: {AGAIN}")
    while at < stop:
        chunk = os.pread(file, min(_CHUNK, stop - at), at)
        if not chunk or any(chunk):
            raise Refused(f"has data behind its end mark, at byte {at}: pack it again")
        at += len(chunk)


def zip_directory(file: int, size: int) -> tuple[list[zipfile.ZipInfo], int]:
    """Return the entries of the central directory and its offset, which is the end of the members. Raises Refused."""
    section: Any = _Section(file, 0, size, _MAX_DIRECTORY_BYTES)
    damaged = f"is cut off, or no zip archive: {AGAIN}"
    try:
        with zipfile.ZipFile(section, metadata_encoding="utf-8") as archive:
            infos, first = archive.infolist(), archive.start_dir
            record = os.pread(file, 22, size - 22 - len(archive.comment))
        signature, disk, start_disk, _, count, _, stated, _ = struct.unpack("<4s4H2LH", record)
    except UnicodeDecodeError as error:
        raise Refused(f"has a name that is not UTF-8: {error.object!r}") from None
    except OSError:
        raise
    except Exception:  # zipfile does not document what it raises for damaged archives
        raise Refused(damaged) from None
    if (disk or start_disk) and (disk, start_disk) != (0xFFFF, 0xFFFF):
        raise Refused("is a part of a split zip archive: join the parts")
    if signature != b"PK\5\6" or stated not in (first, 0xFFFFFFFF):
        raise Refused(damaged)
    if count not in (len(infos), 0xFFFF):
        raise Refused("has a directory of another length than declared")
    return infos, first


def zip_content(file: int, info: zipfile.ZipInfo, end: int) -> int:
    """Return the offset of the content of a member. Raises Refused if its header contradicts the directory."""
    at, raw = info.header_offset, info.orig_filename.encode()
    header = os.pread(file, 30 + len(raw), at) if 0 <= at < end else b""
    if len(header) < 30 + len(raw) or header[:4] != b"PK\3\4":
        raise Refused(f"is not where the directory says: {AGAIN}")
    flags, method, _, _, *sizes, name_length, extra_length = struct.unpack("<4H3L2H", header[6:30])
    same = header[30:] == raw and name_length == len(raw) and method == info.compress_type
    same &= not (flags ^ info.flag_bits) & (ENCRYPTED | _UTF8 | _SIZES_FOLLOW)
    if not flags & _SIZES_FOLLOW and 0xFFFFFFFF not in sizes[1:]:
        same &= sizes == [info.CRC, info.compress_size, info.file_size]
    if not same:
        raise Refused("has a header that contradicts the directory")
    data = at + 30 + name_length + extra_length
    if data + info.compress_size > end:
        raise Refused("is cut off: download or pack the archive again")
    return data


class _TarHeader(tarfile.TarInfo):
    """A tar header that checks the size field before tarfile converts it."""

    @classmethod
    def frombuf(cls, buf: Any, encoding: str, errors: str) -> "_TarHeader":
        is_header = len(buf) == tarfile.BLOCKSIZE and _checksum_fits(buf)
        if is_header and not _TAR_SIZE.fullmatch(buf[124:136]):
            is_negative = buf[124] & 0x80
            shown = "an impossible size" if is_negative else f"the size {buf[124:136]!r}"
            raise Refused(f"has a member with {shown}")
        header = super().frombuf(buf, encoding, errors)
        if header.type in _HEADER_KINDS and header.size > _MAX_HEADER_BYTES:
            raise Refused(f"has a header of {header.size:,} bytes")
        if (
            buf[257:263] != b"ustar\0"
        ):  # the old GNU format has times in place of the prefix of POSIX
            name = buf[:100].split(b"\0", 1)[0].decode(encoding, errors)
            header.name = name.rstrip("/") if header.isdir() else name
        return header


def _checksum_fits(block: bytes) -> bool:
    try:
        stated = int(block[148:156].strip(b" \0") or b"0", 8)
    except ValueError:
        return False
    return stated == sum(block) - sum(block[148:156]) + 8 * ord(" ")


class _Section:
    """File object for bytes [start, stop) of a file that refuses to read more than `most` bytes at once."""

    def __init__(self, file: int, start: int, stop: int, most: int) -> None:
        self._file, self._start, self._stop, self._most = file, start, stop, most
        self._at = start

    def read(self, size: int = -1) -> bytes:
        left = max(self._stop - self._at, 0)
        size = left if size < 0 else min(size, left)
        if size > self._most:
            raise ValueError(f"a header of {size:,} bytes")
        content = os.pread(self._file, size, self._at)
        self._at += len(content)
        return content

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: self._start, os.SEEK_CUR: self._at, os.SEEK_END: self._stop}[whence]
        if base + offset < self._start:
            raise ValueError("a negative offset")
        self._at = base + offset
        return self.tell()

    def tell(self) -> int:
        return self._at - self._start

    def seekable(self) -> bool:
        return True
