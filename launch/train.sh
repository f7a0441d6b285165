#!/usr/bin/env bash
# Trains with the memory settings of launch/memory.sh: launch/train.sh --config configs/paper.py --workdir runs/paper
# PYTHON picks the interpreter; otherwise the one that `make` installed, or python3.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [ -z "${PYTHON:-}" ]; then
    if [ -x .venv/bin/python ]; then PYTHON=.venv/bin/python; else PYTHON=python3; fi
fi
settings=$(launch/memory.sh)
# shellcheck disable=SC2086 # a word for each line
exec env $settings "$PYTHON" -m alexnet_jax.main "$@"
