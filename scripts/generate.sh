#!/usr/bin/env bash
# Writes charts/landfall/crds/*.yaml and docs/conditions.md from what stands in crds/.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo run --locked --quiet -p landfall-crds --bin crdgen
