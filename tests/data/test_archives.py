"""Archives that try to do harm, and those that do not."""

import gzip
import hashlib
import io
import os
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

import pytest
from PIL import Image

from alexnet_jax.data.prepare import command as prepare
from alexnet_jax.data.sources import archives
from alexnet_jax.errors import DataError

SUFFIXES = (".jpg",)


def picture() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), "green").save(file, "JPEG")
    return file.getvalue()


PICTURE = picture()


def entry(name="cat/a.jpg", content=PICTURE, *, tar_format=tarfile.PAX_FORMAT, **fields) -> bytes:
    """One member of a tar: its headers and its content."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    for key, value in fields.items():
        setattr(member, key, value)
    header = member.tobuf(format=tar_format, encoding="utf-8", errors="surrogateescape")
    return header + content + bytes(-len(content) % 512)


def link(kind: bytes, name="cat/a.jpg", target="../../outside") -> bytes:
    return entry(name, b"", type=kind, linkname=target)


def tarred(*members: bytes, end: bytes = bytes(1024)) -> bytes:
    return b"".join(members) + end


def changed(header: bytes, at: int, new: bytes) -> bytes:
    """A tar header with other bytes, and the checksum that fits them."""
    block = bytearray(header)
    block[at : at + len(new)] = new
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block[:512])
    return bytes(block)


def zipped(*names: str, content=PICTURE, method=zipfile.ZIP_DEFLATED, mode=0o100644) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name in names:
            info = zipfile.ZipInfo("placeholder")
            info.filename = name  # the constructor would clean it
            info.compress_type, info.external_attr, info.create_system = method, mode << 16, 3
            archive.writestr(info, content)
    return file.getvalue()


def patched(packed: bytes, signature: bytes, at: int, new: bytes) -> bytes:
    """A zip with other bytes at `at` behind the first `signature`."""
    place = packed.index(signature) + at
    return packed[:place] + new + packed[place + len(new) :]


def overlapping() -> bytes:
    """Two entries of the directory that share one local header's content."""
    packed = zipped("cat/a.jpg", "cat/b.jpg")
    second = packed.index(b"PK\1\2", packed.index(b"PK\1\2") + 4)
    first_at = packed.index(b"PK\3\4")
    # the first one's content reaches into the second one
    longer = struct.pack("<L", len(PICTURE) + 200)
    place = packed.index(b"PK\1\2")
    packed = patched(packed, b"PK\1\2", 20, longer)
    packed = packed[:first_at] + patched(packed[first_at:], b"PK\3\4", 18, longer)
    assert place < second
    return packed


def zip64_offset(offset: int) -> bytes:
    """The only member lies at an offset that its zip64 field tells."""
    packed = zipped("cat/a.jpg")
    at = packed.index(b"PK\1\2")
    name_length = int.from_bytes(packed[at + 28 : at + 30], "little")
    end = at + 46 + name_length
    extra = struct.pack("<2HQ", 1, 8, offset)
    packed = packed[:end] + extra + packed[end:]
    packed = patched(packed, b"PK\1\2", 30, struct.pack("<H", len(extra)))
    packed = patched(packed, b"PK\1\2", 42, b"\xff" * 4)
    size = int.from_bytes(packed[-10:-6], "little") + len(extra)
    return patched(packed, b"PK\5\6", 12, struct.pack("<L", size))


def nested(*members: bytes, name: str = "n01440764.tar") -> bytes:
    return tarred(entry(name, tarred(*members)))


def lowered(name: str, value: int):
    return lambda monkeypatch: monkeypatch.setattr(archives, name, value)


