# The commands of the project. `make demo` and `make test` set up what is missing.
ARGS ?=
CARGO ?= cargo

.PHONY: demo test check bench fuzz soak setup ward-verify-static

demo: setup
	$(CARGO) build --locked -p ward -p ward-verify
	./target/debug/ward demo $(ARGS)

test: setup
	./scripts/setup --tests
	$(CARGO) xtask ci

check:
	$(CARGO) xtask check

bench: setup
	$(CARGO) build --locked --release -p ward -p ward-verify
	./bench/run $(ARGS)

fuzz: setup
	./scripts/fuzz $(ARGS)

soak: setup
	./scripts/soak $(ARGS)

# The auditor's checker as one file that needs no library of the machine; says where it is and proves that it is static.
ward-verify-static: setup
	./scripts/static-verifier

setup:
	@./scripts/setup
