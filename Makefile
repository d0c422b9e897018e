# make run | test | slow | test-portable | lab | book | gpu | bench | claims        PYTHON=python3.12 chooses the interpreter
PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
# threads that wait asleep: on a machine with other work, spinning ones cost five times the run itself
export OMP_WAIT_POLICY = PASSIVE
NBVAL  := -p no:cacheprovider --nbval --nbval-current-env --nbval-cell-timeout 600

.PHONY: run test slow test-portable lab book gpu bench claims env clean

run: env
	$(PY) -m dgtoy all --preset quick
	$(PY) -m dgtoy notebooks
	$(PY) -m dgtoy claims

test: env
	$(PY) -m pytest -n 2 tests
	$(PY) -m pytest $(NBVAL) notebooks

# what takes longer: twenty kills of each step of the pipeline
slow: env
	$(PY) -m pytest -m slow tests

# the same outputs on one thread, and with another processor's arithmetic; nothing trained is reused between them
test-portable: env
	OMP_NUM_THREADS=1 DGTOY_CACHE=build/one-thread $(PY) -m pytest $(NBVAL) notebooks
	ATEN_CPU_CAPABILITY=default DGTOY_CACHE=build/default $(PY) -m pytest $(NBVAL) notebooks

lab: env
	$(VENV)/bin/jupyter lab notebooks

# the course as a site, from the committed outputs: book/_build/html/index.html
book: $(VENV)/book
	$(PY) book/build.py

gpu:
	$(PYTHON) -m dgtoy weights --device cuda
	$(PYTHON) -m dgtoy all --preset full --device cuda
	$(PYTHON) -m dgtoy bench --device cuda
	$(PYTHON) -m dgtoy claims

bench: env
	$(PY) -m dgtoy bench

claims: env
	$(PY) -m dgtoy claims

env: $(VENV)/done

$(VENV)/done: pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; v = sys.version_info[:2]; sys.exit(0 if v >= (3, 11) else f'python is {v[0]}.{v[1]}; dgtoy needs 3.11 or later (make PYTHON=python3.12)')"
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[notebooks,dev,dit]"
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps torch-fidelity  # alone: of torchvision it needs nothing here
	touch $@

$(VENV)/book: $(VENV)/done
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[book]"
	touch $@

clean:
	rm -rf $(VENV) build book/_build
