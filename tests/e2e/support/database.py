"""The PostgreSQL below a running `sheaf dev`, reached past the server: independent counts, locks, kills."""

import contextlib
import glob
import os
import signal
import subprocess
import time

WITHIN_SECONDS = 30
SEPARATOR = "\x1f"


def wait_until(condition, what, within=WITHIN_SECONDS):
    """The first true value of a condition."""
    deadline = time.monotonic() + within
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {within} s in vain: {what}")
        time.sleep(0.01)


class Database:
    """As its superuser. Finds the running PostgreSQL anew for each call, since tests restart it."""

    def __init__(self, server):
        self.directory = os.path.join(server.data, "postgres", "pgdata")

    def address(self):
        """Process id, port and directory of the socket."""
        with open(os.path.join(self.directory, "postmaster.pid"), encoding="utf-8") as file:
            lines = file.read().splitlines()
        return int(lines[0]), int(lines[3]), lines[4]

    def command(self):
        _, port, socket_directory = self.address()
        return [
            "psql", "-X", "-q", "-A", "-t", "-F", SEPARATOR, "-v", "ON_ERROR_STOP=1",
            "-h", socket_directory, "-p", str(port), "-U", "sheaf_superuser", "sheaf",
        ]  # fmt: skip

    def rows(self, sql):
        """The rows as lists of text."""
        result = subprocess.run(self.command() + ["-c", sql], capture_output=True, text=True, check=False)
        if result.returncode != 0:
            raise AssertionError(f"{sql}: {result.stderr}")
        return [line.split(SEPARATOR) for line in result.stdout.splitlines()]

    def value(self, sql):
        """The only value of the only row."""
        return self.rows(sql)[0][0]

    def count(self, sql):
        return int(self.value("SELECT count(*) FROM " + sql))

    @contextlib.contextmanager
    def held(self, lock):
        """Holds `TABLE .. IN .. MODE` for as long as the block runs."""
        with self.session() as session:
            session.do(f"BEGIN; LOCK {lock};")
            yield

    @contextlib.contextmanager
    def session(self):
        """A session that stays, whose statements one need not wait for."""
        pipe = subprocess.PIPE
        process = subprocess.Popen(self.command(), stdin=pipe, stdout=pipe, text=True)
        try:
            yield Session(process)
        finally:
            process.communicate()

    def wait_for_waiters(self, count=1):
        """Until this many sessions wait for a lock."""
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        wait_until(lambda: int(self.value(waiting)) >= count, f"{count} sessions wait for a lock")

    def backends(self, role):
        sql = f"SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND usename = '{role}'"
        return [int(row[0]) for row in self.rows(sql)]

    def crash(self):
        """Ends PostgreSQL at once and without a checkpoint, as `pg_ctl stop -m immediate` does."""
        os.kill(self.address()[0], signal.SIGQUIT)

    def kill(self):
        """kill -9 of the postmaster; waits until its backends have noticed."""
        pid = self.address()[0]
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not self.processes(), "the backends end after their postmaster")

    def processes(self):
        """The living processes of this PostgreSQL: all of them work in its directory."""
        found = []
        for name in filter(str.isdigit, os.listdir("/proc")):
            try:
                if os.readlink(f"/proc/{name}/cwd") == self.directory:
                    found.append(int(name))
            except OSError:
                # It has ended in the meantime.
                continue
        return found

    def partitions(self):
        return sorted(row[0] for row in self.rows("SELECT partition_name FROM sheaf.event_partitions"))

    def partition_of(self, instant):
        """The partition that holds an instant, or None."""
        condition = f"lower_bound <= '{instant}' AND '{instant}' < upper_bound"
        rows = self.rows(f"SELECT partition_name FROM sheaf.event_partitions WHERE {condition}")
        return rows[0][0] if rows else None

    def events(self, kind):
        """(external id, observed_at as epoch, seq) of every stored event of an entity type."""
        sql = (
            "SELECT external_id, extract(epoch FROM observed_at)::bigint, seq FROM sheaf.entity_events"
            f" JOIN sheaf.entities USING (tenant_id, entity_id) WHERE entity_type = '{kind}'"
        )
        return [(name, int(time), int(seq)) for name, time, seq in self.rows(sql)]


class Session:
    """What `Database.session` gives."""

    def __init__(self, process):
        self.process = process

    def say(self, sql):
        """Runs it some time."""
        self.process.stdin.write(sql + "\n")
        self.process.stdin.flush()

    def do(self, sql):
        """Runs it now."""
        self.say(sql + "\n\\echo done")
        while (line := self.process.stdout.readline().strip()) != "done":
            if not line:
                raise AssertionError(f"{sql}: the session ended")


class Statements:
    """The text of every statement that PostgreSQL runs from now on, without parameters: from its own log."""

    def __init__(self, database):
        self.database = database
        for setting in ("log_statement = 'all'", "log_parameter_max_length = 0"):
            database.rows(f"ALTER SYSTEM SET {setting}")
        self.reload("all")
        self.log = getattr(database, "log", None) or glob.glob(os.path.join(database.directory, "..", "*.log"))[0]
        self.begin = os.path.getsize(self.log)

    def reload(self, expected):
        """Waits until sessions that are idle have taken the setting over as well: they do with their next statement."""
        self.database.rows("SELECT pg_reload_conf()")
        wait_until(lambda: self.database.value("SHOW log_statement") == expected, "the setting is in force")

    def finish(self):
        self.database.rows("ALTER SYSTEM RESET ALL")
        self.reload("none")
        with open(self.log, encoding="utf-8", errors="replace") as file:
            file.seek(self.begin)
            return file.read()
