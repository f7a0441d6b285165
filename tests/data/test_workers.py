"""Processes that decode images: the same bytes, and nothing left behind however a program ends."""

import functools
import gc
import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet_jax.cli import environment
from alexnet_jax.data.pipeline import image_files, images, workers
from alexnet_jax.data.pipeline.image_files import ImageFiles, UnreadableImages
from alexnet_jax.data.sources import store
from alexnet_jax.errors import DataError, OutOfMemoryError

COUNT, SIZE = 24, 16
SECONDS = 60.0


@pytest.fixture(autouse=True)
def few_are_enough(monkeypatch):
    monkeypatch.setattr(image_files, "FEWEST_FOR_PROCESSES", 1)


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder, generator = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    made = []
    for i in range(COUNT):
        height = (20, 12, SIZE)[i % 3]  # reduced, enlarged, or kept
        pixels = generator.integers(0, 256, (height, 30, 3), dtype=np.uint8)
        made.append(folder / f"{i:02}.{'png' if i % 4 else 'jpg'}")
        Image.fromarray(pixels).save(made[-1])
    made[7].write_bytes(made[7].read_bytes()[:100])
    made[9].write_bytes(b"junk")
    return made


def opened(read, processes, count=COUNT):
    """Images whose processes, if any, are ready."""
    found = ImageFiles(read, count, SIZE, threads=2, identity=None, processes=processes)
    found[np.array([], int)]
    if processes:
        wait_for(lambda: all_ready(found._pool))
    return found


def all_ready(pool):
    if (worker := pool._ready()) is not None:
        pool._idle.put(worker)
    return not pool._starting


def wait_for(condition):
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(scope="module")
def pool():
    """Two processes, kept by this fixture between the tests."""
    found = workers.shared(2)
    wait_for(lambda: all_ready(found))
    return found


@pytest.mark.fault("D1")
def test_neither_bytes_nor_faults_depend_on_the_number_of_processes(paths, pool, monkeypatch):
    order = np.random.default_rng(1).permutation(COUNT)
    results = {}
    for processes in (0, 1, 2):
        found = opened(lambda i: (None, paths[i]), processes)
        with monkeypatch.context() as patch:
            if processes:  # nothing is decoded here
                patch.setattr(images, "decode_all", None)
            with pytest.raises(UnreadableImages) as caught:
                found[order]
            kept = np.delete(order, [list(order).index(i) for i in (7, 9)])
            results[processes] = (found[kept].tobytes(), str(caught.value), found.check())
    assert results[0] == results[1] == results[2]
    assert "07.png" in results[0][1] and "09.png is not an image" in results[0][1]


def test_the_parts_of_a_large_array_are_put_together(paths, pool, monkeypatch):
    kept = [path for path in paths if path.name[:2] not in ("07", "09")]
    found = opened(lambda i: (None, kept[i]), 2, len(kept))
    expected = found[np.arange(len(kept))]
    monkeypatch.setattr(image_files, "PART_BYTES", 5 * SIZE * SIZE * 3)
    assert np.array_equal(found[np.arange(len(kept))], expected)


def test_bytes_and_records_are_decoded_by_processes_too(paths, pool, tmp_path):
    module = pytest.importorskip("array_record.python.array_record_module")
    content = [path.read_bytes() for path in paths if path.suffix == ".jpg"]
    writer = module.ArrayRecordWriter(str(tmp_path / "shard"), "group_size:1,uncompressed")
    for one in content:
        writer.write(one)
    writer.close()
    records = store.JpegShards([tmp_path / "shard"], [len(content)])
    sources = [lambda i: content[i], functools.partial(store.Record, records)]
    expected = np.stack([images.decode(one, SIZE) for one in content])
    for source in sources:
        found = opened(lambda i, source=source: (f"image {i}", source(i)), 2, len(content))
        assert np.array_equal(found[np.arange(len(content))], expected)
    (tmp_path / "shard").write_bytes(b"")
    again = functools.partial(store.Record, store.JpegShards([tmp_path / "shard"], [1]))
    lines = []
    for processes in (0, 2):
        with pytest.raises(DataError) as caught:
            opened(lambda i: ("it", again(i)), processes, 1)[np.arange(1)]
        lines.append(str(caught.value))
    assert lines[0] == lines[1]


def test_arrays_stay_as_they_are_until_they_are_deleted(paths, pool):
    found = opened(lambda i: (None, paths[i]), 2)
    first = found[np.arange(3)]
    view, before = first[1:], first.copy()
    del first
    others = [found[np.arange(3, 6)] for _ in range(3)]
    assert np.array_equal(view, before[1:])
    del view, others
    gc.collect()
    size = pool._memory._size
    for _ in range(5):
        found[np.arange(3)]
    assert pool._memory._size == size


