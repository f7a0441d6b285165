"""A cache folder of its own for every test of the data, and specs with one line each."""

import dataclasses
import functools

import pytest

from alexnet_jax.data.pipeline import images, pillow
from alexnet_jax.specs import AugmentSpec, DataSpec


@pytest.fixture(autouse=True)
def cache_folder(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("ALEXNET_JAX_CACHE", str(folder))
    return folder


@pytest.fixture(autouse=True)
def pillow_filters():
    """The filters of warnings that reading images sets once, and pytest takes away after every test."""
    pillow.image_module.cache_clear()
    pillow.image_module()


@pytest.fixture(params=["simplejpeg", "Pillow"])
def jpeg_decoder(request, monkeypatch):
    """Each test once with simplejpeg, and once as where it is not installed."""
    if request.param == "Pillow":
        monkeypatch.setattr(images, "_simplejpeg", lambda: None)


@pytest.fixture
def data_spec():
    plain = DataSpec(
        source="synthetic",
        path=None,
        name=None,
        image_size=8,
        classes=(),
        validation=0.0,
        shuffle="epoch",
        threads=2,
        prefetch=2,
        placement="host",
    )

    def make(source, path=None, **changes):
        path = None if path is None else str(path)
        return dataclasses.replace(plain, source=source, path=path, **changes)

    return make


@pytest.fixture
def augment_spec():
    plain = AugmentSpec(
        resize=None,
        crop_size=6,
        crop="random",
        crop_chunk=1,
        flip=True,
        mean="none",
        scale=1.0,
        color_std=0.0,
        color_basis="std",
        color_rescale=False,
        color_off_epoch=None,
    )
    return functools.partial(dataclasses.replace, plain)
