#!/bin/sh
# Build the OpenTelemetry Collector and print its path, unless it is there already.
#
#   build.sh DIRECTORY
#
# The first of: $OTELCOL, DIRECTORY/otelcol if it is newer than the sources, and a build
# from Debian sid's packages of the Collector and of Go, in a chroot of its own. As root;
# two to three minutes, 3 GB below DIRECTORY/sid, which may be deleted afterwards.
set -eu

if [ -n "${OTELCOL:-}" ]; then
    command -v "$OTELCOL"
    exit
fi

sources=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
where=$(cd "$1" && pwd)
root=$where/sid

is_built() {
    [ -x "$where/otelcol" ] &&
        [ -z "$(find "$sources" -newer "$where/otelcol" \( -name '*.go' -o -name '*.sh' \))" ]
}

build() {
    if ! command -v debootstrap >/dev/null; then
        apt-get update -q
        apt-get install -y -q --no-install-recommends debootstrap
    fi
    if ! [ -e "$root/.done" ]; then
        rm -rf "$root"
        debootstrap --variant=minbase --include=ca-certificates sid "$root"
        chroot "$root" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q \
            --no-install-recommends golang-go golang-opentelemetry-collector-dev
        touch "$root/.done"
    fi
    mkdir -p "$root/build/otelcol"
    cp "$sources"/*.go "$root/build/otelcol/"
    # Go wants /proc. Mounted in a mount namespace of its own, nothing is left mounted.
    unshare -m sh -c '
        set -e
        mount --make-rprivate /
        mount -t proc proc "$0/proc"
        mount --bind /dev "$0/dev"
        exec chroot "$0" env -C /build/otelcol GO111MODULE=off CGO_ENABLED=0 \
            GOPATH=/usr/share/gocode GOCACHE=/build/cache GOTELEMETRY=off \
            go build -trimpath "-ldflags=-s -w" -o /build/otelcol.new .
    ' "$root"
    install -m 755 "$root/build/otelcol.new" "$where/otelcol"
    chroot "$root" dpkg-query -W golang-go golang-opentelemetry-collector-dev
}

if ! is_built; then
    # Not `build || ...`: that would switch `set -e` off inside it.
    set +e
    (set -e; build) >"$where/build.log" 2>&1
    status=$?
    set -e
    if [ "$status" -ne 0 ]; then
        echo "no Collector could be built: see $where/build.log" >&2
        exit 1
    fi
fi
"$where/otelcol" --version >/dev/null
echo "$where/otelcol"
