# Everything a person or CI does with a checkout. `make demo` and `make test` prepare whatever they need, once.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules
.NOTPARALLEL:

PYTHON ?= python3
# Passed to the tool behind a target: make test ARGS="tests/gateway -k settings"
ARGS ?=
# How many processes share the tests, a file at a time: make test JOBS=0 for a debugger.
JOBS ?= $(shell nproc)

VENV := .venv
BIN := $(VENV)/bin
STAMPS := .make
NATIVE := build/native
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)

SYSTEM_PACKAGES := g++ cmake ninja-build pkg-config libnghttp2-dev libsimdjson-dev zlib1g-dev
TEST_PACKAGES := curl nghttp2-client openssl postgresql $(if $(shell command -v npm),,nodejs npm)
FUZZ_PACKAGES := clang libclang-rt-dev llvm
BENCH_PACKAGES := wrk nghttp2-client
IMAGE_PACKAGES := buildah debootstrap

# $(call install,PACKAGES): installs those Debian packages that are missing, and asks for nothing when none is.
define install
missing=(); for package in $(1); do \
  dpkg-query -W -f '$${Status}' "$$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$$package"); done; \
if (( $${#missing[@]} )); then \
  command -v apt-get >/dev/null || { echo "install what provides: $${missing[*]}" >&2; exit 1; }; \
  echo "installing $${missing[*]}"; \
  $(SUDO) apt-get update -qq && \
  $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$${missing[@]}" >/dev/null; fi
endef

.PHONY: help
help: ## show this
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 22

.PHONY: setup
setup: $(STAMPS)/demo native ## prepare .venv with the sluice command

.PHONY: demo
demo: setup ## publish two small models, serve them, print what to try
	@exec $(BIN)/sluice demo $(ARGS)

# cython-lint, the tests and the fuzzers call tools by name.
lint test sanitize fuzz: export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: test
test: $(STAMPS)/dev $(STAMPS)/test-packages native $(BIN)/promtool ## run all tests
	@$(BIN)/pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

.PHONY: test-heavy
test-heavy: $(STAMPS)/dev $(STAMPS)/test-packages native ## the tests that need minutes for what they install
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/pytest -m heavy $(ARGS)

.PHONY: lint
lint: $(STAMPS)/dev native ## ruff, mypy --strict, cython-lint
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/cython-lint kernels

SANITIZE := build/sanitize
# Memory errors and undefined behaviour end the process; leaks are not looked for, the interpreter keeps memory for life.
SANITIZE_ENV = LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libubsan.so) $$(g++ -print-file-name=libstdc++.so.6)" \
  ASAN_OPTIONS=detect_leaks=0:abort_on_error=1:handle_abort=1:allocator_may_return_null=1 \
  UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1 PYTHONMALLOC=malloc
SANITIZE_TESTS ?= tests/kernels tests/gateway tests/registry tests/behaviour

.PHONY: sanitize
sanitize: $(STAMPS)/dev $(STAMPS)/test-packages native $(BIN)/promtool ## the tests under AddressSanitizer and UBSan
	@cmake -S kernels -B $(SANITIZE) -G Ninja -DSLUICE_SANITIZE=address,undefined -DCMAKE_BUILD_TYPE=RelWithDebInfo \
	  -DSLUICE_IN_PLACE=OFF -DPython_EXECUTABLE="$(CURDIR)/$(BIN)/python" >$(STAMPS)/cmake-sanitize.log
	@cmake --build $(SANITIZE)
	@# An interpreter of its own: it and every one that it starts, workers included, find these modules before others.
	@$(BIN)/python -m venv --without-pip $(SANITIZE)/venv
	@printf 'import site; site.addsitedir("%s")\nimport kernels; kernels.__path__.insert(0, "%s")\n' \
	  "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" "$(CURDIR)/$(SANITIZE)" \
	  >"$$($(SANITIZE)/venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/sanitized.pth"
	@$(SANITIZE_ENV) $(SANITIZE)/venv/bin/python -c 'import kernels.wire as m; assert "$(SANITIZE)" in m.__file__, m.__file__'
	@$(SANITIZE_ENV) $(SANITIZE)/venv/bin/python -m pytest -p no:cacheprovider -n $(JOBS) --dist loadfile --no-loadscope-reorder $(SANITIZE_TESTS) $(ARGS)

.PHONY: fuzz
fuzz: SECONDS := 600
fuzz: $(STAMPS)/dev $(STAMPS)/fuzz native ## fuzz every parser for SECONDS in all, or those named in ARGS
	@$(BIN)/python tests/fuzz/run.py --seconds $(SECONDS) $(ARGS)

.PHONY: bench
bench: $(STAMPS)/dev $(STAMPS)/bench-packages native ## measure what the gateway promises
	@$(BIN)/python loadtests/bench_serving.py $(ARGS)

.PHONY: operators-day
operators-day: $(STAMPS)/dev $(STAMPS)/load native ## a good release, a bad one and a rollback under traffic by locust
	@$(BIN)/python loadtests/operators_day.py $(ARGS)

.PHONY: bench-rollouts
bench-rollouts: $(STAMPS)/dev $(STAMPS)/bench-packages $(STAMPS)/test-packages native ## what rollouts cost: faults under traffic, a good version, throughput
	@$(BIN)/python loadtests/bench_rollouts.py $(ARGS)

.PHONY: bench-peers
bench-peers: $(STAMPS)/dev $(STAMPS)/bench-packages $(STAMPS)/peers/ready native ## Sluice beside Triton and Mosec
	@$(BIN)/python loadtests/bench_peers.py --peers-python $(STAMPS)/peers/bin/python $(ARGS)

.PHONY: rollout-sim
rollout-sim: $(STAMPS)/dev native ## simulate thousands of rollouts, beside the rules of others
	@$(BIN)/python -m loadtests.simulate_rollouts $(ARGS)

# The peers' own requirements do not fit ours.
$(STAMPS)/peers/ready: | $(STAMPS)/venv
	@echo "installing Triton and Mosec"
	@$(PYTHON) -m venv $(STAMPS)/peers
	@$(STAMPS)/peers/bin/pip install --quiet --disable-pip-version-check nvidia-pytriton mosec onnxruntime 'numpy<2'
	@touch $@

IMAGE ?= sluice
# Passed to buildah, such as IMAGE_ARGS="--volume /etc/pip.conf:/etc/pip.conf:ro" for an index of your own.
IMAGE_ARGS ?=
IMAGE_SUITE := bookworm
IMAGE_MIRROR = $$(apt-get indextargets --format '$$(REPO_URI)' 'Codename: $(IMAGE_SUITE)' | head -n 1)
BUILDAH := $(SUDO) env STORAGE_DRIVER=vfs BUILDAH_ISOLATION=chroot buildah

.PHONY: image
image: | $(STAMPS)/ ## a slim container image, built without a Docker engine
	@$(call install,$(IMAGE_PACKAGES))
	@if ! $(BUILDAH) inspect --type image localhost/$(IMAGE)-base >/dev/null 2>&1; then \
	  echo "making the base image"; work=$$(mktemp -d); trap '$(SUDO) rm -rf "$$work"' EXIT; \
	  $(SUDO) debootstrap --variant=minbase --include=ca-certificates $(IMAGE_SUITE) "$$work/root" "$(IMAGE_MIRROR)" \
	    >$(STAMPS)/debootstrap.log; \
	  $(SUDO) sh -c "rm -rf '$$work'/root/var/cache/apt/* '$$work'/root/var/lib/apt/lists/*"; \
	  container=$$($(BUILDAH) from scratch); \
	  $(BUILDAH) copy --quiet "$$container" "$$work/root" / >/dev/null; \
	  $(BUILDAH) commit --quiet --rm "$$container" localhost/$(IMAGE)-base >/dev/null; fi
	@$(BUILDAH) build --format docker --build-arg BASE=localhost/$(IMAGE)-base --tag $(IMAGE) $(IMAGE_ARGS) .
	@$(BUILDAH) images $(IMAGE)

.PHONY: native
native: $(STAMPS)/venv ## build what changed of the native modules
	@if [ ! -f $(NATIVE)/build.ninja ] || [ $(NATIVE)/build.ninja -ot $(STAMPS)/venv ]; then \
	  cmake -S kernels -B $(NATIVE) -G Ninja -DSLUICE_IN_PLACE=ON -DPython_EXECUTABLE="$(CURDIR)/$(BIN)/python" \
	    >$(STAMPS)/cmake.log || { cat $(STAMPS)/cmake.log; exit 1; }; fi
	@cmake --build $(NATIVE)

# The package itself: a path to the checkout; the native modules are built above, where ninja knows what changed.
$(STAMPS)/demo $(STAMPS)/dev $(STAMPS)/load: $(STAMPS)/%: pyproject.toml $(STAMPS)/venv
	@echo "installing Python packages ($*)"
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-build-isolation \
	  -C wheel.cmake=false -C editable.mode=inplace -e '.[$*]'
	@touch $@

$(STAMPS)/venv: | $(STAMPS)/system
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is older than 3.11: make setup PYTHON=python3.11" >&2; exit 1; }
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check 'scikit-build-core>=0.10' 'cython>=3.1'
	@touch $@

# A Debian python3 comes without venv and without headers; any other is expected to be whole.
$(STAMPS)/system: | $(STAMPS)/
	@$(call install,$(SYSTEM_PACKAGES) $$(case "$$(readlink -f "$$(command -v $(PYTHON))")" in \
	  (/usr/bin/*|'') echo python3 python3-venv python3-dev;; esac))
	@touch $@

$(STAMPS)/test-packages: | $(STAMPS)/
	@$(call install,$(TEST_PACKAGES))
	@touch $@

$(STAMPS)/bench-packages: | $(STAMPS)/
	@$(call install,$(BENCH_PACKAGES))
	@touch $@

$(STAMPS)/fuzz: | $(STAMPS)/venv
	@$(call install,$(FUZZ_PACKAGES))
	@$(BIN)/pip install --quiet --disable-pip-version-check 'atheris>=3,<4'
	@touch $@

# promtool alone: the package that carries it would start a Prometheus server.
$(BIN)/promtool: | $(STAMPS)/venv
	@if command -v promtool >/dev/null; then ln -sf "$$(command -v promtool)" $@; else \
	  echo "fetching promtool"; work=$$(mktemp -d); trap 'rm -rf "$$work"' EXIT; chmod 755 "$$work"; \
	  $(SUDO) apt-get update -qq; (cd "$$work" && apt-get download -qq prometheus >/dev/null); \
	  dpkg-deb --fsys-tarfile "$$work"/prometheus_*.deb | tar -xO ./usr/bin/promtool >"$$work/promtool"; \
	  install -m 755 "$$work/promtool" $@; fi

$(STAMPS)/:
	@mkdir -p $@

.PHONY: clean
clean: ## remove what was built, .venv included
	rm -rf $(VENV) $(STAMPS) build dist demo fuzz-work kernels/*.so .mypy_cache .ruff_cache .pytest_cache .hypothesis
