# Two commands for a newcomer: `make demo` and `make test`. Both set up .venv themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := checkpoints/demo

.PHONY: demo test test-slow lint types check bench gpu-check readme clean

$(VENV)/ready: setup.cfg constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[cpu,ort,export,dev]'
	touch $@

# Ray, 500 MB with what it needs: only slow tests and the proofs of reliability have a use for it.
$(VENV)/ray: $(VENV)/ready
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[ray]'
	touch $@

# Export a checkpoint and separate a real mix with the engine.
demo: $(VENV)/ready
	$(BIN)/python -m rofo.benchmarks.demo build/demo

test: $(VENV)/ready
	$(BIN)/python -m pytest

# Full public shapes: the kernels TensorRT-RTX plans for them. A minute or two and 4 GB; no GPU.
test-slow: $(VENV)/ready $(VENV)/ray
	$(BIN)/python -m pytest -m slow

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
# machine. Then README.md's tables.
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
	for geometry in viperx kim; do $(BIN)/rofo-bench host $$geometry; done
	$(BIN)/rofo-bench report
	$(MAKE) readme

# Speed and parity of plans, ONNX Runtime and PyTorch on this machine's NVIDIA GPU, for which PyTorch, TensorRT
# and cuda-bindings must be installed in PYTHON_GPU's environment. Without a GPU it says so and measures nothing.
PYTHON_GPU ?= $(BIN)/python
gpu-check: $(VENV)/ready
	$(PYTHON_GPU) -m rofo.benchmarks.gpu

# Put the figures of benchmarks/results into README.md.
readme: $(VENV)/ready
	$(BIN)/python -m rofo.benchmarks.readme

clean:
	rm -rf $(VENV) build
