"""Compares what a server answers with the CSV files, value by value; exits 1 on any difference.

    check.py --url http://127.0.0.1:7070 --key-file .sheaf/demo.key [--flights flights.csv]

It shares nothing with the loader: it reads the CSV files itself, computes the scheduled instants from
the local times (the loader takes them from time_hour), and knows the rules of README.md only as far as
they say what must come back. Without --flights the server must hold the other files and nothing else.
"""

import argparse
import collections
import csv
import datetime
import http.client
import json
import math
import os
import sys
import urllib.parse
import zoneinfo

HERE = os.path.dirname(os.path.abspath(__file__))
UTC = datetime.timezone.utc
NEW_YORK = zoneinfo.ZoneInfo("America/New_York")
REGISTERED = datetime.datetime(2013, 1, 1, tzinfo=UTC)
YEAR_END = datetime.datetime(2014, 1, 1, 5, tzinfo=UTC)

INTS = {"alt", "tz", "year", "engines", "seats", "speed", "wind_dir",
        "flight", "sched_dep_time", "sched_arr_time", "dep_time", "arr_time"}
FLOATS = {"lat", "lon", "temp", "dewp", "humid", "wind_speed", "wind_gust", "precip", "pressure", "visib",
          "dep_delay", "arr_delay", "air_time", "distance"}
# The columns that the scheduled departure and the entity's id stand for.
DERIVED = {"year", "month", "day", "hour", "minute", "time_hour", "tailnum"}


class Differences:
    """Counts every difference and prints the first twenty."""

    def __init__(self):
        self.count = 0

    def compare(self, what, got, expected):
        if same(got, expected):
            return
        self.count += 1
        if self.count <= 20:
            print(f"DIFFERENT {what}\n  server {got!r}\n  files  {expected!r}")


def same(got, expected):
    """Equality that tells a boolean from a number."""
    if isinstance(got, dict) and isinstance(expected, dict):
        return got.keys() == expected.keys() and all(same(got[key], expected[key]) for key in got)
    return got == expected and isinstance(got, bool) == isinstance(expected, bool)


class Server:
    def __init__(self, url, key):
        address = urllib.parse.urlsplit(url)
        self.connection = http.client.HTTPConnection(address.hostname, address.port, timeout=60)
        self.headers = {"Authorization": f"Bearer {key}"}
        self.calls = 0

    def get(self, path, **parameters):
        target = path + ("?" + urllib.parse.urlencode(parameters) if parameters else "")
        self.connection.request("GET", target, headers=self.headers)
        response = self.connection.getresponse()
        body = response.read()
        self.calls += 1
        if response.status != 200:
            sys.exit(f"GET {target}: {response.status} {body.decode(errors='replace')}")
        return json.loads(body)

    def pages(self, path, **parameters):
        """The first page and all items of all pages."""
        first = page = self.get(path, limit=1000, **parameters)
        items = page["items"]
        while page["next_cursor"]:
            page = self.get(path, limit=1000, cursor=page["next_cursor"], **parameters)
            items.extend(page["items"])
        return first, items


def path_of(entity):
    return "/v1/entities/" + "/".join(urllib.parse.quote(part, safe="") for part in entity)


def instant_of(text):
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))


def text_of(instant):
    return instant.isoformat().replace("+00:00", "Z")


