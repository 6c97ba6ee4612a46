#!/usr/bin/env bash
# Declares the attributes and imports the files: load.sh URL KEY_FILE
# Loading again changes nothing. Flights are loaded when fetch.sh has made their events.
set -euo pipefail
cd "$(dirname "$0")/../.."
url=$1
key_file=$2
here=examples/nycflights13
flights=target/nycflights13/flights.ndjson
sheaf=${SHEAF_BIN:-target/release/sheaf}

while IFS= read -r attribute; do
    curl --silent --show-error --fail-with-body --output /dev/null \
        --header "Authorization: Bearer $(cat "$key_file")" --json "$attribute" "$url/v1/attributes"
done <"$here/attributes.ndjson"

import() {
    echo "load: $1"
    "$sheaf" import "$@" --url "$url" --key-file "$key_file"
}

# The registers carry no time of their own; they are true from the start of the year.
registered=2013-01-01T00:00:00Z
import "$here/airlines.csv" --type airline --id carrier --observed-at "$registered" --null NA
import "$here/airports.csv" --type airport --id faa --observed-at "$registered" --null NA
import "$here/planes.csv" --type plane --id tailnum --observed-at "$registered" --null NA
# The local date and hour say less than time_hour, which is in UTC.
import "$here/weather.csv" --type airport --id origin --time time_hour --skip year,month,day,hour --null NA
if [ -e "$flights" ]; then
    import "$flights"
fi
