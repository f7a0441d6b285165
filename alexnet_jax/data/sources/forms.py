"""The forms in which a dataset may lie on disk, besides class folders; each is recognized by its files."""

import pathlib

from alexnet_jax.data.sources import huggingface, kaggle, labels_csv, webdataset
from alexnet_jax.data.sources.listing import Listing, Unpack

#: By the names of their sources, in the order in which they are tried.
FORMS = {
    "kaggle": kaggle,
    "huggingface": huggingface,
    "webdataset": webdataset,
    "labels_csv": labels_csv,
}
LAYOUTS = tuple(form.LAYOUT for form in FORMS.values())


def find(root: pathlib.Path, unpack: Unpack) -> Listing | None:
    """List the images of a path that has one of FORMS; None for any other. Raises DataError."""
    for form in FORMS.values():
        if found := form.find(root, unpack):
            return found
    return None
