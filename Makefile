# Tiergate. `make` alone lists what there is to do. Needs Go and git; PostgreSQL and MariaDB are found or fetched.
SHELL := /bin/bash -o pipefail
.DEFAULT_GOAL := help

# Exact versions, so that a new release never turns a green build red.
GOLANGCI_LINT := go run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.12.2
POSTGRES_VERSIONS := 15 16 17 18

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  make %-10s %s\n", $$1, $$2 }'

.PHONY: demo
demo: ## Watch users being counted, blocked, mailed and upgraded on a private PostgreSQL
	go run ./cmd/sidecar demo $(ARGS)

.PHONY: test
test: lint ## What CI runs: lint, every test, the core under the race detector
	@echo "== the servers that the tests meet"
	@go test -count=1 -timeout 10m -run '^TestLifeOf' -v ./internal/dbserver | grep -v '^=== '
	go test -timeout 15m ./...
	go test -timeout 10m -tags tinybatches ./internal/cdc ./internal/sql
	@if command -v "$$(go env CC)" >/dev/null; then set -x; go test -race -timeout 5m ./internal/loops/...; \
	else echo "no C compiler, which Go's race detector needs: left out"; fi

.PHONY: test-all
test-all: test ## Every test on every PostgreSQL version, in the long form, and MySQL's on MySQL
	@set -e; for version in $(POSTGRES_VERSIONS); do \
		echo "== PostgreSQL $$version"; \
		TIERGATE_POSTGRES_VERSION=$$version TIERGATE_TEST_LONG=1 go test -count=1 -timeout 60m ./...; \
	done
	@echo "== MySQL"
	TIERGATE_MYSQL_SERVER=mysql TIERGATE_TEST_LONG=1 go test -count=1 -timeout 60m -run 'MySQL|Binlog' ./internal/cdc ./internal/dbserver ./internal/sql

.PHONY: lint
lint: ## gofmt, go vet and the rules of .golangci.yml (the first run builds the linter: a minute or two)
	@unformatted=$$(gofmt -l .); if [ -n "$$unformatted" ]; then echo "run gofmt -w on:"; echo "$$unformatted"; exit 1; fi
	go vet ./...
	$(GOLANGCI_LINT) run --allow-serial-runners ./...

.PHONY: fuzz
fuzz: ## Fuzz every target for 20 seconds
	@set -e; packages=$$(go list -buildvcs=false ./...); \
	for package in $$packages; do \
		targets=$$(go test -list '^Fuzz' $$package); \
		for target in $$(grep '^Fuzz' <<< "$$targets" || true); do \
			echo "== $$package $$target"; \
			go test -run '^$$' -fuzz "^$$target$$" -fuzztime 20s $$package; \
		done; \
	done

.PHONY: bench
bench: ## Measure latency, the drain of backlogs, a huge transaction and a first count (half an hour)
	go test -run '^$$' -bench . -benchtime 1x -timeout 60m ./bench/...

.PHONY: build
build: ## Build bin/sidecar, one static file
	CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=$(VERSION)" -o bin/sidecar ./cmd/sidecar
