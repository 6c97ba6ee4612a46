"""A PostgreSQL of the test's own with our schema in it, and `sheaf serve` on it: one server, or several at once."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", ".."))
from server import READY_WITHIN_SECONDS, Server, free_port  # noqa: E402

from .postgres import Postgres  # noqa: E402
from .redis import Redis  # noqa: E402
from .replica import Replica  # noqa: E402


def environment_without_settings():
    """SHEAF_BIN is ours, and no setting."""
    return {name: value for name, value in os.environ.items() if not name.startswith("SHEAF_")}


class WorldServer(Server):
    """One server. `database_port` is where it finds PostgreSQL: the real port, or a proxy's."""

    def __init__(self, world, database_port=None, settings=None):
        self.world = world
        self.directory = world.directory
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = os.path.join(self.directory, f"server-{self.port}.log")
        self.config = os.path.join(self.directory, f"server-{self.port}.toml")
        self.process = None
        self.key, self.admin_key = world.key, world.admin_key
        sections = {"server": {"listen": f"127.0.0.1:{self.port}"}, "database": {}}
        sections["database"]["url"] = f"postgresql://127.0.0.1:{database_port or world.postgres.port}/sheaf"
        for section, values in (settings or {}).items():
            sections.setdefault(section, {}).update(values)
        with open(self.config, "w", encoding="utf-8") as file:
            for section, values in sections.items():
                file.write(f"[{section}]\n")
                # What these settings hold is written alike in JSON and in TOML.
                file.writelines(f"{name} = {json.dumps(value)}\n" for name, value in values.items())

    def target(self):
        return ["--config", self.config]

    def launch(self, log):
        command = [os.environ["SHEAF_BIN"], "serve", "--config", self.config]
        environment = environment_without_settings()
        return subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment)

    def start(self, wait=True):
        with open(self.log, "ab") as log:
            self.process = self.launch(log)
        if wait:
            self.wait_ready()
        return self

    def wait_ready(self, within=READY_WITHIN_SECONDS):
        deadline = time.monotonic() + within
        while not self.is_ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError("the server is not ready:\n" + self.log_text()[-4000:])
            time.sleep(0.02)

    def is_ready(self):
        try:
            with urllib.request.urlopen(self.url + "/readyz", timeout=5) as answer:
                return answer.status == 200
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False

    def lives(self):
        return self.process is not None and self.process.poll() is None

    def stop(self):
        if self.lives():
            self.process.kill()
            self.process.wait()


class World:
    """A directory, a PostgreSQL, two tenants, and the servers that the test starts."""

    def __init__(self, **postgres):
        self.directory = tempfile.mkdtemp(prefix="sheaf-test-")
        # Where we are root PostgreSQL runs as another user, who has to get through here.
        os.chmod(self.directory, 0o755)
        self.servers = []
        # What else the test has started.
        self.parts = []
        self.postgres = None
        self.key = self.admin_key = None
        try:
            self.postgres = Postgres(self.directory, **postgres)
            command = WorldServer(self)
            self.command(command, "migrate", "up", "--as", "sheaf_superuser")
            self.key = self.command(command, "tenant", "create", "demo")["key"]["key"]
            self.other_key = self.command(command, "tenant", "create", "other")["key"]["key"]
            self.admin_key = self.command(command, "key", "create", "--admin")["key"]
        except BaseException:
            self.close()
            raise

    def command(self, server, *arguments):
        command = [os.environ["SHEAF_BIN"], *arguments, *server.target()]
        environment = environment_without_settings()
        result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        if result.returncode != 0:
            raise AssertionError(f"{command}: {result.stdout}{result.stderr}")
        return json.loads(result.stdout)

    def server(self, database_port=None, settings=None):
        """A server that runs until the world is closed."""
        return self.plan(database_port, settings).start()

    def plan(self, database_port=None, settings=None):
        """A server that the test starts when it wants to."""
        server = WorldServer(self, database_port, settings)
        self.servers.append(server)
        return server

    def keep(self, part):
        """Closes it with the world."""
        self.parts.append(part)
        return part

    def replica(self, name, settings=None):
        return self.keep(Replica(self.postgres, name, settings))

    def redis(self, name="redis", start=True):
        return self.keep(Redis(self.directory, name, start))

    def close(self):
        for server in self.servers:
            with contextlib.suppress(ProcessLookupError):
                server.stop()
        for part in reversed(self.parts):
            part.close()
        if self.postgres is not None:
            self.postgres.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is not None:
            for server in self.servers:
                if os.path.exists(server.log):
                    print(f"the log of the server at {server.port} ends with:\n{server.log_text()[-3000:]}", file=sys.stderr)
        self.close()
