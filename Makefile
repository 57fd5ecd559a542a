# make demo              the whole pipeline on small films, in minutes      make demo MODEL=mlstm SEEDS=1 VIDEOS=my-films
# make compare           every model on the demo's films with the same budget and three seeds, half an hour; their comparison
# make test              lint and the test suite
# make bench             what is fast, as ratios against plain rivals; VIDEOS=folder measures preprocessing on those films
# make bench-gpu         the same of the models on a GPU
# A virtual environment is made in .venv on first use; PYTHON=python takes the active environment as it is.

MODEL = transformer

ifdef PYTHON
python = $(PYTHON)
else
python = .venv/bin/python
environment = .venv/ready
endif

.PHONY: demo compare test bench bench-gpu lint format environment

demo: $(environment)
	$(python) demo.py --model "$(MODEL)" $(if $(SEEDS),--seeds "$(SEEDS)") $(if $(VIDEOS),--videos "$(VIDEOS)")

compare: $(environment)
	$(python) demo.py --configs config-files/compare --seeds 3

test: lint
	$(python) -m pytest -n auto

bench: $(environment)
	$(python) -m benchmarks $(if $(VIDEOS),--videos "$(VIDEOS)")

bench-gpu: $(environment)
	$(python) -m benchmarks --device cuda

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
