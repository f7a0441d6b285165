"""The benchmark of the step: its programs, and its changes of the whole program."""

import jax
import pytest

from alexnet_jax import config
from alexnet_jax.errors import ConfigError
from alexnet_jax.kernels import compiler
from alexnet_jax.kernels.forms import CANDIDATES, CPU, GPU
from alexnet_jax.model import mesh as parallel
from bench import alternate, forms, ours, step, workload


@pytest.fixture(scope="module")
def spec():
    return workload.load("tests/tiny.py", 8, ["--config.data.source=folder"])


def apply(form, monkeypatch) -> None:
    for module, name, instead in forms.PROGRAM[form]:
        monkeypatch.setattr(module, name, instead(getattr(module, name)))


def test_the_form_on_ynnpack_changes_one_compiler_option(monkeypatch):
    before = compiler.options("cpu")
    apply("ynnpack", monkeypatch)
    after = compiler.options("cpu", deterministic=False)
    assert set(before) - set(after) == {"xla_cpu_experimental_ynn_fusion_type"}
    assert {**before, **after} == before


def test_a_state_that_is_not_donated_stays(spec, monkeypatch):
    mesh = parallel.device_mesh(jax.local_devices()[:1])
    donated = ours.lower(spec, mesh).as_text()
    apply("undonated", monkeypatch)
    assert "donor" in donated or "aliasing_output" in donated
    kept = ours.lower(spec, mesh).as_text()
    assert "donor" not in kept and "aliasing_output" not in kept


def test_a_worker_takes_changes_and_whole_programs_and_refuses_others():
    assert forms.parse("pool=repeat", CPU).pool == "repeat"
    assert forms.parse("undonated", GPU) == forms.parse("chosen", GPU) == GPU
    with pytest.raises(ConfigError, match="unknown form"):
        forms.parse("nonsense", CPU)


def test_what_makes_no_other_program_is_not_measured(spec):
    on_cpu, on_gpu = (step.default_forms(name, spec) for name in ("cpu", "cuda"))
    assert (
        "groups=feature_groups" in on_cpu and "ynnpack" in on_cpu and "deterministic" not in on_cpu
    )
    assert set(CANDIDATES) < set(on_gpu) and "ynnpack" not in on_gpu and "malloc" not in on_gpu
    for names in (on_cpu, on_gpu):
        assert not [n for n in names if n.startswith(("loops", "weights"))]
    narrow = workload.load("tests/tiny.py", 8, ["--config.data.source=folder", "--config.train.steps_per_dispatch=2",
                                            "--config.model.compute_dtype=bfloat16"])  # fmt: skip
    on_gpu = step.default_forms("cuda", narrow)
    assert "weights=kept" in on_gpu and "loops=unrolled" in on_gpu and "pool=parity" not in on_gpu


def test_the_bench_starts_each_form_with_what_it_asks_for(monkeypatch):
    started = {}
    monkeypatch.setattr(
        alternate, "report", lambda options, programs_at, **facts: started.update(programs_at(8))
    )
    settings = "--config.data.source=folder"
    assert step.main(["--config", "tests/tiny.py", "--dtype", "bfloat16", settings]) == 0
    narrow = ["--config.model.compute_dtype=bfloat16", settings, "--config.data.path=unused"]
    spec = config.parse(config.load("tests/tiny.py", narrow))
    assert list(started) == ["chosen", *step.default_forms("cpu", spec)]
    assert [name for name, program in started.items() if not program.kept_memory] == ["malloc"]
    for name, program in started.items():
        form, *arguments = program.arguments
        unchanged = ("malloc", "dtype", *step.SETTINGS)
        assert form == ("chosen" if name in unchanged else name)
        assert "--batch=8" in arguments and settings in arguments
        dtype = "float32" if name == "dtype" else "bfloat16"
        settings_of_form = [step.SETTINGS[name]] if name in step.SETTINGS else []
        assert arguments[-1 - len(settings_of_form) :] == [
            f"--config.model.compute_dtype={dtype}", *settings_of_form
        ]  # fmt: skip
