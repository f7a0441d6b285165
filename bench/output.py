"""The option --json of the benchmarks."""

import argparse
import json
from pathlib import Path
from typing import Any

from alexnet_jax import files
from alexnet_jax.errors import StorageError


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add --json, for `write_json`; a file that cannot be written is refused before anything is measured."""
    parser.add_argument(
        "--json", type=_file, metavar="FILE", help="also write the numbers to this file"
    )


def _file(text: str) -> Path:
    path = Path(text)
    if fault := files.not_regular(path):
        raise argparse.ArgumentTypeError(f"{path}: {fault}")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {path.parent}")
    return path


def write_json(path: Path | None, report: dict[str, Any]) -> None:
    """Write a report to the file of --json, if there is one. Raises StorageError."""
    if path is None:
        return
    try:
        files.write_atomically(path, json.dumps(report, indent=1) + "\n")
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}") from None
