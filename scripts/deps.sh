#!/usr/bin/env bash
# Installs what building, testing and the demo need and this machine lacks: Debian packages, the Rust toolchain
# of rust-toolchain.toml and its static target. What is there already is left alone.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh

# package: a program (or file) that it brings.
packages=(
    "buildah:buildah"           # packs the images
    "musl-tools:musl-gcc"       # C compiler for static binaries
    "runc:runc"                 # runs the lab's containers
    "iproute2:ip"               # namespaces, links, bridges
    "nftables:nft"              # kube-proxy, and to look at tables
    "conntrack:conntrack"       # kube-proxy
    "iptables:iptables"         # kube-proxy's iptables mode and the CNI plugins
    "kmod:modprobe"             # kernel modules for netfilter
    "tcpdump:tcpdump"           # frames on the lab's LAN
    "iputils-ping:ping"         # the lab's clients
    "curl:curl"                 # the lab's clients
    "procps:ps"                 # what a failed run prints
    "shellcheck:shellcheck"     # make lint
)

command -v go > /dev/null || die "Go is missing: install Go 1.26 or newer from your distribution or go.dev and put it on the PATH"
command -v rustup > /dev/null || die "rustup is missing: install it from rustup.rs and put ~/.cargo/bin on the PATH"

missing=()
for entry in "${packages[@]}"; do
    # /usr/sbin is not on every user's PATH.
    PATH="$PATH:/usr/sbin:/sbin" command -v "${entry#*:}" > /dev/null || missing+=("${entry%%:*}")
done
if [ ${#missing[@]} -gt 0 ]; then
    command -v apt-get > /dev/null || die "these programs' packages are missing and this is not a Debian system: ${missing[*]}"
    [ "$(id -u)" = 0 ] || die "packages are missing; as root: apt-get install ${missing[*]}"
    say "installing Debian packages: ${missing[*]}"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" > /dev/null
fi

channel=$(sed -n 's/^channel = "\(.*\)"$/\1/p' rust-toolchain.toml)
# By name: with RUSTUP_AUTO_INSTALL=0 rustup does not install what rust-toolchain.toml asks for.
if ! rustup toolchain list | grep -q "^$channel-"; then
    say "installing Rust $channel"
    rustup toolchain install "$channel" --profile minimal --component clippy --component rustfmt
fi
for component in clippy rustfmt; do
    rustup component list --toolchain "$channel" --installed | grep -q "^$component" ||
        rustup component add --toolchain "$channel" "$component"
done
musl=x86_64-unknown-linux-musl
if ! rustup target list --toolchain "$channel" --installed | grep -qx "$musl"; then
    say "installing the Rust target $musl"
    rustup target add --toolchain "$channel" "$musl"
fi
