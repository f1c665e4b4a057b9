# `make demo` and `make test` need Python 3.11, gcc, make and pip, and nothing else.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
UNET_DATA ?= ../shared/data
SNAKEMAKE = .venv/bin/snakemake
export UNET_DATA := $(abspath $(UNET_DATA))
# Images of containers set it; then each process compiles each module that it imports, for seconds.
unexport PYTHONDONTWRITEBYTECODE
PINNED = --quiet --constraint constraints.txt
PIP = .venv/bin/pip install --disable-pip-version-check $(PINNED)
# uv takes seconds where pip takes minutes, but knows nothing of how pip is set up: where it fails, pip does it.
UV = .venv/bin/uv pip install --python .venv/bin/python --compile-bytecode $(PINNED)
INSTALL = f() { $(UV) --editable "$$1" 2>/dev/null || $(PIP) --editable "$$1"; }; f

CONFIG ?= config.yaml
.PHONY: help demo estimate check-annotations verify test browser-test share-test slurm-test
.PHONY: install-profile real lint docs config clean

help:
	@echo "make demo    generate data, run the whole chain on it, print the table (minutes)"
	@echo "make estimate [CONFIG=FILE]  what a run would do and take: jobs, time, disk, memory; measures for a minute"
	@echo "make check-annotations [CONFIG=FILE]  reads and checks all annotations, without training:" \
	    "what looks wrong, with pictures"
	@echo "make verify [RESULTS=results] [MEND=1]  reads all results: which files are damaged;" \
	    "MEND=1 deletes them, to be made again by snakemake"
	@echo "make test    all tests that need no cluster, no GPU and no outside data"
	@echo "make browser-test  install chromium (as root) where there is none, and test the report page in it"
	@echo "make share-test  install what sharing a model needs, and test the packages for the model zoo"
	@echo "make slurm-test  install SLURM (as root), start a cluster on this machine," \
	    "run the chain and its failures on it, stop it"
	@echo "make install-profile  make profiles/slurm known to Snakemake as the profile slurm"
	@echo "make real    the chain on three public data sets in UNET_DATA (one hour on two cores, four without AVX512-BF16)"
	@echo "make lint    ruff, snakefmt, snakemake --lint, types"
	@echo "make docs    the documentation as a site, with search: site/index.html"
	@echo "make config  write config.yaml and the pages of docs/ that follow from the code anew"
	@echo "make clean   delete results and demo data, keep the environment"

# The environment is made once; again only when what it is made of has changed.
.venv/.installed: pyproject.toml constraints.txt
	@echo "make: installing the environment into .venv (once; one to two minutes)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] < (3, 11))' || \
	    { echo "make: Python 3.11 or newer is needed; set PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -m venv .venv || { echo "make: 'python -m venv' failed; on Debian: apt-get install python3-venv"; exit 1; }
	@$(PIP) torch uv==0.13.9
	@$(INSTALL) '.[dev,slurm]'
	@touch $@

demo: .venv/.installed
	@echo "make demo: generating data in data/demo"
	@.venv/bin/python -m unet_core demo data/demo
	@echo "make demo: running the chain: groundtruth weights plan train predict instances evaluate report"
	@$(SNAKEMAKE) --quiet rules host
	@echo; cat results/report/table.md
	@echo "make demo: done; open results/report/report.html"

estimate: .venv/.installed
	@.venv/bin/python -m unet_core estimate "$(CONFIG)"

check-annotations: .venv/.installed
	@$(SNAKEMAKE) --quiet rules host --keep-going --configfile "$(CONFIG)" -- check_annotations; \
	    .venv/bin/python -m unet_core check "$(CONFIG)" --status $$?

verify: .venv/.installed
	@.venv/bin/python -m unet_core verify $(if $(MEND),--mend) "$(or $(RESULTS),results)"

# Python 3.11 fails to parse code (SystemError) in two threads at once, as tracebacks with column marks do.
test: .venv/.installed
	@echo "make test: running the tests"
	@PYTHONNODEBUGRANGES=1 .venv/bin/python -m pytest -n 2 --maxschedchunk 1
	@echo "make test: done"

browser-test: .venv/.installed
	@command -v chromium >/dev/null || { echo "make browser-test: installing chromium"; \
	    { apt-get update && DEBIAN_FRONTEND=noninteractive \
	        apt-get install -y --no-install-recommends chromium fonts-dejavu-core; } >/dev/null || \
	    { echo "make browser-test: installing chromium failed;" \
	        "it needs root and apt-get, or install chromium yourself"; exit 1; }; }
	@$(INSTALL) '.[browser]'
	@UNET_BROWSER=1 .venv/bin/python -m pytest tests/browser
	@echo "make browser-test: done"

share-test: .venv/.installed
	@$(INSTALL) '.[share]'
	@.venv/bin/python -m pytest tests/network/test_share.py
	@echo "make share-test: done"

# First what only uses the cluster, side by side; then what disturbs it, one by one.
slurm-test: .venv/.installed
	@tests/slurm/cluster.sh start
	@trap 'tests/slurm/cluster.sh stop' EXIT; trap 'exit 1' INT TERM; \
	    export UNET_SLURM=1 XDG_CACHE_HOME="$(CURDIR)/.slurm/cache"; \
	    .venv/bin/python -m pytest --basetemp=.slurm/quiet -n 4 -m "not alone" tests/slurm && \
	    .venv/bin/python -m pytest --basetemp=.slurm/alone -m alone tests/slurm
	@echo "make slurm-test: done"

install-profile:
	@profiles="$${XDG_CONFIG_HOME:-$$HOME/.config}/snakemake"; mkdir -p "$$profiles" && \
	    { test ! -e "$$profiles/slurm" -o -L "$$profiles/slurm" || \
	        { echo "make install-profile: there is a profile slurm already:" \
	            "$$profiles/slurm; move it away"; exit 1; }; } && \
	    ln -sfn "$(CURDIR)/profiles/slurm" "$$profiles/slurm"
	@echo "make install-profile: now 'snakemake --profile slurm' works, with what profiles/slurm/config.yaml says"

real: .venv/.installed
	@test -d "$(UNET_DATA)" || { echo "make real: no folder $(UNET_DATA);" \
	    "set UNET_DATA to the folder with dsb2018, u373 and isbi2012"; exit 1; }
	@$(SNAKEMAKE) --configfile benchmarks/real.yaml --quiet rules host
	@echo; cat results/real/report/table.md
	@echo "make real: done; open results/real/report/report.html"

lint: .venv/.installed
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/snakefmt --check Snakefile rules
	.venv/bin/mypy
	@mkdir -p data && .venv/bin/python -m unet_core demo data/demo
	$(SNAKEMAKE) --lint

# With --quiet MkDocs would count no warnings, as of dead links. The notice that is switched off praises a successor.
docs: .venv/.installed
	@$(INSTALL) '.[docs]'
	@NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build
	@echo "make docs: done; open site/index.html (for its search: python -m http.server --directory site)"

config: .venv/.installed
	.venv/bin/python -m tests.config_text
	.venv/bin/python -m docs.configuration
	.venv/bin/python -m docs.commands

clean:
	rm -rf results data/demo .snakemake
