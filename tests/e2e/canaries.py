"""One tenant's data in replicas, caches, logs and metrics: another tenant reads all that it can read, at every level and from
every source, and nothing of it is there; nor is it anywhere where it does not belong."""

import contextlib
import http.client
import json
import os
import re
import socket
import sys
import threading
import time
import unittest

import pyarrow.parquet

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
import isolation  # noqa: E402
from isolation import CANARY, HIS, NOBODYS, requests  # noqa: E402
from server import entity_path  # noqa: E402
from support.database import wait_until  # noqa: E402
from support.faults import Faults, seeded  # noqa: E402
from support.following import Refused, Stream  # noqa: E402
from support.reads import Line, read, write  # noqa: E402
from support.replica import sources  # noqa: E402
from support.world import World  # noqa: E402

WORLD = None
REPLICA = None
REDIS = None
SERVER = None
# One that asks the primary alone, and shares what it remembers.
PLAIN = None
OWNER, STRANGER = None, None
LEVELS = ("strong", "session", "eventual", "analytics")
# Times that each question is asked at each level and server: sources take turns.
TURNS = 2
# What the stranger has himself.
OWN = {"type": "turbine", "id": "mine", "attribute": "mine", "tenant": "stranger", "key": "mine"}
OWN_TEXT = "strangers-own-text"
SEARCHES = ("post /v1/entities/search", "post /v1/history/query", "post /v1/sql")
# What anybody may ask of the lake, whoever he is.
SQL = (
    *(f"SELECT * FROM {table}" for table in ("facts", "facts_corrected", "entities", "attributes", "tenants")),
    f"SELECT * FROM facts WHERE value_text LIKE '{CANARY}%'",
    "SELECT min(value_text), max(value_text), count(*) FROM facts",
    f"SELECT e.*, f.* FROM entities e LEFT JOIN facts f ON f.entity_id = e.entity_id WHERE e.external_id LIKE '{HIS['id']}%'",
)
FORMS = ("application/json", "text/csv", "application/vnd.apache.arrow.stream")
LAKE_WITHIN_SECONDS = 120
REUSE_SECONDS = 4
# Older than this, what a server has in its own memory is not good enough for some reads here.
TOO_OLD, TOO_OLD_SECONDS = "500ms", 0.55


def setUpModule():
    global WORLD, REPLICA, REDIS, SERVER, PLAIN, OWNER, STRANGER
    WORLD = World()
    unittest.addModuleCleanup(WORLD.close)
    REPLICA = WORLD.replica("one")
    REDIS = WORLD.redis()
    kept = {"lake": {"location": lake_directory()}, "changes": {"journal": os.path.join(WORLD.directory, "journal")}}
    SERVER = WORLD.server(settings={**sources(REPLICA, direct=True), **kept, "redis": {"url": REDIS.url()}, "log": {"level": "trace"}})
    PLAIN = WORLD.server(settings={"redis": {"url": REDIS.url()}, "log": {"level": "trace"}})
    isolation.SERVER = SERVER
    OWNER, STRANGER = (SERVER.create_tenant(names["tenant"]) for names in (HIS, OWN))
    isolation.fill(OWNER, HIS, CANARY)
    isolation.fill(STRANGER, OWN, OWN_TEXT)
    REPLICA.wait_caught_up()
    wait_until(lambda: CANARY in sql(OWNER, SQL[0]) and OWN_TEXT in sql(STRANGER, SQL[0]), "the lake holds both", LAKE_WITHIN_SECONDS)


def lake_directory():
    return os.path.join(WORLD.directory, "lake")


def sql(key, query, form="application/json"):
    """What the lake answers, as text; Arrow's texts stand in its streams as they are."""
    headers = {"Content-Type": "application/json", "Accept": form, "Authorization": "Bearer " + key}
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", SERVER.port, timeout=60)) as connection:
        connection.request("POST", "/v1/sql", json.dumps({"query": query}), headers)
        return connection.getresponse().read().decode(errors="replace")


def questions(names):
    """(operation, method, path, body, headers) of every read of tenants, with these names."""
    for operation, asked in requests(names, "x").items():
        method, path = operation.split(" ")
        if path.startswith("/v1/") and not path.startswith("/v1/tenants") and (method == "get" or operation in SEARCHES):
            for question in asked:
                yield (operation, method.upper(), *question)


def ask(server, key, question, level, token):
    _, method, path, body, headers = question
    path += ("&" if "?" in path else "?") + "consistency=" + level
    if level == "session" and token:
        headers = {**headers, "X-Consistency-Token": token}
    return server.call(method, path, body, headers, key)


