# Tandem. `make` alone prints what can be made.

SHELL := /bin/bash
BIN   := bin
GO    := go
# Tests that boot Linux in the lab run one after another: a lab host is a busy core.
LAB_TIMEOUT := 40m

.DEFAULT_GOAL := help
.PHONY: help setup build demo test test-unit test-lab lint fuzz bench guests clean

help: ## print this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

setup: ## install what is missing (Debian packages, as root) and fetch the lab's parts into the user's cache
	@./.ci/setup
	@$(GO) run ./cmd/lab setup

build: ## build bin/tandem and bin/lab
	@mkdir -p $(BIN)
	@CGO_ENABLED=0 $(GO) build -trimpath -o $(BIN)/ ./cmd/tandem ./cmd/lab

demo: setup build ## take both hosts of a mail server away, one after the other, while 50 clients use it
	@$(BIN)/lab demo

test: setup build lint test-unit test-lab ## all tests: rules, units, small guests on this machine's /dev/kvm, Linux in the lab

test-unit: ## unit tests and small guests, in under a minute
	@$(GO) tool gotestsum --format pkgname-and-test-fails --format-hide-empty-pkg -- -short ./...

test-lab: ## tests that run Linux
	@$(GO) tool gotestsum --format testname --format-hide-empty-pkg -- -p 1 -timeout $(LAB_TIMEOUT) ./cmd/...

lint: ## formatting, vet, and the rules of the source tree
	@test -z "$$(gofmt -l $$(git ls-files '*.go' 2>/dev/null || find . -name '*.go'))" || { gofmt -l .; echo "run gofmt -w on these"; exit 1; }
	@$(GO) vet ./...
	@$(GO) test -count=1 ./cmd/internal/lint

FUZZTIME := 20s
fuzz: ## run every fuzz target for FUZZTIME (20s)
	@set -e; grep -rl --include='*_test.go' '^func Fuzz' . | while read -r file; do \
	  for target in $$(grep -oE '^func Fuzz[A-Za-z0-9_]+' $$file | cut -c6-); do \
	    echo "== $$file $$target"; $(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x ./$$(dirname $$file); done; done

bench: build ## measure: small guests on this machine, Linux in the lab
	@$(GO) test -run '^$$' -bench . -benchtime 1x -short ./vmm/... ./devices/... ./lockstep/...
	@$(BIN)/lab bench boot
	@$(BIN)/lab bench record
	@$(BIN)/lab bench io
	@$(BIN)/lab bench pair

guests: ## assemble the small guests of testdata anew
	@./testdata/guests/build.sh

clean: ## remove what was built; the downloads in the user's cache stay
	rm -rf $(BIN)
