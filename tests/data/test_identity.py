"""Data are known by their content: nothing of other images is ever taken for that of these."""

import json
import os
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from alexnet_jax.data import sources
from alexnet_jax.data.pipeline import cache, digests, identity, statistics
from alexnet_jax.data.prepare import command as prepare
from alexnet_jax.data.sources import cifar10, store_format
from alexnet_jax.errors import ConfigError, DataError

OLD = (1e9, 1e9)
"""Times as reproducible archives and layers of containers have them."""
COUNTS = {"train": 6, "test": 2}


def draw(seed, low, high, count):
    shape = (count, 32, 32, 3)
    return np.random.default_rng(seed).integers(low, high, shape, dtype=np.uint8)


def write_folder(root, low, high, seed=0):
    """Bitmaps of equal names, sizes and times, whatever their pixels are."""
    for split, count in COUNTS.items():
        for kind in ("ant", "bee"):
            (root / split / kind).mkdir(parents=True, exist_ok=True)
            for i, pixels in enumerate(draw((seed, len(split), ord(kind[0])), low, high, count)):
                path = root / split / kind / f"{i}.bmp"
                Image.fromarray(pixels).save(path)
                os.utime(path, OLD)
    return root


def write_npz(path, low, high):
    arrays = {}
    for split, count in COUNTS.items():
        arrays |= {f"{split}_images": draw(1, low, high, count)}
        arrays |= {f"{split}_labels": np.arange(count) % 2}
    np.savez(path, **arrays)
    os.utime(path, OLD)
    return path


def write_cifar(root, low, high):
    root.mkdir(exist_ok=True)
    for i, name in enumerate(name for names in cifar10.FILES.values() for name in names):
        records = np.empty((10, cifar10.RECORD), np.uint8)
        records[:, 0] = np.arange(10)
        records[:, 1:] = draw(i, low, high, 10).reshape(10, -1)
        (root / name).write_bytes(records.tobytes())
        os.utime(root / name, OLD)
    return root


@pytest.fixture(params=["read anew", "remembered"])
def memo(request, monkeypatch):
    """Files are as a rule not remembered in the first two seconds after a change."""
    if request.param == "remembered":
        monkeypatch.setattr(digests, "_SETTLED_NS", -(10**18))
    return request.param


def settle():
    """Until a change of a file gets another time than the last one had."""
    time.sleep(0.02)


def look(spec):
    """What a run takes of the data: fingerprint, pixels, statistics."""
    dataset = sources.open_dataset(spec, 0)
    found = {}
    for name, split in dataset.splits.items():
        assert split.digests.dtype == np.uint64 and len(split.digests) == len(split.labels)
        found[name] = split.images[np.arange(len(split.labels))]
    return dataset.fingerprint, found, statistics.load(dataset)


@pytest.mark.parametrize("write", [write_folder, write_npz, write_cifar])
@pytest.mark.parametrize("times", ["equal", "other"])
def test_two_sets_of_equal_names_and_sizes_share_nothing(tmp_path, data_spec, write, times):
    name = {write_folder: "folder", write_npz: "arrays", write_cifar: "cifar10"}[write]
    dark, bright = (
        write(tmp_path / f"{low}.npz", low, high) for low, high in ((0, 61), (190, 256))
    )
    if times == "other":
        for path in [bright, *bright.rglob("*.*")]:
            os.utime(path)
    first, second = (look(data_spec(name, path, image_size=32)) for path in (dark, bright))
    assert first[0] != second[0]
    for split in first[1]:
        assert first[1][split].max() < 61 and second[1][split].min() >= 190
    assert first[2].mean_image.max() < 61 and second[2].mean_image.min() >= 190
    centered = second[1]["train"] - second[2].mean_image
    assert np.sqrt((centered**2).mean()) / 58 < 0.5  # 3 with the mean image of the others


