"""Turns flights.csv into the events that `sheaf import` reads: flights.py FLIGHTS_CSV EVENTS_NDJSON.

Every row becomes one event; README.md says how each untidy case is decided. It decides nothing
about types: attributes.ndjson declares them.
"""

import csv
import datetime
import json
import os
import sys

TEXTS = ("carrier", "origin", "dest")
NUMBERS = (
    "flight", "sched_dep_time", "sched_arr_time", "dep_time", "arr_time",
    "dep_delay", "arr_delay", "air_time", "distance",
)
# Midnight in New York: after the last scheduled departure of the year, which 2014-01-01 in UTC is not.
YEAR_END = "2014-01-01T05:00:00Z"


def scheduled(row):
    """The scheduled departure in UTC. time_hour is its hour in UTC, so that no rule for daylight
    saving time is needed; the minute is the same in both, New York being whole hours from UTC."""
    hour = datetime.datetime.strptime(row["time_hour"], "%Y-%m-%dT%H:%M:%SZ")
    return hour + datetime.timedelta(minutes=int(row["minute"]))


def entity(row):
    if row["tailnum"] != "NA":
        return "plane", row["tailnum"]
    date = "{:04}-{:02}-{:02}".format(int(row["year"]), int(row["month"]), int(row["day"]))
    return "unassigned_flight", "-".join((row["carrier"], row["flight"], row["origin"], date))


def attributes(row):
    values = {name: row[name] for name in TEXTS}
    values.update({name: int(row[name]) for name in NUMBERS if row[name] != "NA"})
    values["cancelled"] = row["dep_time"] == "NA"
    return values


def events(path):
    """All events in the order of time, each entity's at instants of their own."""
    flights = []
    with open(path, encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            values = attributes(row)
            # Among equals a flown flight comes last, so that it is what the plane's document shows.
            rank = (not values["cancelled"], values["carrier"], values["flight"], values["origin"])
            flights.append((scheduled(row), entity(row), rank, values))
    flights.sort(key=lambda flight: flight[:3])

    totals = {}
    previous, equals = None, 0
    for instant, (kind, name), _, values in flights:
        equals = equals + 1 if previous == (instant, name) else 0
        previous = (instant, name)
        observed_at = instant + datetime.timedelta(microseconds=equals)
        yield {"type": kind, "id": name, "observed_at": observed_at.isoformat() + "Z", "attributes": values}
        if kind == "plane":
            departed, minutes = totals.get(name, (0, 0))
            totals[name] = (departed + (not values["cancelled"]), minutes + values.get("air_time", 0))

    for name, (departed, minutes) in sorted(totals.items()):
        values = {"flights_2013": departed, "hours_2013": round(minutes / 60, 1)}
        yield {"type": "plane", "id": name, "observed_at": YEAR_END, "attributes": values}


def main(source, target):
    # Renamed when whole: a file of this name is always complete.
    partial = target + ".partial"
    count = 0
    with open(partial, "w", encoding="utf-8") as file:
        for event in events(source):
            file.write(json.dumps(event, separators=(",", ":")) + "\n")
            count += 1
    os.replace(partial, target)
    print(f"{target}: {count} events")


if __name__ == "__main__":
    main(*sys.argv[1:])
