# Three commands for a newcomer: `make demo-run` (the runtime, without PyTorch), `make demo` (from a checkpoint on)
# and `make test`. Each sets up an environment of its own; where .venv is there, `make demo` takes that.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := checkpoints/demo

.PHONY: demo demo-run test test-slow installed lint types check bench gpu-check readme clean

$(VENV)/ready: setup.cfg constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[cpu,ort,export,dev]'
	touch $@

DEMO_ENV := $(if $(wildcard $(VENV)/ready),$(VENV),build/demo-env)
# Ray, 500 MB with what it needs: only slow tests and the proofs of reliability have a use for it.
$(VENV)/ray: $(VENV)/ready
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[ray]'
	touch $@

# Export a checkpoint and separate a real mix with the engine.
demo: $(DEMO_ENV)/ready
	$(DEMO_ENV)/bin/python -m rofo.benchmarks.demo build/demo

build/demo-env/ready: setup.cfg constraints.txt
	@echo "Going to install PyTorch, ONNX and ONNX Runtime in build/demo-env: 280 MB to download, 1.2 GB on disk."
	@echo "On Linux pip takes PyTorch with CUDA: 3 GB and 7 GB, unless PIP_EXTRA_INDEX_URL names PyTorch's index for CPUs."
	$(PYTHON) -m venv build/demo-env
	build/demo-env/bin/pip install --quiet --constraint constraints.txt torch
	build/demo-env/bin/pip install --quiet --constraint constraints.txt --editable '.[ort,export]' matplotlib
	touch $@

# Separate the same mix with the engine that lies beside the checkpoint.
demo-run: build/run-env/ready
	build/run-env/bin/rofo-run --engine $(DEMO)/engine.onnx $(DEMO)/mix.flac --output build/demo-run

build/run-env/ready: setup.cfg
	@echo "Going to install rofo with ONNX Runtime in build/run-env: 45 MB to download, 180 MB on disk; no PyTorch."
	$(PYTHON) -m venv build/run-env
	build/run-env/bin/pip install --quiet '.[ort]'
	touch $@

# As many processes as there are cores, of one thread each.
test: $(VENV)/ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal

# Full public shapes: the kernels TensorRT-RTX plans for them. A minute or two and 4 GB; no GPU.
test-slow: $(VENV)/ready $(VENV)/ray
	$(BIN)/python -m pytest -m slow

# The wheel in an environment of its own, with the oldest libraries that setup.cfg allows; downloads 50 MB.
installed: $(VENV)/ready
	$(BIN)/python -m pytest -m installed tests/test_packaging.py

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# mypy cannot follow the package_dir mapping of setup.cfg: it gets a tree of links with the installed layout.
types: $(VENV)/ready
	rm -rf build/types && mkdir -p build/types/rofo
	ln -s $(CURDIR)/runtime/* build/types/rofo/
	ln -s $(CURDIR)/export $(CURDIR)/benchmarks $(CURDIR)/checkpoints build/types/rofo/
	MYPYPATH=build/types $(BIN)/mypy -p rofo

check: lint types test

INT8 := --precision fp32 --precision bf16 --precision int8

# Speed and memory at full public size, speed and parity of the demo model; an hour or more on an idle two-core
# machine. Then the tables and the picture of the READMEs.
bench: $(VENV)/ready
	for shape in viperx kim mdx23c small htdemucs scnet bsrnn; do $(BIN)/rofo-bench shape $$shape build/bench; done
	$(BIN)/rofo-bench speed build/bench/viperx.ckpt --config build/bench/viperx.yaml --no-compile --chunks 1 $(INT8)
	$(BIN)/rofo-bench speed build/bench/kim.ckpt --no-compile --chunks 1
	$(BIN)/rofo-bench speed build/bench/mdx23c.ckpt --config build/bench/mdx23c.yaml --no-compile --chunks 1 \
		--precision fp32
	$(BIN)/rofo-bench speed build/bench/htdemucs.ckpt --config build/bench/htdemucs.yaml --no-compile --chunks 2
	$(BIN)/rofo-bench speed build/bench/scnet.ckpt --config build/bench/scnet.yaml --no-compile --chunks 2
	$(BIN)/rofo-bench speed build/bench/bsrnn.ckpt --no-compile --chunks 1
	mkdir -p build/bench/recipe && cp $(DEMO)/model.ckpt $(DEMO)/three_runs.toml build/bench/recipe
	$(BIN)/rofo-export build/bench/recipe/model.ckpt --config $(DEMO)/model.yaml --target onnx
	$(BIN)/rofo-bench speed build/bench/recipe/three_runs.toml --no-compile --backend openvino --precision fp32
	$(BIN)/rofo-bench scale build/bench/small.ckpt --config build/bench/small.yaml --backend openvino \
		--precision fp32 --rounds 1 --seconds 10,60,600,3600 --batches 1,2,4
	$(BIN)/rofo-bench speed $(DEMO)/model.ckpt --config $(DEMO)/model.yaml $(INT8)
	$(BIN)/rofo-bench parity $(DEMO)/model.ckpt --config $(DEMO)/model.yaml --mix $(DEMO)/mix.flac \
		--stems $(DEMO)/voice.flac $(DEMO)/music.flac $(INT8)
	$(BIN)/python -c "import soundfile; mix, rate = soundfile.read('$(DEMO)/mix.flac'); \
		soundfile.write('build/bench/mix-4s.flac', mix[4 * rate : 8 * rate], rate)"
	for shape in viperx kim mdx23c htdemucs scnet bsrnn; do \
		$(BIN)/rofo-bench parity build/bench/$$shape.ckpt --mix build/bench/mix-4s.flac --no-compile --backend openvino \
		$$(test -e build/bench/$$shape.yaml && echo --config build/bench/$$shape.yaml); done
	for geometry in viperx kim; do $(BIN)/rofo-bench host $$geometry; done
	$(BIN)/rofo-bench report
	$(MAKE) readme

# Speed and parity of plans, ONNX Runtime and PyTorch on this machine's NVIDIA GPU, for which PyTorch, TensorRT
# and cuda-bindings must be installed in PYTHON_GPU's environment. Without a GPU it says so and measures nothing.
PYTHON_GPU ?= $(BIN)/python
gpu-check: $(VENV)/ready
	$(PYTHON_GPU) -m rofo.benchmarks.gpu

# Put the figures of benchmarks/results into README.md and benchmarks/README.md, and draw the picture.
readme: $(VENV)/ready
	$(BIN)/python -m rofo.benchmarks.readme

clean:
	rm -rf $(VENV) build
