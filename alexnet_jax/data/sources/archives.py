"""Images in tar and zip archives, read in place: nothing is ever extracted.

`tarfile` and `zipfile` find the members; an image is then read from its place in the file, by any process. An archive
with anything but plain files of plain names is refused, and so is one that exceeds the limits below.
"""

import gzip
import itertools
import os
import re
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from alexnet_jax.errors import DataError, printable

MAX_ENTRIES = 2_000_000
MAX_FILE_BYTES = 64 * 2**20
#: ImageNet's training images are 148 GB.
MAX_TOTAL_BYTES = 300 * 2**30
#: Unpacked to packed; deflate itself ends near 1,000.
MAX_RATIO = 200
GZIP_SUFFIXES = (".tar.gz", ".tgz")
TAR_SUFFIXES = (".tar", *GZIP_SUFFIXES)
SUFFIXES = (*TAR_SUFFIXES, ".zip")

#: Of a long name or a pax header in a tar, and of the directory of a zip.
_MAX_HEADER_BYTES, _MAX_DIRECTORY_BYTES = 64 * 2**10, 256 * 2**20
_CHUNK = 2**20
_TAR_KINDS = {
    tarfile.LNKTYPE: "a hard link",
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.CHRTYPE: "a character device",
    tarfile.BLKTYPE: "a block device",
    tarfile.FIFOTYPE: "a FIFO",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
}
_HEADER_KINDS = (
    tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE,
)  # fmt: skip
#: Octal digits, or 8 bytes of a binary number below 2^63; int() alone would take signs and underscores.
_TAR_SIZE = re.compile(rb"[ \0]*[0-7]*[ \0]*|\x80\0\0\0[\0-\x7f].{7}", re.DOTALL)
_ENCRYPTED, _SIZES_FOLLOW, _UTF8 = 0x1, 0x8, 0x800
_AGAIN = "download or pack it again"


class Member(NamedTuple):
    """A file within an archive, which any process can read.

    Attributes:
        name: With '/', within the archive; the name of an inner tar comes first.
        archive: Path of the plain tar or zip.
        offset: First byte of the content in the archive.
        packed: Bytes in the archive.
        size: Bytes of the file.
        deflated: Whether the content is compressed.
        checksum: CRC-32; None in a tar, which has none.
        shown: Path of the archive as the user gave it, before it was unpacked.
    """

    name: str
    archive: str
    offset: int
    packed: int
    size: int
    deflated: bool
    checksum: int | None
    shown: str

    @property
    def title(self) -> str:
        return f"{self.shown}: {self.name}"

    def read(self) -> bytes:
        """The content. Raises DataError where it is not what the archive states."""
        content = _read_at(self.archive, self.offset, self.packed, self.title)
        if self.deflated:
            inflater = zlib.decompressobj(-zlib.MAX_WBITS)
            try:
                content = inflater.decompress(content, self.size + 1)
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
    """List the files of a plain tar or a zip in its order, without folders and hidden files.

    Args:
        suffixes: Every file must end in one of these; None allows any.
        nested: The files of the tar are tars, whose members are listed.
        shown: Name of the archive in errors.

    Raises:
        DataError: The first member that is no plain file, an unsafe or repeated name, a limit that is exceeded, or
            damage.
    """
    archive = os.fspath(path)
    reader = _Reader(archive, suffixes, shown or archive)
    try:
        with open(archive, "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            if not archive.lower().endswith(".zip"):
                return list(reader.tar(file.fileno(), 0, size, "", nested))
            if nested:
                raise DataError(f"{reader.shown}: a zip of archives is not read; pack a tar")
            return list(reader.zip(file.fileno(), size))
    except OSError as error:
        raise DataError(f"cannot read {reader.shown}: {error.strerror}") from None


def gunzip(
    path: str | os.PathLike, target: str | os.PathLike, limit: int = MAX_TOTAL_BYTES
) -> None:
    """Unpack a .tar.gz into the plain tar `target`.

    Raises DataError for damage, and for more than `limit` bytes or MAX_RATIO; OSError from writing.
    """
    with open(target, "wb") as file:
        for piece in _inflated(os.fspath(path), limit):
            file.write(piece)


def _inflated(path: str, limit: int) -> Iterator[bytes]:
    unpacked = 0
    try:
        with open(path, "rb") as packed, gzip.GzipFile(fileobj=packed) as file:
            while content := file.read(_CHUNK):
                unpacked += len(content)
                if unpacked > limit:
                    raise DataError(f"{path} unpacks to more than {limit:,} bytes: refused")
                if unpacked > MAX_RATIO * packed.tell() + _CHUNK:
                    raise DataError(
                        f"{path} unpacks to more than {MAX_RATIO} times itself: refused"
                    )
                yield content
    except EOFError:
        raise DataError(f"{path} is cut off: download it again") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} is damaged: {error}; download it again") from None


