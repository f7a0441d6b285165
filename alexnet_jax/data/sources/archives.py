"""Images in tar and zip archives, read in place: nothing is ever extracted.

The members are found by `archive_headers`; an image is then read from its place in the file, by any process. An archive
with anything but plain files of plain names is refused, and so is one that exceeds the limits below.
"""

import gzip
import itertools
import os
import re
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from alexnet_jax.data.sources import archive_headers
from alexnet_jax.data.sources.archive_headers import Refused
from alexnet_jax.errors import DataError, printable

MAX_ENTRIES = 2_000_000
MAX_FILE_BYTES = 64 * 2**20
#: ImageNet's training images are 148 GB.
MAX_TOTAL_BYTES = 300 * 2**30
#: Unpacked to packed; deflate itself ends near 1,000.
MAX_RATIO = 200
GZIP_SUFFIXES = (".tar.gz", ".tgz")
SUFFIXES = (".tar", *GZIP_SUFFIXES, ".zip")

_CHUNK = 2**20
_TAR_KINDS = {
    tarfile.LNKTYPE: "a hard link",
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.CHRTYPE: "a character device",
    tarfile.BLKTYPE: "a block device",
    tarfile.FIFOTYPE: "a FIFO",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
}


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


class _Reader:
    """One reading of an archive: its limits, and the names seen so far."""

    def __init__(self, archive: str, suffixes: tuple[str, ...] | None, shown: str):
        self._archive, self._suffixes, self.shown = archive, suffixes, shown
        self._seen: set[str] = set()
        self._entries = self._total = 0

    def tar(self, file: int, start: int, stop: int, prefix: str, nested: bool) -> Iterator[Member]:
        """The members of the tar at [start, stop) of the archive."""
        title = prefix.rstrip("/") or "it"
        headers = archive_headers.tar_headers(file, start, stop)
        while (found := self._next(headers, title)) is not None:
            header, data = found
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
            size = header.size
            if data + size > stop:
                raise self._fault(name, "is cut off: download or pack the archive again")
            self._once(name)
            if nested:
                if not name.lower().endswith(".tar"):
                    raise self._fault(name, "is no .tar, as all files of this archive should be")
                yield from self.tar(file, data, data + size, name + "/", False)
            elif self._admit(name, size):
                yield Member(name, self._archive, data, size, size, False, None, self.shown)

    def _next(
        self, headers: Iterator[tuple[tarfile.TarInfo, int]], title: str
    ) -> tuple[tarfile.TarInfo, int] | None:
        """The next header of a tar, None at its end. Raises DataError."""
        self._entries += 1
        try:
            found = next(headers, None)
        except Refused as error:
            raise self._fault(title, str(error)) from None
        if found and self._entries > MAX_ENTRIES:
            raise self._fault(title, f"is entry {MAX_ENTRIES + 1:,}; no more are read")
        return found

    def zip(self, file: int, size: int) -> Iterator[Member]:
        """The members that the central directory lists, each compared with its local header."""
        try:
            infos, end = archive_headers.zip_directory(file, size)
        except Refused as error:
            raise self._fault("it", str(error)) from None
        if len(infos) > MAX_ENTRIES:
            what = f"has {len(infos):,} entries; more than {MAX_ENTRIES:,} are not read"
            raise self._fault("it", what)
        found = []
        for info in infos:
            name = self._checked_name(info.orig_filename)
            if not self._is_zip_file(name, info):
                continue
            self._once(name)
            try:
                data = archive_headers.zip_content(file, info, end)
            except Refused as error:
                raise self._fault(name, str(error)) from None
            packed, size = info.compress_size, info.file_size
            found.append((info.header_offset, data + packed, name))
            if self._admit(name, size):
                deflated = info.compress_type == zipfile.ZIP_DEFLATED
                yield Member(
                    name, self._archive, data, packed, size, deflated, info.CRC, self.shown
                )
        found.sort()
        for (_, stop, one), (start, _, other) in itertools.pairwise(found):
            if start < stop:
                raise self._fault(other, f"overlaps {printable(one)[:200]}: refused")

    def _is_zip_file(self, name: str, info: zipfile.ZipInfo) -> bool:
        """Whether an entry is a file, not a folder. Raises DataError for one that is not to be read."""
        mode, packed, unpacked = (
            info.external_attr >> 16 & 0o170000,
            info.compress_size,
            info.file_size,
        )
        if info.create_system == 3 and mode not in (0, 0o100000, 0o040000):
            raise self._fault(name, f"is no plain file (mode {mode:o}); only those are read")
        if info.flag_bits & archive_headers.ENCRYPTED:
            raise self._fault(name, "is encrypted: pack the archive without a password")
        if info.orig_filename.endswith("/") or mode == 0o040000:
            if unpacked:
                raise self._fault(name, "is a folder with content")
            return False
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            what = f"is packed by method {info.compress_type}; only deflate is read"
            raise self._fault(name, what)
        is_stored = info.compress_type == zipfile.ZIP_STORED
        if unpacked > MAX_RATIO * packed or (is_stored and unpacked != packed):
            raise self._fault(name, f"states {unpacked:,} bytes, packed in {packed:,}: refused")
        return True

    def _fault(self, name: str, what: str) -> DataError:
        shown = printable(name)
        return DataError(f"{self.shown}: {shown[:200]}{' ...' if len(shown) > 200 else ''} {what}")

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
