# make demo   environment, export of the demo pair with a padded target, decoding of prompts with three plans
# make head   trains an EAGLE-3 head for the demo's padded target, and builds both
# make test   environment, tests
# make test-all   those too of which few cases stand for many; four minutes more
# make lint   ruff, mypy strict, import directions
# make benchmarks        every benchmark in small, to see that all work; ARGS go to benchmarks/run.py; six minutes
# make benchmarks-full   every benchmark, into the result files and the documents; a day
# make peers  other tools beside spectr, in an environment of their own; ARGS go to benchmarks/peers.py; long
# make real   builds and decodes two published models from the package index, and compares them with transformers; long
# make lower-bounds   the tests with every dependency at the lower bound of pyproject.toml; takes long, gates nothing
PYTHON ?= python3
VENV ?= .venv
PROMPTS ?= examples/prompts.jsonl
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO := build/demo
PEERS := build/peers
# The same for every plan: few rows at a time, as many prompts as three runs decode within a minute.
RUN := --batch-size 2 --limit 16
NOTE := The target is padded with zeros to 126 M parameters: the same law, the cost of a small real model.

.PHONY: demo head test test-all lint benchmarks benchmarks-full peers real lower-bounds clean

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[cpu,dev]'
	touch $@

$(DEMO)/target/model.safetensors: $(READY) examples/pad_target.py $(wildcard examples/demo_pair/target/*)
	$(BIN)/python examples/pad_target.py examples/demo_pair/target $(DEMO)/target

$(DEMO)/bundle/spectr.json: $(DEMO)/target/model.safetensors $(wildcard examples/demo_pair/draft/*)
	$(BIN)/spectr-export build $(DEMO)/target --draft examples/demo_pair/draft -o $(DEMO)/bundle --overwrite

demo: $(DEMO)/bundle/spectr.json
	rm -rf $(DEMO)/run $(DEMO)/auto $(DEMO)/plain
	$(BIN)/spectr-batch run $(DEMO)/bundle $(PROMPTS) -o $(DEMO)/run $(RUN) --rule kseq --drafts 2 --length 4
	$(BIN)/spectr-batch run $(DEMO)/bundle $(PROMPTS) -o $(DEMO)/auto $(RUN) --plan auto
	$(BIN)/spectr-batch run $(DEMO)/bundle $(PROMPTS) -o $(DEMO)/plain $(RUN) --plan plain
	$(BIN)/python examples/show_demo.py $(DEMO)/run $(DEMO)/auto $(DEMO)/plain --prompts $(PROMPTS) \
		--picture $(DEMO)/demo.svg --note '$(NOTE)'

$(DEMO)/head/model.safetensors: $(READY) examples/train_head.py $(wildcard examples/demo_pair/target/*)
	$(BIN)/python examples/train_head.py examples/demo_pair/target $(DEMO)/head --hidden 1024

$(DEMO)/headed/spectr.json: $(DEMO)/target/model.safetensors $(DEMO)/head/model.safetensors
	$(BIN)/spectr-export build $(DEMO)/target --draft $(DEMO)/head -o $(DEMO)/headed --overwrite

head: $(DEMO)/headed/spectr.json

TESTS := --numprocesses auto --maxprocesses 4 --dist loadfile

test: $(READY)
	$(BIN)/python -m pytest $(TESTS) -m 'not thorough'

test-all: $(READY)
	$(BIN)/python -m pytest $(TESTS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

$(VENV)/.bench: $(READY)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[bench]'
	touch $@

build/pair/spectr.json: $(READY) $(wildcard examples/demo_pair/target/* examples/demo_pair/draft/*)
	$(BIN)/spectr-export build examples/demo_pair/target --draft examples/demo_pair/draft -o build/pair --overwrite

benchmarks: $(VENV)/.bench build/pair/spectr.json
	$(BIN)/python benchmarks/run.py $(ARGS)

benchmarks-full: $(VENV)/.bench build/pair/spectr.json $(DEMO)/bundle/spectr.json $(DEMO)/headed/spectr.json
	$(BIN)/python benchmarks/run.py --full $(ARGS)

# Each on its own, so that a tool that cannot be installed keeps no other away; the results say which are absent.
$(PEERS)/.ready: pyproject.toml constraints.txt $(wildcard benchmarks/peer_tools/*.txt)
	$(PYTHON) -m venv $(PEERS)/venv
	$(PEERS)/venv/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[cpu,gguf]'
	grep -v '^#' benchmarks/peer_tools/requirements.txt | while read -r line; do \
		CMAKE_ARGS=-DLLAVA_BUILD=OFF $(PEERS)/venv/bin/python -m pip install --quiet \
			--constraint constraints.txt $$line || true; done
	-$(PEERS)/venv/bin/python -m pip install --quiet --target $(PEERS)/converter -r benchmarks/peer_tools/converter.txt
	touch $@

peers: $(PEERS)/.ready
	$(PEERS)/venv/bin/python benchmarks/peers.py --folder $(PEERS) $(ARGS)

real: $(READY)
	$(BIN)/python benchmarks/real.py

lower-bounds: $(READY)
	$(BIN)/python benchmarks/lower_bounds.py

clean:
	rm -rf build
