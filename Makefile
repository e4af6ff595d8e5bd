# Every recipe also works by hand. Set-up commands create and reuse .venv in this checkout.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check
WITH_PYNQ := service/scripts/with_pynq.sh
EMULATOR_OPTIONS = $(if $(PORT),--port $(PORT)) $(if $(FAULTS),--emulator-faults $(FAULTS))
PROJECTS := pyproject.toml service/pyproject.toml client/pyproject.toml

.PHONY: serve emulator test test-clients test-board lint verify-kernels verify-board verify-service overlay wheels bench train-env format clean

serve: .venv/serve.stamp
	$(BIN)/emamba-service $(if $(PORT),--port $(PORT))

emulator:
	exec $(WITH_PYNQ) $(PYTHON) "" emamba-service --engine emulator $(EMULATOR_OPTIONS)

# Two at a time: files of tests, then those that watch the clock beside the board's.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile --ignore tests/client --ignore tests/deploy
	$(MAKE) --jobs=2 --output-sync=target test-clients test-board

test-clients: .venv/dev.stamp
	$(BIN)/pytest tests/client tests/deploy

test-board:
	$(WITH_PYNQ) $(PYTHON) "" pytest tests/board tests/deploy/test_monitoring.py

verify-kernels: .venv/dev.stamp
	EMAMBA_VERIFY=full $(BIN)/pytest tests/hls

verify-board:
	EMAMBA_VERIFY=full $(WITH_PYNQ) python3.10 3.1.2 pytest tests/board
	EMAMBA_VERIFY=full $(WITH_PYNQ) python3.10 4.0.0 pytest tests/board
	EMAMBA_VERIFY=full $(WITH_PYNQ) python3.12 4.0.0 pytest tests/board

verify-service: .venv/dev.stamp
	EMAMBA_VERIFY=full $(BIN)/pytest tests/service tests/deploy

overlay: .venv/train.stamp
	$(BIN)/emamba build overlay models/$(or $(MODEL),mars)/$(or $(VERSION),1) \
		--preset $(or $(PRESET),fast) $(if $(TAP),--tap $(TAP))

wheels: .venv/wheels.stamp
	$(BIN)/python service/scripts/board_wheels.py $(or $(BOARD_PYTHON),3.10) build/wheels

bench: .venv/bench.stamp
	$(BIN)/python -m bench.engines
	$(WITH_PYNQ) $(PYTHON) "" python -m bench.driver

lint: .venv/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/dev.stamp
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

train-env: .venv/train.stamp

clean:
	rm -rf .venv

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/serve.stamp: .venv/bin/python $(PROJECTS)
	$(PIP) -e . -e ./service
	@touch $@

.venv/train.stamp: .venv/bin/python $(PROJECTS)
	$(PIP) -e '.[train]' -e ./service -e ./client
	@touch $@

.venv/wheels.stamp: .venv/bin/python requirements-dev.txt
	$(PIP) -c requirements-dev.txt hatchling uv
	@touch $@

.venv/bench.stamp: .venv/train.stamp requirements-bench.txt
	$(PIP) -r requirements-bench.txt
	@touch $@

.venv/dev.stamp: .venv/bin/python .venv/train.stamp requirements-dev.txt
	$(PIP) -c requirements-dev.txt uv
	service/scripts/install.sh $(BIN)/python -r requirements-dev.txt
	@touch $@
