"""Files are checked when they are read: JSON against a schema, arrays against names, types and shapes."""

import io
import json
import zipfile

import numpy as np
import pytest

from alexnet_jax import files
from alexnet_jax.errors import DataError, StorageError
from alexnet_jax.files import read_array, read_arrays, read_json
from alexnet_jax.run import schemas

STATUS = {"state": "running", "host": "here", "heartbeat": "2012-09-30T12:00:00Z", "step": 3}
ERRORS = {"count": 4, "top1_error": 0.25, "nll": 1.5}
RESULTS = {
    "step": 6,
    "epoch": 2.0,
    "config": "tiny",
    "seconds": 3.0,
    "splits": {"val": {"center": ERRORS}},
}


def test_what_is_right_is_given_with_keys_that_are_not_known(tmp_path):
    path = tmp_path / "status.json"
    assert read_json(path, schemas.Status) is None
    path.write_text(json.dumps(STATUS | {"of a later version": [1]}))
    assert read_json(path, schemas.Status) == STATUS | {"of a later version": [1]}
    path.write_text(json.dumps(RESULTS).replace("1.5", "NaN"))
    assert np.isnan(read_json(path, schemas.Results)["splits"]["val"]["center"]["nll"])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[]", "it is [], not an object"),
        (b"{}", "it has no heartbeat, host, state"),
        (b"\xff", "it is not UTF-8"),
        (b"{", "Expecting"),
        (b"[" * 100_000, "nested more than 64 levels"),
        (b"[" * 100 + b"]" * 100, "nested more than 64 levels"),
        (b'{"x": ' + b"9" * 400 + b"}", "a number of more than 63 bits"),
        (b'{"x": ' + b"9" * 5000 + b"}", "4300 digits"),
        (b'{"x": "\\ud800"}', "is not Unicode"),
        (json.dumps(STATUS | {"state": "asleep"}), "state is 'asleep', not one of running, finished"),
        (json.dumps(STATUS | {"host": 3}), "host is 3, not a string"),
        (json.dumps(STATUS | {"step": -1}), "step must be at least 0, not -1"),
        (json.dumps(STATUS | {"step": True}), "step is True, not an integer"),
        (json.dumps(STATUS | {"step": 1.5}), "step is 1.5, not an integer"),
        (json.dumps(STATUS | {"slurm": [1]}), "slurm must be 2 values, not [1]"),
        (json.dumps(STATUS | {"heartbeat": "yesterday"}), "heartbeat must be a time such as 2012"),
    ],
)  # fmt: skip
def test_a_file_that_is_not_what_it_should_be_is_one_line(tmp_path, content, said):
    path = tmp_path / "status.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError) as raised:
        read_json(path, schemas.Status, error=DataError, remedy="remove it")
    line = raised.value.line()
    assert f"cannot read {path}: " in line and said in line and line.endswith("; remove it")
    assert "\n" not in line


@pytest.mark.parametrize(
    ("splits", "said"),
    [
        ({"night": {"center": ERRORS}}, "a key of splits is 'night', not one of train, val, test"),
        ({"val": {"../..": ERRORS}}, "a key of splits.val is '../..', not one of center"),
        ({"val": {"center": ERRORS | {"top1_error": 1.5}}}, "splits.val.center.top1_error must be from 0 to 1"),
        ({"val": {"center": {}}}, "splits.val.center has no count, nll, top1_error"),
        ({"val": []}, "splits.val is [], not an object"),
    ],
)  # fmt: skip
def test_faults_are_named_by_their_place(tmp_path, splits, said):
    (tmp_path / "results.json").write_text(json.dumps(RESULTS | {"splits": splits}))
    with pytest.raises(StorageError) as raised:
        read_json(tmp_path / "results.json", schemas.Results)
    assert said in str(raised.value)


def test_a_folder_or_a_huge_file_in_its_place_is_named(tmp_path):
    with pytest.raises(StorageError, match="it is not a file"):
        read_json(tmp_path, schemas.Status)
    with open(tmp_path / "status.json", "wb") as file:
        file.truncate(files.MOST_JSON_BYTES + 1)
    with pytest.raises(StorageError, match="more than 67,108,864 bytes"):
        read_json(tmp_path / "status.json", schemas.Status)


LIKE: dict[str, tuple[files.Shape, str]] = {
    "images": (("n", 3), "float32"), "labels": (("n",), "integer"), "name": ((), "text"),
}  # fmt: skip


def arrays(**changes):
    made = {"images": np.ones((4, 3), np.float32), "labels": np.arange(4), "name": np.array("x")}
    return made | changes