GOOD = entry()
# name of the archive, its bytes, what the message names, and a limit lowered for the case
HOSTILE = {
    "symbolic link": ("train.tar", tarred(link(b"2")), "cat/a.jpg is a symbolic link"),
    "hard link": ("train.tar", tarred(link(b"1")), "cat/a.jpg is a hard link"),
    "link, then a file through it": (
        "train.tar",
        tarred(link(b"2", "cat", "/tmp"), entry("cat/a.jpg")),
        "cat is a symbolic link",
    ),
    "hard link to a symbolic link": (
        "train.tar",
        tarred(GOOD, link(b"1", "cat/b.jpg", "cat/l"), link(b"2", "cat/l", "/etc/passwd")),
        "cat/b.jpg is a hard link",
    ),
    "character device": ("train.tar", tarred(link(b"3")), "cat/a.jpg is a character device"),
    "block device": ("train.tar", tarred(link(b"4")), "cat/a.jpg is a block device"),
    "FIFO": ("train.tar", tarred(link(b"6")), "cat/a.jpg is a FIFO"),
    "unknown kind": ("train.tar", tarred(link(b"Z")), "cat/a.jpg is an entry of the unknown kind"),
    "absolute name": ("train.tar", tarred(entry("/tmp/a.jpg")), "/tmp/a.jpg has an absolute name"),
    "name upwards": ("train.tar", tarred(entry("../a.jpg")), "../a.jpg leads out"),
    "name upwards within": ("train.tar", tarred(entry("cat/../../a.jpg")), "leads out"),
    "folder upwards": ("train.tar", tarred(entry("../x", b"", type=b"5")), "../x/ leads out"),
    "drive": ("train.tar", tarred(entry("C:/a.jpg")), "C:/a.jpg has an absolute name"),
    "backslash": ("train.tar", tarred(entry("..\\a.jpg")), "backslash"),
    "NUL in a pax name": (
        "train.tar",
        tarred(entry(pax_headers={"path": "cat/a.jpg\0.exe"})),
        r"cat/a.jpg\x00.exe has a control character",
    ),
    "line break in a name": (
        "train.tar",
        tarred(entry("cat/a\n.jpg")),
        r"cat/a\n.jpg has a control character",
    ),
    "name that is not UTF-8": (
        "train.tar",
        tarred(changed(entry("cat/abcde.jpg"), 4, b"\xff\xfe")),
        "not UTF-8",
    ),
    "same name twice": ("train.tar", tarred(GOOD, GOOD), "cat/a.jpg occurs twice"),
    "same name but for case": ("train.tar", tarred(GOOD, entry("cat/A.JPG")), "A.JPG occurs twice"),
    "same name but for composition": (
        "train.tar",
        tarred(entry("cat/\u00e4.jpg"), entry("cat/a\u0308.jpg")),
        "occurs twice",
    ),
    "sparse file": ("train.tar", tarred(link(b"S")), "cat/a.jpg is a sparse file"),
    "sparse file in pax": (
        "train.tar",
        tarred(entry(pax_headers={"GNU.sparse.realsize": "999999999"})),
        "sparse",
    ),
    "negative size": (
        "train.tar",
        tarred(changed(GOOD, 124, b"\xff" * 12)),
        "impossible size",
    ),
    "size of exabytes": (
        "train.tar",
        tarred(changed(GOOD, 124, b"\x80" + b"\0" * 3 + b"\x7f" + b"\xff" * 7)),
        "cat/a.jpg is cut off",
    ),
    "size that is no number": ("train.tar", tarred(changed(GOOD, 124, b"9" * 11)), "with the size"),
    "size in pax beyond the end": (
        "train.tar",
        tarred(entry(pax_headers={"size": "99999999"})),
        "cat/a.jpg is cut off",
    ),
    "wrong checksum": ("train.tar", tarred(GOOD, b"x" + GOOD[1:]), "is damaged at byte"),
    "cut off in a file": ("train.tar", tarred(GOOD, GOOD[:-512], end=b""), "cut off"),
    "cut off between files": ("train.tar", tarred(GOOD, end=b""), "cut off"),
    "members behind the end": ("train.tar", tarred(GOOD, bytes(1024), GOOD), "after its end mark"),
    "no archive": ("train.tar", b"<!DOCTYPE html>" * 100, "is not a tar archive"),
    "file too large for an image": (
        "train.tar",
        tarred(GOOD),
        f"cat/a.jpg has {len(PICTURE)} bytes, more than the 100",
        lowered("MAX_FILE_BYTES", 100),
    ),
    "one name for all": (
        "train.tar",
        tarred(changed(entry("pax", b"18 path=cat/x.jpg\n"), 156, b"g"), GOOD),
        "one name or size for all",
    ),
    "pax header of a megabyte": (
        "train.tar",
        tarred(changed(entry("pax", bytes(2**20)), 156, b"x"), GOOD),
        "has a header of 1,048,576 bytes",
    ),
    "damaged pax header": (
        "train.tar",
        tarred(changed(entry("pax", b"99 path=x\n"), 156, b"x"), GOOD),
        # tarfile stops at it, or reads a name out of it, depending on the version of Python.
        ("download or pack it again", "has a control character in its name"),
    ),
    "folder with content": ("train.tar", tarred(entry("cat", type=b"5")), "folder with content"),
    "program among the pictures": ("train.tar", tarred(GOOD, entry("cat/a.py")), "cat/a.py ends"),
    **{
        f"size {field!r}": (
            "train.tar",
            tarred(changed(GOOD, 124, field)),
            "has a member with the size",
        )
        for field in (b"-0000001000\0", b"+0000001000\0", b"0000_001000\0", b"0o000001000\0")
    },
    "negative binary size": (
        "train.tar",
        tarred(changed(GOOD, 124, b"\xff" * 12)),
        "has a member with an impossible size",
    ),
    "huge binary size": (
        "train.tar",
        tarred(changed(GOOD, 124, b"\x80" + (2**62).to_bytes(11, "big"))),
        "is cut off",
    ),
    **{
        f"zip: at byte {offset:,}": (
            "train.zip",
            zip64_offset(offset),
            "is not where the directory says",
        )
        for offset in (2**63, 2**64 - 1, 2**40)
    },
    "too many entries": (
        "train.tar",
        tarred(*(entry(f"cat/{i}.jpg") for i in range(9))),
        "is entry 9",
        lowered("MAX_ENTRIES", 8),
    ),
    "too large in total": (
        "train.tar",
        tarred(*(entry(f"cat/{i}.jpg") for i in range(9))),
        "brings the total",
        lowered("MAX_TOTAL_BYTES", 4 * len(PICTURE)),
    ),
    "link in a tar in a tar": (
        "ILSVRC2012_img_train.tar",
        nested(link(b"2")),
        "n01440764.tar/cat/a.jpg is a symbolic link",
    ),
    "name upwards in a tar in a tar": (
        "ILSVRC2012_img_train.tar",
        nested(entry("../a.jpg")),
        "leads out",
    ),
    "cut off in a tar in a tar": (
        "ILSVRC2012_img_train.tar",
        tarred(entry("n01440764.tar", tarred(GOOD, end=b""))),
        "n01440764.tar is cut off",
    ),
    "no tar in a tar of tars": (
        "ILSVRC2012_img_train.tar",
        tarred(entry("n01440764.jpg")),
        "n01440764.jpg is not a .tar",
    ),
    "gzip bomb": ("train.tar.gz", gzip.compress(bytes(2**25)), "more than 200 times"),
    "gzip over the limit": (
        "train.tar.gz",
        gzip.compress(os.urandom(10_000)),
        "more than 5,000 bytes",
        lambda monkeypatch: monkeypatch.setattr(archives, "MAX_TOTAL_BYTES", 5000),
    ),
    "gzip cut off": ("train.tar.gz", gzip.compress(tarred(GOOD))[:-20], "train.tar.gz is cut off"),
    "damaged gzip": ("train.tgz", b"\x1f\x8b\x08\0" + bytes(6) + b"\xff" * 50, "is damaged"),
    "link in gzip": ("train.tar.gz", gzip.compress(tarred(link(b"2"))), "train.tar.gz: cat/a.jpg"),
    "zip: symbolic link": (
        "train.zip",
        zipped("cat/a.jpg", mode=0o120777),
        "cat/a.jpg is not a plain file",
    ),
    "zip: device": (
        "train.zip",
        zipped("cat/a.jpg", mode=0o020666),
        "cat/a.jpg is not a plain file",
    ),
    "zip: absolute name": ("train.zip", zipped("/tmp/a.jpg"), "/tmp/a.jpg has an absolute name"),
    "zip: name upwards": ("train.zip", zipped("cat/../../a.jpg"), "leads out"),
    "zip: drive": ("train.zip", zipped("c:a.jpg"), "c:a.jpg has an absolute name"),
    "zip: backslash": ("train.zip", zipped("..\\..\\a.jpg"), "backslash"),
    "zip: NUL": (
        "train.zip",
        zipped("cat/a.jpg").replace(b"a.jpg", b"a\0jpg"),
        "control character",
    ),
    "zip: same name but for case": ("train.zip", zipped("cat/a.jpg", "Cat/a.jpg"), "occurs twice"),
    "zip: bomb": (
        "train.zip",
        zipped("cat/a.jpg", content=bytes(2**22)),
        "cat/a.jpg states 4,194,304 bytes",
    ),
    "zip: overlapping": ("train.zip", overlapping(), "overlaps cat/a.jpg"),
    "zip: another name in its header": (
        "train.zip",
        zipped("cat/a.jpg").replace(b"cat/a.jpg", b"cat/b.jpg", 1),
        "contradicts the directory",
    ),
    "zip: another size in its header": (
        "train.zip",
        patched(zipped("cat/a.jpg"), b"PK\3\4", 22, b"\1\0\0\0"),
        "contradicts the directory",
    ),
    "zip: more than it states": (
        "train.zip",
        patched(
            patched(zipped("cat/a.jpg"), b"PK\3\4", 22, b"\x10\0\0\0"),
            b"PK\1\2",
            24,
            b"\x10\0\0\0",
        ),
        "does not unpack to the 16 bytes",
    ),
    "zip: wrong checksum": (
        "train.zip",
        patched(patched(zipped("cat/a.jpg"), b"PK\3\4", 14, b"oops"), b"PK\1\2", 16, b"oops"),
        "its checksum is wrong",
    ),
    "zip: no local header": (
        "train.zip",
        zipped("cat/a.jpg").replace(b"PK\3\4", b"PKxx"),
        "is not",
    ),
    "zip: encrypted": ("train.zip", patched(zipped("cat/a.jpg"), b"PK\1\2", 8, b"\1"), "encrypted"),
    "zip: unknown method": (
        "train.zip",
        patched(zipped("cat/a.jpg"), b"PK\1\2", 10, b"\x0e"),
        "method 14",
    ),
    "zip: cut off": ("train.zip", zipped("cat/a.jpg")[:-5], "cut off or is not a zip"),
    "zip: cut off in front": ("train.zip", zipped("cat/a.jpg")[40:], "cut off or is not a zip"),
    "zip: more entries than it has": (
        "train.zip",
        patched(zipped("cat/a.jpg", "cat/b.jpg"), b"PK\5\6", 10, b"\1\0"),
        "directory whose length differs",
    ),
    "zip: part of several": (
        "train.zip",
        patched(zipped("cat/a.jpg"), b"PK\5\6", 4, b"\1"),
        "split",
    ),
    "zip: too many entries": (
        "train.zip",
        zipped(*(f"cat/{i}.jpg" for i in range(9))),
        "has 9 entries",
        lowered("MAX_ENTRIES", 8),
    ),
}


