"""A stand-in for S3: one bucket in memory, without keys being checked. Prints its port, serves until its input ends.

    bucket.py serve
    bucket.py read ENDPOINT LOCATION      rows of a table and the sum of value_int, as PyIceberg finds them"""

import datetime
import html
import http.server
import json
import re
import sys
import threading
import urllib.parse

OBJECTS = {}


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

    def do_PUT(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers["If-None-Match"] == "*" and self.name() in OBJECTS:
            return self.answer(412)
        OBJECTS[self.name()] = (body, datetime.datetime.now(datetime.UTC))
        self.answer(200, headers=[("ETag", '"1"')])

    def do_POST(self):
        """Several at once, which is the only way in which some clients delete."""
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        names = [html.unescape(name) for name in re.findall(r"<Key>(.*?)</Key>", body)]
        for name in names:
            OBJECTS.pop(name, None)
        deleted = "".join(f"<Deleted><Key>{html.escape(name)}</Key></Deleted>" for name in names)
        self.answer(200, f"<DeleteResult>{deleted}</DeleteResult>".encode(), [("Content-Type", "application/xml")])

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        name = self.name()
        if not name:
            return self.list()
        if name not in OBJECTS:
            return self.answer(404, b"<Error><Code>NoSuchKey</Code></Error>", [("Content-Type", "application/xml")])
        body, at = OBJECTS[name]
        headers = [("ETag", '"1"'), ("Last-Modified", at.strftime("%a, %d %b %Y %H:%M:%S GMT")), ("Accept-Ranges", "bytes")]
        span = self.headers["Range"]
        if span:
            first, last = span.removeprefix("bytes=").split("-")
            first, last = (int(first), int(last) if last else len(body) - 1) if first else (len(body) - int(last), len(body) - 1)
            headers.append(("Content-Range", f"bytes {first}-{min(last, len(body) - 1)}/{len(body)}"))
            return self.answer(206, body[first : last + 1], headers)
        if self.command == "HEAD":
            headers.append(("Content-Length", str(len(body))))
        return self.answer(200, body, headers)

    def list(self):
        prefix = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query).get("prefix", [""])[0]
        found = "".join(
            f"<Contents><Key>{name}</Key><LastModified>{at.strftime('%Y-%m-%dT%H:%M:%S.000Z')}</LastModified>"
            f'<ETag>"1"</ETag><Size>{len(body)}</Size></Contents>'
            for name, (body, at) in sorted(OBJECTS.items()) if name.startswith(prefix))
        body = f'<?xml version="1.0"?><ListBucketResult><IsTruncated>false</IsTruncated>{found}</ListBucketResult>'
        self.answer(200, body.encode(), [("Content-Type", "application/xml")])


def serve():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
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
