"""What a shell hands to a command besides its arguments: encodings, variables, streams, folders, odd files."""

import ast
import errno
import io
import json
import os
import subprocess
import sys
import types
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from alexnet_jax import cli, config, files
from alexnet_jax.analysis import features, figures, predict
from alexnet_jax.cli import environment
from alexnet_jax.data import sources
from alexnet_jax.data.pipeline import splits
from alexnet_jax.data.sources import arrays
from alexnet_jax.errors import ConfigError, DataError, StorageError, of_system
from alexnet_jax.inference import network, trained, weights
from alexnet_jax.interop import import_weights
from alexnet_jax.run import workdir
from launch import sweep

ROOT = Path(__file__).resolve().parents[2]
LATIN = os.fsdecode(b"caf\xe9")
"""A name that is not UTF-8."""


class Case(NamedTuple):
    name: str
    variables: dict[str, str | None]
    """None: not set. $T is a folder of the test."""
    code: int = 0
    words: str = ""
    """Part of the last line of standard error; of an error it is the only one."""
    shell: str = 'exec "$@"'
    """How the command is started."""
    python: tuple[str, ...] = ()
    workdir: str = "run"
    arguments: tuple[str, ...] = ()


C_LOCALE = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
READ_ONLY = "exec setpriv --bounding-set -dac_override,-dac_read_search,-fowner"
"""As root too, modes of files count."""
USAGE = [
    Case("float64", {"JAX_ENABLE_X64": "1"}, 2, "unset JAX_ENABLE_X64"),
    Case("flag unknown to XLA", {"XLA_FLAGS": "--xla_nonsense=1"}, 2, "Unknown flag in XLA_FLAGS: --xla_nonsense"),
    Case("name not UTF-8", {}, 2, r"caf\xe9' is not UTF-8", workdir=LATIN),
    Case("umlaut, ASCII locale", C_LOCALE, 2, "set PYTHONUTF8=1", workdir="rün"),
    Case("unwritable parent", {}, 5, "choose another --workdir", shell=f'chmod 555 $T; {READ_ONLY} "$@"'),
    Case("error, ASCII streams", {"PYTHONIOENCODING": "ascii"}, 2, r"r\xfcn.py", arguments=("--config", "rün.py")),
    Case("error, line break in a name", {}, 2, r"file a\nb\x1b[31m.py", arguments=("--config", "a\nb\x1b[31m.py")),
    Case("error, closed streams", {"JAX_ENABLE_X64": "1"}, 2, shell='exec "$@" <&- >&- 2>&-'),
    Case("error, standard error full", {"JAX_ENABLE_X64": "1"}, 2, shell='exec "$@" 2>/dev/full'),
]  # fmt: skip
"""Answered before JAX is imported."""
NO_CACHES: dict[str, str | None] = {"ALEXNET_JAX_CACHE": None, "JAX_COMPILATION_CACHE_DIR": None}
STARTS = [
    Case("platform without device", {"JAX_PLATFORMS": "cuda"}, 2, "JAX_PLATFORMS=cuda"),
    Case("platform unknown", {"JAX_PLATFORMS": "nonsense"}, 2, "JAX_PLATFORMS=nonsense"),
    Case("value unknown to JAX", {"JAX_ENABLE_X64": "maybe"}, 2, "JAX_ENABLE_X64=maybe"),
    Case("precision unknown", {"JAX_DEFAULT_MATMUL_PRECISION": "exact"}, 2, "JAX_DEFAULT_MATMUL_PRECISION=exact"),
]  # fmt: skip
TRAINS = [
    Case("umlaut, ASCII streams", {"PYTHONIOENCODING": "ascii"}, workdir="rün"),
    Case("umlaut, Latin-1 streams", {"PYTHONIOENCODING": "latin-1"}, workdir="Ωrün 你"),
    Case("ASCII locale", C_LOCALE),
    Case("UTF-8 mode, unknown locale", {"LC_ALL": "xx_XX", "PYTHONUTF8": "1"}, workdir="rün"),
    Case("spaces", {"ALEXNET_JAX_CACHE": "$T/my cache", "TMPDIR": "$T/no such"}, workdir="my runs/a b"),
    Case("closed streams", {}, shell='exec "$@" <&- >&- 2>&-'),
    Case("standard output full", {}, shell='exec "$@" >/dev/full'),
    Case("standard output full, no buffer", {"PYTHONUNBUFFERED": "1"}, shell='exec "$@" >/dev/full'),
    Case("standard output a closed pipe", {}, shell='set -o pipefail; "$@" | true'),
    Case("python -O", {}, python=("-O",)),
    Case("warnings are errors", {"PYTHONWARNINGS": "error"}),
    Case("NaNs watched", {"JAX_DEBUG_NANS": "1", "JAX_DEBUG_INFS": "1"}),
    Case("highest precision", {"JAX_DEFAULT_MATMUL_PRECISION": "highest"}),
    Case("unknown matplotlib backend", {"MPLBACKEND": "nonsense"}),
    Case("HOME missing, caches there", {"HOME": "/nonexistent", **NO_CACHES}),
    Case("HOME unset", {"HOME": None, **NO_CACHES}),
    Case("caches read-only", NO_CACHES | {"HOME": "/proc", "MPLCONFIGDIR": "/proc", "ALEXNET_JAX_CACHE": "/proc/x"}),
    Case("compilation cache is a file", {"JAX_COMPILATION_CACHE_DIR": "/etc/passwd"}),
    Case("umask 077", {}, shell='umask 077; exec "$@"'),
    Case("umask 0777", {}, 5, "Permission denied", shell=f'umask 0777; {READ_ONLY} "$@"'),
    Case("terminal of one column", {"COLUMNS": "1", "TERM": "nonsense"}),
    Case("no PATH", {"PATH": "/nonexistent"}, shell="exec /usr/bin/env \"$@\""),
]  # fmt: skip


