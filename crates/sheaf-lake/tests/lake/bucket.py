"""A stand-in for S3: one bucket in memory, without keys being checked. Prints its port, serves until its input ends.

    bucket.py serve     faults are ordered with POST /-/faults, see FAULTS, and told with GET /-/faults
    bucket.py read ENDPOINT LOCATION      rows of a table and the sum of value_int, as PyIceberg finds them"""

import datetime
import html
import http.server
import json
import re
import sys
import threading
import time
import urllib.parse

OBJECTS = {}
# What is done with the next requests, in order, by PUT, CREATE (a PUT of what must not be there) and GET: "" nothing, "busy" they are
# refused for now, "denied" they are refused, "slow" they take their time, "lost" they are done and an error is answered, "cut" they
# are done and nothing is answered, "short" the answer ends within its body, "half" it is whole and half the object.
FAULTS = {"PUT": [], "CREATE": [], "GET": []}
INJECTED = {}
# Whether what must not be there is written all the same.
OVERWRITES = []
SLOW_SECONDS = 0.3


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def name(self):
        path = urllib.parse.urlsplit(self.path).path
        return urllib.parse.unquote(path).lstrip("/").partition("/")[2]

    def answer(self, status, body=b"", headers=()):
        self.send_response(status)
        for header in headers:
            self.send_header(*header)
        if not any(name == "Content-Length" for name, _ in headers):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def fault(self, kind):
        """What is to be done with this request; those that refuse it are done."""
        fault = FAULTS[kind].pop(0) if FAULTS[kind] else ""
        if fault:
            INJECTED[f"{kind} {fault}"] = INJECTED.get(f"{kind} {fault}", 0) + 1
        xml = [("Content-Type", "application/xml")]
        if fault == "busy":
            self.answer(503, b"<Error><Code>SlowDown</Code></Error>", xml)
        if fault == "denied":
            self.answer(403, b"<Error><Code>AccessDenied</Code></Error>", xml)
        if fault == "slow":
            time.sleep(SLOW_SECONDS)
        return fault

    def do_PUT(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        creates = self.headers["If-None-Match"] == "*"
        fault = self.fault("CREATE" if creates else "PUT")
        if fault in ("busy", "denied"):
            return
        if creates and self.name() in OBJECTS and not OVERWRITES:
            return self.answer(412)
        OBJECTS[self.name()] = (body, datetime.datetime.now(datetime.UTC))
        if fault == "cut":
            self.close_connection = True
            return
        if fault == "lost":
            return self.answer(500, b"<Error><Code>InternalError</Code></Error>", [("Content-Type", "application/xml")])
        self.answer(200, headers=[("ETag", '"1"')])

    def do_POST(self):
        """Several at once, which is the only way in which some clients delete."""
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        if self.path == "/-/faults":
            ordered = json.loads(body)
            FAULTS.update({kind: ordered.get(kind, []) for kind in FAULTS})
            OVERWRITES[:] = [True] if ordered.get("overwrites") else []
            return self.answer(200)
        names = [html.unescape(name) for name in re.findall(r"<Key>(.*?)</Key>", body)]
        for name in names:
            OBJECTS.pop(name, None)
        deleted = "".join(f"<Deleted><Key>{html.escape(name)}</Key></Deleted>" for name in names)
        self.answer(200, f"<DeleteResult>{deleted}</DeleteResult>".encode(), [("Content-Type", "application/xml")])

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        name = self.name()
        if self.path == "/-/faults":
            return self.answer(200, json.dumps(INJECTED).encode())
        if not name:
            return self.list()
        fault = self.fault("GET") if self.command == "GET" else ""
        if fault in ("busy", "denied"):
            return
        if fault == "cut":
            self.close_connection = True
            return
        if name not in OBJECTS:
            return self.answer(404, b"<Error><Code>NoSuchKey</Code></Error>", [("Content-Type", "application/xml")])
        body, at = OBJECTS[name]
        headers = [("ETag", '"1"'), ("Last-Modified", at.strftime("%a, %d %b %Y %H:%M:%S GMT")), ("Accept-Ranges", "bytes")]
        span = self.headers["Range"]
        if span:
            first, last = span.removeprefix("bytes=").split("-")
            first, last = (int(first), int(last) if last else len(body) - 1) if first else (len(body) - int(last), len(body) - 1)
            headers.append(("Content-Range", f"bytes {first}-{min(last, len(body) - 1)}/{len(body)}"))
            return self.answer(206, self.cut_short(body[first : last + 1], headers, fault), headers)
        if self.command == "HEAD":
            headers.append(("Content-Length", str(len(body))))
        return self.answer(200, self.cut_short(body, headers, fault), headers)

    def cut_short(self, body, headers, fault):
        if fault == "short":
            headers.append(("Content-Length", str(len(body))))
            self.close_connection = True
        return body[: len(body) // 2] if fault in ("short", "half") else body

    def list(self):
        prefix = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query).get("prefix", [""])[0]
        found = "".join(
            f"<Contents><Key>{name}</Key><LastModified>{at.strftime('%Y-%m-%dT%H:%M:%S.000Z')}</LastModified>"
            f'<ETag>"1"</ETag><Size>{len(body)}</Size></Contents>'
            for name, (body, at) in sorted(OBJECTS.items()) if name.startswith(prefix))
        body = f'<?xml version="1.0"?><ListBucketResult><IsTruncated>false</IsTruncated>{found}</ListBucketResult>'
        self.answer(200, body.encode(), [("Content-Type", "application/xml")])


class Server(http.server.ThreadingHTTPServer):
    def handle_error(self, *address):
        """Clients leave whom they were answered half by."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(*address)


def serve():
    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_address[1], flush=True)
    sys.stdin.read()


def read(endpoint, location):
    from pyiceberg.table import StaticTable

    properties = {"s3.endpoint": endpoint, "s3.access-key-id": "id", "s3.secret-access-key": "secret", "s3.region": "eu-central-1"}
    rows = StaticTable.from_metadata(location, properties).scan().to_arrow()
    import pyarrow.compute as pc

    print(json.dumps({"rows": rows.num_rows, "int": pc.sum(rows["value_int"]).as_py()}))


if __name__ == "__main__":
    {"serve": serve, "read": read}[sys.argv[1]](*sys.argv[2:])
