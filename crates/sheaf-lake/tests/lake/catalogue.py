"""An Iceberg REST catalogue: the paths of the protocol before PyIceberg's own SQL catalogue, which checks what is required and swaps.

    catalogue.py serve FOLDER          prints its port, serves until its input ends
    catalogue.py read ENDPOINT         facts and more, as PyIceberg's REST client and DuckDB find them"""

import copy
import http.server
import json
import shutil
import sys
import threading
import time
import urllib.parse

PREFIX = "of/sheaf"
NAME, SECRET = "sheaf", "of nobody else"
# A token is good for so many requests.
REQUESTS_OF_TOKEN = 40
LATE_SECONDS = 0.4

# What is done with the next commits, each word with one: to a table that is named before a colon, or to any.
FAULTS = []
INJECTED = {}
TOKENS = {}
LOCK = threading.Lock()
CATALOG = None


def answered(table):
    return {"metadata-location": table.metadata_location, "metadata": json.loads(table.metadata.model_dump_json()), "config": {}}


def commit(identifier, body):
    from pyiceberg.table import CommitTableRequest

    request = CommitTableRequest.model_validate({"identifier": {"namespace": identifier[:-1], "name": identifier[-1]}} | body)
    with LOCK:
        table = CATALOG.load_table(identifier)
        done = CATALOG.commit_table(table, request.requirements, request.updates)
    return {"metadata-location": done.metadata_location, "metadata": json.loads(done.metadata.model_dump_json())}


def somebody_else(identifier, word):
    """Another program's commit: one that adds nothing, or one after which all files are others."""
    with LOCK:
        table = CATALOG.load_table(identifier)
        files = [task.file for task in table.scan().plan_files()] if word == "rewrites" else []
        with table.transaction() as transaction:
            begun = transaction.update_snapshot()
            with begun.overwrite() if files else begun.fast_append() as snapshot:
                for file in files:
                    other = copy.copy(file)
                    other._data = list(file._data)
                    other._data[1] = file.file_path.replace(".parquet", "-anew.parquet")
                    shutil.copyfile(file.file_path.removeprefix("file://"), other.file_path.removeprefix("file://"))
                    snapshot.delete_data_file(file)
                    snapshot.append_data_file(other)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, body=None):
        text = b"" if body is None or self.command == "HEAD" else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def refuse(self, status, kind, message):
        self.answer(status, {"error": {"message": message, "type": kind, "code": status}})

    def do_GET(self):
        self.act(None)

    def do_HEAD(self):
        self.act(None)

    def do_POST(self):
        self.act(self.rfile.read(int(self.headers["Content-Length"] or 0)).decode())

    def act(self, text):
        from pyiceberg import exceptions

        try:
            self.route(text)
        except exceptions.CommitFailedException as error:
            self.refuse(409, "CommitFailedException", str(error))
        except (exceptions.NoSuchTableError, exceptions.NoSuchNamespaceError) as error:
            self.refuse(404, type(error).__name__, str(error))
        except exceptions.TableAlreadyExistsError as error:
            self.refuse(409, "AlreadyExistsException", str(error))
        except (ValueError, KeyError) as error:
            self.refuse(400, "BadRequestException", str(error))

    def route(self, text):
        path = urllib.parse.urlsplit(self.path).path
        if path == "/-/faults":
            if text is None:
                return self.answer(200, INJECTED)
            FAULTS[:] = json.loads(text)
            return self.answer(200)
        if path == "/v1/oauth/tokens":
            form = {name: values[0] for name, values in urllib.parse.parse_qs(text).items()}
            if (form["client_id"], form["client_secret"]) != (NAME, SECRET):
                return self.refuse(401, "NotAuthorizedException", "another secret")
            token = f"token {len(TOKENS)}".replace(" ", "-")
            TOKENS[token] = REQUESTS_OF_TOKEN
            return self.answer(200, {"access_token": token, "token_type": "bearer", "expires_in": 3600})
        token = (self.headers["Authorization"] or "").removeprefix("Bearer ")
        if TOKENS.get(token, 0) <= 0:
            return self.refuse(401, "NotAuthorizedException", "no token, or one that has ended")
        TOKENS[token] -= 1
        if path == "/v1/config":
            return self.answer(200, {"defaults": {}, "overrides": {"prefix": PREFIX}})
        parts = [urllib.parse.unquote(part) for part in path.removeprefix(f"/v1/{PREFIX}/namespaces").split("/")[1:]]
        namespace = tuple(parts[0].split("\x1f")) if parts else ()
        if not parts:
            body = json.loads(text)
            CATALOG.create_namespace(tuple(body["namespace"]), body.get("properties", {}))
            return self.answer(200, body)
        if len(parts) == 1:
            return self.answer(200, {"namespace": namespace, "properties": CATALOG.load_namespace_properties(namespace)})
        if len(parts) == 2:
            return self.tables(namespace, text)
        self.table((*namespace, parts[2]), text)

    def tables(self, namespace, text):
        if text is None:
            names = [{"namespace": name[:-1], "name": name[-1]} for name in CATALOG.list_tables(namespace)]
            return self.answer(200, {"identifiers": names})
        from pyiceberg.partitioning import PartitionSpec
        from pyiceberg.schema import Schema
        from pyiceberg.table.sorting import SortOrder

        body = json.loads(text)
        table = CATALOG.create_table(
            (*namespace, body["name"]), Schema.model_validate(body["schema"]), body["location"],
            PartitionSpec.model_validate(body["partition-spec"]), SortOrder.model_validate(body["write-order"]), body["properties"])
        self.answer(200, answered(table))

    def table(self, identifier, text):
        if text is None:
            return self.answer(200, answered(CATALOG.load_table(identifier)))
        body = json.loads(text)
        fault, _, table = (FAULTS[0] if FAULTS else "").partition(":")
        if not fault or table not in ("", identifier[-1]):
            return self.answer(200, commit(identifier, body))
        FAULTS.pop(0)
        INJECTED[fault] = INJECTED.get(fault, 0) + 1
        if fault == "busy":
            return self.refuse(503, "ServiceUnavailableException", "not now")
        if fault == "conflict":
            return self.refuse(409, "CommitFailedException", "somebody else is just committing")
        if fault == "denied":
            return self.refuse(403, "ForbiddenException", "not you")
        if fault == "late":
            # It arrives after whoever sent it has been told that nobody knows.
            threading.Timer(LATE_SECONDS, self.try_to_commit, (identifier, body)).start()
            return self.refuse(504, "CommitStateUnknownException", "nobody knows")
        if fault in ("appends", "rewrites"):
            somebody_else(identifier, fault)
            return self.answer(200, commit(identifier, body))
        done = commit(identifier, body)
        if fault == "lost":
            return self.refuse(502, "CommitStateUnknownException", "nobody knows")
        if fault == "cut":
            self.close_connection = True
            return
        if fault == "slow":
            time.sleep(LATE_SECONDS)
        self.answer(200, done)

    def try_to_commit(self, identifier, body):
        try:
            commit(identifier, body)
            INJECTED["arrived"] = INJECTED.get("arrived", 0) + 1
        except Exception:
            INJECTED["arrived in vain"] = INJECTED.get("arrived in vain", 0) + 1


