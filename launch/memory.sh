#!/usr/bin/env bash
# Prints the settings of launch/malloc.env for this machine, one NAME=VALUE per line. A single arena is for CPUs, where
# one thread makes the large allocations. With a GPU several threads allocate at once, and would wait for each other.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

on_gpu() {
    case ",${JAX_PLATFORMS:-}," in
    *,cuda,* | *,gpu,* | *,rocm,*) true ;;
    ,,) nvidia-smi -L 2>/dev/null | grep -q ^GPU ;;
    *) false ;; # another platform is selected
    esac
}

if on_gpu; then left_out=MALLOC_ARENA_MAX; else left_out='#'; fi
grep -v -e '^#' -e "^$left_out" malloc.env