def rows_of(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def typed(row, without):
    values = {}
    for name, cell in row.items():
        if name in without or cell == "NA":
            continue
        values[name] = int(cell) if name in INTS else float(cell) if name in FLOATS else cell
    return values


def departure(row):
    """The scheduled departure in UTC, from the local date and time alone. No flight is scheduled
    within the hour that daylight saving time repeats or leaves out."""
    hour, minute = divmod(int(row["sched_dep_time"]), 100)
    local = datetime.datetime(int(row["year"]), int(row["month"]), int(row["day"]), hour, minute, tzinfo=NEW_YORK)
    return local.astimezone(UTC)


def read_events(flights_path):
    """What the files say, as {entity: {instant: values}}."""
    events = collections.defaultdict(dict)
    for kind, file, key in (("airline", "airlines.csv", "carrier"), ("airport", "airports.csv", "faa"),
                            ("plane", "planes.csv", "tailnum")):
        for row in rows_of(os.path.join(HERE, file)):
            events[kind, row[key]][REGISTERED] = typed(row, {key})
    for row in rows_of(os.path.join(HERE, "weather.csv")):
        values = typed(row, {"origin", "year", "month", "day", "hour", "time_hour"})
        events["airport", row["origin"]][instant_of(row["time_hour"])] = values
    if flights_path:
        read_flights(rows_of(flights_path), events)
    return events


def read_flights(rows, events):
    simultaneous = collections.defaultdict(list)
    for row in rows:
        if row["tailnum"] == "NA":
            date = f"{row['year']}-{int(row['month']):02}-{int(row['day']):02}"
            entity = ("unassigned_flight", f"{row['carrier']}-{row['flight']}-{row['origin']}-{date}")
        else:
            entity = ("plane", row["tailnum"])
        simultaneous[entity, departure(row)].append(row)
    departed, minutes = collections.Counter(), collections.Counter()
    for (entity, instant), group in simultaneous.items():
        group.sort(key=lambda row: (row["dep_time"] != "NA", row["carrier"], int(row["flight"]), row["origin"]))
        for place, row in enumerate(group):
            values = typed(row, DERIVED)
            values["cancelled"] = row["dep_time"] == "NA"
            events[entity][instant + datetime.timedelta(microseconds=place)] = values
            departed[entity] += row["dep_time"] != "NA"
            minutes[entity] += 0 if row["air_time"] == "NA" else int(row["air_time"])
    for entity in departed:
        if entity[0] == "plane":
            totals = {"flights_2013": departed[entity], "hours_2013": round(minutes[entity] / 60, 1)}
            events[entity][YEAR_END] = totals


def document(history, until=None):
    """The latest value of every attribute."""
    values = {}
    for instant in sorted(history):
        if until is None or instant <= until:
            values.update(history[instant])
    return values


def check_attributes(server, differences):
    """The catalogue is what attributes.ndjson declares: nothing else was created on the way."""
    with open(os.path.join(HERE, "attributes.ndjson"), encoding="utf-8") as file:
        declared = {line["name"]: line["type"] for line in map(json.loads, file)}
    _, items = server.pages("/v1/attributes")
    differences.compare("attributes", {item["name"]: item["type"] for item in items}, declared)
    print(f"attributes: {len(items)} names and types")


def check_documents(server, events, differences):
    """Counts by type, and every current document with the time of its newest event."""
    for kind in sorted({entity[0] for entity in events} | {"plane", "unassigned_flight"}):
        expected = {name: history for (type_, name), history in events.items() if type_ == kind}
        first, items = server.pages("/v1/entities", type=kind, count="exact")
        differences.compare(f"{kind}: count", first["count"], {"kind": "exact", "value": len(expected)})
        differences.compare(f"{kind}: ids", {item["id"] for item in items}, set(expected))
        differences.compare(f"{kind}: each listed once", len(items), len({item["id"] for item in items}))
        values = 0
        for item in items:
            history = expected.get(item["id"], {})
            differences.compare(f"{kind} {item['id']}", item["attributes"], document(history))
            differences.compare(f"{kind} {item['id']}: newest", item["observed_at"], text_of(max(history, default=REGISTERED)))
            values += len(item["attributes"])
        print(f"{kind}: {len(items)} entities, {values} current values")
    first = server.get("/v1/entities", limit=1, count="exact")
    differences.compare("all types: count", first["count"], {"kind": "exact", "value": len(events)})


def check_history(server, events, flights_path, differences):
    """Every event of every plane, flight and weather station; and from them every row of flights.csv again."""
    rebuilt, instants, values = collections.Counter(), 0, 0
    for entity, expected in events.items():
        if len(expected) == 1 and entity[0] != "unassigned_flight":
            continue  # only its document, which is compared already
        _, items = server.pages(path_of(entity) + "/history")
        got = {}
        for item in items:
            instant = instant_of(item["observed_at"])
            got[instant] = item["attributes"]
            if entity[0] != "airport" and instant not in (REGISTERED, YEAR_END):
                rebuilt[flight_row(entity, instant, item["attributes"])] += 1
        differences.compare(f"{' '.join(entity)}: number of events", len(items), len(expected))
        for instant in got.keys() | expected.keys():
            differences.compare(f"{' '.join(entity)} at {text_of(instant)}", got.get(instant), expected.get(instant))
        instants += len(items)
        values += sum(map(len, got.values()))
    print(f"history: {instants} events, {values} values")
    if flights_path:
        rows = collections.Counter(tuple(row.items()) for row in rows_of(flights_path))
        for row in (rows - rebuilt).keys() | (rebuilt - rows).keys():
            differences.compare(f"row {','.join(cell for _, cell in row)}", rebuilt[row], rows[row])
        print(f"history: {rebuilt.total()} rows of flights.csv rebuilt")


def flight_row(entity, instant, values):
    """The row of flights.csv that an event was made from."""
    local = instant.astimezone(NEW_YORK)

    def cell(name):
        return str(int(values[name])) if name in values else "NA"

    columns = {name: str(getattr(local, name)) for name in ("year", "month", "day")}
    for name in ("dep_time", "sched_dep_time", "dep_delay", "arr_time", "sched_arr_time", "arr_delay"):
        columns[name] = cell(name)
    columns.update(carrier=values.get("carrier"), flight=cell("flight"))
    columns.update(tailnum=entity[1] if entity[0] == "plane" else "NA")
    columns.update(origin=values.get("origin"), dest=values.get("dest"))
    columns.update(air_time=cell("air_time"), distance=cell("distance"), hour=str(local.hour), minute=str(local.minute))
    columns.update(time_hour=instant.strftime("%Y-%m-%dT%H:00:00Z"))
    return tuple(columns.items())


def check_buckets(server, events, differences):
    """Aggregates of the weather by day, and of every plane's flights by week."""
    weather = ["temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib"]
    flights = ["distance", "air_time", "dep_delay", "arr_delay", "flight", "dep_time", "arr_time"]
    compared = collections.Counter()
    for entity, history in events.items():
        if len(history) == 1:
            continue
        if entity[0] == "airport":
            names, bucket, aggregates = weather, "1d", ["count", "sum", "min", "max", "avg"]
        elif entity[0] == "plane":
            names, bucket, aggregates = flights, "1w", ["count", "sum"]
        else:
            continue
        _, items = server.pages(path_of(entity) + "/history", attribute=",".join(names), bucket=bucket,
                                agg=",".join(aggregates))
        got = {item["from"]: item["attributes"] for item in items}
        expected = buckets(history, names, bucket)
        differences.compare(f"{' '.join(entity)}: buckets", set(got), set(expected))
        for start in got.keys() & expected.keys():
            differences.compare(f"{' '.join(entity)} {bucket} {start}: attributes", set(got[start]), set(expected[start]))
            for name in got[start].keys() & expected[start].keys():
                compare_aggregates(f"{' '.join(entity)} {bucket} {start} {name}", got[start][name],
                                   expected[start][name], aggregates, differences)
                compared[entity[0]] += len(aggregates)
    for kind, count in sorted(compared.items()):
        print(f"buckets: {count} aggregates of type {kind}")


def buckets(history, names, bucket):
    """{start of the bucket: {attribute: its values}}, only buckets and attributes that have any."""
    found = collections.defaultdict(lambda: collections.defaultdict(list))
    for instant, values in history.items():
        start = instant.replace(hour=0, minute=0, second=0, microsecond=0)
        if bucket == "1w":
            start -= datetime.timedelta(days=start.weekday())
        for name in names:
            if name in values:
                found[text_of(start)][name].append(values[name])
    return found


def compare_aggregates(what, got, values, aggregates, differences):
    """Sums of floats depend on the order of adding, so they and means may differ in the last digits; all else is exact."""
    total = math.fsum(values) if isinstance(values[0], float) else sum(values)
    expected = {"count": len(values), "sum": total, "min": min(values), "max": max(values), "avg": total / len(values)}
    for name in aggregates:
        value = got.get(name)
        exact = name not in ("sum", "avg") or (name == "sum" and isinstance(total, int))
        if exact or not isinstance(value, (int, float)) or not math.isclose(value, expected[name], rel_tol=1e-9, abs_tol=1e-9):
            differences.compare(f"{what} {name}", value, expected[name])


def check_as_of(server, events, differences):
    """The document of every fiftieth entity with a history, in the middle of the year."""
    instant = datetime.datetime(2013, 7, 1, 12, tzinfo=UTC)
    long_known = [entity for entity in sorted(events) if len(events[entity]) > 1 and min(events[entity]) <= instant]
    for entity in long_known[::50]:
        answer = server.get(path_of(entity), as_of=text_of(instant))
        differences.compare(f"{' '.join(entity)} as of {text_of(instant)}", answer["attributes"], document(events[entity], instant))
    print(f"as of {text_of(instant)}: {len(long_known[::50])} documents")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", default="http://127.0.0.1:7070")
    parser.add_argument("--key-file", default=".sheaf/demo.key")
    parser.add_argument("--flights", help="flights.csv, when it was loaded")
    arguments = parser.parse_args()
    with open(arguments.key_file, encoding="utf-8") as file:
        server = Server(arguments.url, file.read().strip())

    events = read_events(arguments.flights)
    facts = sum(len(values) for history in events.values() for values in history.values())
    print(f"files: {len(events)} entities, {sum(map(len, events.values()))} events, {facts} values")
    differences = Differences()
    check_attributes(server, differences)
    check_documents(server, events, differences)
    check_history(server, events, arguments.flights, differences)
    check_buckets(server, events, differences)
    check_as_of(server, events, differences)
    print(f"{server.calls} calls, {differences.count} differences")
    return 1 if differences.count else 0


if __name__ == "__main__":
    sys.exit(main())
