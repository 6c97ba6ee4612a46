"""Answers questions with DuckDB: one JSON object a line in, one a line out. Bytes, files and threads come with the first."""

import datetime
import json
import sys
import time

import duckdb


def plain(value):
    if isinstance(value, datetime.datetime):
        return value.isoformat() + "Z"
    if value is None or isinstance(value, (int, float, str)):
        return value
    return float(value)


def main():
    begin = json.loads(sys.stdin.readline())
    connection = duckdb.connect()
    connection.execute(f"SET threads = {int(begin['threads'])}")
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute("SET enable_object_cache = true")
    # It would be drawn into what is answered, for whatever takes some seconds.
    connection.execute("SET enable_progress_bar = false")
    files = json.dumps(begin["files"]).replace("'", "''").replace('"', "'")
    connection.execute(
        "CREATE VIEW facts AS SELECT *, make_timestamp(epoch_us(observed_at)) AS instant "
        f"FROM read_parquet({files}) WHERE tenant_id = {int(begin['tenant'])}"
    )
    print(json.dumps({"version": duckdb.__version__}), flush=True)
    for line in sys.stdin:
        sql = json.loads(line)["sql"]
        begun = time.perf_counter()
        rows = connection.execute(sql).fetchall()
        seconds = time.perf_counter() - begun
        rows = [[plain(value) for value in row] for row in rows]
        print(json.dumps({"seconds": seconds, "rows": rows}), flush=True)


main()
