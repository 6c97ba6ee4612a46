#!/usr/bin/env bash
# Installs what is missing to build and run sheaf on Debian: bootstrap.sh [--test]
# With everything there it does nothing and needs no network. --test adds what the tests need beside it: Python clients, PgBouncer, Redis, OpenSSL.
set -euo pipefail
cd "$(dirname "$0")/.."

has() { command -v "$1" >/dev/null 2>&1; }

# The server finds its PostgreSQL in the same three places.
has_postgres() {
    local postgres
    for postgres in "$(command -v postgres || true)" "$(pg_config --bindir 2>/dev/null || true)/postgres" /usr/lib/postgresql/*/bin/postgres; do
        [ -x "$postgres" ] || continue
        [ "$("$postgres" --version | grep -oE '[0-9]+' | head -n1)" -ge 15 ] && return 0
    done
    return 1
}

if ! has cargo; then
    echo "bootstrap: cargo is missing; install Rust from https://rustup.rs and start again" >&2
    exit 1
fi

packages=()
has_postgres || packages+=(postgresql)
has cc || packages+=(gcc libc6-dev)
has make || packages+=(make)
has curl || packages+=(curl)
has python3 || packages+=(python3)
python3 -c 'import ensurepip, venv' 2>/dev/null || packages+=(python3-venv)
[ -e /usr/share/zoneinfo/America/New_York ] || packages+=(tzdata)
[ -e /etc/ssl/certs/ca-certificates.crt ] || packages+=(ca-certificates)
# Tests start their own; no service of them is needed.
[ "${1:-}" != --test ] || [ -x /usr/sbin/pgbouncer ] || packages+=(pgbouncer)
[ "${1:-}" != --test ] || has redis-server || packages+=(redis-server)
[ "${1:-}" != --test ] || has openssl || packages+=(openssl)

if [ "${#packages[@]}" -gt 0 ]; then
    if ! has apt-get; then
        echo "bootstrap: not a Debian system; install what these packages hold: ${packages[*]}" >&2
        exit 1
    fi
    as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        has sudo || { echo "bootstrap: neither root nor sudo; install: ${packages[*]}" >&2; exit 1; }
        as_root=(sudo)
    fi
    echo "bootstrap: installing ${packages[*]}"
    "${as_root[@]}" apt-get update -qq
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}"
    has_postgres || { echo "bootstrap: no PostgreSQL of version 15 or newer, also after installing" >&2; exit 1; }
fi

if [ ! -x target/venv/bin/pip ]; then
    echo "bootstrap: creating target/venv"
    python3 -m venv target/venv
fi

if [ "${1:-}" = --test ] && ! cmp -s scripts/requirements-test.txt target/venv/requirements-test.txt; then
    echo "bootstrap: installing scripts/requirements-test.txt into target/venv"
    target/venv/bin/pip install --quiet --disable-pip-version-check --requirement scripts/requirements-test.txt
    cp scripts/requirements-test.txt target/venv/requirements-test.txt
fi
