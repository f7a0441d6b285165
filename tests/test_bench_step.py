"""The forms of the step: each undoes what it says, and computes the same."""

import jax
import jax.numpy as jnp
import pytest

from alexnet_jax import backend, parallel
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.training import schedule, state
from alexnet_jax.training import step as training_step
from bench import alternate, forms, ours, step

# Of 'ynnpack' only the options differ.
TRACED = [form for form in forms.FORMS if form not in ("chosen", "ynnpack")]


@pytest.fixture(scope="module")
def spec():
    return ours.load("tests/tiny.py", 8, ["--config.data.source=folder"])


@pytest.fixture(scope="module")
def chosen(spec):
    return lowered(spec)


def apply(form, monkeypatch) -> None:
    for module, name, instead in forms.FORMS[form]:
        monkeypatch.setattr(module, name, instead(getattr(module, name)))


def lowered(spec) -> str:
    return ours.lower(spec, parallel.device_mesh(jax.local_devices()[:1])).as_text()


@pytest.mark.full
@pytest.mark.parametrize("form", TRACED)
def test_a_form_changes_the_program(form, spec, chosen, monkeypatch):
    apply(form, monkeypatch)
    assert lowered(spec) != chosen


def test_tracing_twice_gives_the_same_program(spec, chosen):
    assert lowered(spec) == chosen


def test_the_form_on_ynnpack_changes_one_compiler_option(monkeypatch):
    before = backend.compiler_options("cpu")
    apply("ynnpack", monkeypatch)
    after = backend.compiler_options("cpu")
    assert set(before) - set(after) == {"xla_cpu_experimental_ynn_fusion_type"}
    assert {**before, **after} == before


@pytest.mark.full
@pytest.mark.parametrize("form", [form for form in forms.FORMS if form != "chosen"])
def test_a_form_computes_the_same(form, spec, monkeypatch):
    run, _ = ours.program(spec)
    before = run(3)
    apply(form, monkeypatch)
    run, _ = ours.program(spec)
    assert run(3) == pytest.approx(before, rel=1e-5)


def velocity(spec):
    """After the first step: minus the rate times gradient and decay, array by array."""
    mesh, model = parallel.device_mesh(jax.local_devices()[:1]), AlexNet(spec.model)
    first = state.create(spec, model, 0, mesh=mesh)
    train_step = training_step.make_train_step(spec, model, ours.statistics(spec), mesh)
    rates = schedule.rates(spec, 0.0, first.schedule, 1.0)
    after, metrics = train_step(first, ours.examples(spec), rates)
    return jax.tree.leaves(after.velocity), float(metrics["loss"])


def largest_error(these, others):
    """Of an array's root mean square, over all arrays."""
    return max(
        float(jnp.sqrt(jnp.mean((one - other) ** 2) / jnp.mean(one**2)))
        for one, other in zip(these, others, strict=True)
    )


@pytest.mark.full
def test_fast_forms_have_the_values_and_gradients_of_plain_ones(spec, monkeypatch):
    """All at once against none: float32 to 1e-5; bfloat16 to 5 %."""
    fast, loss = velocity(spec)
    narrow = ours.load("tests/tiny.py", 8, ["--config.model.compute_dtype=bfloat16"])
    fast_narrow, _ = velocity(narrow)
    for form in TRACED:
        if form not in ("undonated", "derived-pool"):  # the pool is plain by reduce-window-pool
            apply(form, monkeypatch)
    plain, plain_loss = velocity(spec)
    assert loss == pytest.approx(plain_loss, rel=1e-5)
    assert largest_error(plain, fast) < 1e-5
    assert largest_error(plain, fast_narrow) < 0.05


def test_the_bench_starts_each_form_with_what_it_asks_for(monkeypatch):
    started = {}
    monkeypatch.setattr(
        alternate, "report", lambda options, programs_at: started.update(programs_at(8))
    )
    settings = "--config.data.source=folder"
    assert step.main(["--config", "tests/tiny.py", "--dtype", "bfloat16", settings]) == 0
    assert set(started) == {"chosen", *step.FORMS}
    assert set(step.FORMS) - {"malloc", "dtype"} == set(forms.FORMS) - {"chosen"}
    assert [name for name, program in started.items() if not program.kept_memory] == ["malloc"]
    for name, program in started.items():
        form, *arguments = program.arguments
        assert form == ("chosen" if name in ("malloc", "dtype") else name)
        assert "--batch=8" in arguments and settings in arguments
        dtype = "float32" if name == "dtype" else "bfloat16"
        assert arguments[-1] == f"--config.model.compute_dtype={dtype}"
