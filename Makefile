# `make` prints what there is. The words behind ## are that list, so a new target needs a line there and in .PHONY.

MODEL = transformer
OLDEST = python3.10

ifdef PYTHON
python = $(PYTHON)
else
python = .venv/bin/python
environment = .venv/ready
endif

.PHONY: help demo compare test test-oldest audit bench bench-gpu gpu-check lint format environment

help: ## this list
	@sed -nE 's/^([a-z-]+):[^#]*## /make \1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 20
	@echo "A virtual environment is made in .venv on first use; PYTHON=python takes the active one as it is."

demo: $(environment) ## the whole pipeline on small films, in minutes: make demo MODEL=mlstm SEEDS=1 VIDEOS=my-films
	$(python) demo.py --model "$(MODEL)" $(if $(SEEDS),--seeds "$(SEEDS)") $(if $(VIDEOS),--videos "$(VIDEOS)")

compare: $(environment) ## every model on the demo's films, with the same budget and three seeds; about an hour
	$(python) demo.py --configs config-files/compare --seeds 3

test test-oldest: export PYTHONDONTWRITEBYTECODE = # else all workers compile all files in every run

test: lint ## lint and the test suite
	$(python) -m pytest -n auto --dist worksteal

test-oldest: .venv-oldest/ready ## the suite with the lowest versions that are allowed; OLDEST=python3.10 names that Python
	.venv-oldest/bin/python -m pytest -n auto --dist worksteal

audit: .venv-audit/ready ## known vulnerabilities of the versions in constraints.txt; asks PyPI
	.venv-audit/bin/python -m pip_audit --strict --no-deps --disable-pip --progress-spinner off -r constraints.txt

bench: $(environment) ## what is fast, as ratios against plain rivals; VIDEOS=folder preprocesses those films
	$(python) -m benchmarks $(if $(VIDEOS),--videos "$(VIDEOS)")

bench-gpu: $(environment) ## the same of the models, on a GPU
	$(python) -m benchmarks --device cuda

gpu-check: $(environment) ## all that only a GPU can tell, in 9 minutes: tests, correctness, speed, learning; docs/gpu.md
	$(python) -m benchmarks.gpu_check $(if $(MINUTES),--minutes "$(MINUTES)") $(if $(OUTPUT),--output "$(OUTPUT)")

lint: $(environment) ## mistakes, untidy code and types that do not fit
	$(python) -m ruff check .
	$(python) -m ruff format --check .
	$(python) -m mypy

format: $(environment) ## tidy the code as lint wants it
	$(python) -m ruff check --fix .
	$(python) -m ruff format .

environment: $(environment) ## .venv with the versions in constraints.txt

# Some systems ship Python without the part that puts pip into new environments; their own pip can do it.
.venv/ready: pyproject.toml constraints.txt
	python3 -m venv .venv || { python3 -m venv --clear --without-pip .venv && python3 -m pip --python .venv/bin/python install pip; }
	.venv/bin/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch .venv/ready

.venv-oldest/ready: pyproject.toml constraints-oldest.txt
	$(OLDEST) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet -c constraints-oldest.txt -e '.[dev]'
	touch .venv-oldest/ready

# Apart from the rest, because it brings packages that nothing else here needs.
.venv-audit/ready:
	python3 -m venv .venv-audit
	.venv-audit/bin/python -m pip install --quiet 'pip-audit>=2.10'
	touch .venv-audit/ready
