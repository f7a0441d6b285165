"""The folders of a checkout or an installed package that the benchmarks use."""

from pathlib import Path

#: The folder that has bench/, launch/ and configs/.
ROOT = Path(__file__).resolve().parents[1]
#: The folder from which this package can be imported under its name.
IMPORT_ROOT = Path(__file__).resolve().parents[__name__.count(".")]
