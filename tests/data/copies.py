"""Writes the same pictures as the copies of ImageNet that people have, without the libraries that made those.

python tests/data/copies.py PICTURES OUT     PICTURES/n01440764_*.JPEG -> OUT/kaggle, OUT/parquet, ...
"""

import csv
import json
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.data import imagenet_tars
from tests.data.imagenet_tars import Picture, tar, val_name

WORDS = {
    "n01440764": "tench, Tinca tinca",
    "n01443537": "goldfish, Carassius auratus",
    "n01484850": "great white shark, white shark",
}


def write(path: Path, content: bytes | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def numbered(val: list[Picture]) -> list[Picture]:
    """The validation images under their official names."""
    return [picture._replace(name=val_name(i)) for i, picture in enumerate(val, 1)]


def synsets(train: list[Picture]) -> list[str]:
    return sorted({picture.synset for picture in train})


# Kaggle


def kaggle_files(train: list[Picture], val: list[Picture]) -> list[tuple[str, bytes]]:
    images = "ILSVRC/Data/CLS-LOC"
    mapping = "".join(f"{synset} {WORDS.get(synset, 'a thing')}\n" for synset in synsets(train))
    # Rows are in no order, and have a box for each object.
    rows = [f"{p.name[:-5]},{p.synset} 1 2 3 4 {p.synset} 5 6 7 8 \n" for p in numbered(val)]
    return [
        ("ILSVRC/Annotations/CLS-LOC/val/ILSVRC2012_val_00000001.xml", b"<annotation/>"),
        *((f"{images}/train/{p.synset}/{p.name}", p.content) for p in train),
        *((f"{images}/val/{p.name}", p.content) for p in numbered(val)),
        (f"{images}/test/ILSVRC2012_test_00000001.JPEG", train[0].content),
        ("LOC_val_solution.csv", ("ImageId,PredictionString\n" + "".join(rows[::-1])).encode()),
        ("LOC_synset_mapping.txt", mapping.encode()),
    ]


def kaggle_folder(root: Path, train: list[Picture], val: list[Picture]) -> Path:
    for name, content in kaggle_files(train, val):
        write(root / name, content)
    return root


def kaggle_zip(root: Path, train: list[Picture], val: list[Picture]) -> Path:
    path = root / "imagenet-object-localization-challenge.zip"
    root.mkdir(parents=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in kaggle_files(train, val):
            archive.writestr(name, content)
    return path


def kaggle_tar_gz(root: Path, train: list[Picture], val: list[Picture]) -> Path:
    """The lists lie beside the archive, as Kaggle had them."""
    files = kaggle_files(train, val)
    for name, content in files[-2:]:
        write(root / name, content)
    write(root / "imagenet_object_localization.tar.gz", tar(files[:-2], "w:gz"))
    return root


# Hugging Face


def hub_name(picture: Picture) -> str:
    """A name in imagenet-1k of the hub, which ends in the synset."""
    stem, _, suffix = picture.name.rpartition(".")
    return f"{stem}_{picture.synset}.{suffix}"


def features(names: Sequence[str], image: str = "image", label: str = "label") -> dict:
    return {image: {"_type": "Image"}, label: {"names": list(names), "_type": "ClassLabel"}}


def table(
    pictures: list[Picture],
    classes: list[str],
    names: Sequence[str] | None,
    image: str = "image",
    label: str = "label",
    name: Callable[[Picture], str | None] = hub_name,
):
    """A pyarrow table of images and labels; `names` are the class names of its metadata, None for no metadata."""
    import pyarrow as pa

    rows = [{"bytes": p.content, "path": name(p)} for p in pictures]
    schema = pa.schema(
        [
            (image, pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            (label, pa.int64()),
        ]
    )
    if names is not None:
        info = {"info": {"features": features(names, image, label)}}
        schema = schema.with_metadata({"huggingface": json.dumps(info)})
    labels = [classes.index(p.synset) for p in pictures]
    return pa.table({image: rows, label: labels}, schema=schema)


def words(classes: list[str]) -> list[str]:
    return [WORDS.get(synset, f"the thing {synset}") for synset in classes]


def mixed(pictures: list[Picture], count: int) -> list[list[Picture]]:
    """The pictures in `count` parts, in another order."""
    return [pictures[::-1][i::count] for i in range(count)]


def parquet(root: Path, train: list[Picture], val: list[Picture], **options) -> Path:
    """The layout of imagenet-1k on the hub; the images of test have no label."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    (root / "data").mkdir(parents=True)
    classes = synsets(train)
    for split, pictures, count in (("train", train, 3), ("validation", numbered(val), 2)):
        for i, part in enumerate(mixed(pictures, count)):
            path = root / "data" / f"{split}-{i:05}-of-{count:05}.parquet"
            pq.write_table(table(part, classes, words(classes), **options), path, row_group_size=4)
    test = table(train[:2], classes, words(classes), **options)
    test = test.set_column(1, test.schema.field(1), pa.array([-1, -1]))
    pq.write_table(test, root / "data" / "test-00000-of-00001.parquet")
    return root


def saved(root: Path, train: list[Picture], val: list[Picture]) -> Path:
    """What `DatasetDict.save_to_disk` writes."""
    classes = synsets(train)
    write(root / "dataset_dict.json", json.dumps({"splits": ["train", "validation"]}))
    for split, pictures, count in (("train", train, 3), ("validation", numbered(val), 1)):
        stream(root / split, mixed(pictures, count), classes)
    return root


def stream(folder: Path, parts: list[list[Picture]], classes: list[str]) -> None:
    """What `Dataset.save_to_disk` writes."""
    import pyarrow as pa

    folder.mkdir(parents=True)
    names = [f"data-{i:05}-of-{len(parts):05}.arrow" for i in range(len(parts))]
    for name, part in zip(names, parts, strict=True):
        found = table(part, classes, words(classes))
        with (
            pa.OSFile(str(folder / name), "wb") as file,
            pa.ipc.new_stream(file, found.schema) as out,
        ):
            out.write_table(found, max_chunksize=3)
    state = {"_data_files": [{"filename": name} for name in names], "_split": None}
    write(folder / "state.json", json.dumps(state))
    write(folder / "dataset_info.json", json.dumps({"features": features(words(classes))}))


# WebDataset


def webdataset(root: Path, train: list[Picture], val: list[Picture]) -> Path:
    """The names of timm's imagenet-1k-wds, with KEY.cls and KEY.json; the names of val tell no synset."""
    classes = synsets(train)
    for split, pictures, form in (
        ("train", train, "imagenet1k-train-{:04}.tar"),
        ("val", numbered(val), "imagenet1k-validation-{:02}.tar"),
    ):
        for i, part in enumerate(mixed(pictures, 2)):
            files: list[tuple[str, bytes]] = []
            for picture in part:
                key, label = picture.name.rpartition(".")[0], classes.index(picture.synset)
                name = f"{picture.synset}/{picture.name}" if split == "train" else picture.name
                about = {"filename": name, "label": label, "width": 1, "height": 1}
                files += [(f"{key}.cls", b"%d" % label), (f"{key}.jpg", picture.content)]
                files += [(f"{key}.json", json.dumps(about).encode())]
            write(root / form.format(i), tar(files))
    return root


# A table of labels


def labels_csv(root: Path, train: list[Picture], val: list[Picture]) -> Path:
    """A table for each split with a header, and names without suffixes in that of train."""
    for split, pictures in (("train", train), ("val", numbered(val))):
        rows = [["id", "width", "class"]]
        for picture in pictures[::-1]:
            write(root / f"{split}_images" / picture.name, picture.content)
            name = picture.name if split == "val" else picture.name.rpartition(".")[0]
            rows.append([name, "1", picture.synset])
        with open(root / f"{split}.csv", "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(rows)
    return root


COPIES = {
    "kaggle": kaggle_folder,
    "kaggle-zip": kaggle_zip,
    "kaggle-tar-gz": kaggle_tar_gz,
    "parquet": parquet,
    "saved": saved,
    "webdataset": webdataset,
    "labels-csv": labels_csv,
}

if __name__ == "__main__":
    found, _ = imagenet_tars.read(Path(sys.argv[1]))
    for name, make in COPIES.items():
        print(make(Path(sys.argv[2], name), found, imagenet_tars.shuffled(found)))
