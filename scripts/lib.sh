# shellcheck shell=bash
# Shared by the scripts; sourced, never run.

# say TEXT: one line of progress with the time of day.
say() {
    printf '%s  %s\n' "$(date +%H:%M:%S)" "$*"
}

# die TEXT: one clear sentence, and failure.
die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# need TOOL WHAT PACKAGE: fails with what to do when a program is missing.
need() {
    command -v "$1" > /dev/null || die "$1 ($2) is missing: run 'make deps', or 'apt-get install $3'"
}

# The one version of the project, from the workspace manifest.
project_version() {
    sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1
}

# Where cargo puts what it builds.
target_dir() {
    echo "${CARGO_TARGET_DIR:-target}"
}
