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

# OpenMP where the compiler can build with it; OPENMP= turns it off.
ifeq ($(origin OPENMP),undefined)
OPENMP := $(shell printf '\043include <omp.h>\nint main(void) { return omp_get_max_threads() < 1; }\n' | \
            $(CC) -fopenmp -x c - -o /dev/null 2>/dev/null && echo -fopenmp)
endif

WARNINGS = -Wall -Wextra -Wpedantic -Wshadow -Wconversion
COMPILE  = $(CC) -std=c99 $(CFLAGS) $(WARNINGS) $(OPENMP) -I.
EXAMPLES = $(patsubst examples/%.c,$(BUILD)/%,$(wildcard examples/*.c))

.PHONY: all run test data bench bench-peers clean help FORCE
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

test: all
	@CC='$(CC)' CFLAGS='$(CFLAGS)' OPENMP='$(OPENMP)' BUILD='$(BUILD)' DATA='$(DATA)' $(PYTHON) tests/run.py

$(BUILD)/bench: tests/bench/bench.c cnn.h $(BUILD)/.flags
	$(COMPILE) $< -o $@ -lm

bench: $(BUILD)/bench
	@$(BUILD)/bench $(ARGS)

bench-peers: $(BUILD)/bench
	@BUILD='$(BUILD)' DATA='$(DATA)' $(PYTHON) tests/bench/peers.py $(ARGS)

clean:
	rm -rf $(BUILD)

help:
	@echo 'make         every example, as $(BUILD)/NAME'
	@echo 'make run     data if missing, build, train LeNet (options in ARGS)'
	@echo 'make test    all tests'
	@echo 'make data    fill $(DATA)/ with Fashion-MNIST, or a synthetic stand-in'
	@echo 'make bench   speed against the FMA peak of this machine'
	@echo 'make bench-peers   the same beside PyTorch and oneDNN, where they are installed'
	@echo 'make clean   remove $(BUILD)/'
	@echo 'Variables: CC CFLAGS OPENMP (empty: without) BUILD DATA PYTHON ARGS'
