"""A `sheaf dev` of its own for a test: started on a free port in a directory that goes with it."""

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request

READY_WITHIN_SECONDS = 120


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class Server:
    """Starts at once; `stop` ends it and removes its data."""

    def __init__(self):
        self.directory = tempfile.mkdtemp(prefix="sheaf-test-")
        # Where we are root the server's PostgreSQL runs as another user, who has to get through here.
        os.chmod(self.directory, 0o755)
        self.data = os.path.join(self.directory, "data")
        self.log = os.path.join(self.directory, "log")
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process = None
        self.start()

    def launch(self, log):
        command = [os.environ["SHEAF_BIN"], "dev", "--data-dir", self.data, "--listen", f"127.0.0.1:{self.port}"]
        return subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def start(self):
        with open(self.log, "ab") as log:
            self.process = self.launch(log)
        deadline = time.monotonic() + READY_WITHIN_SECONDS
        while True:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the server did not start:\n" + self.log_text()[-4000:])
            try:
                urllib.request.urlopen(self.url + "/readyz", timeout=2).read()
                break
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                time.sleep(0.05)
        self.key = self.read("demo.key")
        self.admin_key = self.read("admin.key")

    def read(self, name):
        with open(os.path.join(self.data, name), encoding="utf-8") as file:
            return file.read().strip()

    def target(self):
        """How a command is told to work on the database of this server."""
        return ["--data-dir", self.data]

    def log_text(self):
        with open(self.log, encoding="utf-8", errors="replace") as log:
            return log.read()

    def kill(self):
        """kill -9, as nobody would."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def terminate(self):
        """Asks it to stop, and gives back its exit code once it has."""
        self.process.terminate()
        return self.process.wait(60)

    def stop(self):
        try:
            self.terminate()
        finally:
            shutil.rmtree(self.directory, ignore_errors=True)

    def call(self, method, path, body=None, headers=None, key=None, query=None):
        """Status, headers and body as text."""
        if query:
            path += "?" + urllib.parse.urlencode(query)
        headers = {"Authorization": "Bearer " + (key or self.key), **(headers or {})}
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)) as connection:
            try:
                connection.request(method, path, body, headers)
            except BrokenPipeError:
                # Answered before the whole body was read: the answer is there all the same.
                pass
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read().decode()

    def get(self, path, **query):
        """The JSON of a good answer."""
        status, _, text = self.call("GET", path, query=query)
        if status != 200:
            raise AssertionError(f"GET {path}: {status} {text}")
        return json.loads(text)

    def send(self, method, path, document, headers=None, key=None, query=None):
        """Status and parsed answer of a request whose body is this document."""
        headers = {"Content-Type": "application/json", **(headers or {})}
        status, _, text = self.call(method, path, json.dumps(document).encode(), headers, key, query)
        return status, json.loads(text) if text else None

    def ingest(self, events, headers=None, key=None, **query):
        """Status and parsed answer of a batch; an event is a document, or the bytes of its line."""
        lines = [event if isinstance(event, bytes) else json.dumps(event).encode() for event in events]
        headers = {"Content-Type": "application/x-ndjson", **(headers or {})}
        status, _, text = self.call("POST", "/v1/ingest", b"\n".join(lines), headers, key, query)
        return status, json.loads(text)

    def create_tenant(self, name, **policy):
        """The key of a new tenant."""
        status, answer = self.send("POST", "/v1/tenants", {"name": name, **policy}, key=self.admin_key)
        if status != 201:
            raise AssertionError(f"creating the tenant {name}: {status} {answer}")
        return answer["key"]["key"]


def entity_path(kind, name):
    return "/v1/entities/" + "/".join(urllib.parse.quote(part, safe="") for part in (kind, name))
