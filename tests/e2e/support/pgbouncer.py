"""A PgBouncer of the test's own in transaction mode: each transaction may get another connection of PostgreSQL's."""

import os
import subprocess

from server import free_port

from .database import wait_until
from .postgres import Postgres

PROGRAM = "/usr/sbin/pgbouncer"
ROLES = ("sheaf_app", "sheaf_search", "sheaf_writer", "sheaf_upkeep")


class PgBouncer:
    """Before one PostgreSQL. Fewer connections than clients, so that each client's transactions wander between them."""

    def __init__(self, postgres, name, connections=2):
        base = os.path.join(os.path.dirname(postgres.base), name)
        os.makedirs(base)
        Postgres.give(base)
        self.port = free_port()
        self.log = os.path.join(base, "log")
        users, config = os.path.join(base, "users.txt"), os.path.join(base, "pgbouncer.ini")
        with open(users, "w", encoding="utf-8") as file:
            file.writelines(f'"{role}" ""\n' for role in ROLES)
        with open(config, "w", encoding="utf-8") as file:
            file.write(
                f"[databases]\nsheaf = host={postgres.sockets} port={postgres.port} dbname=sheaf\n"
                f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {self.port}\nunix_socket_dir =\n"
                f"auth_type = trust\nauth_file = {users}\nlogfile = {self.log}\n"
                # Else it waits 15 s before it tries again where its server was away.
                f"server_login_retry = 1\n"
                f"pool_mode = transaction\ndefault_pool_size = {connections}\n"
            )
        if not os.access(PROGRAM, os.X_OK):
            raise RuntimeError(f"no {PROGRAM}, which scripts/bootstrap.sh --test installs")
        # It refuses to be root.
        self.process = subprocess.Popen(
            postgres.prefix() + [PROGRAM, "-q", config], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/"
        )
        wait_until(self.is_up, "PgBouncer is up")

    def is_up(self):
        if self.process.poll() is not None:
            raise AssertionError("PgBouncer did not start")
        try:
            with open(self.log, encoding="utf-8", errors="replace") as file:
                return "process up" in file.read()
        except FileNotFoundError:
            return False

    def url(self):
        return f"postgresql://127.0.0.1:{self.port}/sheaf"

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
