"""Images in tar and zip archives, read in place: nothing is ever extracted.

`tarfile` and `zipfile` find the members; any process can then read an image at its offset in the archive. An archive is
refused if it has anything but regular files with safe names, or exceeds the limits below.
"""

import errno
import gzip
import io
import itertools
import os
import re
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from typing import IO, Any, NamedTuple

from alexnet_jax.errors import DataError, printable

#: ImageNet as Kaggle packs it has 2.03 million, most of them annotations.
MAX_ENTRIES = 4_000_000
MAX_FILE_BYTES = 64 * 2**20
#: ImageNet's training images are 148 GB.
MAX_TOTAL_BYTES = 300 * 2**30
#: Unpacked size / packed size; the maximum of deflate is about 1,000.
MAX_RATIO = 200
GZIP_SUFFIXES = (".tar.gz", ".tgz")
SUFFIXES = (".tar", *GZIP_SUFFIXES, ".zip")

#: Largest long name or pax header of a tar, and largest directory of a zip.
_MAX_HEADER_BYTES, _MAX_DIRECTORY_BYTES = 64 * 2**10, 512 * 2**20
_CHUNK = 2**20
_HEADER_KINDS = (
    tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE,
)  # fmt: skip
#: Octal digits, or 8 bytes of a binary number below 2^63; int() alone would take signs and underscores.
_TAR_SIZE = re.compile(rb"[ \0]*[0-7]*[ \0]*|\x80\0\0\0[\0-\x7f].{7}", re.DOTALL)
_ZIP_ENCRYPTED, _ZIP_SIZES_FOLLOW, _ZIP_UTF8 = 0x1, 0x8, 0x800
_AGAIN = "download or pack it again"
_CUT_OFF = "is cut off: download or pack the archive again"
_TAR_KINDS = {
    tarfile.LNKTYPE: "a hard link",
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.CHRTYPE: "a character device",
    tarfile.BLKTYPE: "a block device",
    tarfile.FIFOTYPE: "a FIFO",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
}


class TooLarge(DataError):
    """A file that unpacks to more bytes than allowed."""


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
        """Read the content. Raises DataError, also if it contradicts the size or checksum in the archive."""
        try:
            with open(self.archive, "rb") as file:
                return self.read_from(file)
        except OSError as error:
            raise DataError(f"cannot read {self.archive}: {error.strerror}") from None

    def read_from(self, file: IO[bytes]) -> bytes:
        """Read the content from the opened archive. Raises the DataError of `read`, and OSError."""
        file.seek(self.offset)
        content = file.read(self.packed)
        if len(content) < self.packed:
            raise DataError(f"{self.title} {_CUT_OFF}")
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


