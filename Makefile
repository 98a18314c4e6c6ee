# Each target makes the environment first if it is missing: `make test` on an empty machine is enough.
# Settings: PYTHON (interpreter the environment is made from), VENV (its folder; UPSTREAM that of the frozen line), THREADS, MAX_JOBS (compilers at once).
PYTHON ?= python3
VENV ?= .venv
UPSTREAM ?= .venv-upstream
LINE ?= maintained
THREADS ?= 2
ARGS ?=
READY := $(VENV)/.complete
# The C library keeps what PyTorch frees: by default it gives large tensors back to the system, which then clears the memory
# of the next ones (glibc alone reads these).
KEEP := MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=1099511627776
RUN := $(KEEP) OMP_NUM_THREADS=$(THREADS) MKL_NUM_THREADS=$(THREADS) MPLBACKEND=Agg $(VENV)/bin/python

# a warning is an error; the theme's notice about another version of MkDocs is none of ours
DOCS := NO_MKDOCS_2_WARNING=1 $(VENV)/bin/python -m mkdocs build --strict

.DEFAULT_GOAL := help
.PHONY: help demo demo-seg demo-dna test test-upstream lint docs format venv venv-upstream clean-venv

help:
	@echo 'make demo        search, derive, adapt and test on small generated data (under 10 minutes on 2 cores)'
	@echo 'make demo-seg    the same for segmentation'
	@echo 'make demo-dna    block-wise distillation, exact search, training of what is found'
	@echo 'make test        all tests (ARGS="-k front" passes arguments to pytest)'
	@echo 'make test-upstream  the same with OpenMMLab'"'"'s frozen upstream, in an environment of its own: $(UPSTREAM)'
	@echo 'make lint        ruff check, ruff format --check, mypy, the documentation without warnings'
	@echo 'make docs        the documentation site, into site/'
	@echo 'make format      let ruff rewrite what it can'
	@echo 'make venv        only the environment: $(VENV) from requirements.txt'
	@echo 'make clean-venv  remove that environment'

demo: $(READY)
	@echo '== demo: a search in RetinaNet on generated images; results go to work_dirs/demo/'
	$(RUN) tools/demo.py $(ARGS)

demo-seg: $(READY)
	@echo '== demo: a search in DeepLabv3 on generated images; results go to work_dirs/demo_seg/'
	$(RUN) tools/demo.py --task seg $(ARGS)

demo-dna: $(READY)
	@echo '== demo: blocks distilled from a teacher on generated images; results go to work_dirs/demo_dna/'
	$(RUN) tools/demo.py --task dna $(ARGS)

test: $(READY)
	@echo '== test: pytest over tests/ in $(THREADS) processes'
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 MPLBACKEND=Agg $(VENV)/bin/python -m pytest tests -n $(THREADS) --dist loadfile $(ARGS)

test-upstream:
	@$(MAKE) --no-print-directory test VENV='$(UPSTREAM)' LINE=upstream

lint: $(READY)
	@echo '== lint: ruff check, ruff format --check, mypy on mmnas_ext, the documentation'
	$(VENV)/bin/python -m ruff check .
	$(VENV)/bin/python -m ruff format --check .
	$(VENV)/bin/python -m mypy
	$(DOCS) --quiet

docs: $(READY)
	@echo '== docs: the site, into site/index.html'
	$(DOCS)

format: $(READY)
	$(VENV)/bin/python -m ruff check --fix .
	$(VENV)/bin/python -m ruff format .

venv: $(READY)

venv-upstream:
	@$(MAKE) --no-print-directory venv VENV='$(UPSTREAM)' LINE=upstream

# The stamp is written last, so an interrupted installation is taken up again.
$(READY): requirements.txt $(if $(filter upstream,$(LINE)),requirements-upstream.txt) tools/make_venv.sh
	PYTHON='$(PYTHON)' LINE='$(LINE)' bash tools/make_venv.sh '$(VENV)'

clean-venv:
	@if [ -f '$(VENV)/pyvenv.cfg' ]; then echo 'removing $(VENV)'; rm -rf -- '$(VENV)'; \
	elif [ -e '$(VENV)' ]; then echo '$(VENV) is not a Python environment: left alone' >&2; exit 1; fi
