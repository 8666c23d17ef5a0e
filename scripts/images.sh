#!/usr/bin/env bash
# Builds the two static binaries and packs each into an OCI archive: target/images/{controller,speaker}.tar.
# An archive is written again only when its binary, its Dockerfile or this script has changed.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh

need musl-gcc "the C compiler for static binaries" musl-tools
need buildah "the image builder" buildah

version=$(project_version)
musl=x86_64-unknown-linux-musl
out=$(target_dir)/images
export CC_x86_64_unknown_linux_musl=musl-gcc

say "building static binaries ($musl, release)"
cargo build --locked --release --target "$musl" -p landfall-controller -p landfall-speaker

mkdir -p "$out"
# Storage and policy of our own: neither the host's container configuration nor its images matter here.
printf '{"default":[{"type":"insecureAcceptAnything"}]}\n' > "$out/policy.json"
build() {
    buildah --storage-driver vfs --root "$out/storage" --runroot "$out/run" "$@"
}

for part in controller speaker; do
    binary=$(target_dir)/$musl/release/landfall-$part
    archive=$out/$part.tar
    inputs=$(cat "$binary" "images/$part.Dockerfile" scripts/images.sh | sha256sum | cut -d' ' -f1)-$version
    if [ -f "$archive" ] && [ "$(cat "$archive.inputs" 2>/dev/null)" = "$inputs" ]; then
        say "$archive is up to date"
        continue
    fi
    image=landfall.dev/$part:$version
    say "packing $image"
    context=$(mktemp -d "$out/context.XXXXXX")
    trap 'rm -rf "$context"' EXIT
    cp "$binary" "$context/"
    # The fixed time stamp makes the same inputs give the same image.
    build bud --quiet --isolation chroot --timestamp 0 --build-arg VERSION="$version" \
        --signature-policy "$out/policy.json" --file "images/$part.Dockerfile" --tag "$image" "$context" > /dev/null
    rm -f "$archive" "$archive.inputs"
    build push --quiet --signature-policy "$out/policy.json" "$image" "oci-archive:$archive.new:$image"
    mv "$archive.new" "$archive"
    echo "$inputs" > "$archive.inputs"
    rm -rf "$context"
    build rmi --all --force > /dev/null
    say "$archive: $(du -h "$archive" | cut -f1)"
done
