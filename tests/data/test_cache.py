"""The cache folder has a bound, and gives up what was not used for the longest time."""

import os
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from alexnet_jax.data.pipeline import cache
from alexnet_jax.data.pipeline.image_files import ImageFiles
from alexnet_jax.errors import ConfigError

KIB = 2**10


def name(letter, kind="images"):
    return f"{kind}-{letter * 32}.npy"


def write(folder, letter, size, used, kind="images"):
    path = folder / name(letter, kind)
    path.write_bytes(bytes(size))
    os.utime(path, (used, used))
    return path


@pytest.fixture
def limit(monkeypatch):
    def to(size):
        monkeypatch.setenv(cache.LIMIT_VARIABLE, str(size / 2**30))

    to(10 * KIB)
    return to


def left(folder):
    return sorted(path.name.partition("-")[2][0] for path in folder.iterdir())


def test_the_least_recently_used_goes_first(cache_folder, limit):
    for used, letter in enumerate("dcba"):
        write(
            cache_folder, letter, 3 * KIB, 1000 + used, "statistics" if letter == "c" else "images"
        )
    cache.make_room(cache_folder, 0)
    assert left(cache_folder) == ["a", "b", "c"]
    cache.touch(cache_folder / name("c", "statistics"))
    cache.make_room(cache_folder, 4 * KIB)
    assert left(cache_folder) == ["a", "c"]
    with cache.replacing(cache_folder / name("e"), 9 * KIB) as path:
        path.write_bytes(bytes(9 * KIB))
    assert left(cache_folder) == ["e"]
    with pytest.raises(OSError, match=cache.LIMIT_VARIABLE):
        cache.make_room(cache_folder, 11 * KIB)
    assert left(cache_folder) == ["e"]


def test_files_of_others_are_neither_counted_nor_deleted(cache_folder, limit):
    (cache_folder / "thesis.tex").write_bytes(bytes(100 * KIB))
    (cache_folder / "images-mine.npy").write_bytes(bytes(100 * KIB))
    (cache_folder / "images").mkdir()
    write(cache_folder, "a", 9 * KIB, 1000)
    cache.make_room(cache_folder, KIB)
    assert len(list(cache_folder.iterdir())) == 4
    cache.make_room(cache_folder, 2 * KIB)
    assert sorted(p.name for p in cache_folder.iterdir()) == [
        "images",
        "images-mine.npy",
        "thesis.tex",
    ]


def test_what_is_being_written_counts_and_what_was_left_goes(cache_folder, limit):
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    host, kept = socket.gethostname(), write(cache_folder, "a", 3 * KIB, 1000)
    written = {
        cache_folder / f".{host}-{os.getpid()}.7-{name('b')}": True,
        cache_folder / f".another-host-1-{name('c')}": True,
        cache_folder / f".{host}-{process.pid}.7-{name('d')}": False,
        cache_folder / f".{host}-{process.pid}-{name('e')}": False,
        cache_folder / f".another-host-2.3-{name('f')}": False,
    }
    for path in written:
        path.write_bytes(bytes(3 * KIB))
    os.utime(path, (time.time() - 10**6,) * 2)
    cache.make_room(cache_folder, KIB)
    assert {path: path.exists() for path in written} == written and kept.exists()
    cache.make_room(cache_folder, 2 * KIB)
    assert not kept.exists() and {path: path.exists() for path in written} == written


def images(letter, reads=None):
    """Four images of 16x16, of one gray level: 3 KiB when decoded."""

    def read(i):
        if reads is not None:
            reads.append(i)
        return None, np.full((16, 16, 3), ord(letter), np.uint8)

    return ImageFiles(read, 4, 16, threads=1, identity=letter)


def test_decoded_images_stay_within_the_bound(cache_folder, limit):
    used = {}
    for letter in "abcab":
        used[letter] = images(letter)
        assert (used[letter][np.arange(4)] == ord(letter)).all()
        assert sum(path.stat().st_size for path in cache_folder.iterdir()) <= 10 * KIB
        time.sleep(0.02)
    images("d")[np.arange(1)]  # takes the place of c, which was not used for the longest time
    reads = []
    for letter in "abd":
        images(letter, reads)[np.arange(1)]
    assert not reads
    images("c", reads)[np.arange(1)]
    assert sorted(reads) == [0, 1, 2, 3]
    # What is mapped stays readable when its file is gone.
    assert all((found[np.arange(4)] == ord(letter)).all() for letter, found in used.items())


def test_a_set_counts_whole_while_it_is_decoded(cache_folder, limit):
    seen = []

    def read(i):
        seen.append(sum(path.stat().st_size for path in cache_folder.iterdir()))
        return None, np.zeros((16, 16, 3), np.uint8)

    ImageFiles(read, 4, 16, threads=1, identity="a")[np.arange(1)]
    assert len(seen) == 4 and min(seen) > 3 * KIB


def test_a_bound_below_one_set_keeps_nothing(cache_folder, limit, caplog):
    for size in (KIB, 0):
        limit(size)
        assert (images("a")[np.arange(4)] == ord("a")).all()
        assert not list(cache_folder.iterdir())
    assert len(caplog.records) == 1 and cache.LIMIT_VARIABLE in caplog.text


@pytest.mark.parametrize("text", ["much", "-1", "nan", "1GiB"])
def test_a_bound_that_is_no_number_is_refused(monkeypatch, text):
    monkeypatch.setenv(cache.LIMIT_VARIABLE, text)
    with pytest.raises(ConfigError, match=f"ALEXNET_JAX_CACHE_GIB={text} is not a number of GiB"):
        cache.limit_bytes()
    for given, size in (("", 32 * 2**30), ("0.5", 2**29), ("0", 0), ("inf", sys.maxsize)):
        monkeypatch.setenv(cache.LIMIT_VARIABLE, given)
        assert cache.limit_bytes() == size


def test_several_processes_keep_the_bound_together(cache_folder, limit):
    program = (
        "import sys; import numpy as np; from alexnet_jax.data.pipeline.image_files import ImageFiles;"
        "read = lambda n: lambda i: (None, np.full((16, 16, 3), n, np.uint8));"
        "make = lambda n: ImageFiles(read(n), 4, 16, threads=1, identity=str(n));"
        "wrong = [n for k in range(30) for n in [k % 7] if (make(n)[np.arange(4)] != n).any()];"
        "sys.exit(len(wrong))"
    )
    started = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(2)]
    assert [process.wait() for process in started] == [0, 0]
    kept = list(cache_folder.iterdir())
    assert kept and sum(path.stat().st_size for path in kept) <= 10 * KIB
