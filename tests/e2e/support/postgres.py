"""A PostgreSQL that the test owns: where its data and its log of changes are, which settings it has, when it dies."""

import os
import pwd
import signal
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", ".."))
from server import free_port  # noqa: E402

from .database import Database, wait_until  # noqa: E402

# Faults of processes lose nothing that the kernel has, so that most tests need not wait for the disk.
NO_SYNC = {"fsync": "off", "full_page_writes": "off"}
ALWAYS = {
    "wal_level": "logical",
    "max_connections": "100",
    "listen_addresses": "127.0.0.1",
    "TimeZone": "UTC",
    "log_timezone": "UTC",
    "shared_buffers": "128MB",
}


def programs():
    """The directory of PostgreSQL's programs, as the server itself looks for it."""
    shown = subprocess.run(["pg_config", "--bindir"], capture_output=True, text=True, check=False)
    candidates = [shown.stdout.strip()] if shown.returncode == 0 else []
    base = "/usr/lib/postgresql"
    if os.path.isdir(base):
        candidates += [os.path.join(base, version, "bin") for version in sorted(os.listdir(base), key=int, reverse=True)]
    for directory in candidates:
        if os.access(os.path.join(directory, "postgres"), os.X_OK):
            return directory
    raise RuntimeError("no PostgreSQL is installed")


class Postgres(Database):
    """Made and started at once. `room`, if given, is a `disk.Room` that data or log of changes live in."""

    def __init__(self, directory, settings=None, environment=None, room=None, data=None, wal=None, wal_segment_mb=16):
        self.base = os.path.join(directory, "postgres")
        self.directory = data or os.path.join(self.base, "data")
        self.sockets = os.path.join(self.base, "sockets")
        self.log = os.path.join(self.base, "log")
        self.port = free_port()
        self.room = room
        self.environment = {**os.environ, "LC_ALL": "C", **(environment or {})}
        self.process = None
        for path in (self.base, self.sockets):
            os.makedirs(path)
            self.give(path)
        self.bin = programs()
        extra = ["-X", wal] if wal else []
        make = ["initdb", "-D", self.directory, "-U", "sheaf_superuser", "-A", "trust", "-E", "UTF8", "-N", "--no-instructions"]
        self.run(make + [f"--wal-segsize={wal_segment_mb}"] + extra)
        self.settings = {**ALWAYS, **NO_SYNC, **(settings or {})}
        self.start()
        self.rows("CREATE DATABASE sheaf", "postgres")

    @staticmethod
    def account():
        """PostgreSQL does not run as root."""
        return pwd.getpwnam("postgres") if os.geteuid() == 0 else None

    @staticmethod
    def give(path):
        account = Postgres.account()
        if account:
            os.chown(path, account.pw_uid, account.pw_gid)

    def prefix(self):
        account = self.account()
        inside = self.room.prefix() if self.room else []
        if account is None:
            return inside
        return inside + ["setpriv", f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"]

    def run(self, command):
        command = self.prefix() + [os.path.join(self.bin, command[0])] + command[1:]
        result = subprocess.run(command, capture_output=True, text=True, env=self.environment, cwd="/", check=False)
        if result.returncode != 0:
            raise AssertionError(f"{command}: {result.stdout}{result.stderr}")

    def start(self, wait=True):
        command = [os.path.join(self.bin, "postgres"), "-D", self.directory, "-p", str(self.port), "-k", self.sockets]
        for name, value in self.settings.items():
            command += ["-c", f"{name}={value}"]
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                self.prefix() + command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=self.environment, cwd="/"
            )
        if wait:
            wait_until(self.answers, "PostgreSQL takes connections", 60)

    def answers(self):
        if self.process.poll() is not None:
            raise AssertionError("PostgreSQL did not start:\n" + self.log_text()[-3000:])
        command = [os.path.join(self.bin, "pg_isready"), "-q", "-h", self.sockets, "-p", str(self.port)]
        return subprocess.run(command, check=False).returncode == 0

    def log_text(self):
        with open(self.log, encoding="utf-8", errors="replace") as log:
            return log.read()

    def address(self):
        return self.process.pid, self.port, self.sockets

    def rows(self, sql, database="sheaf"):
        command = self.command()[:-1] + [database]
        result = subprocess.run(command + ["-c", sql], capture_output=True, text=True, check=False)
        if result.returncode != 0:
            raise AssertionError(f"{sql}: {result.stderr}")
        return [line.split("\x1f") for line in result.stdout.splitlines()]

    def crash(self):
        """Ends at once, without a checkpoint."""
        self.stop(signal.SIGQUIT)

    def stop(self, how=signal.SIGINT):
        if self.process.poll() is None:
            self.process.send_signal(how)
        self.process.wait(60)

    def kill(self):
        """kill -9 of the postmaster; waits until its backends have noticed."""
        self.process.kill()
        self.process.wait()
        wait_until(lambda: not self.processes(), "the backends end after their postmaster")

    def close(self):
        """However it is, it is gone afterwards."""
        if self.process is None:
            return
        for pid in self.processes():
            try:
                os.kill(pid, signal.SIGCONT)
            except ProcessLookupError:
                continue
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGQUIT)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
