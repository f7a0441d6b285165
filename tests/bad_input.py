"""Every command that takes a trained network, given what it cannot use: one line, a documented code, nothing written.

Command: python -m tests.bad_input    (runs each as a user would, and prints a Markdown table)

tests/test_bad_input.py asks the same of the functions behind the commands.
"""

import io
import json
import pickle
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from alexnet_jax.errors import AlexNetError
from alexnet_jax.inference import trained

EVALUATION, ANALYSIS = "alexnet_jax.evaluation", "alexnet_jax.analysis"
IMPORT, EXPORT = "alexnet_jax.interop.import_weights", "alexnet_jax.interop.export_weights"


class Case(NamedTuple):
    fault: str
    command: str
    """Module and arguments; words in capitals are files of `make`."""
    code: int
    words: str
    """Part of the one line."""


def _no_checkpoint() -> list[Case]:
    asked = [
        f"{EVALUATION}.evaluate --workdir EMPTY",
        f"{EVALUATION}.ensemble --workdir EMPTY EMPTY",
        f"{EVALUATION}.tables --workdir EMPTY",
        f"{EVALUATION}.compare EMPTY EMPTY",
        f"{ANALYSIS}.robustness --workdir EMPTY --out OUT",
        f"{ANALYSIS}.lesion --workdir EMPTY --layer conv1 --each --out OUT",
        f"{ANALYSIS}.similarity --nets EMPTY NET --out OUT",
        *(f"{ANALYSIS}.{name} --workdir EMPTY" for name in (
            "mistakes", "filters", "patching", "predictions", "neighbors", "saliency", "deconvnet", "activations",
            "tuning", "atlas")),
        f"{ANALYSIS}.features --workdir EMPTY --layer fc6 --split test --out EMPTY/fc6.npz",
        "alexnet_jax.analysis.predict PHOTO --workdir EMPTY",
        "alexnet_jax.interop.release --workdir EMPTY --out OUT",
        f"{EXPORT} --workdir EMPTY --format safetensors --out EMPTY/net.safetensors",
        "alexnet_jax.main --config tests/tiny.py --workdir OUT --init-from EMPTY",
    ]  # fmt: skip
    cases = [Case("no checkpoint", one, 5, "no checkpoint in") for one in asked]
    logs = (f"{ANALYSIS}.curves --workdir EMPTY", f"{ANALYSIS}.convergence --workdir EMPTY --out OUT")  # fmt: skip
    return [*cases, *(Case("no checkpoint", one, 6, "metrics.jsonl") for one in logs)]


def _no_run() -> list[Case]:
    asked = [
        f"{EVALUATION}.evaluate --workdir NOTHING",
        f"{ANALYSIS}.filters --workdir NOTHING",
        f"{ANALYSIS}.report --workdir NOTHING",
        "alexnet_jax.analysis.predict PHOTO --workdir NOTHING",
        "alexnet_jax.interop.release --workdir NOTHING --out OUT",
    ]
    return [Case("no run folder", one, 5, "is not a run folder") for one in asked]


def _wrong_classes() -> list[Case]:
    other = "--data-path OTHER"
    asked = [
        f"{EVALUATION}.evaluate --workdir NET {other} --out OUT",
        f"{EVALUATION}.ensemble --workdir NET NET {other}",
        f"{EVALUATION}.tables --workdir NET {other}",
        f"{EVALUATION}.compare NET NET {other}",
        f"{ANALYSIS}.mistakes --workdir NET {other} --out OUT",
        f"{ANALYSIS}.similarity --nets NET {other} --out OUT",
        *(f"{ANALYSIS}.{name} --workdir NET {other} --out OUT" for name in (
            "patching", "predictions", "neighbors", "saliency", "deconvnet", "activations", "atlas")),
        f"{ANALYSIS}.lesion --workdir NET --layer conv1 --each {other} --out OUT",
        f"{ANALYSIS}.features --workdir NET --layer fc6 --split test {other} --out OUT/fc6.npz",
    ]  # fmt: skip
    return [
        Case("images of other classes", one, 3, "not known to the net: rose, tulip")
        for one in asked
    ]


def _wrong_test_sets() -> list[Case]:
    of = f"{EVALUATION}.evaluate --workdir NET --data-path IMAGES --out OUT --labels"
    asked = [
        (f"{of} BROKEN", "it is not UTF-8"),
        (f"{of} NOTHING/real.json", "there is no file"),
        (f"{EVALUATION}.compare NET NET --data-path IMAGES --labels BROKEN", "it is not UTF-8"),
    ]
    robust = f"{ANALYSIS}.robustness --workdir NET --data-path IMAGES --out OUT --corrupted"
    asked += [(f"{robust} NOTHING", "has no corrupted images"), (f"{robust} PHOTO", "no folder")]
    return [
        Case("labels or corrupted images that cannot be read", one, 3, words)
        for one, words in asked
    ]


def _unreadable_image() -> list[Case]:
    asked = [
        "alexnet_jax.analysis.predict BROKEN --workdir NET",
        *(f"{ANALYSIS}.{name} --workdir NET --images BROKEN --out OUT" for name in (
            "predictions", "neighbors", "saliency")),
        f"{ANALYSIS}.patching --workdir NET --images BROKEN PHOTO --out OUT",
        f"{ANALYSIS}.features --workdir NET --layer fc6 --images BROKEN --out OUT/fc6.npz",
    ]  # fmt: skip
    return [Case("an unreadable image", one, 3, "broken.jpg") for one in asked]