def first_line_with(text, log):
    return next((line[:500] for line in log.splitlines() if text in line), None)


def tenant_number(name):
    return WORLD.postgres.value(f"SELECT tenant_id FROM sheaf.tenants WHERE name = '{name}'")


def warm():
    """Caches hold what both tenants have."""
    for key, names in ((OWNER, HIS), (STRANGER, OWN)):
        path = entity_path(names["type"], names["id"])
        write(SERVER, path, {names["attribute"]: CANARY if names is HIS else OWN_TEXT}, key=key)

        def cached(path=path, key=key):
            return read(PLAIN, path, key=key, consistency="eventual").from_cache()

        wait_until(cached, "it is cached")


class Canaries(unittest.TestCase):
    def test_a_stranger_finds_nothing_of_the_owner_from_any_source_at_any_level(self):
        found, asked = {}, 0
        with Faults("question of a stranger to sources that hold the owner's data") as faults:
            for level in LEVELS:
                for server in (SERVER, PLAIN) * TURNS:
                    for key, names in ((OWNER, HIS), (STRANGER, HIS), (STRANGER, OWN), (STRANGER, NOBODYS)):
                        whole = {**HIS, **names}
                        for question in questions(whole):
                            token = OWN["token"] if key == STRANGER else HIS["token"]
                            status, headers, text = ask(server, key, question, level, token)
                            self.assertLess(status, 500, (question, text))
                            if key == OWNER:
                                source = headers["X-Data-Source"]
                                held = found.setdefault(source, [0, 0])
                                held[0] += 1
                                held[1] += CANARY in text
                                continue
                            said = text + str(headers)
                            for secret in (CANARY, OWNER):
                                self.assertNotIn(secret, said, (question, level, headers["X-Data-Source"]))
                            asked += 1
            faults.inject(asked)
        print(f"the owner's answers by source, and those with his canary: {found}")
        for source in ("primary", "replica:one", "lake"):
            self.assertGreater(found[source][1], 0, f"{source} holds the owner's data")
        self.assertGreater(sum(found.get(source, (0, 0))[1] for source in ("cache", "redis")), 0, "a cache holds it")

    def test_the_lake_answers_each_tenant_with_its_own_alone_in_every_form(self):
        with Faults("question over a lake that holds another tenant's data") as faults:
            for query in SQL:
                for form in FORMS:
                    theirs, his = sql(STRANGER, query, form), sql(OWNER, query, form)
                    faults.inject()
                    # What was asked is nowhere in the answer, so that whatever is found was in the lake.
                    for secret in (CANARY, HIS["type"], HIS["id"], HIS["attribute"], HIS["tenant"]):
                        self.assertNotIn(secret, theirs, query)
                    for secret in (OWN_TEXT, OWN["id"]):
                        self.assertNotIn(f'"{secret}', his, query)
                    if "facts_corrected" not in query:
                        self.assertTrue(any(name in his for name in (CANARY, *HIS.values())), f"{query}: {his}")

    def test_files_of_the_lake_hold_a_text_in_its_tenants_rows_alone_and_no_key(self):
        numbers = {CANARY: int(tenant_number(HIS["tenant"])), OWN_TEXT: int(tenant_number(OWN["tenant"]))}
        found, files = dict.fromkeys(numbers, 0), 0
        for directory, _, names in os.walk(lake_directory()):
            for name in names:
                path = os.path.join(directory, name)
                for text in (CANARY, OWN_TEXT, *HIS.values(), OWN["batch"]):
                    self.assertNotIn(text, path)
                with open(path, "rb") as file:
                    content = file.read()
                for secret in (OWNER, STRANGER, WORLD.admin_key):
                    self.assertNotIn(secret.encode(), content, path)
                if not name.endswith(".parquet"):
                    continue
                files += 1
                for row in pyarrow.parquet.read_table(path, partitioning=None).to_pylist():
                    for text, number in numbers.items():
                        if text in str(row):
                            self.assertEqual(row["tenant_id"], number, f"{path}: {row}")
                            found[text] += 1
        print(f"{files} files of rows, in which the texts stand so often: {found}")
        self.assertGreater(min(found.values()), 0, "both are in the lake")

    def test_whoever_follows_changes_is_sent_his_own_alone(self):
        def streams():
            try:
                return Stream(SERVER, STRANGER, since=OWN["token"]), Stream(SERVER, OWNER, since=HIS["token"])
            except Refused:
                return None

        mine, his = wait_until(streams, "changes can be followed", LAKE_WITHIN_SECONDS)
        with mine, his, Faults("event of another tenant beside a subscription") as faults:
            for number in range(5):
                for key, names, text in ((OWNER, HIS, CANARY), (STRANGER, OWN, OWN_TEXT)):
                    write(SERVER, entity_path(names["type"], names["id"]), {names["attribute"]: f"{text} again {number}"}, key=key)
                faults.inject()
            for stream, names, text, other in ((mine, OWN, OWN_TEXT, CANARY), (his, HIS, CANARY, OWN_TEXT)):
                changes = []
                while not changes or changes[-1]["attributes"][names["attribute"]] != f"{text} again 4":
                    changes.extend(stream.take(1))
                self.assertNotIn(other, str(changes))
                self.assertEqual({change["type"] for change in changes}, {names["type"]})

    def test_keys_of_the_shared_cache_hold_no_text_of_clients_and_values_are_under_their_tenants(self):
        warm()
        contents = wait_until(REDIS.contents, "Redis holds something")
        owner, stranger = tenant_number(HIS["tenant"]).encode(), tenant_number(OWN["tenant"]).encode()
        holders = {"owner": 0, "stranger": 0}
        for key, value in contents.items():
            for name in (CANARY, OWN_TEXT, *HIS.values(), *(OWN[name] for name in ("batch", "token"))):
                self.assertNotIn(name.encode(), key)
            for secret in (OWNER, STRANGER, WORLD.admin_key):
                self.assertNotIn(secret.encode(), value)
            numbers = re.findall(rb"\d+", key)
            if CANARY.encode() in value:
                self.assertIn(owner, numbers, key)
                holders["owner"] += 1
            if OWN_TEXT.encode() in value:
                self.assertIn(stranger, numbers, key)
                holders["stranger"] += 1
            self.assertFalse(CANARY.encode() in value and OWN_TEXT.encode() in value, key)
        print(f"{len(contents)} keys, of which {holders}")
        self.assertGreater(min(holders.values()), 0, "values of both are in Redis")

    def test_what_a_foreign_writer_puts_into_the_shared_cache_is_not_believed(self):
        warm()
        other = WORLD.server(settings={"redis": {"url": REDIS.url()}})
        paths = {key: entity_path(names["type"], names["id"]) for key, names in ((OWNER, HIS), (STRANGER, OWN))}
        expected = read(SERVER, paths[STRANGER], key=STRANGER).document()["attributes"]

        def holding(text):
            return next((key for key, value in REDIS.contents().items() if text.encode() in value), None)

        def ask_after(change):
            """The other server's answer where its own memory is too old, and that in Redis is new, and was changed."""
            read(other, paths[STRANGER], key=STRANGER, consistency="eventual", max_lag=TOO_OLD)
            time.sleep(TOO_OLD_SECONDS)
            # What is there afterwards is what this fills in, and it has been.
            REDIS.call("FLUSHALL")
            for key, path in paths.items():
                read(PLAIN, path, key=key, consistency="eventual", max_lag="1ms")
            ends = time.monotonic() + TOO_OLD_SECONDS
            while (mine := holding(OWN_TEXT)) is None or (theirs := holding(CANARY)) is None:
                if time.monotonic() > ends:
                    return None
            change(mine, theirs)
            return read(other, paths[STRANGER], key=STRANGER, consistency="eventual", max_lag=TOO_OLD)

        def from_redis():
            answer = ask_after(lambda mine, theirs: None)
            return answer is not None and answer.source == "redis"

        wait_until(from_redis, "a new value of another server's is read from Redis", 60)

        def exchange(mine, theirs):
            REDIS.call("RESTORE", mine, 60_000, REDIS.call("DUMP", theirs), "REPLACE")

        def put(edit):
            return lambda mine, theirs: REDIS.call("SET", mine, edit(REDIS.call("GET", mine), REDIS.call("GET", theirs)))

        random = seeded("junk")

        def flip(text, _):
            place = random.randrange(len(text))
            return text[:place] + bytes([text[place] ^ (1 << random.randrange(8))]) + text[place + 1 :]

        changes = {
            "the owner's value": exchange,
            "nothing": put(lambda mine, theirs: b""),
            "zeros": put(lambda mine, theirs: bytes(len(mine))),
            "half of it": put(lambda mine, theirs: mine[: len(mine) // 2]),
            "more than it": put(lambda mine, theirs: mine + b"x"),
            "the beginning of one and the end of the other": put(lambda mine, theirs: mine[:20] + theirs[20:]),
            "another text": put(lambda mine, theirs: mine.replace(OWN_TEXT.encode(), b"x" * len(OWN_TEXT))),
            "another type": lambda mine, theirs: (REDIS.call("DEL", mine), REDIS.call("LPUSH", mine, "x")),
            **{f"bit {number} flipped": put(flip) for number in range(6)},
        }
        with Faults("value that a foreign writer put into Redis") as faults:
            for what, change in changes.items():
                answer = wait_until(lambda change=change: ask_after(change), "Redis holds both tenants' values")
                faults.inject()
                self.assertEqual(answer.status, 200, f"{what}: {answer.shown()}")
                self.assertEqual(answer.document()["attributes"], expected, f"{what}: {answer.shown()}")
                self.assertNotEqual(answer.source, "redis", f"{what}: {answer.shown()}")
        other.stop()

    def test_logs_and_metrics_hold_nothing_of_anybody_however_verbose_they_are(self):
        for query in SQL:
            sql(OWNER, query)
        for server in (SERVER, PLAIN):
            log, metrics = server.log_text(), server.call("GET", "/metrics", key=WORLD.admin_key)[2]
            for secret in (CANARY, OWN_TEXT, OWNER, STRANGER):
                self.assertFalse(secret in log, first_line_with(secret, log))
                self.assertNotIn(secret, metrics)
            for name in (HIS["type"], HIS["id"], HIS["attribute"], HIS["tenant"]):
                self.assertNotIn(name, metrics)

    def test_a_replica_shows_nothing_to_a_session_without_a_tenant(self):
        tables = "entities entity_jsonb entity_events attributes".split()
        with Faults("question without a tenant") as faults:
            for table in tables:
                self.assertGreater(REPLICA.count(f"sheaf.{table}"), 0, "it is there")
                shown = REPLICA.rows(f"SET ROLE sheaf_app; SELECT count(*) FROM sheaf.{table}")[0][0]
                self.assertEqual(shown, "0", table)
                faults.inject()


class Reuse(unittest.TestCase):
    """Connections that one tenant's requests broke or left, and another's use next."""

    def test_a_connection_left_in_the_middle_shows_the_next_tenant_nothing(self):
        one = {"app_connections": 1, "search_connections": 1}
        server = WORLD.server(settings={**sources(REPLICA, direct=True), "database": one})
        path = entity_path(HIS["type"], HIS["id"])
        stopping = threading.Event()
        problems, statuses = [], {}

        def owner():
            request = f"GET {path}/history?consistency=eventual HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {OWNER}\r\n\r\n"
            while not stopping.is_set():
                # Leaves before it is answered.
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", server.port), 5) as connection:
                    connection.sendall(request.encode())
                for shape in ({"path": path}, {"path": "/v1/entities", "type": HIS["type"]}):
                    with contextlib.suppress(OSError, http.client.HTTPException):
                        read(server, **shape, key=OWNER, consistency="eventual")

        def stranger():
            shapes = (
                {"path": path}, {"path": path + "/history"}, {"path": "/v1/entities"}, {"path": "/v1/attributes"},
                {"path": entity_path(OWN["type"], OWN["id"])}, {"path": "/v1/entities", "filter": f"{OWN['attribute']} LIKE '%'"},
            )  # fmt: skip
            with contextlib.closing(Line(server.port, STRANGER)) as line:
                while not stopping.is_set():
                    for shape in shapes:
                        answer = line.read(**shape, consistency="eventual")
                        statuses[answer.status] = statuses.get(answer.status, 0) + 1
                        if CANARY in answer.text + str(answer.headers):
                            problems.append(answer.shown())

        threads = [threading.Thread(target=target, daemon=True) for target in (owner, owner, stranger, stranger)]
        with Faults("backend cancelled or ended under its request") as faults:
            for thread in threads:
                thread.start()
            ends = time.monotonic() + REUSE_SECONDS
            while time.monotonic() < ends:
                for postgres in (WORLD.postgres, REPLICA):
                    for function in ("pg_cancel_backend", "pg_terminate_backend"):
                        hit = (
                            f"SELECT count({function}(pid)) FROM pg_stat_activity"
                            " WHERE usename IN ('sheaf_app', 'sheaf_search') AND state <> 'idle'"
                        )
                        faults.inject(int(postgres.value(hit)))
            stopping.set()
            for thread in threads:
                thread.join(60)
        print(f"the stranger was answered {statuses}")
        self.assertEqual(problems, [])
        self.assertLessEqual(set(statuses), {200, 404, 422, 503})
        self.assertGreater(statuses[200], 0)
        server.stop()


if __name__ == "__main__":
    unittest.main(verbosity=2)