def test_signals_to_the_whole_group_do_not_end_processes(paths, pool):
    held = [pool._idle.get() for _ in range(2)]
    for worker, number in itertools.product(held, workers._SIGNALS):
        worker.process.send_signal(number)
    for worker in held:
        pool._idle.put(worker)
    assert opened(lambda i: (None, paths[i]), 2)[np.arange(6)].any()
    assert [worker.process.poll() for worker in held] == [None, None]


@pytest.mark.fault("F34")
@pytest.mark.parametrize(
    "end, kind, words",
    [
        (functools.partial(signal.raise_signal, signal.SIGKILL), OutOfMemoryError, "workers=N"),
        (functools.partial(os._exit, 3), DataError, "exit code 3 at one of 1 images, photo to"),
    ],
)
def test_a_process_that_dies_is_one_line(end, kind, words):
    found = opened(lambda i: ("photo", end), 1, 1)
    with pytest.raises(kind, match=words) as caught:
        found[np.arange(1)]
    assert caught.value.exit_code == (7 if kind is OutOfMemoryError else 3)


def test_other_errors_are_raised_where_the_image_is_needed():
    found = opened(lambda i: ("it", functools.partial(int, "x")), 1, 1)
    with pytest.raises(ValueError, match="invalid literal"):
        found[np.arange(1)]
    assert all_ready(found._pool) and found._pool._idle.qsize() == 1


@pytest.mark.parametrize("program", ["/bin/false", "/no/such/program"])
def test_threads_decode_where_processes_do_not_start(paths, program, monkeypatch, caplog):
    monkeypatch.setattr(workers.sys, "executable", program)
    found = ImageFiles(lambda i: (None, paths[i]), 7, SIZE, threads=1, identity=None, processes=3)
    expected = np.stack([images.decode(path, SIZE) for path in paths[:7]])
    assert np.array_equal(found[np.arange(7)], expected)
    wait_for(lambda: all_ready(found._pool))
    assert np.array_equal(found[np.arange(7)], expected)
    assert "processes that decode images" in caplog.text or "does not start" in caplog.text


def test_processes_leave_room_for_open_files(monkeypatch, caplog):
    monkeypatch.setattr(workers.resource, "getrlimit", lambda kind: (8, 8))
    monkeypatch.setattr(workers, "Workers", lambda count: {count})
    monkeypatch.setattr(workers, "_shared", {})
    assert workers.shared(100) == {2} and workers.shared(1) == {1}
    assert "2 instead of 100 processes decode images" in caplog.text


def test_small_sets_start_no_processes(paths, monkeypatch):
    monkeypatch.setattr(image_files, "FEWEST_FOR_PROCESSES", COUNT + 1)
    monkeypatch.setattr(workers, "shared", None)
    found = ImageFiles(
        lambda i: (None, paths[i]), COUNT, SIZE, threads=1, identity=None, processes=2
    )
    assert found[np.arange(3)].any()


PROGRAM = """
import os, signal, sys, time
import numpy as np
from alexnet_jax.data.pipeline import image_files
image_files.FEWEST_FOR_PROCESSES = 1
found = image_files.ImageFiles(
    lambda i: (None, sys.argv[1]), 8, 16, threads=1, identity=None, processes=2)
found[np.arange(8)]
print(*[worker.process.pid for worker in found._pool._starting], flush=True)
while found._pool._starting:
    if (worker := found._pool._ready()) is not None:
        found._pool._idle.put(worker)
    time.sleep(0.02)
found[np.arange(8)]
exec(sys.argv[2])
"""


@pytest.mark.fault("F34")
@pytest.mark.parametrize("end", ["pass", "1 / 0", "os._exit(5)", "os.kill(os.getpid(), 9)"])
def test_no_process_and_no_memory_is_left(paths, end):
    shared = set(os.listdir("/dev/shm"))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(paths[0]), end], capture_output=True, text=True
    )
    assert done.returncode == {"pass": 0, "1 / 0": 1, "os._exit(5)": 5}.get(end, -9), done.stderr
    pids = done.stdout.split()
    assert 0 < len(pids) <= 2
    wait_for(lambda: not any(is_alive(pid) for pid in pids))
    assert not [name for name in set(os.listdir("/dev/shm")) - shared if "alexnet" in name]


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_processes_import_no_jax():
    code = (
        "import sys; from alexnet_jax.data.pipeline import images, workers; "
        "from alexnet_jax.data.sources import store; images.load_libraries(); "
        "images._rounds_products(); "  # imports SciPy, as an image to reduce does
        "print(sorted({'jax', 'flax', 'matplotlib', 'tensorflow', 'ml_collections'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "found, expected",
    [
        ({}, 8),
        ({"cpu.max": "max 100000"}, 8),
        ({"cpu.max": "250000 100000"}, 3),
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4),
    ],
)
def test_cores_are_those_that_a_container_may_use(found, expected, tmp_path, monkeypatch):
    for name, text in found.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(environment, "_CONTROL_GROUP", tmp_path)
    monkeypatch.setattr(environment.os, "sched_getaffinity", lambda _: set(range(8)))
    assert environment.cores() == expected
    assert workers.default() == (expected if expected > 1 else 0)
