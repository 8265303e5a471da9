# Everything a person types. The work is in scripts/ and works the same without make.

SHELL := /bin/bash
export PATH := $(HOME)/.cargo/bin:$(PATH)
# The checked SQL statements come from .sqlx, so no build needs a database.
export SQLX_OFFLINE ?= true

.DEFAULT_GOAL := help
.PHONY: help run test check simulate bench services fmt sqlx openapi

help: ## Show these lines
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: ## Build and start Ledgerline with its own Postgres and NATS and a demo, on http://127.0.0.1:8080
	@exec scripts/run

test: ## Check the format and the lints, then run every test on real servers
	@exec scripts/test

check: ## Check the format, the lints and the dependency rules, without running anything
	@exec scripts/test --check-only

simulate: ## Run the engine in simulated time under random faults: SEEDS=1000, from SEED=<number>
	@$(if $(SEED),SEED=$(SEED)) SEEDS=$(or $(SEEDS),1000) cargo test -p ledgerline-tests --test sim random -- --nocapture

bench: ## Measure beside the raw limits: all, or SCENARIO="append replay"
	@scripts/prerequisites && scripts/services && cargo build --release -p ledgerline-api -p ledgerline-bench && exec target/release/ledgerline-bench $(SCENARIO)

services: ## Fetch the pinned Postgres and nats-server into .services
	@exec scripts/services

fmt: ## Format the Rust code
	@exec cargo fmt --all

sqlx: ## Re-create the development database and the checked SQL metadata in .sqlx
	@scripts/dev-db && exec scripts/sqlx-prepare

openapi: ## Write api/openapi.json anew from the routes
	@cargo run --quiet -p ledgerline-api --bin ledgerline -- openapi >api/openapi.json.new && mv api/openapi.json.new api/openapi.json