@pytest.mark.parametrize("write", [write_folder, write_npz, write_cifar])
def test_a_set_that_is_replaced_in_its_place_is_another_one(tmp_path, data_spec, write, memo):
    name = {write_folder: "folder", write_npz: "arrays", write_cifar: "cifar10"}[write]
    path = write(tmp_path / "set.npz", 0, 61)
    spec = data_spec(name, path, image_size=32)
    first = look(spec)
    settle()
    write(path, 190, 256)
    second = look(spec)
    assert first[0] != second[0] and second[2].mean_image.min() >= 190
    assert all(pixels.min() >= 190 for pixels in second[1].values())
    settle()
    write(path, 0, 61)
    assert look(spec)[0] == first[0]


def replace_in_place(path, change):
    """With the inode, size and modification time that the file has."""
    before = path.stat()
    content = bytearray(path.read_bytes())
    change(content)
    with open(path, "r+b") as file:
        file.write(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_ino, after.st_size, after.st_mtime_ns) == (
        before.st_ino, before.st_size, before.st_mtime_ns,
    )  # fmt: skip


def flip_last_bit(content):
    content[-1] ^= 1


def swap(one, other):
    spare = one.with_name("spare")
    one.rename(spare)
    other.rename(one)
    spare.rename(other)


def relink(root):
    path = root / "train" / "ant" / "0.bmp"
    os.link(path, root.parent / "link")
    path.unlink()
    os.link(root.parent / "link", path)


def moved(root, copy=shutil.copytree):
    return copy(root, root.parent / "copied")


def linked(root):
    (root.parent / "linked").symlink_to(root, target_is_directory=True)
    return root.parent / "linked"


def replace_by_rename(root):
    Image.fromarray(draw(9, 0, 61, 1)[0]).save(root / "new.bmp")
    os.utime(root / "new.bmp", OLD)
    (root / "new.bmp").rename(root / "train/ant/0.bmp")


def write_by_link(root):
    relink(root)
    replace_in_place(root.parent / "link", flip_last_bit)


def file_links(root):
    for path in sorted(root.rglob("*.bmp")):
        target = root.parent / f"{hash(path)}.bin"
        path.rename(target)
        path.symlink_to(target)


SAME = {
    "nothing": lambda root: None,
    "touched": lambda root: [os.utime(p) for p in root.rglob("*.bmp")],
    "times in the future": lambda root: [os.utime(p, (4e9, 4e9)) for p in root.rglob("*.bmp")],
    "other permissions": lambda root: [p.chmod(0o600) for p in root.rglob("*.bmp")],
    "hard links": relink,
    "copied to another folder": moved,
    "a symbolic link to the folder": linked,
    "symbolic links to the files": file_links,
    "renamed in the same order": lambda root: (root / "train/ant/0.bmp").rename(root / "train/ant/00.bmp"),
    "written again": lambda root: write_folder(root, 0, 61) and None,
    "a hidden file more": lambda root: (root / "train/ant/.x.bmp").write_bytes(b""),
}  # fmt: skip
OTHER = {
    "one bit of one file": lambda root: replace_in_place(root / "train/ant/3.bmp", flip_last_bit),
    "one bit of a test image": lambda root: replace_in_place(root / "test/bee/1.bmp", flip_last_bit),
    "two files swapped": lambda root: swap(root / "train/ant/0.bmp", root / "train/ant/1.bmp"),
    "two files swapped between classes": lambda root: swap(root / "train/ant/0.bmp", root / "train/bee/0.bmp"),
    "two files swapped between splits": lambda root: swap(root / "train/ant/0.bmp", root / "test/ant/0.bmp"),
    "a file moved to another class": lambda root: (root / "train/ant/0.bmp").rename(root / "train/bee/9.bmp"),
    "a class renamed": lambda root: [(root / s / "bee").rename(root / s / "cat") for s in COUNTS] and None,
    "an image twice": lambda root: shutil.copy(root / "train/ant/0.bmp", root / "train/ant/00.bmp") and None,
    "an image gone": lambda root: (root / "train/ant/5.bmp").unlink(),
    "renamed to another place": lambda root: (root / "train/ant/0.bmp").rename(root / "train/ant/9.bmp"),
    "replaced by rename": replace_by_rename,
    "written by its other hard link": write_by_link,
}  # fmt: skip


