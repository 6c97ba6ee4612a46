"""A redis-server of the test's own, and what can happen to one."""

import contextlib
import os
import signal
import socket
import subprocess

from server import free_port

from .database import wait_until

PROGRAM = "redis-server"
TIMEOUT_SECONDS = 10


class Redis:
    """Started at once. It keeps nothing on the disk, so that it is empty after each start. `arguments` are further ones of
    the program; `login` is what AUTH is sent with before anything else."""

    def __init__(self, directory, name="redis", start=True, arguments=(), login=()):
        self.arguments, self.login = arguments, login
        self.directory = os.path.join(directory, name)
        os.makedirs(self.directory)
        self.log = os.path.join(self.directory, "log")
        self.port = free_port()
        self.process = None
        if start:
            self.start()

    def start(self):
        # Uncompressed, so that what is in a value can be searched for.
        command = [
            PROGRAM, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
            "--dir", self.directory, "--logfile", self.log, "--rdbcompression", "no", "--repl-diskless-sync-delay", "0",
            *self.arguments,
        ]  # fmt: skip
        try:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        except FileNotFoundError as error:
            raise RuntimeError(f"no {PROGRAM}, which scripts/bootstrap.sh --test installs") from error
        wait_until(self.answers, "Redis answers")

    def answers(self):
        if self.process.poll() is not None:
            raise AssertionError("Redis did not start")
        try:
            return self.call("PING") == b"PONG"
        except (OSError, RedisError):
            return False

    def url(self, port=None):
        return f"redis://127.0.0.1:{port or self.port}"

    def call(self, *words):
        """The answer to one command on a connection of its own."""
        with contextlib.closing(socket.create_connection(("127.0.0.1", self.port), TIMEOUT_SECONDS)) as connection:
            with connection.makefile("rb") as file:
                if self.login:
                    send(connection, ("AUTH", *self.login))
                    answer(file)
                send(connection, words)
                return answer(file)

    def keys(self):
        return self.call("KEYS", "*")

    def contents(self):
        """{key: the bytes of its value, whatever its type}."""
        dumps = {key: self.call("DUMP", key) for key in self.keys()}
        return {key: value for key, value in dumps.items() if value is not None}

    def info(self, name):
        lines = self.call("INFO").decode().splitlines()
        return next(line.partition(":")[2] for line in lines if line.startswith(name + ":"))

    def kill(self):
        self.process.kill()
        self.process.wait()

    @contextlib.contextmanager
    def standing_still(self):
        """It takes connections and answers nobody while the block runs."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def close(self):
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.kill()


class RedisError(Exception):
    """What Redis answers when it does not do what it was asked."""


def send(connection, words):
    parts = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    connection.sendall(b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts))


def answer(file):
    """One value as the protocol writes it (RESP 2)."""
    line = file.readline()
    if not line.endswith(b"\r\n"):
        raise ConnectionError("Redis ended the connection")
    kind, rest = line[:1], line[1:-2]
    if kind == b"-":
        raise RedisError(rest.decode())
    if kind == b"+":
        return rest
    if kind == b":":
        return int(rest)
    length = int(rest)
    if length < 0:
        return None
    if kind == b"*":
        return [answer(file) for _ in range(length)]
    return file.read(length + 2)[:-2]
