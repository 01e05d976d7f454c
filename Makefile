# Every target sets up what it needs; a second run reuses it.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

SWAGGER_UI := 5.35.0

.PHONY: demo serve test every-test lint format cli-docs field-tables page-pictures sync-client api-reference setup clean

demo: setup          ## one prompt through the whole service: writes demo.mp4 and demo.png
	$(BIN)/adaspa demo

serve: setup         ## leave the service running on this machine; Ctrl-C stops all of it
	$(BIN)/adaspa serve

test: setup          ## linters, types and import contracts, and every test beside them
	@$(MAKE) -j 2 lint every-test

every-test: setup    ## four files at a time, since they wait more than they work
	$(BIN)/pytest -n 4 --dist loadfile --no-loadscope-reorder

lint: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

cli-docs: setup      ## bring docs/cli.md up to the commands' own help
	$(BIN)/python tests/cli_reference.py

field-tables: setup  ## bring tables of docs, the chart's schema and the client's VideoFields up to the fields
	$(BIN)/python tests/field_tables.py

page-pictures: setup ## take docs/page anew: real videos, made through the page of a service on this machine
	PYTHONPATH=tests:tests/e2e $(BIN)/python -m page_pictures

sync-client: setup   ## make the synchronous client anew from the asynchronous one
	$(BIN)/python tests/sync_client.py

api-reference:       ## fetch the pinned Swagger UI anew, which /docs is made of
	@folder=$$(mktemp -d) && target=$$PWD/service/adaspa_service/gateway/reference && cd $$folder && \
	npm pack --silent swagger-ui-dist@$(SWAGGER_UI) && tar xzf *.tgz && cd package && \
	for file in swagger-ui.css swagger-ui-bundle.js; do grep -v '^//# sourceMappingURL' $$file | gzip -9n > $$target/$$file.gz; done && \
	cp LICENSE NOTICE $$target/ && cp swagger-ui-bundle.js.LICENSE.txt $$target/THIRD_PARTY && rm -r $$folder

setup: $(VENV)/.installed

# Compiled by all processors at a time, and without the models of transformers that nobody loads: pip takes one for all.
PIP := --quiet --disable-pip-version-check --no-compile -c constraints.txt

# torchao in a folder of its own, for the tests of it alone: every import of diffusers that finds it takes half a second more.
$(VENV)/.installed: pyproject.toml kernels/pyproject.toml service/client/pyproject.toml demo_model/pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; name it with PYTHON=..."; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "python3-venv is needed: apt-get install python3-venv"; exit 1; }
	$(BIN)/pip install $(PIP) -e ./kernels -e ./service/client -e ./demo_model -e '.[dev]'
	$(BIN)/pip install $(PIP) --target $(VENV)/torchao --upgrade torchao
	@$(BIN)/python -m compileall -qq -j 0 -x 'transformers/models/|/tests/' $(VENV)/lib || true  # some is for other Pythons
	@touch $@

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