def snapshot(root: Path) -> dict[str, tuple]:
    """Every file, folder and link below `root`, with its content."""
    found = {}
    for path in sorted(root.rglob("*")):
        if path.is_symlink():
            state = ("link", os.readlink(path))
        elif path.is_file():
            state = ("file", hashlib.sha256(path.read_bytes()).hexdigest())
        else:
            state = ("folder",)
        found[str(path.relative_to(root))] = state
    return found


@pytest.mark.fault("F36")
@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_archive_is_refused_and_writes_nothing(case, tmp_path, monkeypatch):
    name, content, message, *limits = HOSTILE[case]
    source, out = tmp_path / "source", tmp_path / "out" / "store"
    source.mkdir()
    out.parent.mkdir()
    (source / name).write_bytes(content)
    for other in ("val.tar", "ILSVRC2012_img_val.tar"):
        (source / other).write_bytes(tarred(GOOD))
    devkit = entry("data/meta.mat", b"no synsets")
    devkit += entry("data/ILSVRC2012_validation_ground_truth.txt", b"1\n")
    (source / "ILSVRC2012_devkit_t12.tar.gz").write_bytes(gzip.compress(tarred(devkit)))
    if name.startswith("ILSVRC"):
        monkeypatch.setattr(
            "alexnet_jax.data.prepare.ilsvrc._synsets", lambda *_: ({}, {1: "n01440764"})
        )
    else:
        (source / "ILSVRC2012_img_val.tar").unlink()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "precious.jpg").write_bytes(b"precious")
    for limit in limits:
        limit(monkeypatch)
    before = snapshot(tmp_path)
    arguments = ["--from", str(source), "--out", str(out), "--jobs", "1", "--size", "8"]
    with pytest.raises(DataError) as caught:
        prepare.main([*arguments, "--subset", "--max-bad-share", "0"])
    messages = (message,) if isinstance(message, str) else message
    assert name in str(caught.value) and any(one in str(caught.value) for one in messages)
    assert caught.value.exit_code == 3 and "\n" not in str(caught.value)
    after = {k: v for k, v in snapshot(tmp_path).items() if not k.startswith("out/store.preparing")}
    assert after == before


