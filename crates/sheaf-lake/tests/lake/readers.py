"""What readers that are not ours find in the tables of the lake: readers.py LOCATIONS CATALOG_URI, one JSON object out.

LOCATIONS is a JSON object of the newest description of each table, CATALOG_URI how SQLAlchemy connects to the catalogue."""

import json
import sys

import duckdb
from duckdb_extensions import import_extension
from pyiceberg.catalog import load_catalog
from pyiceberg.table import StaticTable


def of_arrow(facts, corrected, entities, attributes, tenants):
    """Counts and sums of what PyIceberg has read."""
    import pyarrow.compute as pc

    def total(name):
        return pc.sum(facts[name]).as_py()

    return {
        "facts": facts.num_rows,
        "int": total("value_int"),
        "float": total("value_float"),
        "decimal": str(total("value_decimal")),
        "texts": pc.count_distinct(facts["value_text"]).as_py(),
        "true": pc.sum(facts["value_bool"]).as_py(),
        "removed": pc.sum(facts["removed"]).as_py(),
        "ids": pc.count_distinct(facts["external_id"]).as_py(),
        "first": pc.min(facts["observed_at"]).as_py().isoformat(),
        "last": pc.max(facts["observed_at"]).as_py().isoformat(),
        "batches": len({bytes(batch.bytes if hasattr(batch, "bytes") else batch) for batch in facts["batch_id"].to_pylist()}),
        "entities": entities.num_rows,
        "attributes": sorted(attributes["name"].to_pylist()),
        "tenants": tenants.num_rows,
        "corrected": corrected.num_rows,
        "corrected_int": pc.sum(corrected["value_int"]).as_py() or 0,
        "values_per_fact": values_per_fact(facts),
    }


def values_per_fact(facts):
    """How often one attribute of one entity has a value at one instant, at most."""
    with_attribute = facts.filter(facts["attribute_id"].is_valid())
    counted = with_attribute.group_by(["tenant_id", "entity_id", "attribute_id", "observed_at"]).aggregate([([], "count_all")])
    return max(counted["count_all"].to_pylist())


def with_pyiceberg(open_table):
    tables = {name: open_table(name) for name in ("facts", "facts_corrected", "entities", "attributes", "tenants")}
    found = of_arrow(*(table.scan().to_arrow() for table in tables.values()))
    facts = tables["facts"]
    one_day = "tenant_id = 1 and observed_at >= '2024-02-29T00:00:00+00:00' and observed_at < '2024-03-01T00:00:00+00:00'"
    scan = facts.scan(row_filter=one_day, selected_fields=("value_int",))
    found["one_day"] = scan.to_arrow().num_rows
    found["one_day_files"] = len(list(scan.plan_files()))
    found["files"] = len(list(facts.scan().plan_files()))
    found["one_attribute"] = facts.scan(row_filter="attribute_id = 2").to_arrow().num_rows
    keyframes = open_table("keyframes").scan().to_arrow()
    found.update(keyframes=keyframes.num_rows, keyframes_int=sum(filter(None, keyframes["value_int"].to_pylist())))
    found["keyframes_at"] = max(keyframes["at"].to_pylist()).isoformat()
    found["no_attribute"] = len(list(facts.scan(row_filter="attribute_id = 100000").plan_files()))
    return found


def with_duckdb(locations):
    connection = duckdb.connect()
    for extension in ("avro", "httpfs", "iceberg"):
        import_extension(extension, con=connection)
    connection.execute("SET TimeZone = 'UTC'")
    for name, location in locations.items():
        connection.execute(f"CREATE VIEW {name} AS SELECT * FROM iceberg_scan('{location}')")

    def one(sql):
        return connection.execute(sql).fetchone()[0]

    first, last = connection.execute("SELECT min(observed_at), max(observed_at) FROM facts").fetchone()
    one_day = "tenant_id = 1 AND observed_at >= TIMESTAMPTZ '2024-02-29 00:00:00Z' AND observed_at < TIMESTAMPTZ '2024-03-01 00:00:00Z'"
    return {
        "facts": one("SELECT count(*) FROM facts"),
        "int": int(one("SELECT sum(value_int) FROM facts")),
        "float": one("SELECT sum(value_float) FROM facts"),
        "decimal": str(one("SELECT sum(value_decimal) FROM facts")),
        "texts": one("SELECT count(DISTINCT value_text) FROM facts"),
        "true": one("SELECT count(*) FROM facts WHERE value_bool"),
        "removed": one("SELECT count(*) FROM facts WHERE removed"),
        "ids": one("SELECT count(DISTINCT external_id) FROM facts"),
        "first": first.isoformat(),
        "last": last.isoformat(),
        "batches": one("SELECT count(DISTINCT batch_id) FROM facts"),
        "entities": one("SELECT count(*) FROM entities"),
        "attributes": [row[0] for row in connection.execute("SELECT name FROM attributes ORDER BY name").fetchall()],
        "tenants": one("SELECT count(*) FROM tenants"),
        "one_day": one(f"SELECT count(*) FROM facts WHERE {one_day}"),
        "one_attribute": one("SELECT count(*) FROM facts WHERE attribute_id = 2"),
        "keyframes": one("SELECT count(*) FROM keyframes"),
        "keyframes_int": int(one("SELECT sum(value_int) FROM keyframes")),
        "keyframes_at": one('SELECT max("at") FROM keyframes').isoformat(),
        "corrected": one("SELECT count(*) FROM facts_corrected"),
        "corrected_int": int(one("SELECT coalesce(sum(value_int), 0) FROM facts_corrected")),
        "values_per_fact": one(
            "SELECT max(n) FROM (SELECT count(*) AS n FROM facts WHERE attribute_id IS NOT NULL"
            " GROUP BY tenant_id, entity_id, attribute_id, observed_at)"
        ),
    }


def main():
    locations = json.loads(sys.argv[1])
    catalog = load_catalog("sheaf", type="sql", uri=sys.argv[2])
    print(json.dumps({
        "listed": sorted(".".join(name) for name in catalog.list_tables("lake")),
        "pyiceberg": with_pyiceberg(lambda name: StaticTable.from_metadata(locations[name])),
        "pyiceberg by catalogue": with_pyiceberg(lambda name: catalog.load_table(("lake", name))),
        "duckdb": with_duckdb(locations),
    }))


if __name__ == "__main__":
    main()