def is_compressed(name: str) -> bool:
    """Whether an archive is a compressed tar."""
    return name.lower().endswith(GZIP_SUFFIXES)


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
        DataError: The archive is damaged, exceeds a limit, or has a member that is not a plain file or whose name is
            unsafe or repeated.
    """
    archive = os.fspath(path)
    reader = _Reader(archive, suffixes, shown or archive)
    try:
        with _File(archive) as file:
            if not archive.lower().endswith(".zip"):
                return list(reader.tar(file, 0, "", nested))
            if nested:
                raise DataError(f"{reader.shown}: a zip of archives is not read; pack a tar")
            return list(reader.zip(file))
    except OSError as error:
        raise DataError(f"cannot read {reader.shown}: {error.strerror}") from None


def gunzip(
    path: str | os.PathLike, target: str | os.PathLike, limit: int = MAX_TOTAL_BYTES
) -> None:
    """Unpack a .tar.gz into the plain tar `target`.

    Raises TooLarge for more than `limit` bytes, DataError for damage and for more than MAX_RATIO, OSError from writing.
    """
    with open(target, "wb") as file:
        for piece in _inflated(os.fspath(path), limit):
            file.write(piece)


def peek(path: str | os.PathLike, count: int = 16) -> list[str]:
    """Return the first names of an archive, to recognize it; fewer or none if it is damaged or cannot be read."""
    archive, names = os.fspath(path), []
    try:
        if archive.lower().endswith(".zip"):
            with _File(archive) as whole, zipfile.ZipFile(whole) as opened:
                return opened.namelist()[:count]
        with open(archive, "rb") as file:
            head: IO[bytes] = file
            if is_compressed(archive):
                head = io.BytesIO(gzip.GzipFile(fileobj=file).read(MAX_FILE_BYTES))
            tar: Any = tarfile.TarFile(fileobj=head, tarinfo=_TarHeader)
            for header in itertools.islice(tar, count):
                names.append(header.name)
    except Exception:  # neither module documents what it raises for a damaged archive
        pass
    return names


def _inflated(path: str, limit: int) -> Iterator[bytes]:
    unpacked = 0
    try:
        with open(path, "rb") as packed, gzip.GzipFile(fileobj=packed) as file:
            while content := file.read(_CHUNK):
                unpacked += len(content)
                if unpacked > limit:
                    raise TooLarge(f"{path} unpacks to more than {limit:,} bytes: refused")
                if unpacked > MAX_RATIO * packed.tell() + _CHUNK:
                    raise DataError(
                        f"{path} unpacks to more than {MAX_RATIO} times itself: refused"
                    )
                yield content
    except EOFError:
        raise DataError(f"{path} is cut off: download it again") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} is damaged: {error}; download it again") from None
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None


class _Reader:
    """Lists the members of one archive, and counts entries and bytes against the limits."""

    def __init__(self, archive: str, suffixes: tuple[str, ...] | None, shown: str):
        self._archive, self._suffixes, self.shown = archive, suffixes, shown
        self._seen: set[str] = set()
        self._entries = self._total = 0

    def tar(self, file: IO[bytes], start: int, prefix: str, nested: bool) -> Iterator[Member]:
        """The members of the tar `file`, which begins at byte `start` of the archive."""
        stop = file.seek(0, os.SEEK_END)
        for tar, header in self._tar_headers(file, start, stop, prefix.rstrip("/") or "it"):
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
            data, size = start + header.offset_data, header.size
            if header.offset_data + size > stop:
                raise self._fault(name, _CUT_OFF)
            self._once(name)
            if nested:
                if not name.lower().endswith(".tar"):
                    raise self._fault(name, "is not a .tar, as all files of this archive must be")
                yield from self.tar(tar.extractfile(header), data, name + "/", False)
            elif self._admit(name, size):
                yield Member(name, self._archive, data, size, size, False, None, self.shown)

    def _tar_headers(
        self, file: IO[bytes], start: int, stop: int, title: str
    ) -> Iterator[tuple[Any, tarfile.TarInfo]]:
        """Yield (TarFile, header) for each member.

        Raises DataError for damage, also where tarfile would ignore it, and for anything after the end mark.
        """
        file.seek(0)
        end = -1
        try:
            tar: Any = tarfile.TarFile(
                fileobj=file, tarinfo=_TarHeader, encoding="utf-8", errors="surrogateescape"
            )
            while (header := tar.next()) is not None:
                tar.members.clear()  # which would keep all headers
                self._entries += 1
                if self._entries > MAX_ENTRIES:
                    raise _Refused(f"is entry {MAX_ENTRIES + 1:,}; no more are read")
                size = header.pax_headers.get("size", "0")
                if header.size < 0 or tar.offset <= end or not re.fullmatch("[0-9]{1,15}", size):
                    raise _Refused("has a member with an impossible size")
                if {"path", "size"} & tar.pax_headers.keys():
                    raise _Refused("has one name or size for all of its members")
                end = tar.offset
                yield tar, header
            _check_tar_end(file, start, tar.offset, stop)
        except OSError:
            raise
        except _Refused as error:
            raise self._fault(title, str(error)) from None
        except Exception as error:  # tarfile does not document what it raises for a damaged archive
            what = f"is damaged after byte {start + end} ({error})"
            if end < 0:
                cut = "is cut off or " if stop < tarfile.BLOCKSIZE else ""
                what = f"{cut}is not a tar archive"
            raise self._fault(title, f"{what}: {_AGAIN}") from None

    def zip(self, file: IO[bytes]) -> Iterator[Member]:
        """The members that the central directory lists, each compared with its local header."""
        infos, end = self._zip_directory(file)
        found = []
        for info in infos:
            name = self._checked_name(info.orig_filename)
            if not self._is_zip_file(name, info):
                continue
            self._once(name)
            data = self._zip_content(file, name, info, end)
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

    def _zip_directory(self, file: IO[bytes]) -> tuple[list[zipfile.ZipInfo], int]:
        """Return the entries of the central directory, and its offset. Raises DataError."""
        damaged = self._fault("it", f"is cut off or is not a zip archive: {_AGAIN}")
        try:
            with zipfile.ZipFile(file, metadata_encoding="utf-8") as archive:
                infos, first = archive.infolist(), archive.start_dir
                file.seek(-22 - len(archive.comment), os.SEEK_END)
                record = struct.unpack("<4s4H2LH", file.read(22))
        except UnicodeDecodeError as error:
            raise self._fault("it", f"has a name that is not UTF-8: {error.object!r}") from None
        except Exception as error:  # zipfile does not document what it raises for a damaged archive
            if isinstance(error, OSError) and error.errno != errno.EINVAL:  # a negative offset
                raise
            raise damaged from None
        signature, disk, start_disk, _, count, _, stated, _ = record
        if (disk or start_disk) and (disk, start_disk) != (0xFFFF, 0xFFFF):
            raise self._fault("it", "is a part of a split zip archive: join the parts")
        if signature != b"PK\5\6" or stated not in (first, 0xFFFFFFFF):
            raise damaged
        if count not in (len(infos), 0xFFFF):
            raise self._fault("it", "has a directory whose length differs from the stated one")
        if len(infos) > MAX_ENTRIES:
            what = f"has {len(infos):,} entries; more than {MAX_ENTRIES:,} are not read"
            raise self._fault("it", what)
        return infos, first

    def _zip_content(self, file: IO[bytes], name: str, info: zipfile.ZipInfo, end: int) -> int:
        """Return the offset of a member's content. Raises DataError if its local header contradicts the directory."""
        at, raw, header = info.header_offset, info.orig_filename.encode(), b""
        if 0 <= at < end:
            file.seek(at)
            header = file.read(30 + len(raw))
        if len(header) < 30 + len(raw) or header[:4] != b"PK\3\4":
            raise self._fault(name, f"is not where the directory says: {_AGAIN}")
        fields = struct.unpack("<4H3L2H", header[6:30])
        flags, method, _, _, *sizes, name_length, extra_length = fields
        same = header[30:] == raw and name_length == len(raw) and method == info.compress_type
        same &= not (flags ^ info.flag_bits) & (_ZIP_ENCRYPTED | _ZIP_UTF8 | _ZIP_SIZES_FOLLOW)
        if not flags & _ZIP_SIZES_FOLLOW and 0xFFFFFFFF not in sizes[1:]:
            same &= sizes == [info.CRC, info.compress_size, info.file_size]
        if not same:
            raise self._fault(name, "has a local header that contradicts the directory")
        data = at + 30 + name_length + extra_length
        if data + info.compress_size > end:
            raise self._fault(name, _CUT_OFF)
        return data

    def _is_zip_file(self, name: str, info: zipfile.ZipInfo) -> bool:
        """Whether an entry is a file rather than a folder. Raises DataError if it must not be read."""
        mode = info.external_attr >> 16 & 0o170000
        packed, unpacked = info.compress_size, info.file_size
        if info.create_system == 3 and mode not in (0, 0o100000, 0o040000):
            raise self._fault(name, f"is not a plain file (mode {mode:o}); only those are read")
        if info.flag_bits & _ZIP_ENCRYPTED:
            raise self._fault(name, "is encrypted: pack the archive without a password")
        if info.orig_filename.endswith("/") or mode == 0o040000:
            if unpacked:
                raise self._fault(name, "is a folder with content")
            return False
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            what = f"is compressed with method {info.compress_type}; only deflate is read"
            raise self._fault(name, what)
        is_stored = info.compress_type == zipfile.ZIP_STORED
        if unpacked > MAX_RATIO * packed or (is_stored and unpacked != packed):
            raise self._fault(name, f"states {unpacked:,} bytes, packed in {packed:,}: refused")
        return True

    def _fault(self, name: str, what: str) -> DataError:
        shown = printable(name)
        return DataError(f"{self.shown}: {shown[:200]}{' ...' if len(shown) > 200 else ''} {what}")

    def _checked_name(self, name: str, prefix: str = "") -> str:
        """Normalize a relative name. Raises DataError if it is unsafe on any operating system."""
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
        """Raise DataError if the name has occurred before, up to case and Unicode composition."""
        key = unicodedata.normalize("NFC", name).casefold()
        if key in self._seen:
            raise self._fault(name, "occurs twice, if upper and lower case are the same")
        self._seen.add(key)

    def _admit(self, name: str, size: int) -> bool:
        """Whether to list a file; hidden ones are left out. Raises DataError if its size or suffix is not allowed."""
        if size > MAX_FILE_BYTES:
            what = f"has {size:,} bytes, more than the {MAX_FILE_BYTES:,} that an image may have"
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


