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
# DynamoDB's API, in JavaScript: see below.
command -v node >/dev/null || missing+=(nodejs)
command -v npm >/dev/null || missing+=(npm)
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

# dynalite, which answers as DynamoDB does, without the part that is built and keeps things on the disk.
node=${CARGO_TARGET_DIR:-target}/node
if [ ! -e "$node/node_modules/dynalite/package.json" ]; then
    npm install --prefix "$node" --no-save --no-audit --no-fund --omit=optional --ignore-scripts --silent dynalite@3.2.2
fi

# Black-box tests hold thousands of sockets.
ulimit -n "$(ulimit -Hn)" 2>/dev/null || true

# All tests, and the few that failed once more by themselves: most of them use real sockets, processes and clocks, and run
# beside others on what may be a busy machine. What passes only then is named in the end; it is a test to be mended.
most_repeated=3
alone=()
run() {
    local log failed
    log=$(mktemp)
    if cargo test --locked --no-fail-fast "$@" 2>&1 | tee "$log"; then
        rm "$log"
        return
    fi
    mapfile -t failed < <(sed -n 's/^test \(.*\) \.\.\. FAILED$/\1/p' "$log")
    # As many programs with tests came to their end as were started.
    local whole=no
    [ "$(grep -cE '^ +(Running|Doc-tests) ' "$log")" = "$(grep -c '^test result: ' "$log")" ] && whole=yes
    rm "$log"
    if [ $whole = no ] || [ ${#failed[@]} = 0 ] || [ ${#failed[@]} -gt $most_repeated ]; then
        return 1
    fi
    printf '\nonce more, alone: %s\n' "${failed[*]}"
    cargo test --locked "$@" -- --exact --test-threads=1 "${failed[@]}"
    alone+=("${failed[@]}")
}

# The shop's program is built first: its tests run it as its users would.
cargo build --locked --example myclothes
run
run --example myclothes
# What only a program with the feature does. It is built for these few tests alone, so it is not optimised for them.
export CARGO_PROFILE_DEV_OPT_LEVEL=0 CARGO_PROFILE_DEV_DEBUG=0
run --features otlp --lib otlp
run --features otlp --test otlp
if [ ${#alone[@]} -gt 0 ]; then
    printf '\nall tests pass, but only alone: %s\n' "${alone[*]}"
fi