def test_arrays_are_given_as_they_were_saved(tmp_path):
    np.savez(tmp_path / "a.npz", **arrays(other=np.array([None])))
    found = read_arrays(tmp_path / "a.npz", LIKE, {"more": ((), "float32")})
    assert set(found) == set(LIKE) and str(found["name"]) == "x"
    assert all(np.array_equal(found[key], array) for key, array in arrays().items())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"images": np.ones((4, 2), np.float32)}, "images is float32 [4, 2], not float32 [n=4, 3]"),
        ({"images": np.ones((4, 3))}, "images is float64 [4, 3], not float32"),
        ({"images": np.full((4, 3), np.nan, np.float32)}, "images is not finite"),
        ({"images": np.full((4, 3), -np.inf, np.float32)}, "images is not finite"),
        ({"labels": np.arange(5)}, "labels is int64 [5], not integer [n=4]"),
        ({"labels": np.array([None] * 4)}, "labels is object [4]"),
        ({"name": np.array(3)}, "name is int64 [], not text"),
        ({"name": np.array("\ud800")}, "name has a string that is not Unicode"),
    ],
)  # fmt: skip
def test_other_arrays_are_refused(tmp_path, changes, said):
    np.savez(tmp_path / "a.npz", **arrays(**changes))
    with pytest.raises(StorageError) as raised:
        read_arrays(tmp_path / "a.npz", LIKE)
    assert f"cannot read {tmp_path / 'a.npz'}: " in str(raised.value) and said in str(raised.value)


def with_labels(path, header: bytes, data: bytes) -> None:
    """An .npz whose labels have this header, under a sum that fits."""
    np.savez(path, **arrays())
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data
    members = {name: zipfile.ZipFile(path).read(name) for name in zipfile.ZipFile(path).namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, member in (members | {"labels.npy": content}).items():
            archive.writestr(name, member)


@pytest.mark.parametrize(
    "header",
    [
        b"{'descr': '<i8', 'fortran_order': False, 'shape': (9" + b"9" * 30 + b",), }",
        b"{'descr': '<i8', 'fortran_order': False, 'shape': (-4,), }",
        b"{'descr': '<i8', 'fortran_order': False, 'shape': (True,), }",
        b"{'descr': '|O', 'fortran_order': False, 'shape': (4,), }",
        b"{'descr': '<i8', 'fortran_order': False, 'shape': " + b"(" * 5000 + b"}",
        b"{'descr': [", b"\xff\x00", b"",
    ],
)  # fmt: skip
def test_headers_that_lie_are_refused_without_taking_memory(tmp_path, header):
    with_labels(tmp_path / "a.npz", header, bytes(32))
    with pytest.raises(StorageError, match=r"cannot read .*a\.npz: "):
        read_arrays(tmp_path / "a.npz", LIKE)


def test_an_archive_that_unpacks_to_very_much_is_refused(tmp_path):
    count = 2**25
    header = b"{'descr': '<i8', 'fortran_order': False, 'shape': (%d,), }" % count
    with_labels(tmp_path / "a.npz", header, bytes(8 * count))
    like: dict[str, tuple[files.Shape, str]] = {"labels": (("n",), "integer")}
    with pytest.raises(StorageError, match="labels would unpack to 268,435,"):
        read_arrays(tmp_path / "a.npz", like)


@pytest.mark.parametrize("mapped", [False, True])
def test_a_single_array_is_checked_too(tmp_path, mapped):
    path = tmp_path / "a.npy"
    for array in (np.arange(6, dtype=np.uint8).reshape(2, 3), np.zeros((0, 3), np.uint8)):
        np.save(path, array)
        assert np.array_equal(read_array(path, ("n", 3), "uint8", mapped=mapped), array)
    np.save(path, np.arange(6))
    content = io.BytesIO(path.read_bytes()).getvalue()
    for wrong in (content, content[:-1], content + b"x", content[:20], b""):
        path.write_bytes(wrong)
        with pytest.raises(DataError, match=r"cannot read .*a\.npy: "):
            read_array(
                path, (6,), "uint8" if wrong is content else "int64", mapped=mapped, error=DataError
            )


def test_a_tree_is_flattened_and_built_again():
    tree = {"params": {"conv1": {"kernel": 1, "bias": [2]}}, "step": 3}
    flat = {"params/conv1/kernel": 1, "params/conv1/bias": [2], "step": 3}
    assert files.flatten(tree) == flat and files.unflatten(flat) == tree
    assert files.flatten({"a": {"b": {}}, "c": {}}, ".") == {}
    assert files.flatten({"a": {"b": {}}, "c": {}}, ".", keep_empty=True) == {"a.b": {}, "c": {}}


@pytest.mark.parametrize("names", [("a", "a/b"), ("a/b", "a")])
def test_a_leaf_with_leaves_below_it_is_refused(names):
    with pytest.raises(ValueError, match="leaf"):
        files.unflatten(dict.fromkeys(names, 0))


def test_a_lock_is_held_until_its_file_is_closed(tmp_path):
    path = tmp_path / ".lock"
    path.write_bytes(b"kept")
    held = files.lock(path)
    assert held is not None and files.lock(path) is None and path.read_bytes() == b"kept"
    held.close()
    again = files.lock(path)
    assert again is not None
    again.close()
    with pytest.raises(OSError):
        files.lock(tmp_path / "none" / ".lock")
