"""Measurements, each a command: python -m bench.NAME. Nothing of the package imports them."""