def _hostile_weights() -> list[Case]:
    asked = [
        ("alexnet_jax.analysis.predict PHOTO --workdir HUGE", "huge.safetensors"),
        ("alexnet_jax.analysis.predict PHOTO --workdir CUT", "cut.safetensors"),
        (f"{EVALUATION}.evaluate --workdir DEEP --out OUT", "deep.safetensors"),
        (f"{ANALYSIS}.filters --workdir HUGE --out OUT", "huge.safetensors"),
        ("alexnet_jax.interop.verify CUT", "cut.safetensors"),
        (f"{EXPORT} --workdir DEEP --format torchvision --out OUT/net.safetensors", "deep.safetensors"),
        (f"{IMPORT} HUGE --format torchvision --out OUT/net.safetensors", "huge.safetensors"),
        (f"{IMPORT} PICKLE --format torchvision --out OUT/net.safetensors", "code.pth"),
        (f"{IMPORT} NOISE --format caffe --out OUT/net.safetensors", "noise.caffemodel"),
        (f"{IMPORT} CUT --out OUT/net.safetensors", "cut.safetensors"),
        ("alexnet_jax.interop.identify_command DEEP", "deep.safetensors"),
        ("alexnet_jax.interop.identify_command NOISE --json", "noise.caffemodel"),
    ]  # fmt: skip
    return [Case("a hostile or damaged weights file", one, 5, words) for one, words in asked]


CASES = [
    *_no_run(), *_no_checkpoint(), *_wrong_classes(), *_wrong_test_sets(), *_unreadable_image(), *_hostile_weights(),
]  # fmt: skip


class _Touch:
    """Makes a file where it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def make(base: Path) -> dict[str, str]:
    """The files that the commands name. `base`/executed appears if one of them is executed."""
    import numpy as np
    from PIL import Image

    from alexnet_jax import config, files
    from alexnet_jax.data.pipeline import statistics
    from alexnet_jax.inference import weights

    for folder, classes in (("images", ("cat", "dog")), ("other", ("rose", "tulip"))):
        for split in ("train", "test"):
            for name in classes:
                (base / folder / split / name).mkdir(parents=True)
                Image.new("RGB", (20, 20), "teal").save(base / folder / split / name / "a.png")
    overrides = [
        "--config.data.source=folder",
        f"--config.data.path={base / 'images'}",
        "--config.data.validation=0.0",
        "--config.model.num_classes=2",
    ]
    tree = config.load("tests/tiny.py", overrides)
    spec = config.with_classes(config.parse(tree), 2)
    (base / "empty").mkdir()
    (base / "empty/config.json").write_text(config.to_json(tree))
    (base / "nothing").mkdir()
    generator, params = np.random.default_rng(0), {}
    for name, shape in weights.shapes(spec).items():
        _, row, array = name.split("/")
        params.setdefault(row, {})[array] = generator.normal(0, 0.1, shape).astype(np.float32)
    run = trained.TrainedModel(spec, json.loads(config.to_json(tree)), 0, params, {}, statistics.zeros(16),
                      ("cat", "dog"))  # fmt: skip
    net = trained.save(base / "net.safetensors", run)
    (base / "cut.safetensors").write_bytes(net.read_bytes()[:-100])
    card = {"sha256": files.sha256_of(net), "config": "tiny", "seed": 0, "step": 0, "splits": {}}
    (base / "cut.json").write_text(json.dumps(card))
    (base / "huge.safetensors").write_bytes(struct.pack("<Q", 2**62) + b"{}")
    deep = b"[" * 100_000
    (base / "deep.safetensors").write_bytes(struct.pack("<Q", len(deep)) + deep)
    content = io.BytesIO()
    pickle.dump(_Touch(base / "executed"), content)
    (base / "code.pth").write_bytes(content.getvalue())
    (base / "noise.caffemodel").write_bytes(generator.bytes(5000))
    (base / "broken.jpg").write_bytes(b"\xff\xd8 not a picture")
    Image.new("RGB", (20, 20), "teal").save(base / "photo.png")
    names = {
        "NOTHING": "nothing", "EMPTY": "empty", "OTHER": "other", "NET": "net.safetensors", "OUT": "out",
        "CUT": "cut.safetensors", "HUGE": "huge.safetensors", "DEEP": "deep.safetensors", "PICKLE": "code.pth",
        "NOISE": "noise.caffemodel", "BROKEN": "broken.jpg", "PHOTO": "photo.png", "IMAGES": "images",
    }  # fmt: skip
    return {word: str(base / name) for word, name in names.items()}


def written(base: Path) -> list[Path]:
    """The files below `base`, but for what features keeps in order to continue."""
    files = (path for path in base.rglob("*") if path.is_file())
    return [path for path in files if ".npz.parts" not in str(path)]


def arguments(case: Case, names: dict[str, str]) -> list[str]:
    """Module and arguments, with the files in the place of their words."""

    def filled(argument: str) -> str:
        word, slash, rest = argument.partition("/")
        return names.get(word, word) + slash + rest

    return [filled(argument) for argument in case.command.split()]


def main() -> None:
    print("| given | command | code | what it says |\n|---|---|--:|---|")
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        names = make(base)
        before = sorted(written(base))
        for case in CASES:
            done = subprocess.run(
                [sys.executable, "-m", *arguments(case, names)],
                capture_output=True,
                text=True,
                timeout=120,
            )
            lines = done.stderr.strip().replace(f"{base}/", "").splitlines()
            assert done.returncode == case.code, (case, done)
            assert len(lines) == 1 and case.words in lines[0] and not done.stdout, (case, done)
            assert sorted(written(base)) == before, case
            command = case.command.replace("alexnet_jax.", "", 1)
            said = lines[0].partition("]: ")[2].replace("|", "\\|")
            print(f"| {case.fault} | `{command}` | {case.code} | {said} |", flush=True)
    print(f"\n{len(CASES)} of {len(CASES)} as documented.")


if __name__ == "__main__":
    try:
        main()
    except AlexNetError as error:
        sys.exit(error.line())
