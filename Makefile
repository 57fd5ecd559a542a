# make demo              the whole pipeline on small films, in minutes      make demo MODEL=mlstm SEEDS=1 VIDEOS=my-films
# make compare           every model on the demo's films with the same budget and three seeds, half an hour; their comparison
# make test              lint and the test suite
# make test-oldest       the suite with the lowest versions that are allowed; OLDEST=python3.10 names that Python
# make audit             known vulnerabilities of the versions in constraints.txt; asks PyPI
# make bench             what is fast, as ratios against plain rivals; VIDEOS=folder measures preprocessing on those films
# make bench-gpu         the same of the models on a GPU
# make gpu-check         all that only a GPU can tell, in 9 minutes: tests, correctness, speed, learning, growth; docs/gpu.md
# A virtual environment is made in .venv on first use; PYTHON=python takes the active environment as it is.

MODEL = transformer
OLDEST = python3.10

ifdef PYTHON
python = $(PYTHON)
else
python = .venv/bin/python
environment = .venv/ready
endif

.PHONY: demo compare test test-oldest audit bench bench-gpu gpu-check lint format environment

demo: $(environment)
	$(python) demo.py --model "$(MODEL)" $(if $(SEEDS),--seeds "$(SEEDS)") $(if $(VIDEOS),--videos "$(VIDEOS)")

compare: $(environment)
	$(python) demo.py --configs config-files/compare --seeds 3

test: lint
	$(python) -m pytest -n auto --dist worksteal

test-oldest: .venv-oldest/ready
	.venv-oldest/bin/python -m pytest -n auto --dist worksteal

audit: .venv-audit/ready
	.venv-audit/bin/python -m pip_audit --strict --no-deps --disable-pip --progress-spinner off -r constraints.txt

bench: $(environment)
	$(python) -m benchmarks $(if $(VIDEOS),--videos "$(VIDEOS)")

bench-gpu: $(environment)
	$(python) -m benchmarks --device cuda

gpu-check: $(environment)
	$(python) -m benchmarks.gpu_check $(if $(MINUTES),--minutes "$(MINUTES)") $(if $(OUTPUT),--output "$(OUTPUT)")

lint: $(environment)
	$(python) -m ruff check .
	$(python) -m ruff format --check .

format: $(environment)
	$(python) -m ruff check --fix .
	$(python) -m ruff format .

environment: $(environment)

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
