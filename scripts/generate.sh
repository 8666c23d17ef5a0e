#!/usr/bin/env bash
# Writes charts/landfall/crds/*.yaml from the types in crds/.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo run --locked --quiet -p landfall-crds --bin crdgen
