#!/usr/bin/env bash
# Everything a change must pass, in one command. Installs what is missing (Debian's packages), starts and stops what it
# needs by itself, and touches nothing but loopback addresses.
#
#   tests/run.sh            all tests
#   SELVEDGE_SOAK=1 tests/run.sh   the same, with the long runs: 60 s of killed instances, 2 GiB bodies, 100 000 broken requests
set -euo pipefail
cd "$(dirname "$0")/.."

missing=()
command -v cc >/dev/null || missing+=(gcc libc6-dev)
command -v make >/dev/null || missing+=(make)
command -v curl >/dev/null || missing+=(curl)
command -v openssl >/dev/null || missing+=(openssl)
# An authority that gives certificates by ACME.
command -v pebble >/dev/null || missing+=(pebble)
# The units in config/systemd are checked by systemd's own program.
command -v systemd-analyze >/dev/null || missing+=(systemd)
# Other clients of HTTP/2.
command -v h2load >/dev/null || missing+=(nghttp2-client)
# Other DNS servers, whose answers the tests compare with ours.
PATH=$PATH:/usr/sbin
command -v knotd >/dev/null || missing+=(knot)
command -v named >/dev/null || missing+=(bind9)
command -v dig >/dev/null || missing+=(bind9-dnsutils)
# The lab in three networks.
command -v ip >/dev/null || missing+=(iproute2)
command -v nft >/dev/null || missing+=(nftables)
command -v redis-sentinel >/dev/null || missing+=(redis-server redis-sentinel redis-tools)
compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || missing+=(postgresql)
# A browser, for its WebSocket and for the dashboard: Debian's smallest.
command -v chromium-headless-shell chromium google-chrome >/dev/null || missing+=(chromium-headless-shell)
# Other proxies, whose configurations the documents show beside ours.
command -v haproxy >/dev/null || missing+=(haproxy)
command -v nginx >/dev/null || missing+=(nginx-light)
# A terminal for what draws on one.
command -v tmux >/dev/null || missing+=(tmux)
# Reads what we measure, and judges our alert rules.
command -v prometheus promtool >/dev/null || missing+=(prometheus)
# Other readers of metrics and schemas, in Python: see below.
python3 -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
# A scanner of TLS, for the long runs.
[ -z "${SELVEDGE_SOAK:-}" ] || command -v testssl >/dev/null || missing+=(testssl.sh)
if [ ${#missing[@]} -gt 0 ]; then
    as_root=$([ "$(id -u)" = 0 ] || echo sudo)
    $as_root apt-get update -qq
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
fi

# What the tests' scripts in Python need, beside what is built here.
python=${CARGO_TARGET_DIR:-target}/python
if ! "$python/bin/python3" -c 'import prometheus_client, jsonschema, kubernetes_validate' 2>/dev/null; then
    python3 -m venv "$python"
    "$python/bin/pip" install --quiet --disable-pip-version-check prometheus_client==0.26.0 jsonschema==4.26.0 \
        kubernetes-validate==1.37.0
fi

# axe-core, which judges pages; the rest of the package that brings it is not used.
if ! find "$python/lib" -name axe.min.js | grep -q .; then
    "$python/bin/pip" install --quiet --disable-pip-version-check --no-deps axe-playwright-python==0.1.8
fi

# Black-box tests hold thousands of sockets.
ulimit -n "$(ulimit -Hn)" 2>/dev/null || true

# The shop's program is built first: its tests run it as its users would.
cargo build --locked --example myclothes
cargo test --locked
cargo test --locked --example myclothes
