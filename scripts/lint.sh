#!/usr/bin/env bash
# Every check that needs no cluster. Warnings are errors here and nowhere else.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh

say "format"
cargo fmt --all --check

say "clippy"
cargo clippy --locked --workspace --all-targets -- -D warnings

say "documentation"
RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --document-private-items --quiet

say "generated files"
cargo run --locked --quiet -p landfall-crds --bin crdgen -- --check

say "one version"
version=$(project_version)
for key in version appVersion; do
    grep -qx "$key: $version" charts/landfall/Chart.yaml || die "$key in charts/landfall/Chart.yaml is not $version"
done

say "chart"
# The lab's Helm, with the lab's flags, so that its compiled packages serve both.
helm() {
    GOFLAGS="-mod=readonly -trimpath -buildvcs=false" CGO_ENABLED=0 go -C tests/kube/helm tool helm "$@"
}
chart=$PWD/charts/landfall
helm lint --strict "$chart"
for values in "$chart"/ci/*.yaml; do
    helm template landfall "$chart" --namespace landfall-system --values "$values" > /dev/null
done
for wrong in speaker.port=0 controller.replica=3 image.pullPolicy=Sometimes "speaker.nodePortAddresses={192.0.2.1}"; do
    ! helm template landfall "$chart" --set "$wrong" > /dev/null 2>&1 ||
        die "the chart takes the wrong value $wrong"
done

say "shell scripts"
need shellcheck "the shell linter" shellcheck
shellcheck --external-sources .ci/run scripts/*.sh

# Compiling cargo-deny takes longer than all the rest, so it is not installed here. Advisories are not asked for
# either: they change without a change of ours (cargo deny check advisories).
if cargo deny --version > /dev/null 2>&1; then
    say "dependencies"
    cargo deny --log-level error check bans licenses sources
else
    say "dependencies: deny.toml not applied, cargo-deny is not installed (cargo install --locked cargo-deny)"
fi
