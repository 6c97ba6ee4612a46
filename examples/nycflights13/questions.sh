#!/usr/bin/env bash
# Asks three questions and prints each call with its answer: questions.sh URL KEY_FILE
set -euo pipefail
url=$1
key_file=$2

ask() {
    local question=$1 path=$2 parameter call
    shift 2
    call="curl -sG -H \"Authorization: Bearer \$(cat $key_file)\" '$url$path'"
    for parameter in "$@"; do
        call+=" --data-urlencode \"$parameter\""
    done
    printf '\n# %s\n%s\n' "$question" "$call"
    eval "${call/curl -sG/curl -sSG --fail-with-body}"
    echo
}

ask "Of the airliners built before 1990, which flew most hours from New York in 2013?" \
    /v1/entities type=plane "filter=year < 1990 AND seats >= 100" sort=-hours_2013 \
    select=year,manufacturer,model,seats,flights_2013,hours_2013 limit=3 count=exact
ask "What was known of one of them on the evening of Independence Day?" \
    /v1/entities/plane/N328AA as_of=2013-07-05T00:00:00Z \
    select=model,carrier,flight,origin,dest,dep_delay,arr_delay,cancelled
ask "How did the blizzard of February 2013 arrive at JFK, in hourly means?" \
    /v1/entities/airport/JFK/history attribute=temp,wind_speed,visib from=2013-02-09T00:00:00Z to=2013-02-09T06:00:00Z \
    bucket=1h agg=avg