class _Section:
    """Bytes [start, stop) of a file as a file object that refuses to read more than `most` bytes at once."""

    def __init__(self, file: int, start: int, stop: int, most: int):
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


class _TarHeader(tarfile.TarInfo):
    """A tar header whose size is checked as it stands in the file."""

    @classmethod
    def frombuf(cls, buf: Any, encoding: str, errors: str) -> "_TarHeader":
        if len(buf) == tarfile.BLOCKSIZE and _checksum_fits(buf):
            if not _TAR_SIZE.fullmatch(buf[124:136]):
                is_negative = buf[124] & 0x80
                shown = "an impossible size" if is_negative else f"the size {buf[124:136]!r}"
                raise _Refused(f"has a member with {shown}")
        header = super().frombuf(buf, encoding, errors)
        if header.type in _HEADER_KINDS and header.size > _MAX_HEADER_BYTES:
            raise _Refused(f"has a header of {header.size:,} bytes")
        if buf[257:263] != b"ustar\0":  # GNU's own format keeps times where POSIX has a prefix
            name = buf[:100].split(b"\0", 1)[0].decode(encoding, errors)
            header.name = name.rstrip("/") if header.isdir() else name
        return header


class _Refused(Exception):
    """What is wrong with an archive, without its name."""


class _Reader:
    """One reading of an archive: its limits, and the names seen so far."""

    def __init__(self, archive: str, suffixes: tuple[str, ...] | None, shown: str):
        self._archive, self._suffixes, self.shown = archive, suffixes, shown
        self._seen: set[str] = set()
        self._entries = self._total = 0

    def tar(self, file: int, start: int, stop: int, prefix: str, nested: bool) -> Iterator[Member]:
        """The members of the tar at [start, stop) of the archive."""
        title = prefix.rstrip("/") or "it"
        for header, data in self._tar_headers(file, start, stop, title):
            name = self._checked_name(header.name + "/" * header.isdir(), prefix)
            if any(key.startswith("GNU.sparse") for key in header.pax_headers):
                raise self._fault(name, "is a sparse file; only plain files are read")
            if header.isdir():
                if header.size:
                    raise self._fault(name, "is a folder with content")
                continue
            if header.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
                kind = f"an entry of the unknown kind {header.type!r}"
                what = _TAR_KINDS.get(header.type, kind)
                raise self._fault(name, f"is {what}; only plain files are read")
            if data + header.size > stop:
                raise self._fault(name, "is cut off: download or pack the archive again")
            self._once(name)
            if nested:
                if not name.lower().endswith(".tar"):
                    raise self._fault(name, "is no .tar, as all files of this archive should be")
                yield from self.tar(file, data, data + header.size, name + "/", False)
            elif self._admit(name, header.size):
                size = header.size
                yield Member(name, self._archive, data, size, size, False, None, self.shown)

    def _tar_headers(
        self, file: int, start: int, stop: int, title: str
    ) -> Iterator[tuple[tarfile.TarInfo, int]]:
        """(header, place of its content in the archive) of each member, up to an end mark that nothing follows."""
        section: Any = _Section(file, start, stop, _MAX_HEADER_BYTES + tarfile.BLOCKSIZE)
        tar, end = None, -1
        try:
            tar = tarfile.TarFile(
                fileobj=section, tarinfo=_TarHeader, encoding="utf-8", errors="surrogateescape"
            )
            while (header := tar.next()) is not None:
                tar.members.clear()
                self._count(title)
                size = header.pax_headers.get("size", "0")
                if header.size < 0 or tar.offset <= end or not re.fullmatch("[0-9]{1,15}", size):
                    raise _Refused("has a member with an impossible size")
                if {"path", "size"} & tar.pax_headers.keys():
                    raise _Refused("has one name or size for all of its members")
                end = tar.offset
                yield header, start + header.offset_data
        except _Refused as error:
            raise self._fault(title, str(error)) from None
        except (DataError, OSError):
            raise
        except Exception as error:  # what tarfile raises of a damaged archive is listed nowhere
            short = stop - start < tarfile.BLOCKSIZE
            at = f"is damaged behind byte {end} ({' '.join(str(error).split())})"
            what = "is cut off, or no tar archive" if short else "is no tar archive"
            raise self._fault(title, f"{what if end < 0 else at}: {_AGAIN}") from None
        self._check_end(file, start + tar.offset, stop, title)

    def _check_end(self, file: int, at: int, stop: int, title: str) -> None:
        """Raises DataError unless all from `at` to `stop` is zero: tarfile ends without a word at damage."""
        mark = os.pread(file, tarfile.BLOCKSIZE, at) if at + tarfile.BLOCKSIZE <= stop else b""
        if not mark:
            raise self._fault(title, f"is cut off, or no tar archive: {_AGAIN}")
        if any(mark):
            raise self._fault(title, f"is damaged at byte {at}: {_AGAIN}")
        while at < stop:
            piece = os.pread(file, min(_CHUNK, stop - at), at)
            if not piece or any(piece):
                raise self._fault(
                    title, f"goes on behind its end mark, at byte {at}: pack it again"
                )
            at += len(piece)

    def zip(self, file: int, size: int) -> Iterator[Member]:
        """The members that the central directory lists, each compared with its local header."""
        infos, end = self._zip_directory(file, size)
        if len(infos) > MAX_ENTRIES:
            what = f"has {len(infos):,} entries; more than {MAX_ENTRIES:,} are not read"
            raise self._fault("it", what)
        found = []
        for info in infos:
            name = self._checked_name(info.orig_filename)
            mode, packed = info.external_attr >> 16 & 0o170000, info.compress_size
            if info.create_system == 3 and mode not in (0, 0o100000, 0o040000):
                what = f"is no plain file (mode {mode:o}); only those are read"
                raise self._fault(name, what)
            if info.flag_bits & _ENCRYPTED:
                raise self._fault(name, "is encrypted: pack the archive without a password")
            if info.orig_filename.endswith("/") or mode == 0o040000:
                if info.file_size:
                    raise self._fault(name, "is a folder with content")
                continue
            deflated = info.compress_type == zipfile.ZIP_DEFLATED
            if not deflated and info.compress_type != zipfile.ZIP_STORED:
                what = f"is packed by method {info.compress_type}; only deflate is read"
                raise self._fault(name, what)
            if info.file_size > MAX_RATIO * packed or (not deflated and info.file_size != packed):
                what = f"states {info.file_size:,} bytes, packed in {packed:,}: refused"
                raise self._fault(name, what)
            self._once(name)
            data = self._zip_content(file, name, info, end)
            found.append((info.header_offset, data + packed, name))
            if self._admit(name, info.file_size):
                yield Member(
                    name,
                    self._archive,
                    data,
                    packed,
                    info.file_size,
                    deflated,
                    info.CRC,
                    self.shown,
                )
        found.sort()
        for (_, stop, one), (start, _, other) in itertools.pairwise(found):
            if start < stop:
                raise self._fault(other, f"overlaps {printable(one)[:200]}: refused")

    def _zip_directory(self, file: int, size: int) -> tuple[list[zipfile.ZipInfo], int]:
        """The entries of the central directory, and where it begins, which is where the members end."""
        section: Any = _Section(file, 0, size, _MAX_DIRECTORY_BYTES)
        damaged = self._fault("it", f"is cut off, or no zip archive: {_AGAIN}")
        try:
            with zipfile.ZipFile(section, metadata_encoding="utf-8") as archive:
                infos, first = archive.infolist(), archive.start_dir
                record = os.pread(file, 22, size - 22 - len(archive.comment))
            signature, disk, start_disk, _, count, _, stated, _ = struct.unpack("<4s4H2LH", record)
        except UnicodeDecodeError as error:
            raise self._fault(repr(error.object), "has a name that is not UTF-8") from None
        except (OSError, DataError):
            raise
        except Exception:  # what zipfile raises of a damaged archive is listed nowhere
            raise damaged from None
        if (disk or start_disk) and (disk, start_disk) != (0xFFFF, 0xFFFF):
            raise self._fault("it", "is a part of a split zip archive: join the parts")
        if signature != b"PK\5\6" or stated not in (first, 0xFFFFFFFF):
            raise damaged
        if count not in (len(infos), 0xFFFF):
            raise self._fault("it", "has a directory of another length than it states")
        return infos, first

    def _zip_content(self, file: int, name: str, info: zipfile.ZipInfo, end: int) -> int:
        """Where the bytes of a member begin. Raises DataError if its own header disagrees."""
        at, raw = info.header_offset, info.orig_filename.encode()
        header = os.pread(file, 30 + len(raw), at) if 0 <= at < end else b""
        if len(header) < 30 + len(raw) or header[:4] != b"PK\3\4":
            raise self._fault(name, f"is not where the directory says: {_AGAIN}")
        flags, method, _, _, *sizes, name_length, extra_length = struct.unpack(
            "<4H3L2H", header[6:30]
        )
        stated = [info.CRC, info.compress_size, info.file_size]
        same = header[30:] == raw and name_length == len(raw) and method == info.compress_type
        same &= not (flags ^ info.flag_bits) & (_ENCRYPTED | _UTF8 | _SIZES_FOLLOW)
        if not flags & _SIZES_FOLLOW and 0xFFFFFFFF not in sizes[1:]:
            same &= sizes == stated
        if not same:
            raise self._fault(name, "has a header of its own that contradicts the directory")
        data = at + 30 + name_length + extra_length
        if data + info.compress_size > end:
            raise self._fault(name, "is cut off: download or pack the archive again")
        return data

    def _fault(self, name: str, what: str) -> DataError:
        shown = printable(name)
        return DataError(f"{self.shown}: {shown[:200]}{' ...' if len(shown) > 200 else ''} {what}")

    def _count(self, name: str) -> None:
        self._entries += 1
        if self._entries > MAX_ENTRIES:
            raise self._fault(name, f"is entry {MAX_ENTRIES + 1:,}; no more are read")

    def _checked_name(self, name: str, prefix: str = "") -> str:
        """A relative name without surprises on any system. Raises DataError."""
        try:
            name.encode()
        except UnicodeEncodeError:
            raise self._fault(repr(name), "has a name that is not UTF-8") from None
        if any(unicodedata.category(letter) == "Cc" for letter in name):
            raise self._fault(name, "has a control character in its name")
        if name.startswith("/") or "\\" in name or re.match("[A-Za-z]:", name):
            raise self._fault(name, "has an absolute name, or one with a drive or a backslash")
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if ".." in parts:
            raise self._fault(name, "leads out of the archive by '..'")
        return prefix + "/".join(parts)

    def _once(self, name: str) -> None:
        """Raises DataError where the name was there before, in any case or composition."""
        key = unicodedata.normalize("NFC", name).casefold()
        if key in self._seen:
            raise self._fault(name, "is there twice, but for upper and lower case")
        self._seen.add(key)

    def _admit(self, name: str, size: int) -> bool:
        """Whether the file `name` counts: hidden ones do not. Raises DataError if it may not be there."""
        if size > MAX_FILE_BYTES:
            what = f"has {size:,} bytes; more than {MAX_FILE_BYTES:,} is no image"
            raise self._fault(name, what)
        self._total += size
        if self._total > MAX_TOTAL_BYTES:
            raise self._fault(name, f"brings the total to more than {MAX_TOTAL_BYTES:,} bytes")
        if any(part.startswith(".") or part == "__MACOSX" for part in name.split("/")):
            return False
        if self._suffixes is not None and not name.lower().endswith(self._suffixes):
            what = f"ends in none of {' '.join(self._suffixes)}: remove it from the archive"
            raise self._fault(name, what)
        return True


def _checksum_fits(block: bytes) -> bool:
    try:
        stated = int(block[148:156].strip(b" \0") or b"0", 8)
    except ValueError:
        return False
    return stated == sum(block) - sum(block[148:156]) + 8 * ord(" ")


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
