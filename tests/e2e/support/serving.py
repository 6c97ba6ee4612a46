"""A `sheaf serve` with a configuration of its own, on the PostgreSQL of a running `sheaf dev`."""

import os
import resource
import subprocess
import sys
import urllib.parse

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", ".."))
from server import Server, free_port  # noqa: E402

from .database import Database  # noqa: E402


class Serving(Server):
    """Starts at once. The keys are those of the database; `stop` leaves the database to the server that owns it."""

    def __init__(self, owner, config="", descriptors=None):
        _, database_port, directory = Database(owner).address()
        self.directory = owner.directory
        self.data = owner.data
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = os.path.join(self.directory, f"log-{self.port}")
        self.descriptors = descriptors
        self.config = os.path.join(self.directory, f"sheaf-{self.port}.toml")
        url = f"postgresql://{urllib.parse.quote(directory, safe='')}:{database_port}/sheaf"
        with open(self.config, "w", encoding="utf-8") as file:
            file.write(f'[server]\nlisten = "127.0.0.1:{self.port}"\n[database]\nurl = "{url}"\n{config}')
        self.start()

    def launch(self, log):
        # SHEAF_BIN is ours, and no setting.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SHEAF_")}
        command = [os.environ["SHEAF_BIN"], "serve", "--config", self.config]
        process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment, preexec_fn=self.limit)
        return process

    def limit(self):
        if self.descriptors:
            resource.setrlimit(resource.RLIMIT_NOFILE, (self.descriptors, self.descriptors))

    def stop(self):
        self.terminate()
