# `make study` runs the main job, `make test` checks everything, `make check-fast` most of it, in less than two minutes.
# `make site` builds the documentation. Each sets up .venv first. `make test-matrix` and `make test-minimum` run the
# tests that are not slow with other versions of Python and packages, each in its own environment.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The newest torchattacks without its requirements; constraints.txt has the last version without any.
NEWEST := $(VENV)/torchattacks-3.5.1
# The S3 and GCS servers for tests, whose requirements conflict with the notebooks'.
SERVERS := $(VENV)/store-servers
# Additional requirements of Ray's job server; a study does not need them.
JOBS := $(VENV)/job-server
# An environment variable, because -c does not apply to the build environment. Relative, because pip splits it at blanks.
export PIP_CONSTRAINT := constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# The Python versions of pyproject.toml; the oldest is tested with the oldest packages.
PYTHONS ?= 3.10 3.11 3.12 3.13
OLDEST := 3.10

.PHONY: study test check-fast lint types check check-ray check-rest check-slow check-numbers check-newest
.PHONY: quick-numbers quick-rest clean test-matrix test-minimum site

study: $(VENV)/.installed-study
	$(BIN)/python -m puzzle_study.tune studies/digits.yaml

test: lint types check

# The documentation: open build/site/index.html. A broken link or reference is an error; a test runs the same line.
site: $(VENV)/.installed-dev
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going -c docs -d build/doctrees . build/site

# Two at a time, for two cores.
check-fast: $(VENV)/.installed-dev
	@$(MAKE) --no-print-directory --jobs=2 quick-numbers quick-rest types lint

# Runs all of them, even if one fails. A version that is not on this machine is reported and skipped.
test-matrix:
	@failed=; left=; for version in $(PYTHONS); do \
	  echo "Python $$version"; code=0; .ci/python $$version || code=$$?; \
	  case $$code in 0) ;; 3) left="$$left $$version" ;; *) failed="$$failed $$version" ;; esac; \
	done; \
	echo "failed:$${failed:- none}; not run, since they are not on this machine:$${left:- none}"; test -z "$$failed"

test-minimum:
	.ci/python $(OLDEST) lowest-direct

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev
	$(BIN)/mypy

# Two at a time, for two cores; Ray's clusters, which take longest, one after the other. The longest come first, and the
# last are short, so that both cores end together.
check: $(VENV)/.installed-dev $(NEWEST)/.installed $(SERVERS)/.installed $(JOBS)/.installed
	@$(MAKE) --no-print-directory --jobs=2 check-ray check-rest check-slow check-numbers check-newest

RAY = tests/cluster tests/study
NUMBERS = tests/detectors tests/attacks
ATTACKS = conformance isolation logits against_references

check-ray:
	$(BIN)/pytest -m slow $(RAY)

check-rest:
	$(BIN)/pytest -m "not slow"

check-slow:
	$(BIN)/pytest -m slow $(RAY:%=--ignore=%) $(NUMBERS:%=--ignore=%)

check-numbers:
	$(BIN)/pytest -m slow $(NUMBERS)

# What runs the attacks of torchattacks: all of them, in every place, held to a reference, and what they leave alone.
check-newest:
	PYTHONPATH=$(NEWEST) $(BIN)/pytest -k "not chunk_size" $(ATTACKS:%=tests/attacks/test_%.py)

# pytest names the slowest tests; give them the marker `slow`.
QUICK = $(BIN)/pytest -q -m "not slow" --durations=5 --durations-min=2

quick-numbers: $(VENV)/.installed-dev
	$(QUICK) tests/attacks tests/core tests/inference

quick-rest: $(VENV)/.installed-dev
	$(QUICK) --ignore=tests/attacks --ignore=tests/core --ignore=tests/inference

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 10) else "puzzle_study needs Python 3.10 or newer; set PYTHON=python3.x")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed-study: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed-study
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

$(NEWEST)/.installed: $(VENV)/.installed-dev
	PIP_CONSTRAINT= $(BIN)/python -m pip install --quiet --no-deps --upgrade --target $(NEWEST) torchattacks==3.5.1
	touch $@

$(SERVERS)/.installed: $(VENV)/bin/python tests/cluster/store-servers.txt
	$(PYTHON) -m venv $(SERVERS)
	PIP_CONSTRAINT= $(SERVERS)/bin/python -m pip install --quiet --requirement tests/cluster/store-servers.txt
	touch $@

$(JOBS)/.installed: $(VENV)/.installed-dev docker/constraints-jobs.txt
	PIP_CONSTRAINT= $(BIN)/python -m pip install --quiet --no-deps --upgrade --target $(JOBS) -r docker/constraints-jobs.txt
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