def start(case: Case, folder: Path) -> subprocess.CompletedProcess:
    """The training command on two steps of the tiny net."""
    values = {k: v and v.replace("$T", str(folder)) for k, v in case.variables.items()}
    changed = os.environ | {"JAX_NUM_CPU_DEVICES": "1", "T": str(folder)} | values
    kept = {k: v for k, v in changed.items() if v is not None}
    named = () if "--config" in case.arguments else ("--config", "tests/tiny.py")
    command = [sys.executable, *case.python, "-m", "alexnet_jax.main", *named, "--config.train.max_steps=2",
               "--workdir", str(folder / case.workdir), *case.arguments]  # fmt: skip
    return subprocess.run(
        ["/bin/bash", "-c", case.shell, "bash", *command], env=kept, cwd=ROOT, capture_output=True, text=True,
        errors="surrogateescape",
    )  # fmt: skip


def names(case: Case) -> str:
    return case.name


@pytest.mark.fault("F18", "F44")
@pytest.mark.usefixtures("without_xla_flags")
@pytest.mark.parametrize("case", USAGE, ids=names)
def test_what_cannot_work_is_one_line_and_its_code(case, tmp_path):
    done = start(case, tmp_path)
    os.chmod(tmp_path, 0o755)
    assert done.returncode == case.code, done.stderr
    if case.words:
        assert len(done.stderr.splitlines()) == 1 and case.words in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "case",
    [STARTS[0], *(pytest.param(case, marks=pytest.mark.full) for case in STARTS[1:])],
    ids=lambda case: case.name,
)
def test_a_jax_that_does_not_start_is_one_line_and_its_code(case, tmp_path):
    done = start(case, tmp_path)
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1 and case.words in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.full
@pytest.mark.fault("F19", "F50")
@pytest.mark.parametrize("case", TRAINS, ids=names)
def test_a_run_works_wherever_it_can(case, tmp_path):
    done = start(case, tmp_path)
    assert done.returncode == case.code, done.stderr
    if case.code:
        assert case.words in done.stderr.splitlines()[-1]
        return
    assert "Traceback" not in done.stderr and "error[" not in done.stderr
    status = json.loads((tmp_path / case.workdir / "status.json").read_text())
    assert (status["state"], status["step"]) == ("finished", 2)
    assert (tmp_path / case.workdir / "figures" / "filters.png").exists()


def ends(main) -> int:
    """The exit code of a command as cli.run ends it."""
    with pytest.raises(SystemExit) as end:
        cli.run(main)
    return end.value.code or 0  # type: ignore[return-value]


@pytest.fixture
def command_line(monkeypatch):
    """No arguments, and no variable that the program refuses."""
    monkeypatch.setattr(sys, "argv", ["command"])
    for name in environment._REFUSED:
        monkeypatch.delenv(name, raising=False)


def test_any_text_goes_to_any_stream(monkeypatch, command_line):
    """Of every command: the streams are made so where all of them begin."""
    streams = [io.TextIOWrapper(io.BytesIO(), encoding="ascii") for _ in range(2)]
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])

    def main(_arguments) -> None:
        print("rün █", LATIN)
        raise ConfigError(f"{LATIN} 你")

    assert ends(main) == 2
    out, err = (stream.buffer.getvalue() for stream in streams)  # type: ignore[attr-defined]
    assert out == b"r\\xfcn \\u2588 caf\\udce9\n"
    assert err == b"alexnet: error[E_CONFIG]: caf\\udce9 \\u4f60\n"


