"""Errors on corrupted images: the measures by hand, both layouts of stored images, and the command."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

import alexnet_jax
from alexnet_jax.analysis import robustness as command
from alexnet_jax.config import published
from alexnet_jax.data import sources
from alexnet_jax.data.pipeline import image_files
from alexnet_jax.data.pipeline.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from alexnet_jax.data.sources import corrupted
from alexnet_jax.errors import ConfigError, DataError
from alexnet_jax.evaluation import robustness
from alexnet_jax.evaluation.robustness import CLEAN
from alexnet_jax.evaluation.target import EvalTarget
from alexnet_jax.inference import trained

NAMES = ("fog", "contrast")


@pytest.fixture(scope="module")
def test_split(two_nets):
    config = alexnet_jax.load(two_nets[0]).trained.config
    return sources.open_dataset(config.data, config.seed).splits["test"]


def of_rates(rates: dict[tuple[str, int], float], nets: int = 1, images: int = 1000):
    """Wrong answers at these rates, to the same images as far as possible."""
    order = np.array([np.random.default_rng(i).permutation(images) for i in range(nets)])
    return {key: order < round(rate * images) for key, rate in rates.items()}


def all_rates(clean: float, step: float) -> dict[tuple[str, int], float]:
    rates = {(name, s): clean + s * step for name in CORRUPTIONS for s in SEVERITIES}
    return {CLEAN: clean, **rates}


def test_mce_is_the_mean_of_ratios_of_sums():
    rates = all_rates(0.3, 0.05)
    rates |= {("fog", s): 0.6 for s in SEVERITIES}
    net = robustness.resampled(of_rates(rates), True, 0, resamples=50)
    base = robustness.resampled(of_rates(all_rates(0.2, 0.1)), True, 1, resamples=50)
    report = robustness.summarize(net, {"baseline": base})
    ce = {name: (0.3 + 0.15) / (0.2 + 0.3) for name in CORRUPTIONS} | {"fog": 0.6 / 0.5}
    relative = {name: 0.15 / 0.3 for name in CORRUPTIONS} | {"fog": 0.3 / 0.3}
    for key, expected in (("mce", ce), ("relative_mce", relative)):
        value = report[key]["baseline"]
        assert value["value"] == pytest.approx(np.mean(list(expected.values())), abs=1e-6)
        assert value["low"] <= value["value"] <= value["high"]
    assert report["corruptions"]["fog"]["ce"]["baseline"]["value"] == pytest.approx(1.2)
    assert report["mean_error"]["value"] == pytest.approx((14 * 0.45 + 0.6) / 15)
    assert report["clean"]["value"] == pytest.approx(0.3) and report["missing"] == []


def test_the_published_alexnet_has_an_mce_of_one():
    reference = robustness.published_reference()
    assert published.IMAGENET_C.keys() == CORRUPTIONS.keys()
    report = robustness.summarize(reference, {"published": reference})
    assert report["mce"]["published"]["value"] == pytest.approx(1)
    assert report["relative_mce"]["published"]["value"] == pytest.approx(1)
    # As printed in the article, in percent.
    printed = [
        88.6,
        89.4,
        92.3,
        82.0,
        82.6,
        78.6,
        79.8,
        86.7,
        82.7,
        81.9,
        56.5,
        85.3,
        64.6,
        71.8,
        60.7,
    ]
    assert [100 * e for e in published.IMAGENET_C.values()] == pytest.approx(printed, abs=0.0501)


def test_intervals_are_of_images_and_of_seeds():
    rates = {("fog", s): 0.4 for s in SEVERITIES}
    one = robustness.resampled(of_rates(rates), True, 0)
    found = robustness.summarize(one, {})["corruptions"]["fog"]["error"]
    half = 1.96 * np.sqrt(0.4 * 0.6 / 1000)  # the same images are wrong at all severities
    assert found["high"] - found["low"] == pytest.approx(2 * half, rel=0.1)
    wrong = {
        key: np.concatenate([of_rates({key: rate})[key] for rate in (0.2, 0.4, 0.6)])
        for key in rates
    }
    several = robustness.summarize(robustness.resampled(wrong, True, 0), {})
    wide = several["corruptions"]["fog"]["error"]
    assert wide["value"] == pytest.approx(0.4)
    assert wide["high"] - wide["low"] > 3 * (found["high"] - found["low"])


def test_one_image_has_no_interval(two_nets, tmp_path, capsys):
    """As compare, which gives the whole range: nothing is known of other images."""
    asked = ["--workdir", str(two_nets[0]), "--out", str(tmp_path), "--corruptions", "fog"]
    command.main([*asked, "--images", "1", "--json"])
    report = json.loads(capsys.readouterr().out)
    values = [report["clean"], *report["corruptions"]["fog"]["errors"]]
    assert {one["value"] for one in values} <= {0.0, 1.0}
    assert all(one["low"] is None and one["high"] is None for one in values)


def test_the_same_images_are_drawn_for_net_and_baseline():
    """A net that is wrong where its baseline is has a CE of 1 in every resample."""
    wrong = of_rates(all_rates(0.2, 0.1))
    net, base = (robustness.resampled(wrong, True, group) for group in (0, 1))
    value = robustness.summarize(net, {"baseline": base})["mce"]["baseline"]
    assert value["low"] == pytest.approx(1) and value["high"] == pytest.approx(1)


def test_what_is_not_defined_is_null():
    rates = {
        CLEAN: 0.3,
        **{("fog", s): 0.5 for s in SEVERITIES},
        **{("spatter", s): 0.6 for s in SEVERITIES},
    }
    flat = dict.fromkeys(rates, 0.3)
    net, base = (
        robustness.resampled(of_rates(one), True, i) for i, one in enumerate((rates, flat))
    )
    report = robustness.summarize(net, {"baseline": base})
    fog, spatter = (report["corruptions"][name] for name in ("fog", "spatter"))
    assert fog["ce"]["baseline"]["value"] == pytest.approx(5 / 3)
    assert fog["relative_ce"]["baseline"] is None
    assert report["mce"]["baseline"] is None and len(report["missing"]) == 14
    assert report["mean_error"]["value"] == pytest.approx(0.5)  # without the extra one
    assert spatter["category"] == "extra"
    text = command.table({
        **report, "nets": [{"net": "a", "step": 1}], "baseline": [{"net": "b"}], "count": 9, "images": "x",
        "views": "center", "classes": {"predicted": 7, "of": 10}, "confidence": 0.95, "made_here": False,
        "paired": False,
    })  # fmt: skip
    assert "mCE is not defined without gaussian_noise" in text and "spatter (extra)" in text
    assert "among 7 of 10 classes" in text and "drawn independently" in text
    json.dumps(report, allow_nan=False)


def wrong_of(path, pixels, labels):
    return alexnet_jax.load(path).predict(pixels).argmax(axis=1) != labels


def test_the_command_makes_the_corruptions(two_nets, test_split, tmp_path, capsys):
    asked = ["--workdir", str(two_nets[0]), "--baseline", str(two_nets[1]), "--out", str(tmp_path)]
    asked += ["--corruptions", *NAMES, "--seed", "3"]
    command.main([*asked, "--json"])
    report = json.loads(capsys.readouterr().out)
    pixels, labels = test_split.images[np.arange(128)], test_split.labels
    clean = wrong_of(two_nets[0], pixels, labels).mean()
    assert report["clean"]["value"] == pytest.approx(clean)
    for name in NAMES:
        errors = [
            [wrong_of(path, corrupt(pixels, name, s, seed=3), labels).mean() for s in SEVERITIES]
            for path in two_nets
        ]
        found = report["corruptions"][name]
        assert [one["value"] for one in found["errors"]] == pytest.approx(errors[0])
        ratio = np.mean(errors[0]) / np.mean(errors[1])
        assert found["ce"]["baseline"]["value"] == pytest.approx(ratio)
    assert report["mce"] == {"baseline": None} and report["paired"] and report["count"] == 128
    assert json.loads((tmp_path / "robustness.json").read_text()) == {"schema": 1, **report}
    assert (tmp_path / "robustness.png").stat().st_size > 10_000
    text = (tmp_path / "robustness.md").read_text()
    assert "| no corruption |" in text and "CE, % of --baseline" in text
    assert "were made here" in text and "published" not in text


def test_some_images_are_chosen_by_the_seed(two_nets):
    target = EvalTarget(two_nets[0])
    some = robustness.generated(target, "test", ["fog"], 0, 20)
    same = robustness.generated(target, "test", ["fog"], 0, 20)
    assert np.array_equal(some.labels[CLEAN], same.labels[CLEAN]) and len(some.labels[CLEAN]) == 20
    with pytest.raises(ConfigError, match="--images must be from 1 to 128"):
        robustness.generated(target, "test", ["fog"], 0, 129)
    with pytest.raises(ConfigError, match="spatter can be read from files"):
        robustness.generated(target, "test", ["fog", "spatter"], 0, None)


@pytest.fixture
def arrays(tmp_path, test_split):
    """A folder in the layout of CIFAR-10-C, of the test images in order."""
    folder, pixels = tmp_path / "c", test_split.images[np.arange(128)]
    folder.mkdir()
    for name in NAMES:
        np.save(
            folder / f"{name}.npy", np.concatenate([corrupt(pixels, name, s) for s in SEVERITIES])
        )
    np.save(folder / "labels.npy", np.tile(test_split.labels, 5))
    return folder


def test_numpy_files_are_those_of_cifar10_c(two_nets, arrays, tmp_path, capsys):
    asked = ["--workdir", *map(str, two_nets), "--json", "--out"]
    command.main([*asked, str(tmp_path / "read"), "--corrupted", str(arrays)])
    read = json.loads(capsys.readouterr().out)
    command.main([*asked, str(tmp_path / "made"), "--corruptions", *NAMES])
    made = json.loads(capsys.readouterr().out)
    assert read["paired"] and not read["made_here"] and len(read["nets"]) == 2
    assert read["corruptions"] == {name: made["corruptions"][name] for name in read["corruptions"]}
    command.main([*asked, str(tmp_path / "no"), "--corrupted", str(arrays), "--no-clean"])
    assert json.loads(capsys.readouterr().out)["clean"] is None


def test_resized_arrays_of_all_conditions_share_one_limit(arrays, monkeypatch):
    whole = len(NAMES) * len(SEVERITIES) * 128 * 32 * 32 * 3
    monkeypatch.setattr(corrupted, "MEMORY_LIMIT_BYTES", whole)
    kept = corrupted.load(arrays, 32, 28, 1).images
    assert all(isinstance(one, np.ndarray) for one in kept.values())
    monkeypatch.setattr(corrupted, "MEMORY_LIMIT_BYTES", whole - 1)
    lazy = corrupted.load(arrays, 32, 28, 1).images
    assert all(isinstance(one, image_files.ImageFiles) for one in lazy.values())
    some = np.array([3, 90])
    assert np.array_equal(lazy["fog", 2][some], kept["fog", 2][some])


class Recorded:
    """Images that keep how many were read at once."""

    def __init__(self, images, counts):
        self._images, self._counts = images, counts

    def __len__(self):
        return len(self._images)

    def __getitem__(self, indices):
        self._counts.append(len(indices))
        return self._images[indices]


def test_images_are_read_in_whole_batches(two_nets, monkeypatch):
    targets = [EvalTarget(path) for path in two_nets]
    monkeypatch.setattr(targets[0], "batch_size", lambda view: 48)
    images = robustness.generated(targets[0], "test", ["contrast"], 0, None)
    expected = robustness.measure(targets, images, "center", lambda line: None)
    counts: dict = {key: [] for key in images.conditions}
    conditions = {key: Recorded(one, counts[key]) for key, one in images.conditions.items()}
    monkeypatch.setattr(robustness, "_CHUNK_BYTES", 10 * 16 * 16 * 3)
    images = images._replace(conditions=conditions)
    found = robustness.measure(targets, images, "center", lambda line: None)
    assert all(sorted(some) == [32, 48, 48] for some in counts.values())
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[key], expected[key]) for key in found)


def test_labels_in_another_order_are_not_paired(two_nets, arrays):
    labels = np.load(arrays / "labels.npy")[:128]
    order = np.argsort(labels, kind="stable")
    for name in NAMES:
        pixels = np.load(arrays / f"{name}.npy").reshape(5, 128, 16, 16, 3)[:, order]
        np.save(arrays / f"{name}.npy", pixels.reshape(-1, 16, 16, 3))
    np.save(arrays / "labels.npy", labels[order])
    target = EvalTarget(two_nets[0])
    images = robustness.stored(target, arrays, "test", None, 0, None, "center")
    assert not images.is_paired
    assert np.array_equal(images.labels["fog", 1], labels[order])
    assert np.array_equal(images.labels[CLEAN], labels)


def test_faulty_numpy_files_are_refused(arrays, tmp_path):
    fog = np.load(arrays / "fog.npy")
    np.save(arrays / "fog.npy", fog[:-5])
    with pytest.raises(DataError, match=r"one number of images.*fog.npy 635, contrast.npy 640"):
        corrupted.load(arrays, 16, 14, 1)
    np.save(arrays / "fog.npy", fog.astype(np.float32))
    with pytest.raises(DataError, match=r"fog.npy.*float32 .*not uint8 \[images=640, side=16"):
        corrupted.load(arrays, 16, 14, 1)
    np.save(arrays / "fog.npy", fog)
    np.save(arrays / "labels.npy", np.arange(640) % 10)
    with pytest.raises(DataError, match="labels of the 128 images once, or once for each severity"):
        corrupted.load(arrays, 16, 14, 1)
    (arrays / "labels.npy").unlink()
    with pytest.raises(DataError, match=r"labels\.npy"):
        corrupted.load(arrays, 16, 14, 1)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no corrupted images; it should hold CORRUPTION/SEVERITY"):
        corrupted.load(tmp_path / "empty", 16, 14, 1)


def test_labels_beyond_the_net_are_refused_before_they_are_named(two_nets, arrays):
    np.save(arrays / "labels.npy", np.full(128, 10))
    with pytest.raises(DataError, match=r"has labels up to 10, but .* has 10 classes"):
        robustness.stored(EvalTarget(two_nets[0]), arrays, None, None, 0, None, "center")


def test_images_of_one_class_are_refused(two_nets, arrays):
    np.save(arrays / "labels.npy", np.full(128, 3))
    with pytest.raises(DataError, match="has images of one class, among which none is wrong"):
        robustness.stored(EvalTarget(two_nets[0]), arrays, None, None, 0, None, "center")


def test_numbers_taken_for_classes_are_warned_of(two_nets, arrays, caplog):
    target = EvalTarget(two_nets[0])
    renamed = tuple(f"class {i}" for i in range(10))
    target.trained = target.trained._replace(class_names=renamed)
    robustness.stored(target, arrays, None, None, 0, None, "center")
    assert "are taken for the class numbers of the net, of which 0 is class 0" in caplog.text


def test_a_chosen_corruption_needs_no_others(two_nets, arrays):
    np.save(arrays / "fog.npy", np.load(arrays / "fog.npy")[:-5])
    target = EvalTarget(two_nets[0])
    images = robustness.stored(target, arrays, None, ["contrast"], 0, None, "center")
    assert list(images.conditions) == [("contrast", severity) for severity in SEVERITIES]


@pytest.fixture
def folders(tmp_path, two_nets, test_split):
    """A folder in the layout of ImageNet-C: crops of 14 pixels of eight classes, and the clean images beside it."""
    names = alexnet_jax.load(two_nets[0]).class_names
    for i in np.flatnonzero(test_split.labels < 8)[:40]:
        pixels, class_ = test_split.images[np.array([i])], names[test_split.labels[i]]
        for name, severity in [(name, s) for name in NAMES for s in SEVERITIES]:
            group = "digital" if name == "contrast" else "."
            folder = tmp_path / "c" / group / name / str(severity) / class_
            folder.mkdir(parents=True, exist_ok=True)
            crop = corrupt(pixels, name, severity)[0, 1:15, 1:15]
            Image.fromarray(crop).save(folder / f"image{i}.png")
        for split in ("train", "val"):
            folder = tmp_path / "clean" / split / class_
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels[0]).save(folder / f"{split[0] * (split == 'train')}image{i}.png")
    return tmp_path / "c", tmp_path / "clean"


def test_folders_are_those_of_imagenet_c(two_nets, folders, test_split, tmp_path, capsys):
    stored, clean = folders
    asked = [
        "--workdir",
        str(two_nets[0]),
        "--corrupted",
        str(stored),
        "--out",
        str(tmp_path / "out"),
    ]
    asked += ["--source", "folder", "--data-path", str(clean), "--split", "val"]
    command.main([*asked, "--json"])
    report = json.loads(capsys.readouterr().out)
    assert report["classes"] == {"predicted": 8, "of": 10} and report["paired"]
    some = np.flatnonzero(test_split.labels < 8)[:40]
    pixels, labels = test_split.images[some], test_split.labels[some]
    for name in NAMES:
        # The center crop of the net sees the crop that was stored.
        probabilities = [
            alexnet_jax.load(two_nets[0]).predict(corrupt(pixels, name, s))[:, :8]
            for s in SEVERITIES
        ]
        expected = [np.mean(one.argmax(axis=1) != labels) for one in probabilities]
        found = [one["value"] for one in report["corruptions"][name]["errors"]]
        assert found == pytest.approx(expected)
    command.main(asked)
    assert "among 8 of 10 classes" in capsys.readouterr().out


def test_faulty_folders_are_refused_with_all_faults(folders):
    stored, _ = folders
    removed = next((stored / "fog" / "2").rglob("*.png"))
    removed.unlink()
    (stored / "fog" / "4").rename(stored / "fog" / "four")
    with pytest.raises(
        DataError, match=r"fog has no folder 4, .*fog/2 has other images .* in 1 \("
    ):
        corrupted.load(stored, 16, 14, 1)


def test_processes_decode_crops(folders, monkeypatch):
    monkeypatch.setattr(image_files, "FEWEST_FOR_PROCESSES", 1)
    stored, some = folders[0], np.array([0, 7])
    in_process = corrupted.load(stored, 16, 14, 1, ["fog"]).images["fog", 3][some]
    started = []
    monkeypatch.setattr(
        image_files.workers, "shared", lambda n: started.append(n) or image_files.Threads(n)
    )
    found = corrupted.load(stored, 16, 14, 1, ["fog"], processes=2).images["fog", 3][some]
    assert started == [2] and np.array_equal(found, in_process)


def test_images_of_one_name_are_refused(folders):
    stored, _ = folders
    twin = next((stored / "fog" / "2").rglob("*.png"))
    Image.open(twin).save(twin.with_suffix(".jpg"))
    with pytest.raises(DataError, match=r"fog/2 has two images .*/image\d+, which differ"):
        corrupted.load(stored, 16, 14, 1)


def test_nets_that_show_crops_at_other_sizes_are_refused(two_nets, folders, tmp_path):
    """With augment.resize, the crop is a larger part of the image, and other nets would see its border."""
    other = trained.load(two_nets[1])
    augment = dataclasses.replace(other.config.augment, resize=20)
    other = other._replace(
        config=dataclasses.replace(other.config, augment=augment),
        config_tree=other.config_tree | {"augment": other.config_tree["augment"] | {"resize": 20}},
    )
    path = trained.save(tmp_path / "resized.safetensors", other)
    asked = ["--workdir", str(two_nets[0]), "--baseline", str(path), "--out", str(tmp_path / "o")]
    with pytest.raises(ConfigError, match="other sizes"):
        command.main([*asked, "--corrupted", str(folders[0]), "--no-clean"])


def test_what_cannot_be_measured_is_refused(two_nets, folders, tmp_path):
    net, out = str(two_nets[0]), ["--out", str(tmp_path / "out")]
    stored, _ = folders
    cases = [
        (["--workdir", net, net], ConfigError, "a net is named twice"),
        (["--workdir", net, f"{two_nets[0].parent}/../{two_nets[0].parent.name}/{two_nets[0].name}"], ConfigError,
         "a net is named twice"),
        (["--workdir", net, "--no-clean"], ConfigError, "--no-clean is for --corrupted"),
        (["--workdir", net, "--corruptions", "rain"], ConfigError, "invalid choice: 'rain'"),
        (["--workdir", net, "--seed", "-1"], ConfigError, "--seed must be at least 0"),
        (["--workdir", *map(str, two_nets), "--split", "val"], ConfigError, "val has images that some were trained on"),
        (["--workdir", net, "--corrupted", str(stored)], DataError, "classes that .* does not have"),
        (["--workdir", net, "--corrupted", str(stored), "--corruptions", "snow", "--no-clean"], DataError,
         "has no snow"),
        (["--workdir", net, "--corrupted", str(stored), "--views", "ten"], ConfigError, "there are no ten views"),
        (["--workdir", net, "--images", "0"], ConfigError, "--images must be from 1 to 128"),
        (["--workdir", net, "--corrupted", str(tmp_path / "none")], DataError, "no folder .*none; it should hold"),
    ]  # fmt: skip
    for arguments, error, says in cases:
        with pytest.raises(error, match=says):
            command.main([*arguments, *out])
    assert not (tmp_path / "out").exists()
