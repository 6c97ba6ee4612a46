"""A Redis that lets in only who knows a name and a password, over a connection that is encrypted; and one that is a cluster."""

import os
import subprocess
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
from server import free_port  # noqa: E402
from support.database import wait_until  # noqa: E402
from support.faults import Faults  # noqa: E402
from support.reads import metric, read, write  # noqa: E402
from support.redis import Redis  # noqa: E402
from support.world import World  # noqa: E402

WORLD = None
USER, PASSWORD = "sheaf", "of a test alone"
DEFAULT_PASSWORD = "of nobody here"
# All that a server needs, as the documentation says.
RIGHTS = "resetkeys ~sheaf:* resetchannels &sheaf:* -@all +get +set +del +eval +getrange +info +publish +subscribe +ping"


def setUpModule():
    global WORLD
    WORLD = World()
    unittest.addModuleCleanup(WORLD.close)


def path(name):
    return f"/v1/entities/entered/{name}"


def file_with(name, text):
    where = os.path.join(WORLD.directory, name)
    with open(where, "w", encoding="utf-8") as file:
        file.write(text)
    return where


def certificates(name):
    """(certificate authority, certificate, key) as files; the certificate is for this machine's own address."""
    directory = os.path.join(WORLD.directory, name)
    os.makedirs(directory)

    def openssl(line):
        subprocess.run(["openssl", *line.split()], cwd=directory, check=True, capture_output=True)

    key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
    openssl(f"req -x509 {key} -keyout ca.key -out ca.pem -subj /CN=ca -days 2")
    openssl(f"req {key} -keyout own.key -out own.csr -subj /CN=redis")
    with open(os.path.join(directory, "own.cnf"), "w", encoding="utf-8") as file:
        file.write("subjectAltName=IP:127.0.0.1\n")
    openssl("x509 -req -in own.csr -CA ca.pem -CAkey ca.key -CAcreateserial -extfile own.cnf -out own.pem -days 2")
    return [os.path.join(directory, each) for each in ("ca.pem", "own.pem", "own.key")]


def server_with(redis):
    # Longer than a write may take to be heard of here.
    return WORLD.server(settings={"redis": redis, "cache": {"age_max": "5m"}})


def node_named(name):
    """One of a cluster, and the port at which others of it find it."""
    bus = free_port()
    return WORLD.keep(Redis(WORLD.directory, name, arguments=("--cluster-enabled", "yes", "--cluster-port", str(bus)))), bus


def is_used(servers, redis):
    """What one server reads is in Redis, and what it writes another hears of."""
    one, other = servers

    def used():
        write(one, path("shared"), {"n": 1})
        for server in servers:
            read(server, path("shared"), consistency="eventual")
        up = [metric(server, "sheaf_cache_redis_up") for server in servers]
        return up == [1.0, 1.0] and any(b":entity:" in key for key in redis.keys())

    wait_until(used, "Redis is used", 60)
    for number in range(2, 6):
        wait_until(lambda: read(other, path("shared"), consistency="analytics").from_cache(), "it is remembered")
        write(one, path("shared"), {"n": number})

        def heard(number=number):
            answer = read(other, path("shared"), consistency="analytics")
            return answer.document()["attributes"]["n"] == number

        wait_until(heard, "the other server hears of a write")


class Entry(unittest.TestCase):
    def test_a_redis_with_a_name_a_password_and_certificates_is_used_and_nothing_less_is_let_in(self):
        ca, certificate, key = certificates("certificates")
        stranger_ca, _, _ = certificates("stranger")
        tls_port = free_port()
        redis = WORLD.keep(
            Redis(
                WORLD.directory, "entered", login=(DEFAULT_PASSWORD,),
                arguments=(
                    "--tls-port", str(tls_port), "--tls-cert-file", certificate, "--tls-key-file", key,
                    "--tls-ca-cert-file", ca, "--tls-auth-clients", "no", "--requirepass", DEFAULT_PASSWORD,
                ),
            )
        )  # fmt: skip
        redis.call("ACL", "SETUSER", USER, "on", ">" + PASSWORD, *RIGHTS.split())
        right = {
            "url": f"rediss://127.0.0.1:{tls_port}", "user": USER,
            "password_file": file_with("password", PASSWORD + "\n"), "ca_file": ca,
        }  # fmt: skip
        servers = [server_with(right) for _ in range(2)]
        is_used(servers, redis)
        log = redis.call("ACL", "LOG")
        self.assertEqual(log, [], "something was asked that is not among the rights")
        # The default user's, which has no name.
        nameless = {name: value for name, value in right.items() if name != "user"}
        nameless["password_file"] = file_with("default", DEFAULT_PASSWORD)
        is_used([server_with(nameless), servers[0]], redis)
        wrong = {
            "another password": {**right, "password_file": file_with("wrong", "another")},
            "no password": {name: value for name, value in right.items() if name not in ("password_file", "user")},
            "another authority": {**right, "ca_file": stranger_ca},
            "no authority": {name: value for name, value in right.items() if name != "ca_file"},
        }
        wrong["no encryption"] = {**wrong["no authority"], "url": f"redis://127.0.0.1:{tls_port}"}
        with Faults("server that Redis does not let in") as faults:
            for what, settings in wrong.items():
                server = server_with(settings)
                faults.inject()
                token = write(server, path("alone"), {"n": 1})
                answer = read(server, path("alone"), token=token)
                self.assertEqual(answer.status, 200, f"{what}: {answer.shown()}")
                wait_until(lambda server=server: "redis is not reached" in server.log_text(), f"{what} is told")
                self.assertEqual(metric(server, "sheaf_cache_redis_up"), 0.0, what)
                for secret in (PASSWORD, DEFAULT_PASSWORD):
                    self.assertNotIn(secret, server.log_text(), what)
                server.stop()
        for server in servers:
            self.assertNotIn(PASSWORD, server.log_text())

    def test_a_cluster_of_one_node_is_used(self):
        node, _ = node_named("node")
        node.call("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        wait_until(lambda: b"cluster_state:ok" in node.call("CLUSTER", "INFO"), "the cluster is there", 60)
        is_used([server_with({"url": node.url()}) for _ in range(2)], node)
        errors = node.call("INFO", "errorstats")
        for refusal in (b"MOVED", b"CROSSSLOT", b"CLUSTERDOWN"):
            self.assertNotIn(b"errorstat_" + refusal, errors)

    def test_a_cluster_of_several_nodes_is_refused_in_words(self):
        (first, _), (second, bus) = node_named("first"), node_named("second")
        for node, slots in ((first, (0, 8000)), (second, (8001, 16383))):
            node.call("CLUSTER", "ADDSLOTSRANGE", *slots)
        first.call("CLUSTER", "MEET", "127.0.0.1", second.port, bus)
        wait_until(lambda: b"cluster_state:ok" in first.call("CLUSTER", "INFO"), "the cluster is there", 60)
        with Faults("cluster of two nodes") as faults:
            server = server_with({"url": first.url()})
            faults.inject()
            wait_until(lambda: "redis is a cluster of 2 nodes" in server.log_text(), "it is told")
            write(server, path("clustered"), {"n": 1})
            for _ in range(2):
                answer = read(server, path("clustered"), consistency="eventual")
                self.assertEqual(answer.document()["attributes"]["n"], 1)
            self.assertEqual(answer.source, "cache")


if __name__ == "__main__":
    unittest.main(verbosity=2)
