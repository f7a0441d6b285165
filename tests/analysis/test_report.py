"""The report of a run: complete, in parts, with hostile names, and in a browser."""

import base64
import dataclasses
import json
import re

import jax
import numpy as np
import pytest
from markupsafe import Markup

from alexnet_jax import config
from alexnet_jax.analysis import report, report_evaluation, report_images
from alexnet_jax.data import sources
from alexnet_jax.data.pipeline import identity, statistics
from alexnet_jax.errors import StorageError
from alexnet_jax.inference import predictions
from alexnet_jax.model import mesh as parallel
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.train import checkpoint, state
from tests.browser import browser

SCRIPT, IMAGE = "<script>alert(1)</script>", "<img src=x onerror=alert(1)>"
#: Tables that are wider than their place, by the title of their section.
WIDER = (
    "return [...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth + 1)"
    ".map(e => e.closest('section').querySelector('h2').textContent)"
)
NAMES = (SCRIPT, "{{title}}", '"><b>', "cat", "dog", "e", "f", "g", "h", "i")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run whose folder, classes and command have hostile names."""
    base = tmp_path_factory.mktemp("report")
    data, folder = base / "data.npz", base / IMAGE
    folder.mkdir()
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (40, 16, 16, 3), dtype=np.uint8)
    labels = np.arange(40) % 10
    np.savez(
        data, train_images=images, train_labels=labels, test_images=images[::-1], test_labels=labels,
        class_names=np.array(NAMES),
    )  # fmt: skip
    tree = config.load("tests/tiny.py", [])
    tree.data.update(source="arrays", path=str(data), validation=0.0)
    tree.schedule.weights.kind, tree.name = "epochs", "ablations:no_lrn"
    spec = config.parse(tree)
    mesh = parallel.device_mesh(jax.devices()[:1])
    made = state.create(spec, AlexNet(spec.model), 0, mesh=mesh)._replace(step=np.int32(8))
    checkpoint.save(folder / "checkpoints", made, statistics.zeros(16), {"class_names": NAMES})
    (folder / "config.json").write_text(config.to_json(tree))
    rows = [
        {"step": i, "epoch": i / 4, "train_loss": 3 / i, "train_top1_error": 0.5, "learning_rate": 0.1}
        for i in range(1, 9)
    ]  # fmt: skip
    rows.append({"step": 8, "epoch": 2.0, "eval_test_center_top1_error": 0.25})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    errors = {"count": 40, "top1_error": 0.25, "top5_error": 0.125, "nll": 1.5}
    results = {"schema": 1, "step": 8, "epoch": 2.0, "config": "tiny", "seconds": 300.0}
    (folder / "results.json").write_text(
        json.dumps(results | {"splits": {"test": {"center": errors}}})
    )
    command = ["/somewhere/main.py", "--config", "c.py", f"--workdir={SCRIPT}"]
    (folder / "run.json").write_text(json.dumps({"command": command, "commit": "c0ffee"}))
    probabilities = draw.dirichlet(np.ones(10), 40).astype(np.float32)
    probabilities[0] = np.eye(10)[5]  # an image of class 0 that is surely taken for class 5
    predictions.save(folder, "test", "center", 8, predictions.Predictions(probabilities, labels))
    (folder / "dataset.npz").write_bytes(identity.record(sources.open_dataset(spec.data, 0)))
    return folder


@pytest.fixture
def without_neighbors(monkeypatch):
    """They take a second or two to compile; test_every_part_is_there... checks them."""
    monkeypatch.setattr(report_images, "neighbors", lambda run, dataset: Markup("neighbors"))


def sections(page: str) -> dict[str, str]:
    found = re.findall(r'<section class="card"><h2>(.*?)</h2>(.*?)</section>', page, re.DOTALL)
    return dict(found)


def test_every_part_is_there_and_nothing_is_loaded(run, capsys):
    report.main(["--workdir", str(run)])
    assert capsys.readouterr().out.strip() == str(run / "report.html")
    page = (run / "report.html").read_text()
    parts = sections(page)
    missing = {title for title, body in parts.items() if "Not shown" in body}
    assert missing == {"Figures"} and len(parts) == 11
    wrong = 1 - np.mean(
        [
            p.argmax() == label
            for p, label in zip(*predictions.load(run, "test", "center", 8), strict=True)
        ]
    )
    assert f"{100 * wrong:.2f} %" in parts["Results"]  # of the predictions, which may be newer
    assert "+1.4 / +1.2 (§3.3)" in parts["Published numbers"]
    assert parts["Images"].count("<img") == 20 and parts["First-layer kernels"].count("<img") == 2
    assert "git checkout c0ffee\npython -m alexnet_jax.main --config c.py" in parts["Reproduction"]
    assert "differences from configs/krizhevsky2012.py" in parts["The network"]
    near = parts["Nearest images"].split('<div class="near">')[1:]
    assert (
        len(near) == 5
        and "the nearest by fc6 among 40 random training images" in parts["Nearest images"]
    )
    for row in near:  # the test images are among the training images: each is its own neighbor
        query, first, *others = re.findall(r'src="([^"]*)"', row)
        assert query == first and len(others) == 5 and query not in others
    addresses = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert addresses and all(address.startswith("data:") for address in addresses)
    assert not re.search(r"https?://|@import|url\(", page)


def test_hostile_names_stay_text(run, without_neighbors):
    page = report.write(run).read_text()
    assert "<script" not in page and "<img src=x" not in page and '"><b>' not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in sections(page)["Classes"]
    assert "{{title}}" in page
    assert "default-src 'none'" in page


@pytest.mark.parametrize(
    ("lost", "title", "words"),
    [
        ("predictions", "Classes", "there are no predictions of this step"),
        ("predictions", "Images", "there are no predictions of this step"),
        ("metrics.jsonl", "Learning curves", "cannot read"),
        ("checkpoints", "First-layer kernels", "no checkpoint in"),
        ("run.json", "Reproduction", "has no run.json"),
        ("everything", "Results", "no results yet"),
    ],
)
def test_what_is_missing_is_said_in_its_place(run, without_neighbors, tmp_path, lost, title, words):
    for path in run.iterdir():
        if path.name != lost and (lost != "everything" or path.name == "config.json"):
            (tmp_path / path.name).symlink_to(path)
    parts = sections(report.write(tmp_path).read_text())
    assert len(parts) == 11 and parts[title].count("Not shown") == 1 and words in parts[title]
    others = {name for name, body in parts.items() if "Not shown" not in body}
    if lost == "predictions":
        assert others >= {"Results", "Learning curves", "The network", "Reproduction"}
    assert "Not shown" not in parts["The network"]


def test_images_that_have_changed_or_gone_are_not_shown(run, without_neighbors, tmp_path):
    for name, count in (("gone", 0), ("fewer", 20), ("replaced", 40)):
        data_path = tmp_path / f"{name}.npz"
        if count:
            images = np.zeros((count, 16, 16, 3), np.uint8)
            labels = np.arange(count) % 10
            np.savez(
                data_path, train_images=images, train_labels=labels, test_images=images,
                test_labels=labels, class_names=np.array(NAMES),
            )  # fmt: skip
        parts = sections(report.write(run, data_path=str(data_path)).read_text())
        assert "Not shown" in parts["Images"] and "Not shown" not in parts["Classes"]


@pytest.mark.parametrize(
    ("name", "source", "classes", "shown"),
    [
        ("mine", "folder", 17, []),
        ("mine", "folder", None, []),
        ("mine", "folder", 1000, ["Caffe, AlexNet"]),
        ("mine", "cifar10", 10, ["CIFAR-10 nets"]),
        ("ablations:no_lrn", "folder", 17, ["(§3.3)"]),
    ],
)
def test_published_errors_are_those_of_the_same_task(name, source, classes, shown):
    spec = config.parse(config.load("tests/tiny.py", []))
    spec = dataclasses.replace(
        spec,
        name=name,
        data=dataclasses.replace(spec.data, source=source),
        model=dataclasses.replace(spec.model, num_classes=classes),
    )
    body = report_evaluation.published(spec)
    assert [word for word in ("Caffe, AlexNet", "CIFAR-10 nets", "(§3.3)") if word in body] == shown
    assert bool(body) == bool(shown)


def test_top_5_errors_are_shown_if_there_are_any(run, tmp_path):
    page = report_evaluation.results(run, [])
    assert "12.50 %" in page and "top-5 error" in page
    results = json.loads((run / "results.json").read_text())
    del results["splits"]["test"]["center"]["top5_error"]
    results["splits"]["val"] = results["splits"]["test"]
    (tmp_path / "results.json").write_text(json.dumps(results))
    page = report_evaluation.results(tmp_path, [])
    assert "25.00 %" in page and "top-5" not in page


def test_other_figures_are_inlined(run, tmp_path):
    (tmp_path / "config.json").symlink_to(run / "config.json")
    (tmp_path / "figures").mkdir()
    for name in ("saliency", "neighbors"):
        (tmp_path / "figures" / f"{name}.png").write_bytes(b"png of " + name.encode())
    part = sections(report.write(tmp_path).read_text())["Figures"]
    assert base64.b64encode(b"png of saliency").decode() in part and part.count("<img") == 1


def test_a_folder_that_is_no_run_is_refused(run, tmp_path):
    with pytest.raises(StorageError, match=r"is not a run folder: it has no config\.json"):
        report.write(tmp_path)
    with pytest.raises(StorageError):
        report.write(run, step=3)


def test_in_a_browser_it_fits_a_phone_and_says_nothing_on_the_console(run):
    path = report.write(run)
    with browser() as window:
        for width, dark in ((390, True), (1280, False)):
            window.open(path.as_uri(), width, dark=dark)
            assert window.too_wide() <= 0
            window.run("document.querySelectorAll('details').forEach(d => d.open = true)")
            assert window.run(WIDER) == [], "tables scroll sideways"
            assert window.run("return document.title") == IMAGE
            assert window.run("return document.querySelectorAll('section.card').length") == 11
            assert window.run("return [...document.images].every(i => i.naturalWidth > 0)")
        assert window.errors() == []