@pytest.mark.fault("F36")
@pytest.mark.parametrize("kind", ["tar", "gnu", "ustar", "tar.gz", "zip", "stored zip"])
def test_a_plain_archive_is_read_where_it_lies(kind, tmp_path):
    """Long names, folders, hidden files and all."""
    long = "/".join(["a" * 80] * 3)
    names = ["cat/a.jpg", f"{long}/b.jpg", "./dog/\u00e4.JPG"]
    if kind == "ustar":  # has no names above 100 + 155 bytes
        names[1] = f"{'a' * 80}/b.jpg"
    if "zip" in kind:
        method = zipfile.ZIP_STORED if "stored" in kind else zipfile.ZIP_DEFLATED
        content = zipped(*names, "cat/.DS_Store", "__MACOSX/cat/a.jpg", method=method)
    else:
        tar_format = {"gnu": tarfile.GNU_FORMAT, "ustar": tarfile.USTAR_FORMAT}.get(kind, 2)
        files = [entry(name, tar_format=tar_format) for name in names]
        folder = entry("cat/", b"", type=b"5")
        content = tarred(folder, *files, entry("cat/._a.jpg", b""), end=bytes(10240))
    path = tmp_path / f"x.{kind.split()[-1].replace('gnu', 'tar').replace('ustar', 'tar')}"
    if kind == "tar.gz":
        halves = content[:1000], content[1000:]
        path.write_bytes(b"".join(map(gzip.compress, halves)))  # two gzip members in a row
        archives.gunzip(path, tmp_path / "plain.tar")
        path = tmp_path / "plain.tar"
    else:
        path.write_bytes(content)
    members = archives.members(path, SUFFIXES)
    assert [member.name for member in members] == [name.removeprefix("./") for name in names]
    assert all(member.read() == PICTURE for member in members)


