# make            every example, as build/NAME
# make run        data if missing, build, train LeNet on Fashion-MNIST (ARGS='--epochs 2' to pass options on)
# make test       all tests; ends in "N passed, N failed"
# make help       all targets

CC     ?= cc
CFLAGS ?= -O2 -g
BUILD  ?= build
PYTHON ?= python3
DATA   ?= data
ARGS   ?=
NVCC   ?= nvcc

# What the CUDA back end is compiled for: one architecture, such as sm_80; empty: sm_90, and PTX for others.
CUDA_ARCH ?=
CUDA_TARGETS = $(if $(CUDA_ARCH),-arch=$(CUDA_ARCH),$(foreach a,75 80 90,-gencode arch=compute_$(a),code=compute_$(a)) \
                 -gencode arch=compute_90,code=sm_90)
COMMA := ,

# OpenMP where the compiler can build with it; OPENMP= turns it off.
ifeq ($(origin OPENMP),undefined)
OPENMP := $(shell printf '\043include <omp.h>\nint main(void) { return omp_get_max_threads() < 1; }\n' | \
            $(CC) -fopenmp -x c - -o /dev/null 2>/dev/null && echo -fopenmp)
endif

WARNINGS = -Wall -Wextra -Wpedantic -Wshadow -Wconversion
COMPILE  = $(CC) -std=c99 $(CFLAGS) $(WARNINGS) $(OPENMP) -I.
EXAMPLES = $(patsubst examples/%.c,$(BUILD)/%,$(wildcard examples/*.c))

.PHONY: all run test data bench bench-peers cuda test-cuda bench-cuda clean help FORCE
.DELETE_ON_ERROR:

all: $(EXAMPLES)

$(BUILD)/%: examples/%.c cnn.h $(BUILD)/.flags
	$(COMPILE) $< -o $@ -lm

$(BUILD)/lenet_fashion $(BUILD)/summary $(BUILD)/bench: examples/zoo.h

# Changes when the compiler or the flags do, so that everything is then built anew.
$(BUILD)/.flags: FORCE
	@mkdir -p $(BUILD)
	@echo '$(COMPILE)' | cmp -s - $@ || echo '$(COMPILE)' > $@

data:
	$(PYTHON) tools/gen_fashion_mnist.py --out $(DATA)

$(DATA)/SOURCE:
	$(PYTHON) tools/gen_fashion_mnist.py --out $(DATA)

run: $(BUILD)/lenet_fashion $(DATA)/SOURCE
	$(BUILD)/lenet_fashion --data $(DATA) $(ARGS)

test:
	@$(MAKE) --no-print-directory -j2 all
	@CC='$(CC)' CFLAGS='$(CFLAGS)' OPENMP='$(OPENMP)' BUILD='$(BUILD)' DATA='$(DATA)' $(PYTHON) tests/run.py

$(BUILD)/bench: tests/bench/bench.c cnn.h $(BUILD)/.flags
	$(COMPILE) $< -o $@ -lm

bench: $(BUILD)/bench
	@$(BUILD)/bench $(ARGS)

bench-peers: $(BUILD)/bench
	@BUILD='$(BUILD)' DATA='$(DATA)' $(PYTHON) tests/bench/peers.py $(ARGS)

# The library by nvcc, the program by the C compiler; needs no GPU. The CUDA runtime is linked statically.
CUDA_COMPILE = $(NVCC) -O2 $(CUDA_TARGETS) -DCNN_CUDA -DCNN_IMPLEMENTATION -I. \
               -Xcompiler -Wall,-Wextra$(addprefix $(COMMA),$(OPENMP))

$(BUILD)/.cuda_flags: FORCE
	@mkdir -p $(BUILD)
	@echo '$(CUDA_COMPILE)' | cmp -s - $@ || echo '$(CUDA_COMPILE)' > $@

$(BUILD)/cnn_cuda.o: cnn.h $(BUILD)/.cuda_flags
	$(CUDA_COMPILE) -x cu -c cnn.h -o $@

$(BUILD)/lenet_fashion_cuda: examples/lenet_fashion.c examples/zoo.h $(BUILD)/cnn_cuda.o $(BUILD)/.flags
	$(COMPILE) -DCNN_CUDA -c $< -o $@.o
	$(NVCC) $@.o $(BUILD)/cnn_cuda.o -o $@ $(addprefix -Xcompiler ,$(OPENMP))

$(BUILD)/bench_cuda: tests/bench/bench_cuda.cu cnn.h $(BUILD)/.cuda_flags
	$(NVCC) -O2 $(CUDA_TARGETS) -I. $< -o $@ -Xcompiler -Wall,-Wextra$(addprefix $(COMMA),$(OPENMP))

cuda: $(BUILD)/lenet_fashion_cuda

test-cuda:
	@CC='$(CC)' CFLAGS='$(CFLAGS)' OPENMP='$(OPENMP)' BUILD='$(BUILD)' DATA='$(DATA)' NVCC='$(NVCC)' \
	    CUDA_ARCH='$(CUDA_ARCH)' $(PYTHON) tests/run_cuda.py $(ARGS)

bench-cuda:
	@nvidia-smi -L >/dev/null 2>&1 || { echo 'bench-cuda: skipped: nvidia-smi finds no GPU here'; exit 0; }; \
	    $(MAKE) $(BUILD)/bench_cuda $(BUILD)/lenet_fashion_cuda && \
	    BUILD='$(BUILD)' DATA='$(DATA)' $(PYTHON) tests/bench/bench_cuda.py $(ARGS)

clean:
	rm -rf $(BUILD)

help:
	@echo 'make         every example, as $(BUILD)/NAME'
	@echo 'make run     data if missing, build, train LeNet (options in ARGS)'
	@echo 'make test    all tests'
	@echo 'make data    fill $(DATA)/ with Fashion-MNIST, or a synthetic stand-in'
	@echo 'make bench   speed against the FMA peak of this machine'
	@echo 'make bench-peers   the same beside PyTorch and oneDNN, where they are installed'
	@echo 'make cuda    the trainer with the CUDA back end, as $(BUILD)/lenet_fashion_cuda'
	@echo 'make test-cuda, make bench-cuda    on a GPU: its tests, its speed beside PyTorch'
	@echo 'make clean   remove $(BUILD)/'
	@echo 'Variables: CC CFLAGS OPENMP (empty: without) BUILD DATA PYTHON ARGS NVCC CUDA_ARCH (such as sm_80)'