def serve(folder):
    global CATALOG
    from pyiceberg.catalog.sql import SqlCatalog

    CATALOG = SqlCatalog("sheaf", uri=f"sqlite:///{folder}/catalogue.db", warehouse=f"file://{folder}")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_address[1], flush=True)
    sys.stdin.read()


def read(endpoint, namespace):
    import duckdb
    import pyarrow.compute as pc
    from duckdb_extensions import import_extension
    from pyiceberg.catalog.rest import RestCatalog

    catalog = RestCatalog("sheaf", uri=endpoint, credential=f"{NAME}:{SECRET}", warehouse="lake")
    connection = duckdb.connect()
    for extension in ("avro", "httpfs", "iceberg"):
        import_extension(extension, con=connection)
    found = {"listed": sorted(name[-1] for name in catalog.list_tables(namespace)), "pyiceberg": {}, "duckdb": {}, "summaries": {}}
    for name in found["listed"]:
        table = catalog.load_table((namespace, name))
        rows = table.scan().to_arrow()
        has_int = "value_int" in rows.column_names
        found["pyiceberg"][name] = [rows.num_rows, (pc.sum(rows["value_int"]).as_py() or 0) if has_int else 0]
        total = "coalesce(sum(value_int), 0)::bigint" if has_int else "0"
        sql = f"SELECT count(*), {total} FROM iceberg_scan('{table.metadata_location}')"
        found["duckdb"][name] = [rows.num_rows, 0] if table.current_snapshot() is None else list(connection.execute(sql).fetchone())
        if snapshot := table.current_snapshot():
            found["summaries"][name] = {
                "commit": table.properties.get("sheaf.commit") == snapshot.summary.additional_properties.get("sheaf.commit"),
                "position": snapshot.summary.additional_properties.get("sheaf.position"),
            }
    print(json.dumps(found))


if __name__ == "__main__":
    {"serve": serve, "read": read}[sys.argv[1]](*sys.argv[2:])
