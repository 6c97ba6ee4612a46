"""A streaming copy of a test's PostgreSQL that takes reads, and everything that happens to copies: it stops showing what it
gets, gets nothing and does not know it, dies, becomes a primary."""

import os

from server import free_port

from .database import wait_until
from .postgres import ALWAYS, NO_SYNC, Postgres, programs
from .proxy import Proxy

WITHIN_SECONDS = 60
# As soon as the link is there again, it is used again.
FOLLOWS = {"wal_retrieve_retry_interval": "100ms", "wal_receiver_status_interval": "1s", "hot_standby": "on"}


class Replica(Postgres):
    """Made and streaming at once. It receives through the proxy `link`; servers reach it through the proxy `front`, or without
    one at `port`."""

    def __init__(self, primary, name, settings=None):
        self.primary = primary
        self.name = name
        self.base = os.path.join(os.path.dirname(primary.base), name)
        self.directory = os.path.join(self.base, "data")
        self.sockets = os.path.join(self.base, "sockets")
        self.log = os.path.join(self.base, "log")
        self.port = free_port()
        self.room = None
        self.environment = primary.environment
        self.process = None
        for path in (self.base, self.sockets):
            os.makedirs(path)
            self.give(path)
        self.bin = programs()
        source = ["-h", primary.sockets, "-p", str(primary.port), "-U", "sheaf_superuser"]
        self.run(["pg_basebackup", "-D", self.directory, *source, "--checkpoint=fast", "--no-sync", "-X", "stream"])
        signal_file = os.path.join(self.directory, "standby.signal")
        with open(signal_file, "w", encoding="utf-8"):
            pass
        self.give(signal_file)
        self.link = Proxy(primary.port)
        self.front = Proxy(self.port)
        conninfo = f"host=127.0.0.1 port={self.link.port} user=sheaf_superuser application_name={name}"
        self.settings = {**ALWAYS, **NO_SYNC, **FOLLOWS, "primary_conninfo": conninfo, **(settings or {})}
        self.start()
        self.wait_streaming()

    def url(self, direct=False):
        return f"postgresql://127.0.0.1:{self.port if direct else self.front.port}/sheaf"

    def wait_streaming(self):
        streams = f"pg_stat_replication WHERE application_name = '{self.name}' AND state = 'streaming'"
        wait_until(lambda: self.primary.count(streams) == 1, f"{self.name} streams", WITHIN_SECONDS)

    def wait_caught_up(self):
        """Until it shows everything that the primary has now."""
        target = self.primary.value("SELECT pg_current_wal_insert_lsn()")
        shows = f"SELECT pg_last_wal_replay_lsn() >= '{target}'"
        wait_until(lambda: self.value(shows) == "t", f"{self.name} has caught up", WITHIN_SECONDS)

    def pause(self):
        """Receives and keeps, but shows nothing new until `resume`."""
        self.rows("SELECT pg_wal_replay_pause()")
        state = "SELECT pg_get_wal_replay_pause_state()"
        wait_until(lambda: self.value(state) == "paused", f"{self.name} pauses", WITHIN_SECONDS)

    def resume(self):
        self.rows("SELECT pg_wal_replay_resume()")

    def apply_late(self, delay):
        """Shows each commit so long after it was made."""
        self.rows(f"ALTER SYSTEM SET recovery_min_apply_delay = '{delay}'")
        self.rows("SELECT pg_reload_conf()")

    def heal(self):
        """Nothing is in its way any more, and what was swallowed is sent again."""
        for proxy in (self.link, self.front):
            stalled = proxy.swallow_up or proxy.swallow_down
            proxy.heal()
            if stalled:
                proxy.cut()

    def promote(self):
        """A primary of its own from now on, on the next timeline."""
        self.rows(f"SELECT pg_promote(true, {WITHIN_SECONDS})")
        wait_until(lambda: self.value("SELECT pg_is_in_recovery()") == "f", f"{self.name} is a primary", WITHIN_SECONDS)

    def conflicts(self):
        """Queries that were cancelled because replay could not wait for them."""
        return int(self.value("SELECT sum(conflicts) FROM pg_stat_database"))

    def close(self):
        for proxy in (self.link, self.front):
            proxy.close()
        super().close()


def sources(*replicas, direct=False):
    """The settings of a server that reads from them."""
    return {f"replicas.{replica.name}": {"url": replica.url(direct)} for replica in replicas}
