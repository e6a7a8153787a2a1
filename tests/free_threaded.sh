#!/bin/sh
# Print the path of a CPython 3.13 without a global lock, building it if there is none.
#
#   free_threaded.sh DIRECTORY
#
# The first of: $FREE_THREADED, `python3.13t` or `python3.14t` on the path, what an
# earlier run left in DIRECTORY, `uv python install`, and at last Debian's source, which
# takes some minutes, a compiler and the usual -dev packages.
set -eu

where=$1
mkdir -p "$where"
where=$(cd "$where" && pwd)

is_free() {
    "$1" -c 'import sys; sys.exit(sys._is_gil_enabled())' 2>/dev/null
}

for found in "${FREE_THREADED:-}" python3.14t python3.13t "$where/bin/python3.13t"; do
    if [ -n "$found" ] && is_free "$found"; then
        command -v "$found"
        exit
    fi
done

if command -v uv >/dev/null && uv python install --quiet 3.13t 2>/dev/null; then
    uv python find 3.13t
    exit
fi

build=$(mktemp -d "$where/build.XXXXXX")
trap 'rm -rf "$build"' EXIT
{
    # An apt of its own: the system's sources, lists and cache stay as they are.
    mkdir -p "$build/lists/partial" "$build/cache/archives/partial"
    cat >"$build/sources.list" <<SOURCES
deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian trixie main
SOURCES
    touch "$build/status"
    cd "$build"
    apt="-o Dir::Etc::SourceList=$build/sources.list -o Dir::Etc::SourceParts=/dev/null"
    apt="$apt -o Dir::State::Lists=$build/lists -o Dir::State::Status=$build/status"
    apt="$apt -o Dir::Cache=$build/cache -o APT::Sandbox::User=root"
    # Words are meant to be split.
    # shellcheck disable=SC2086
    apt-get $apt update
    # shellcheck disable=SC2086
    apt-get $apt source --download-only python3.13
    mkdir source
    tar -xf python3.13_*.orig.tar.xz -C source --strip-components=1
    cd source
    ./configure --disable-gil --prefix="$where" --with-ensurepip=install
    make -j"$(nproc)"
    make install
} >"$where/build.log" 2>&1 || {
    echo "no free-threaded Python could be built: see $where/build.log" >&2
    exit 1
}
is_free "$where/bin/python3.13t"
echo "$where/bin/python3.13t"
