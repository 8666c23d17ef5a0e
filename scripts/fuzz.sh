#!/usr/bin/env bash
# Runs the decoders of fuzz/ on damaged bytes for a long time. With cargo-fuzz and a nightly toolchain each target runs
# SECONDS_EACH seconds from the committed seeds, and what it finds is kept in fuzz/libfuzzer/; without them the
# mutator of the tests does INPUTS inputs each.
set -euo pipefail
cd "$(dirname "$0")/.."

if cargo fuzz --version >/dev/null 2>&1 && cargo +nightly --version >/dev/null 2>&1; then
    mapfile -t targets < <(cd fuzz/libfuzzer && cargo +nightly fuzz list --fuzz-dir .)
    for target in "${targets[@]}"; do
        echo "== $target"
        corpus="fuzz/libfuzzer/corpus/$target"
        mkdir -p "$corpus"
        cargo +nightly fuzz run --fuzz-dir fuzz/libfuzzer "$target" "$corpus" "fuzz/seeds/$target" -- \
            -max_total_time="${SECONDS_EACH:-600}"
    done
else
    echo "cargo-fuzz or a nightly toolchain is missing; using the mutator of the tests" >&2
    LANDFALL_FUZZ_INPUTS="${INPUTS:-1000000}" cargo test --locked --release -p landfall-fuzz --test short
fi
