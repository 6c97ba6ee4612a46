"""Each fact of a table as PyIceberg and DuckDB have it, exactly: extremes.py LOCATION, one JSON object out."""

import json
import struct
import sys

import duckdb
import pyarrow
from duckdb_extensions import import_extension
from pyiceberg.table import StaticTable

COLUMNS = ("external_id", "type", "value_int", "value_float", "value_decimal", "value_text", "value_bool", "value_time", "value_json")


def exact(kind, whole, number, decimal, text, flag, micros, document):
    """One text for a value; of a float its bits."""
    if kind == "int":
        return str(whole)
    if kind == "float":
        return str(struct.unpack("<Q", struct.pack("<d", number))[0])
    if kind == "decimal":
        if text is not None:
            return text
        return f"{decimal:f}".rstrip("0").rstrip(".")
    if kind == "bool":
        return str(flag).lower()
    if kind == "time":
        return str(micros)
    return document if kind == "json" else text


def with_pyiceberg(location):
    rows = StaticTable.from_metadata(location).scan().to_arrow().select(COLUMNS)
    # Years that Python's own times do not have.
    place = COLUMNS.index("value_time")
    rows = rows.set_column(place, "value_time", rows["value_time"].cast(pyarrow.int64()))
    return {row["external_id"]: exact(*(row[name] for name in COLUMNS[1:])) for row in rows.to_pylist()}


def with_duckdb(location):
    connection = duckdb.connect()
    for extension in ("avro", "httpfs", "iceberg"):
        import_extension(extension, con=connection)
    columns = ", ".join("epoch_us(value_time)" if name == "value_time" else name for name in COLUMNS)
    rows = connection.execute(f"SELECT {columns} FROM iceberg_scan('{location}')").fetchall()
    return {row[0]: exact(*row[1:]) for row in rows}


def main():
    print(json.dumps({"pyiceberg": with_pyiceberg(sys.argv[1]), "duckdb": with_duckdb(sys.argv[1])}))


if __name__ == "__main__":
    main()
