"""The forms in which a dataset may lie on disk, besides class folders; each is recognized by its files."""

import pathlib

from alexnet_jax.data.sources import huggingface, kaggle, labels_csv, webdataset
from alexnet_jax.data.sources.listing import Listing, Unpack

#: In the order in which they are tried.
FORMS = (kaggle, huggingface, webdataset, labels_csv)
LAYOUTS = tuple(form.LAYOUT for form in FORMS)


def find(root: pathlib.Path, unpack: Unpack) -> Listing | None:
    """List the images of a path that has one of FORMS; None for any other. Raises DataError."""
    for form in FORMS:
        if found := form.find(root, unpack):
            return found
    return None