def test_a_zip_of_more_than_4_gb_in_its_own_words_is_read(tmp_path):
    """zip64 fields, as an archive of all of ImageNet has them."""
    path = tmp_path / "x.zip"
    with (
        zipfile.ZipFile(path, "w") as archive,
        archive.open("cat/a.jpg", "w", force_zip64=True) as file,
    ):
        file.write(PICTURE)
    plain = path.read_bytes()
    start = plain.index(b"PK\1\2")
    directory = bytearray(plain[start : plain.index(b"PK\5\6")])
    struct.pack_into("<2L", directory, 20, 0xFFFFFFFF, 0xFFFFFFFF)
    struct.pack_into("<H", directory, 30, 20)
    directory += struct.pack("<2H2Q", 1, 16, len(PICTURE), len(PICTURE))
    wide = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, 1, 1, len(directory), start)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, start + len(directory), 1)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    path.write_bytes(plain[:start] + directory + wide + locator + end)
    (member,) = archives.members(path, SUFFIXES)
    assert member.read() == PICTURE and member.checksum == zlib.crc32(PICTURE)


def test_an_archive_that_changed_since_is_noticed(tmp_path):
    path = tmp_path / "x.tar"
    path.write_bytes(tarred(GOOD))
    (member,) = archives.members(path, SUFFIXES)
    path.write_bytes(tarred(GOOD)[:600])
    with pytest.raises(DataError, match=r"x.tar: cat/a.jpg is cut off"):
        member.read()
    path.unlink()
    with pytest.raises(DataError, match="cannot read"):
        member.read()


def test_a_packed_archive_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "train.tar.gz").mkdir()  # root can read any file, but not a folder
    with pytest.raises(DataError, match=r"cannot read .*train\.tar\.gz: Is a directory"):
        archives.gunzip(tmp_path / "train.tar.gz", tmp_path / "train.tar", 2**20)
