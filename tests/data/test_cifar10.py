import numpy as np
import pytest
from PIL import Image

from alexnet_jax.data import sources
from alexnet_jax.data.sources import cifar10
from alexnet_jax.errors import DataError


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for names in cifar10.FILES.values():
        for name in names:
            records = generator.integers(0, 256, (10, 3073), dtype=np.uint8)
            records[:, 0] = np.arange(10)
            records.tofile(folder / name)
    return tmp_path


def test_binary_files_are_read_in_order(root, data_spec):
    for path in (root, root / "cifar-10-batches-bin"):
        dataset = sources.open_dataset(data_spec("cifar10", path, image_size=32), 0)
        train, test = dataset.splits["train"], dataset.splits["test"]
        assert (len(train.labels), len(test.labels)) == (50, 10)
        assert dataset.class_names[3] == "cat" and train.labels[3] == 3
        record = np.fromfile(root / "cifar-10-batches-bin" / "data_batch_2.bin", np.uint8)[
            : 3073 * 10
        ]
        planes = record.reshape(10, 3073)[4, 1:].reshape(3, 32, 32)
        assert np.array_equal(train.images[np.array([14])][0], planes.transpose(1, 2, 0))


def test_images_can_be_stored_at_another_size(root, data_spec):
    dataset = sources.open_dataset(data_spec("cifar10", root, image_size=16), 0)
    assert dataset.splits["test"].images[np.arange(10)].shape == (10, 16, 16, 3)


def test_class_folders_are_read(tmp_path, data_spec):
    for split in ("train", "test"):
        for name in cifar10.CLASSES:
            (tmp_path / split / name).mkdir(parents=True)
            Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(tmp_path / split / name / "0.png")
    dataset = sources.open_dataset(data_spec("cifar10", tmp_path, image_size=32), 0)
    assert dataset.class_names == cifar10.CLASSES
    assert dataset.splits["test"].labels.tolist() == list(range(10))


@pytest.mark.fault("F21")
@pytest.mark.fault("F29")
def test_faults_are_named(root, data_spec):
    def fault(path=root):
        with pytest.raises(DataError) as caught:
            sources.open_dataset(data_spec("cifar10", path, image_size=32), 0)
        return str(caught.value)

    folder = root / "cifar-10-batches-bin"
    assert "cifar-10-binary.tar.gz" in fault(root / "absent")
    whole = (folder / "data_batch_3.bin").read_bytes()
    (folder / "data_batch_3.bin").write_bytes(whole[:-1])
    assert "data_batch_3.bin has 30729 bytes" in fault()
    (folder / "data_batch_3.bin").write_bytes(b"\x0b" + whole[1:])
    assert "data_batch_3.bin has the label 11" in fault()
    (folder / "data_batch_3.bin").unlink()
    assert "data_batch_3.bin: No such file" in fault() and cifar10.LAYOUT in fault()
    (root / "cifar-10-batches-py").mkdir()
    for path in folder.iterdir():
        path.unlink()
    assert "pickled" in fault()