def test_every_command_begins_there():
    for path in [*(ROOT / "alexnet_jax").rglob("*.py"), *(ROOT / "launch").glob("*.py")]:
        text = path.read_text(encoding="utf-8")
        if "def main(arguments" in text and 'if __name__ == "__main__"' in text:
            assert "\n    cli.run(main)\n" in text, path


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "a/b"), 5, "a/b: Permission denied"),
        (OSError(errno.ENOSPC, "No space left on device"), 5, "make room"),
        (
            RuntimeError("Could not determine home directory."),
            2,
            "set HOME, or set ALEXNET_JAX_CACHE",
        ),
        (BrokenPipeError(), 0, ""),
        (ValueError("our own"), 1, "fault of the program"),
        (OSError(errno.EBADF, "Bad file descriptor"), 1, "fault of the program"),
    ],
)
def test_what_comes_from_outside_is_no_fault_of_the_program(
    command_line, capfd, error, code, words
):
    def main(_arguments) -> None:
        raise error

    assert ends(main) == code
    assert words in capfd.readouterr().err
    assert (of_system(error) is not None) == (code == 5)


@pytest.mark.fault("F18")
@pytest.mark.parametrize("name", environment._REFUSED)
def test_a_variable_that_changes_the_numbers_is_refused(name, monkeypatch):
    monkeypatch.setenv(name, "True")
    with pytest.raises(ConfigError, match=f"{name}=True is set, but .*: unset {name}"):
        environment.check()


def test_without_a_home_the_cache_says_what_to_set(monkeypatch):
    import pwd

    def nobody(_user):
        raise KeyError("no such user")

    monkeypatch.delenv("ALEXNET_JAX_CACHE")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    with pytest.raises(RuntimeError) as raised:
        files.cache_folder()
    known = environment.fault(raised.value)
    assert known and known.exit_code == 2 and "ALEXNET_JAX_CACHE=FOLDER" in known.line()


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"ALEXNET_JAX_CACHE": "$T/new"}, "$T/new/jax"),
        ({"ALEXNET_JAX_CACHE": "$T", "JAX_COMPILATION_CACHE_DIR": "elsewhere"}, "elsewhere"),
        ({"ALEXNET_JAX_CACHE": "$T", "JAX_COMPILATION_CACHE_DIR": ""}, ""),
        ({"ALEXNET_JAX_CACHE": "/proc/cache"}, None),
    ],
    ids=["by default", "set by the user", "switched off", "not writable"],
)
def test_compiled_programs_are_kept_in_the_cache_folder(variables, expected, monkeypatch, tmp_path):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    for name, value in variables.items():
        monkeypatch.setenv(name, value.replace("$T", str(tmp_path)))
    environment.check()
    assert os.environ.get("JAX_COMPILATION_CACHE_DIR") == (
        expected and expected.replace("$T", str(tmp_path))
    )


def test_nothing_is_left_to_asserts_which_python_may_leave_out():
    """They tell the type checker what is so, and call nothing that counts."""
    for folder in ("alexnet_jax", "launch", "configs", "bench"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Assert):
                    assert not any(isinstance(n, ast.Call) for n in ast.walk(node)), (
                        path,
                        node.lineno,
                    )


@pytest.fixture
def pipe(tmp_path):
    def make(name: str) -> Path:
        os.mkfifo(tmp_path / name)
        return tmp_path / name

    return make


def test_a_pipe_or_a_device_is_no_image(pipe, two_nets, tmp_path):
    """Opening the one, and reading the other, would never end."""
    net = network.load(two_nets[0])
    for path in (pipe("z.jpg"), Path("/dev/zero"), Path("/dev/tty")):
        with pytest.raises(DataError, match=r"not a (regular )?file|No such device"):
            net.predict(path)
    with pytest.raises(DataError, match="it is a named pipe, not a file"):
        predict.main([str(tmp_path / "z.jpg"), "--workdir", str(two_nets[0])])
    out = str(tmp_path / "fc6.npz")
    asked = ["--workdir", str(two_nets[0]), "--layer", "fc6", "--out", out]
    with pytest.raises(DataError, match=r"not a (regular )?file"):
        features.main([*asked, "--images", str(tmp_path / "z.jpg")])


def test_a_pipe_a_folder_or_a_device_is_no_other_file_either(pipe, two_nets, tmp_path):
    spec = config.parse(config.load("tests/tiny.py", []))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder.npz").mkdir()
    for path, kind in (
        (pipe("pipe.npz"), "named pipe"), (tmp_path / "folder.npz", "folder"), (Path("/dev/zero"), "device"),
    ):  # fmt: skip
        what = f"it is a {kind}, not a file"
        data = types.SimpleNamespace(path=str(path), image_size=16, threads=1)
        with pytest.raises(DataError, match=what):
            arrays.load(data)  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match=what):
            config.load(str(path), [])
        with pytest.raises(StorageError, match=what):
            weights.read(path)
        with pytest.raises(DataError, match=what):
            import_weights._class_names(str(path))
        if path.suffix:
            with pytest.raises(ConfigError, match=what):
                features._is_done(path, {})
    assert spec.data.source == "synthetic"


