#!/usr/bin/env bash
# Trains with the memory settings of launch/memory.sh: launch/train.sh --config configs/paper.py --workdir runs/paper
# It can be called from any folder. Paths are relative to that folder; a config that is not there is looked up in the
# repository.
# PYTHON picks the interpreter; otherwise the one that `make` installed, or python3.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
if [ -z "${PYTHON:-}" ]; then
    if [ -x "$root/.venv/bin/python" ]; then PYTHON=$root/.venv/bin/python; else PYTHON=python3; fi
fi
settings=$("$root/launch/memory.sh")
# -P: a folder configs/ in the current folder must not hide that of the repository.
# shellcheck disable=SC2086 # a word for each line
exec env $settings PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" "$PYTHON" -P -m alexnet_jax.main "$@"