@pytest.mark.parametrize("case", [*SAME, *OTHER])
def test_what_is_a_change_and_what_is_not(tmp_path, data_spec, memo, cache_folder, case):
    root = write_folder(tmp_path / "set", 0, 61)
    before = look(data_spec("folder", root, image_size=32))
    kept = {path.name for path in cache_folder.glob("[!d]*")}
    settle()
    result = (SAME | OTHER)[case](root)
    now = result if case in ("copied to another folder", "a symbolic link to the folder") else root
    after = look(data_spec("folder", now, image_size=32))
    assert (after[0] == before[0]) == (case in SAME)
    for split in after[1]:
        paths = sorted((now / split).rglob("[!.]*.bmp"))
        assert np.array_equal(after[1][split], [np.asarray(Image.open(path)) for path in paths])
    if case in SAME:  # the images are not decoded again, wherever they are
        assert {path.name for path in cache_folder.glob("[!d]*")} == kept


def test_a_clock_that_goes_back_hides_no_change(tmp_path, data_spec, memo, monkeypatch):
    root, real = write_folder(tmp_path / "set", 0, 61), time.time_ns
    spec = data_spec("folder", root, image_size=32)
    before = look(spec)[0]
    monkeypatch.setattr(digests.time, "time_ns", lambda: real() - 10**15)
    assert look(spec)[0] == before
    settle()
    replace_in_place(root / "train" / "ant" / "0.bmp", flip_last_bit)
    assert look(spec)[0] != before


def test_all_that_training_sees_is_in_the_fingerprint(tmp_path, data_spec):
    root = write_folder(tmp_path / "set", 0, 61)
    base = data_spec("folder", root, image_size=32)

    def fingerprint(seed=0, **changes):
        spec = data_spec("folder", root, **{"image_size": 32, **changes})
        return sources.open_dataset(spec, seed).fingerprint

    first = sources.open_dataset(base, 0).fingerprint
    assert first.startswith(identity.PREFIX) and len(first) < 256  # what processes can compare
    assert fingerprint(seed=1) == first == fingerprint(threads=1)
    others = [fingerprint(image_size=16), fingerprint(validation=0.5), fingerprint(1, validation=0.5),
              fingerprint(classes=("bee", "ant")), fingerprint(exif="apply")]  # fmt: skip
    assert len({first, *others}) == 6
    write_npz(tmp_path / "a.npz", 0, 61)
    arrays = dict(np.load(tmp_path / "a.npz"))
    spec = data_spec("arrays", tmp_path / "a.npz", image_size=32)
    before = sources.open_dataset(spec, 0)
    arrays["train_labels"][0] = 1
    np.savez(tmp_path / "a.npz", **arrays)
    after = sources.open_dataset(spec, 0)
    assert after.fingerprint != before.fingerprint
    assert np.array_equal(after.splits["train"].digests, before.splits["train"].digests)


def test_digests_follow_their_images(tmp_path, data_spec):
    root = write_folder(tmp_path / "set", 0, 61)
    whole = sources.open_dataset(data_spec("folder", root, image_size=32), 0).splits["train"]
    pixels = {
        digest: whole.images[np.array([i])].tobytes()
        for i, digest in enumerate(whole.digests.tolist())
    }
    assert len(pixels) == 12
    for changes in ({"validation": 0.5}, {"classes": ("bee", "ant")}):
        spec = data_spec("folder", root, image_size=32, **changes)
        for split in sources.open_dataset(spec, 0).splits.values():
            for i, digest in enumerate(split.digests.tolist()):
                assert pixels.get(digest, b"") in (b"", split.images[np.array([i])].tobytes())
    rows = np.zeros((2, 4, 3), np.uint8)
    assert digests.of_rows(rows)[0] == digests.of_rows(rows)[1]
    assert digests.of_rows(rows)[0] != digests.of_rows(rows.reshape(2, 3, 4))[0]
    assert len(set(digests.of_records([1, 1, 2], [3, 1, 2]).tolist())) == 5


