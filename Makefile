# Everything here starts from a bare Python 3.11 or newer with its venv module: `make` lists what there is.

# The first Python that is new enough; `make PYTHON=/path/to/python3.12 ...` picks another.
PYTHON ?= $(shell for python in python3 python3.11 python3.12 python3.13; do \
    $$python -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
        && echo $$python && break; done)

VENV := .venv
RUN := $(VENV)/bin/python
PIP_INSTALL := $(RUN) -m pip install -qq --disable-pip-version-check --progress-bar off --require-hashes

# Compiled programs are kept, so that the second start of anything is fast.
export JAX_COMPILATION_CACHE_DIR ?= $(CURDIR)/.jax-cache
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS ?= 0.2

# The memory settings, for what trains or measures; launch/memory.sh says which are for this machine.
MEMORY := $(if $(filter quickstart bench gpu reliability,$(MAKECMDGOALS)),$(shell launch/memory.sh))
$(foreach setting,$(MEMORY),$(eval export $(setting)))

.DEFAULT_GOAL := help
.PHONY: help quickstart test fuzz lint docs bench gpu reliability lock clean
.NOTPARALLEL:

help:
	@echo 'make quickstart   train a small AlexNet on embedded images; ends with its accuracy and two figures'
	@echo 'make test         run the tests'
	@echo 'make fuzz         try damaged files on every reader, in minutes; COUNT=20000 for more of them'
	@echo 'make lint         check style and types'
	@echo 'make docs         build the documentation in site/'
	@echo 'make bench        measure the training step; BENCH=step, layers, ... as docs/speed.md lists'
	@echo 'make gpu          measure everything on a GPU, in eight minutes; DATA=FOLDER trains on CIFAR-10 too'
	@echo 'make reliability  kill runs, fill disks, damage files, and record what came of it'
	@echo 'make lock         choose the pinned versions anew (requirements*.lock)'
	@echo 'make clean        remove the virtual environment and caches; runs/ stays'
	@echo
	@echo 'Each installs what it needs into $(VENV)/ first. PYTHON=... picks the interpreter (3.11 or newer).'

# A folder of its own for each run: runs/quickstart, runs/quickstart-2, ...
quickstart: $(VENV)/core.stamp
	@workdir=runs/quickstart; number=1; \
	while [ -e $$workdir ]; do number=$$((number + 1)); workdir=runs/quickstart-$$number; done; \
	echo "Training configs/quickstart.py in $$workdir"; \
	$(RUN) -m alexnet_jax.main --config configs/quickstart.py --workdir $$workdir

# Every program is kept, since most are small ones that many tests and processes compile. tests/conftest.py has XLA
# optimize little; `make reliability`, which passes --full, has all of it.
test: export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS := 0
test: $(VENV)/dev.stamp
	$(RUN) -m pytest -q -n auto --maxprocesses 4 --no-loadscope-reorder

# A table of what became of COUNT inputs for each reader; what was found is kept in runs/fuzz/.
COUNT ?= 2000
fuzz: $(VENV)/dev.stamp
	$(RUN) -m tests.fuzz --count $(COUNT) $(FUZZ_ARGS)

lint: $(VENV)/dev.stamp
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m pyright --pythonpath $(RUN)

# Warnings, such as a link that leads nowhere, are errors.
docs: $(VENV)/docs.stamp
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict
	@echo 'The documentation is in site/index.html'

# A module of bench/ and its arguments, such as BENCH='step --batch 32 128'; BENCH=peers needs torch.
BENCH ?= peers --peers plain
bench: $(VENV)/core.stamp
	$(RUN) -m bench.$(BENCH)

# With python3 as it is where that has the packages (wheels in .gpu/whl add to them, if there are any), else with the
# virtual environment. GPU_DRY=1 does all of it at toy size on a CPU; GPU_ARGS has more arguments of bench/gpu.py.
GPU_SITE := $(CURDIR)/.gpu/site
gpu:
	@if [ ! -d $(GPU_SITE) ] && ls .gpu/whl/*.whl >/dev/null 2>&1; then \
	    python3 -m pip install -q --no-index --no-deps --no-compile --target $(GPU_SITE) .gpu/whl/*.whl; fi; \
	export PYTHONPATH=$(GPU_SITE):$$PYTHONPATH; \
	for python in python3 $(RUN) ''; do \
	    $$python -c 'import jax, flax, optax, orbax, ml_collections' 2>/dev/null && break; done; \
	if [ -z "$$python" ]; then $(MAKE) $(VENV)/core.stamp && python=$(RUN) || exit; fi; \
	$$python -m bench.gpu $(if $(DATA),--data '$(DATA)') $(GPU_ARGS)

# 30 to 40 minutes. Writes docs/results/reliability*.json and the table of docs/reliability.md.
reliability: $(VENV)/dev.stamp
	$(RUN) -m bench.checks --json docs/results/reliability-cost.json
	$(RUN) -m pytest -q --full --record=docs/results/reliability.json
	$(RUN) -m tests.reliability.record

# requirements-dev.lock holds everything of requirements.lock, in the same versions; requirements-docs.lock holds the
# tools of the documentation alone. UPGRADE= keeps the versions that are pinned and adds what is missing.
UPGRADE := --upgrade
COMPILE = $(RUN) -m uv pip compile --quiet --no-header --universal --python-version 3.11 --generate-hashes $(UPGRADE)
lock: $(RUN)
	$(RUN) -m pip install --quiet --disable-pip-version-check uv
	$(COMPILE) pyproject.toml --output-file requirements.lock
	$(COMPILE) pyproject.toml --extra dev --constraints requirements.lock --output-file requirements-dev.lock
	$(RUN) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"], sep="\n")' \
	    | $(COMPILE) - --constraints requirements-dev.lock --output-file requirements-docs.lock

clean:
	rm -rf $(VENV) site .jax-cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(RUN):
	@test -n '$(PYTHON)' || { echo 'No Python 3.11 or newer with venv found. Install one (Debian: python3-venv), or say make PYTHON=/path/to/python3.'; exit 2; }
	@echo 'Making the virtual environment $(VENV)/ with $(PYTHON)'
	@$(PYTHON) -m venv $(VENV)

# The command `alexnet` and the import path of this checkout: an editable install that needs no build.
$(VENV)/bin/alexnet: | $(RUN)
	@$(RUN) -c 'import sysconfig; open(sysconfig.get_path("purelib") + "/alexnet_jax.pth", "w").write("$(CURDIR)\n")'
	@printf '#!/bin/sh\nexec "%s" -P -m alexnet_jax "$$@"\n' '$(abspath $(RUN))' > $@
	@chmod +x $@

$(VENV)/core.stamp: requirements.lock | $(RUN) $(VENV)/bin/alexnet
	@echo 'Installing the pinned packages of requirements.lock into $(VENV)/ (once; some 900 MB)'
	@$(PIP_INSTALL) -r requirements.lock
	@touch $@

$(VENV)/dev.stamp: requirements-dev.lock | $(RUN) $(VENV)/bin/alexnet
	@echo 'Installing the pinned packages of requirements-dev.lock into $(VENV)/ (once)'
	@$(PIP_INSTALL) -r requirements-dev.lock
	@touch $@

$(VENV)/docs.stamp: requirements-docs.lock | $(RUN) $(VENV)/bin/alexnet
	@echo 'Installing the pinned packages of requirements-docs.lock into $(VENV)/ (once; some 60 MB)'
	@$(PIP_INSTALL) -r requirements-docs.lock
	@touch $@
