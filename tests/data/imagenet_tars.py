"""Packs pictures into archives of the official ILSVRC layout, and into other hostile or odd ones.

python tests/data/imagenet_tars.py PICTURES OUT     PICTURES/n01440764_*.JPEG -> OUT/ILSVRC2012_*.tar
"""

import io
import sys
import tarfile
from pathlib import Path
from typing import NamedTuple

import numpy as np


class Picture(NamedTuple):
    synset: str
    name: str
    content: bytes


class Names(NamedTuple):
    train: str
    val: str
    devkit: str
    inside: str


NAMES = {
    "ILSVRC2012": Names(
        "ILSVRC2012_img_train.tar",
        "ILSVRC2012_img_val.tar",
        "ILSVRC2012_devkit_t12.tar.gz",
        "ILSVRC2012_devkit_t12",
    ),
    "ILSVRC2010": Names(
        "ILSVRC2010_images_train.tar",
        "ILSVRC2010_images_val.tar",
        "ILSVRC2010_devkit-1.0.tar.gz",
        "devkit-1.0",
    ),
}


def tar(files: list[tuple[str, bytes]], mode: str = "w") -> bytes:
    """A tar archive with these files in this order."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=mode) as archive:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def ids(synsets: list[str]) -> dict[str, int]:
    """The devkit's own numbers, which are not in sorted order: here, reversed."""
    return {synset: len(synsets) - i for i, synset in enumerate(sorted(synsets))}


def meta(synsets: list[str], words: dict[str, str], year: str = "ILSVRC2012") -> bytes:
    """meta.mat: a struct array `synsets` of the classes, followed by an ancestor of them all."""
    from scipy.io import savemat

    numbers = ids(synsets)
    fields = [f"{year}_ID", "WNID", "words", "gloss", "num_children", "children"]
    fields += ["wordnet_height", "num_train_images"]
    table = np.zeros((len(synsets) + 1, 1), dtype=[(field, object) for field in fields])
    for row, synset in enumerate(sorted(synsets, key=numbers.__getitem__)):
        table[row, 0] = (numbers[synset], synset, words.get(synset, synset), "a thing", 0,
                         np.zeros((1, 0)), 0, 1300)  # fmt: skip
    everything = np.arange(1, len(synsets) + 1, dtype=np.uint16)
    table[-1, 0] = (len(synsets) + 1, "n00001740", "entity", "all there is", len(synsets),
                    everything, 19, 0)  # fmt: skip
    file = io.BytesIO()
    savemat(file, {"synsets": table})
    return file.getvalue()


def val_name(number: int, year: str = "ILSVRC2012") -> str:
    return f"{year}_val_{number:08}.JPEG"


def shuffled(pictures: list[Picture]) -> list[Picture]:
    """The order of the validation images: by chance, always the same."""
    return [pictures[i] for i in np.random.default_rng(12).permutation(len(pictures))]


def pack(
    out: Path,
    train: list[Picture],
    val: list[Picture],
    words: dict[str, str] | None = None,
    year: str = "ILSVRC2012",
) -> None:
    """The three archives of a year; `val` in the order of its numbers, from 1."""
    names = NAMES[year]
    synsets = sorted({picture.synset for picture in train})
    inner = [
        (f"{synset}.tar", tar([(p.name, p.content) for p in train if p.synset == synset]))
        for synset in synsets
    ]
    out.mkdir(parents=True, exist_ok=True)
    (out / names.train).write_bytes(tar(inner))
    flat = [(val_name(i, year), picture.content) for i, picture in enumerate(val, 1)]
    (out / names.val).write_bytes(tar(flat))
    numbers = ids(synsets)
    truth = "".join(f"{numbers[picture.synset]}\n" for picture in val).encode()
    devkit = [
        (f"{names.inside}/readme.txt", b"as distributed"),
        (f"{names.inside}/data/meta.mat", meta(synsets, words or {}, year)),
        (f"{names.inside}/data/{year}_validation_ground_truth.txt", truth),
        (f"{names.inside}/evaluation/demo_eval.m", b"%"),
    ]
    (out / names.devkit).write_bytes(tar(devkit, "w:gz"))


def folders(out: Path, train: list[Picture], val: list[Picture]) -> None:
    """The same pictures as train/SYNSET/ and val/SYNSET/, as the usual script sorts them."""
    for picture in train:
        path = out / "train" / picture.synset / picture.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture.content)
    for i, picture in enumerate(val, 1):
        path = out / "val" / picture.synset / val_name(i)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture.content)


def prepared(out: Path, train: list[Picture], val: list[Picture]) -> Path:
    """The same pictures as tensorflow-datasets keeps imagenet2012, written without TensorFlow."""
    import tensorflow_datasets as tfds

    synsets = sorted({picture.synset for picture in train})
    numbered = [picture._replace(name=val_name(i)) for i, picture in enumerate(val, 1)]

    class Imagenet2012Sample(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("5.1.0")
        pkg_dir_path = None

        def _info(self):
            features = {
                "image": tfds.features.Image(encoding_format="jpeg"),
                "label": tfds.features.ClassLabel(names=synsets),
                "file_name": tfds.features.Text(),
            }
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(features),
                supervised_keys=("image", "label"),
            )

        def _split_generators(self, dl_manager):
            return {"train": self._examples(train), "validation": self._examples(numbered)}

        def _generate_examples(self, pictures):
            yield from self._examples(pictures)

        def _examples(self, pictures):
            for picture in pictures:
                image = io.BytesIO(picture.content)
                yield picture.name, {
                    "image": image, "label": picture.synset, "file_name": picture.name
                }  # fmt: skip

    Imagenet2012Sample(data_dir=str(out), file_format="array_record").download_and_prepare()
    return out


def read(folder: Path) -> tuple[list[Picture], dict[str, str]]:
    """The pictures n01440764_tench.JPEG ... of a folder, and the words of their classes."""
    pictures, words = [], {}
    for path in sorted(folder.glob("n*_*.JPEG")):
        synset, _, word = path.stem.partition("_")
        pictures.append(Picture(synset, path.name, path.read_bytes()))
        words[synset] = word.replace("_", " ")
    return pictures, words


if __name__ == "__main__":
    found, known = read(Path(sys.argv[1]))
    pack(Path(sys.argv[2]), found, shuffled(found), known)