def test_an_image_and_a_page_may_have_any_name(two_nets, tmp_path):
    path = tmp_path / f"{LATIN}$x$.png"
    Image.new("RGB", (20, 20), (200, 0, 0)).save(path)
    out = tmp_path / f"{LATIN}.json"
    files.write_atomically(out, f"{path.name}\n")
    assert out.read_bytes() == b"caf\\udce9$x$.png\n"
    from alexnet_jax.analysis import pictures, predictions

    net = network.load(two_nets[0])
    shown = pictures.Pictures(net.pixels([path]), None, [str(path)])
    made = predictions.plot(net, shown, tmp_path / f"p{LATIN}.png")
    assert made.exists()
    text = json.loads(made.with_suffix(".json").read_text())
    assert text["images"][0]["image"] == str(path)
    assert figures.short(path.name) == r"caf\udce9\$x\$.png"


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (["\ufeffcat", "dog"], ("cat", "dog")),
        (np.array([b"cat", "köln".encode()]), ("cat", "köln")),
        (np.arange(3), ("0", "1", "2")),
    ],
)
def test_class_names_are_text(found, told):
    assert splits.class_names(found, "W") == told


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (["cat", "dog", "cat"], r"classes 0 and 2 \(from 0\) have the same name 'cat'"),
        (["cat", " "], r"class 1 \(from 0\) is empty"),
        ([b"caf\xe9", b"dog"], "not UTF-8"),
        (["\ufeff", "dog"], "class 0"),
    ],
)
def test_class_names_that_name_nothing_are_refused(found, words):
    with pytest.raises(DataError, match=f"^W: .*{words}"):
        splits.class_names(found, "W")


def test_class_names_are_checked_where_they_come_in(tmp_path):
    images, labels = np.zeros((4, 16, 16, 3), np.uint8), np.arange(4) % 2
    images[:] = np.arange(4)[:, None, None, None]
    path = tmp_path / "a.npz"
    spec = config.parse(
        config.load("tests/tiny.py", ["--config.data.source=arrays", f"--config.data.path={path}",
                                      "--config.data.validation=0", "--config.schedule.weights.kind=epochs"])
    ).data  # fmt: skip
    np.savez(path, train_images=images, train_labels=labels, class_names=np.array([b"cat", b"dog"]))
    assert sources.open_dataset(spec, 0).class_names == ("cat", "dog")
    np.savez(path, train_images=images, train_labels=labels, class_names=["cat", "cat"])
    with pytest.raises(DataError, match="same name 'cat'"):
        sources.open_dataset(spec, 0)
    (tmp_path / "names.txt").write_bytes("\ufeffcat\r\ndog\r\n".encode())
    assert import_weights._class_names(str(tmp_path / "names.txt")) == ("cat", "dog")
    (tmp_path / "names.txt").write_bytes(b"cat\n\ndog\n")
    with pytest.raises(DataError, match="class 1"):
        import_weights._class_names(str(tmp_path / "names.txt"))


def test_a_run_folder_that_checkpoints_cannot_have_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"caf\\xe9' is not UTF-8"):
        workdir.Workdir(tmp_path / LATIN).check()
    (tmp_path / LATIN).mkdir()
    (tmp_path / LATIN / "config.json").write_text(config.to_json(config.load("tests/tiny.py", [])))
    with pytest.raises(StorageError, match="is not UTF-8"):
        trained.load(tmp_path / LATIN)
    asked = ["towers", "--scale", "digits", "--out", str(tmp_path / LATIN)]
    with pytest.raises(ConfigError, match="is not valid UTF-8"):
        sweep.main(asked)
    assert list((tmp_path / LATIN).iterdir()) == [tmp_path / LATIN / "config.json"]


@pytest.mark.full
def test_the_launcher_trains_from_any_folder(tmp_path):
    """Paths are the caller's; a config that is not there is one of the repository, a folder configs/ or not."""
    (tmp_path / "configs").mkdir()
    (tmp_path / "my.py").write_text("from configs.quickstart import get_config\n")
    variables = os.environ | {"PYTHON": sys.executable, "JAX_NUM_CPU_DEVICES": "1"}
    for number, name in enumerate(("configs/quickstart.py", "my.py")):
        command = [ROOT / "launch" / "train.sh", "--config", name, "--workdir", f"my runs/{number}",
                   "--config.train.max_steps=1"]  # fmt: skip
        done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "my runs" / str(number) / "results.json").exists()
