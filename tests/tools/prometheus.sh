#!/bin/sh
# Prints the path of a Prometheus binary that runs: the one on PATH, else one unpacked (not installed, no root
# needed while the package lists are there) from the distribution's package into .cache/prometheus.
set -eu

if command -v prometheus; then
    exit 0
fi
cache=$(cd "$(dirname "$0")/../.." && pwd)/.cache/prometheus
binary=$cache/usr/bin/prometheus
if [ -x "$binary" ]; then
    echo "$binary"
    exit 0
fi
if ! command -v apt-get >/dev/null || ! command -v dpkg >/dev/null; then
    echo "no prometheus on PATH, and no apt-get and dpkg to unpack one: install Prometheus 2 or newer" >&2
    exit 1
fi

mkdir -p "$cache"
work=$(mktemp -d "$cache/unpack.XXXXXX")
trap 'rm -rf "$work"' EXIT
cd "$work"
fetch() {
    apt-get -qq -o APT::Sandbox::User=root -o Acquire::Retries=2 download prometheus >"$work/log" 2>&1
}
if ! fetch && ! { apt-get -qq update >"$work/update" 2>&1 && fetch; }; then
    echo "cannot download the package prometheus: $(tail -n 1 "$work/log")" >&2
    exit 1
fi
dpkg -x prometheus_*.deb tree
# Another test run may have been faster: then its copy serves as well.
mkdir -p "$cache/usr/bin"
mv -f tree/usr/bin/prometheus "$binary"
echo "$binary"