class _Refused(Exception):
    """A fault of a tar, in words that follow its name."""


class _TarHeader(tarfile.TarInfo):
    """A tar header that checks the bytes of its size, which tarfile would accept in any form."""

    @classmethod
    def frombuf(cls, buf: Any, encoding: str, errors: str) -> "_TarHeader":
        lib: Any = tarfile  # whose stubs lack these two functions
        is_whole = len(buf) == tarfile.BLOCKSIZE
        is_header = is_whole and lib.nti(buf[148:156]) in lib.calc_chksums(buf)
        if is_header and not _TAR_SIZE.fullmatch(buf[124:136]):
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


def _check_tar_end(file: IO[bytes], start: int, at: int, stop: int) -> None:
    """Check that all bytes from `at` to `stop` are zero, as tarfile takes damage for the end."""
    if at + tarfile.BLOCKSIZE > stop:
        raise _Refused(f"is cut off or is not a tar archive: {_AGAIN}")
    file.seek(at)
    if any(file.read(tarfile.BLOCKSIZE)):
        raise _Refused(f"is damaged at byte {start + at}: {_AGAIN}")
    while (at := file.tell()) < stop:
        piece = file.read(min(_CHUNK, stop - at))
        if not piece or any(piece):
            raise _Refused(f"continues after its end mark, at byte {start + at}: pack it again")


class _File(io.FileIO):
    """A file that never reads more at once than the largest zip directory allowed."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > _MAX_DIRECTORY_BYTES:
            raise ValueError(f"a directory of {size:,} bytes")
        return super().read(size)