@pytest.fixture
def counted(monkeypatch):
    """The files that were read whole."""
    read, plain = [], digests._digest_of_file
    monkeypatch.setattr(digests, "_digest_of_file", lambda path: read.append(path) or plain(path))
    return read


@pytest.mark.parametrize("memo", ["remembered"], indirect=True)
def test_files_are_read_once(tmp_path, memo, counted, cache_folder, monkeypatch):
    root = write_folder(tmp_path / "set", 0, 61)
    names = [str(path.relative_to(root)) for path in sorted(root.rglob("*.bmp"))]
    first = digests.of_files(root, names, 2)
    assert len(counted) == len(names) == 16
    assert np.array_equal(digests.of_files(root, names, 2).digests, first.digests)
    assert np.array_equal(digests.of_files(linked(root), names[:5], 2).digests, first.digests[:5])
    assert len(counted) == 16
    settle()
    os.utime(root / names[3])
    assert np.array_equal(digests.of_files(root, names).digests, first.digests)
    assert len(counted) == 17
    (path,) = cache_folder.glob("digests-*")
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    for damaged in (b"", b"junk", whole[:-50], whole[: len(whole) // 2], bytes(flipped)):
        path.write_bytes(damaged)
        assert np.array_equal(digests.of_files(root, names).digests, first.digests)
    assert len(counted) == 17 + 5 * 16
    np.savez(path, keys=np.zeros(3), digests=np.zeros(3))
    assert np.array_equal(digests.of_files(root, names).digests, first.digests)
    monkeypatch.setattr(digests, "_SETTLED_NS", 2 * 10**9)
    path.unlink()
    digests.of_files(root, names)
    assert not path.exists()  # written less than two seconds ago: they may change within one tick


def test_several_processes_remember_at_once(tmp_path, cache_folder):
    root = write_folder(tmp_path / "set", 0, 61)
    program = (
        "import sys; from alexnet_jax.data.pipeline import digests; digests._SETTLED_NS = -10**18;"
        "names = sys.argv[2:];"
        "print([digests.of_files(sys.argv[1], names, 2).digests.tolist() for _ in range(30)][-1])"
    )
    names = [str(path.relative_to(root)) for path in sorted(root.rglob("*.bmp"))]
    command = [sys.executable, "-c", program, str(root), *names]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate()[0] for process in started]
    assert set(said) == {f"{digests.of_files(root, names).digests.tolist()}\n"}
    assert [path.name[:8] for path in cache_folder.iterdir()] == ["digests-"]


def test_a_cache_folder_that_cannot_be_written_costs_one_warning(
    tmp_path, data_spec, monkeypatch, caplog, memo
):
    (tmp_path / "a file").write_text("")
    monkeypatch.setenv("ALEXNET_JAX_CACHE", str(tmp_path / "a file" / "cache"))
    root = write_folder(tmp_path / "set", 0, 61)
    spec = data_spec("folder", root, image_size=32)
    first = look(spec)
    replace_in_place(root / "train" / "ant" / "0.bmp", flip_last_bit)
    assert look(spec)[0] != first[0]
    assert len(caplog.records) == 1


def test_what_is_no_file_is_named(tmp_path):
    os.mkfifo(tmp_path / "x.bmp")
    with pytest.raises(DataError, match=r"x\.bmp is not a regular file"):
        digests.of_files(tmp_path, ["x.bmp"])


def test_an_image_that_changes_before_it_is_decoded_is_not_kept_for_another(
    tmp_path, data_spec, memo, cache_folder
):
    root = write_folder(tmp_path / "set", 0, 61)
    spec = data_spec("folder", root, image_size=32)
    dataset = sources.open_dataset(spec, 0)
    settle()
    os.utime(root / "train" / "bee" / "1.bmp")
    replace_in_place(root / "train" / "ant" / "1.bmp", flip_last_bit)
    with pytest.raises(DataError, match=r"ant/1\.bmp was changed while it was read"):
        dataset.splits["train"].images[np.arange(1)]
    assert not list(cache_folder.glob("images-*"))
    assert look(spec)[0] != dataset.fingerprint


@pytest.fixture
def small(monkeypatch):
    """Sets of more than 10 kB are large."""
    monkeypatch.setattr(digests, "WHOLE_BYTES", 10_000)
    monkeypatch.setattr(digests, "_SAMPLED_FILES", 4)
    monkeypatch.setattr(digests, "_BLOCKS", 8)
    monkeypatch.setattr(digests, "_BLOCK_BYTES", 64)


def test_large_sets_are_known_by_names_sizes_and_a_sample(tmp_path, data_spec, small, counted):
    root = write_folder(tmp_path / "set", 0, 61)
    spec = data_spec("folder", root, image_size=32)
    dataset = sources.open_dataset(spec, 0)
    assert not counted and dataset.times
    copy = sources.open_dataset(data_spec("folder", moved(root), image_size=32), 0)
    assert copy.fingerprint == dataset.fingerprint and copy.times != dataset.times
    look(spec)
    settle()
    middle = 1000

    def one_in_the_middle(content):
        content[middle] ^= 64

    for path in sorted((root / "train").rglob("*.bmp")):
        replace_in_place(path, one_in_the_middle)
    fingerprint, pixels, found = look(spec)
    assert fingerprint == dataset.fingerprint  # what a sample cannot see
    paths = sorted((root / "train").rglob("*.bmp"))  # but no file of the cache is taken for it
    assert np.array_equal(pixels["train"], [np.asarray(Image.open(path)) for path in paths])
    assert np.allclose(found.mean_image, pixels["train"].mean(0), atol=1e-4)
    (root / "train" / "ant" / "0.bmp").rename(root / "train" / "ant" / "00.bmp")
    renamed = sources.open_dataset(spec, 0)
    assert (renamed.splits["train"].digests != dataset.splits["train"].digests).sum() == 1
    (root / "train" / "ant" / "6.bmp").write_bytes((root / "train/ant/1.bmp").read_bytes())
    more = sources.open_dataset(spec, 0)
    assert identity._common(more.splits["train"].digests, renamed.splits["train"].digests) == 12
    shutil.rmtree(root)
    write_folder(root, 190, 256)
    assert sources.open_dataset(spec, 0).fingerprint != dataset.fingerprint


def stored(source, out, kind):
    for path in source.rglob("*.bmp"):
        Image.open(path).save(path.with_suffix(".png"))
        path.unlink()
    arguments = ["--from", source, "--out", out, "--size", "32", "--jobs", "1", "--format", kind]
    assert prepare.main(list(map(str, arguments))) == 0
    return out


@pytest.mark.parametrize("kind", ["jpeg", "raw"])
@pytest.mark.parametrize("large", [False, True])
def test_a_file_of_a_store_that_is_another_one_is_refused(
    tmp_path, data_spec, monkeypatch, kind, large, memo
):
    if large:
        monkeypatch.setattr(digests, "WHOLE_BYTES", 1000)
    pytest.importorskip("array_record")
    out = stored(write_folder(tmp_path / "set", 0, 61), tmp_path / "store", kind)
    spec = data_spec("store", out, image_size=32)
    first = look(spec)
    copy = data_spec("store", shutil.copytree(out, tmp_path / "copy"), image_size=32)
    assert look(copy)[0] == first[0] == look(spec)[0]
    shard = out / f"train-00000{store_format.SUFFIXES[kind]}"
    for name in (shard.name, "train-labels.npy", "statistics.npz"):
        whole = (out / name).read_bytes()
        settle()
        replace_in_place(out / name, lambda content: content.__setitem__(-4, content[-4] ^ 1))
        with pytest.raises(DataError) as caught:
            look(spec)
        assert name in str(caught.value) and "copy it again" in str(caught.value)
        settle()
        (out / name).write_bytes(whole)
        assert look(spec)[0] == first[0]


def test_a_large_store_of_an_earlier_version_is_known_by_a_sample(tmp_path, data_spec, monkeypatch):
    monkeypatch.setattr(digests, "WHOLE_BYTES", 1000)
    out = stored(write_folder(tmp_path / "set", 0, 61), tmp_path / "store", "raw")
    index = json.loads((out / "index.json").read_text())
    spec = data_spec("store", out, image_size=32)
    dataset = sources.open_dataset(spec, 0)
    first = dataset.fingerprint
    assert len({*dataset.splits["train"].digests, *dataset.splits["test"].digests}) == 16
    for file in index["files"].values():
        file.pop("sample", None)
    (out / "index.json").write_text(json.dumps(index))
    assert sources.open_dataset(spec, 0).fingerprint == first
    replace_in_place(out / "train-00000.npy", flip_last_bit)
    assert sources.open_dataset(spec, 0).fingerprint != first


def test_the_images_of_a_small_store_have_digests_of_their_own(tmp_path, data_spec):
    pytest.importorskip("array_record")
    for kind in ("jpeg", "raw"):
        found = []
        for number in range(2):
            source = write_folder(tmp_path / f"{kind} of {number}", 0, 61)
            if number:
                Image.fromarray(draw(7, 0, 61, 1)[0]).save(source / "train/ant/2.bmp")
            out = stored(source, tmp_path / f"{kind}{number}", kind)
            found.append(sources.open_dataset(data_spec("store", out, image_size=32), 0))
        differ = found[0].splits["train"].digests != found[1].splits["train"].digests
        assert differ.sum() == 1


def resumed(folder, begun, dataset):
    """What is said when the run that `begun` began is continued with `dataset`."""
    (folder / identity.RECORD).write_bytes(identity.record(begun))
    try:
        return identity.compare(folder, begun.fingerprint, dataset) or ""
    except ConfigError as error:
        assert "\n" not in str(error) and str(error).endswith("; choose another --workdir")
        return (
            str(error)
            .removeprefix(f"the images changed since {folder} was started")
            .removesuffix("; choose another --workdir")
        )


def test_a_resume_says_what_changed(tmp_path, data_spec):
    root = write_folder(tmp_path / "set", 0, 61)

    def opened(seed=0, **changes):
        spec = data_spec("folder", root, **{"image_size": 32, **changes})
        return sources.open_dataset(spec, seed)

    begun = opened()
    assert resumed(tmp_path, begun, opened()) == ""
    swap(root / "train/ant/0.bmp", root / "train/ant/1.bmp")
    assert resumed(tmp_path, begun, opened()) == ": the same images, in a different order or size"
    swap(root / "train/ant/0.bmp", root / "train/bee/1.bmp")
    labels = ": 2 of 12 training images (16.7 %) have different labels"
    assert resumed(tmp_path, begun, opened()) == labels
    for i in range(3):
        replace_in_place(root / f"train/ant/{i}.bmp", flip_last_bit)
    three = "3 of 12 training images (25 %) were replaced"
    assert resumed(tmp_path, begun, opened()) == f": {three}"
    for i in range(2):
        Image.fromarray(draw(10 + i, 0, 61, 1)[0]).save(root / f"train/bee/9{i}.bmp")
    (root / "test/ant/0.bmp").unlink()
    more = f": {three}, 2 training images were added, 1 of 4 test images (25 %) were removed"
    assert resumed(tmp_path, begun, opened()) == more
    shutil.copy(root / "train/bee/3.bmp", root / "train/bee/4.bmp")  # twice, and one is gone
    assert resumed(tmp_path, begun, opened()).startswith(": 4 of 12 training images (33.3 %)")
    assert "were added" in resumed(tmp_path, opened(), opened(validation=0.5))
    other = opened()
    assert "but class names or their order differ" in resumed(
        tmp_path, other, opened(classes=("bee", "ant"))
    )
    for split in COUNTS:
        (root / split / "bee").rename(root / split / "cat")
    assert "but class names or their order differ" in resumed(tmp_path, other, opened())


def test_a_resume_without_a_record_is_refused_all_the_same(tmp_path, data_spec):
    begun = sources.open_dataset(data_spec("synthetic"), 0)
    other = sources.open_dataset(data_spec("synthetic", validation=0.5), 0)
    path = tmp_path / identity.RECORD
    for content in (None, b"", b"junk", identity.record(begun)[:300], identity.record(other)):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(ConfigError, match="was started; choose another"):
            identity.compare(tmp_path, begun.fingerprint, other)
        assert identity.compare(tmp_path, begun.fingerprint, begun) is None


def test_damage_of_a_record_or_a_memo_is_never_an_error(tmp_path, data_spec, memo, cache_folder):
    root = write_folder(tmp_path / "set", 0, 61)
    names = [str(path.relative_to(root)) for path in sorted(root.rglob("*.bmp"))]
    expected, draw_from = digests.of_files(root, names).digests, np.random.default_rng(0)
    begun = sources.open_dataset(data_spec("synthetic"), 0)
    other = sources.open_dataset(data_spec("synthetic", validation=0.5), 0)
    content = identity.record(begun)
    paths = [path for path in cache_folder.glob("digests-*") if memo == "remembered"]
    kept = {tmp_path / identity.RECORD: content} | {path: path.read_bytes() for path in paths}
    for path, whole in kept.items():
        for _ in range(200):
            damaged = bytearray(whole)
            damaged[draw_from.integers(len(whole))] ^= 1 << draw_from.integers(8)
            path.write_bytes(damaged)
            if path.name == identity.RECORD:
                with pytest.raises(ConfigError, match="the images changed"):
                    identity.compare(tmp_path, begun.fingerprint, other)
            else:
                assert np.array_equal(digests.of_files(root, names).digests, expected)


def test_a_run_of_an_earlier_version_goes_on_and_is_then_held(tmp_path, data_spec):
    old = "0123456789abcdef" * 4
    begun = sources.open_dataset(data_spec("synthetic"), 0)
    other = sources.open_dataset(data_spec("synthetic", validation=0.5), 0)
    assert "earlier version" in (identity.compare(tmp_path, old, begun) or "")
    (tmp_path / identity.RECORD).write_bytes(identity.record(begun))
    assert identity.compare(tmp_path, old, begun) is None
    with pytest.raises(ConfigError, match="the images changed"):
        identity.compare(tmp_path, old, other)


def test_other_times_of_a_large_set_are_said_and_more_stops(tmp_path, data_spec, small):
    root = write_folder(tmp_path / "set", 0, 61)
    spec = data_spec("folder", root, image_size=32)
    begun = sources.open_dataset(spec, 0)
    assert resumed(tmp_path, begun, begun) == ""
    copy = sources.open_dataset(data_spec("folder", moved(root), image_size=32), 0)
    assert "modification times" in resumed(tmp_path, begun, copy)
    (root / "train" / "ant" / "0.bmp").write_bytes(b"")
    said = resumed(tmp_path, begun, sources.open_dataset(spec, 0))
    assert said == ": 1 of 12 training images (8.33 %) were replaced"
    for path in root.rglob("*.bmp"):
        path.write_bytes(path.read_bytes()[:100])
    assert "cannot be counted" in resumed(tmp_path, begun, sources.open_dataset(spec, 0))


def test_cached_names_do_not_depend_on_how_texts_are_joined():
    assert digests.cache_key("a", "b") != digests.cache_key("ab", "") != digests.cache_key("", "ab")
    assert len(digests.cache_key(np.zeros(3, np.uint64))) == 32
    assert cache._CACHED.fullmatch(f"records-{digests.cache_key('x')}.npz")
