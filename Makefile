# make demo   environment, export of the demo pair, decoding of examples/prompts.jsonl
# make test   environment, tests
# make lint   ruff, mypy strict, import directions
# make real   builds and decodes two published models from the package index, and compares them with transformers; long
# make lower-bounds   the tests with every dependency at the lower bound of pyproject.toml; takes long, gates nothing
PYTHON ?= python3
VENV ?= .venv
PROMPTS ?= examples/prompts.jsonl
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO := build/demo

.PHONY: demo test lint real lower-bounds clean

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[cpu,dev]'
	touch $@

$(DEMO)/bundle/spectr.json: $(READY) $(wildcard examples/demo_pair/*/*)
	$(BIN)/spectr-export build examples/demo_pair/target --draft examples/demo_pair/draft -o $(DEMO)/bundle --overwrite

demo: $(DEMO)/bundle/spectr.json
	rm -rf $(DEMO)/run $(DEMO)/auto $(DEMO)/plain
	$(BIN)/spectr-batch run $(DEMO)/bundle $(PROMPTS) -o $(DEMO)/run --rule kseq --drafts 4 --length 4
	$(BIN)/spectr-batch run $(DEMO)/bundle $(PROMPTS) -o $(DEMO)/auto --plan auto
	$(BIN)/spectr-batch run $(DEMO)/bundle $(PROMPTS) -o $(DEMO)/plain --plan plain
	$(BIN)/python examples/show_demo.py $(DEMO)/run $(DEMO)/auto $(DEMO)/plain --prompts $(PROMPTS)

test: $(READY)
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

real: $(READY)
	$(BIN)/python benchmarks/real.py

lower-bounds: $(READY)
	$(BIN)/python benchmarks/lower_bounds.py

clean:
	rm -rf build
