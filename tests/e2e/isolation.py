"""Two tenants: on every route, what belongs to the other is the same as what does not exist."""

import json
import os
import sys
import unittest
import urllib.parse

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
from server import Server, entity_path  # noqa: E402

SERVER = None
OWNER = None
STRANGER = None

# Stands in everything that the owner has and the stranger never sends.
CANARY = "canary-8f3a61"
# Names of the owner's things, which the stranger guesses right, and names of things that nobody has.
HIS = {
    "type": "turbine-owned",
    "id": "T-1-owned",
    "attribute": "thrust_owned",
    "tenant": "owner-owned",
    "key": "owned-key",
}
NOBODYS = {name: value.replace("owned", "other") for name, value in HIS.items()}
TIME = "2013-01-01T06:00:00Z"


def setUpModule():
    global SERVER, OWNER, STRANGER
    SERVER = Server()
    OWNER = SERVER.create_tenant(HIS["tenant"])
    STRANGER = SERVER.create_tenant("stranger")
    fill(OWNER, HIS, CANARY)
    fill(STRANGER, {"type": "turbine", "id": "mine", "attribute": "mine", "tenant": "stranger", "key": "mine"}, "mine")


def tearDownModule():
    SERVER.stop()


def fill(key, names, text):
    """One of everything; the ids that the server chose are added to the names."""
    kind, name, attribute = names["type"], names["id"], names["attribute"]
    SERVER.send("POST", "/v1/attributes", {"name": attribute, "type": "text", "description": text}, key=key)
    events = [
        {"type": kind, "id": name if n == 0 else f"{name}-{n}", "observed_at": TIME, "attributes": {attribute: f"{text} {n}"}}
        for n in range(5)
    ]
    events.append({"type": kind, "id": name, "observed_at": TIME, "attributes": {attribute: [text]}})
    status, answer = SERVER.ingest(events, {"Idempotency-Key": names["key"]}, key=key)
    assert status == 200 and answer["refused"] == 1, answer
    names["batch"], names["token"] = answer["batch_id"], answer["token"]
    _, page = ask("GET", f"/v1/rejections?batch_id={names['batch']}", key)
    names["rejection"] = page["items"][0]["id"]
    _, page = ask("GET", f"/v1/entities?type={kind}&limit=2", key)
    names["cursor"] = page["next_cursor"]
    _, page = SERVER.send("GET", f"/v1/tenants/{names['tenant']}/keys", None, key=SERVER.admin_key)
    names["key_id"] = page["items"][0]["id"]


def ask(method, path, key):
    status, _, text = SERVER.call(method, path, key=key)
    return status, json.loads(text)


def body(document):
    return json.dumps(document).encode()


def requests(names, text):
    """{operation: requests}: each as (path, body, headers). The stranger sends them with names of the owner's things."""
    kind, name, attribute = names["type"], names["id"], names["attribute"]
    path = entity_path(kind, name)
    unescaped = {"filter": f"{attribute} = 'x'", "attribute": attribute}
    query = {name: urllib.parse.quote(value) for name, value in unescaped.items()}
    edit = body({"attributes": {attribute: text}, "observed_at": TIME})
    event = {"type": kind, "id": name, "observed_at": TIME, "attributes": {attribute: text}}
    search = {"type": kind, "select": [attribute]}
    tenant, json_type = names["tenant"], {"Content-Type": "application/json"}
    line = f"{kind},id={name} {attribute}=\"{text}\" 1357020000".encode()
    create = urllib.parse.urlencode({"q": f"CREATE DATABASE {tenant}"})
    return {
        "get /v1/entities": [
            (f"/v1/entities?type={kind}", None, {}),
            (f"/v1/entities?type={kind}&count=exact", None, {}),
            (f"/v1/entities?type={kind}&facets={attribute}:5", None, {}),
            (f"/v1/entities?type={kind}&count=estimate", None, {}),
            (f"/v1/entities?filter={query['filter']}", None, {}),
            (f"/v1/entities?sort={attribute}", None, {}),
            (f"/v1/entities?select={attribute}", None, {}),
            (f"/v1/entities?filter=external_id%20%3D%20%27{name}%27", None, {}),
            (f"/v1/entities?type={kind}&limit=2&cursor={names['cursor']}", None, {}),
            ("/v1/entities", None, {"X-Tenant": tenant}),
        ],
        "post /v1/entities/search": [
            ("/v1/entities/search", body({"type": kind}), json_type),
            ("/v1/entities/search", body(search), json_type),
            ("/v1/entities/search", body({"filter": unescaped["filter"]}), json_type),
            ("/v1/entities/search", body({"type": kind, "limit": 2, "cursor": names["cursor"]}), json_type),
        ],
        "get /v1/entities/{type}/{id}": [(path, None, {}), (f"{path}?as_of=2014-01-01T00:00:00Z&times=true", None, {})],
        "get /v1/entities/{type}/{id}/history": [
            (f"{path}/history", None, {}),
            (f"{path}/history?attribute={query['attribute']}", None, {}),
            (f"{path}/history?attribute={query['attribute']}&bucket=1h&agg=count", None, {}),
            (f"{path}/history?corrections=true", None, {}),
        ],
        "post /v1/history/query": [
            ("/v1/history/query", body({"type": kind, "attribute": [attribute], "from": TIME}), json_type),
            ("/v1/history/query", body({"filter": unescaped["filter"], "attribute": [attribute], "from": TIME}), json_type),
            ("/v1/history/query", body({"type": kind, "attribute": [attribute], "from": TIME, "group": "all"}), json_type),
        ],
        "get /v1/changes": [(f"/v1/changes?filter={query['filter']}", None, {})],
        "post /v1/sql": [
            ("/v1/sql", body({"query": f"SELECT * FROM {table} WHERE {column} = $1", "params": [value]}), json_type)
            for table, column, value in (
                ("facts", "external_id", name), ("facts", "attribute", attribute), ("entities", "entity_type", kind),
                ("attributes", "name", attribute), ("tenants", "name", tenant),
            )
        ],
        "delete /v1/entities/{type}/{id}": [(path, None, {})],
        "patch /v1/entities/{type}/{id}": [(path, edit, json_type)],
        "put /v1/entities/{type}/{id}": [(path, edit, json_type), (path, edit, {**json_type, "If-None-Match": "*"})],
        "get /v1/attributes/{name}": [(f"/v1/attributes/{attribute}", None, {})],
        "patch /v1/attributes/{name}": [(f"/v1/attributes/{attribute}", body({"unit": "K"}), json_type)],
        "get /v1/attributes": [("/v1/attributes?prefix=thrust", None, {})],
        "post /v1/attributes": [("/v1/attributes", body({"name": attribute, "type": "text"}), json_type)],
        "post /v1/ingest": [
            ("/v1/ingest", body([event]), {**json_type, "Idempotency-Key": names["key"]}),
            ("/v1/ingest", body([{**event, "tenant": tenant, "tenant_id": 1}]), json_type),
        ],
        "get /v1/ingest/batches/{id}": [(f"/v1/ingest/batches/{names['batch']}", None, {})],
        "get /v1/rejections": [
            (f"/v1/rejections?batch_id={names['batch']}", None, {}),
            ("/v1/rejections?code=type_mismatch&type=" + kind, None, {}),
        ],
        "post /v1/rejections/replay": [
            ("/v1/rejections/replay", body({"ids": [names["rejection"]]}), json_type),
            ("/v1/rejections/replay", body({"batch_id": names["batch"]}), json_type),
        ],
        "get /v1/dead-letters": [("/v1/dead-letters", None, {})],
        "get /v1/dead-letters/{id}": [(f"/v1/dead-letters/d{names['rejection'][1:]}", None, {})],
        "post /v1/dead-letters/replay": [("/v1/dead-letters/replay", body({"ids": ["d" + names["rejection"][1:]]}), json_type)],
        "post /v1/dead-letters/discard": [("/v1/dead-letters/discard", body({"ids": ["d" + names["rejection"][1:]]}), json_type)],
        "post /write": [(f"/write?db={tenant}&precision=s", line, {})],
        "post /api/v2/write": [(f"/api/v2/write?org={tenant}&bucket={tenant}&precision=s", line, {})],
        "get /query": [("/query?" + create, None, {})],
        "post /query": [("/query", create.encode(), {"Content-Type": "application/x-www-form-urlencoded"})],
        "get /v1/tenants": [("/v1/tenants", None, {})],
        "post /v1/tenants": [("/v1/tenants", body({"name": tenant}), json_type)],
        "patch /v1/tenants/{name}": [(f"/v1/tenants/{tenant}", body({"unknown_attributes": "refuse"}), json_type)],
        "get /v1/tenants/{name}/keys": [(f"/v1/tenants/{tenant}/keys", None, {})],
        "post /v1/tenants/{name}/keys": [(f"/v1/tenants/{tenant}/keys", body({"scopes": ["read"]}), json_type)],
        "delete /v1/tenants/{name}/keys/{key_id}": [(f"/v1/tenants/{tenant}/keys/{names['key_id']}", None, {})],
        "get /metrics": [("/metrics", None, {})],
        "get /healthz": [("/healthz", None, {})],
        "get /readyz": [("/readyz", None, {})],
        "get /ping": [("/ping", None, {})],
        "get /docs": [("/docs", None, {})],
        "get /docs/assets/{file}": [(f"/docs/assets/{name}", None, {})],
        "get /docs/errors/{code}": [(f"/docs/errors/{name}", None, {})],
        "get /openapi.json": [("/openapi.json", None, {})],
    }


def operations():
    """`method path` of every operation in the document."""
    document = SERVER.get("/openapi.json")
    methods = {"get", "put", "post", "delete", "patch"}
    return {f"{method} {path}": item[method] for path, item in document["paths"].items() for method in item if method in methods}


def shape(status, headers, text, names):
    """An answer without what differs between any two: names that were sent, and what the server makes up."""
    for name, value in sorted(names.items(), key=lambda item: -len(item[1])):
        for form in (value, urllib.parse.quote(value)):
            text = text.replace(form, f"<{name}>")
    try:
        document = json.loads(text)
    except ValueError:
        document = len(text) if status == 200 else text
    kept = sorted(name for name in headers if name.lower() not in ("date", "content-length"))
    return status, kept, without_what_is_made_up(document)


MADE_UP = ("request_id", "token", "batch_id", "observed_at", "updated_at", "created_at")


def without_what_is_made_up(document):
    if isinstance(document, list):
        return [without_what_is_made_up(item) for item in document]
    if isinstance(document, dict):
        return {name: None if name in MADE_UP else without_what_is_made_up(value) for name, value in document.items()}
    return document


class Isolation(unittest.TestCase):
    def test_every_route_is_in_the_table(self):
        known = set(requests(HIS, "x"))
        self.assertEqual(set(operations()) - known, set(), "routes that no request here covers")

    def test_the_others_things_are_as_if_they_did_not_exist(self):
        before = everything_of_the_owner()
        self.assertIn(CANARY, before)
        # Of things that the server names, one with a name of the right form that nobody has.
        nobodys = {**NOBODYS, **{name: other_of(HIS[name]) for name in ("batch", "rejection", "cursor", "key_id")}}
        theirs, missing = requests(HIS, "x"), requests(nobodys, "x")
        asked = 0
        # What makes things of the stranger's own with these names comes last, the attribute first of it.
        order = ("get ", "post /v1/entities/search", "post /v1/history/query", "delete ", "patch /v1/attributes", "post /v1/attributes", "")
        place = {operation: [operation.startswith(start) for start in order].index(True) for operation in operations()}
        for operation in sorted(place, key=place.get):
            method = operation.split(" ")[0].upper()
            for his_request, other_request in zip(theirs[operation], missing[operation]):
                path, other_path = his_request[0], other_request[0]
                with self.subTest(operation=operation, path=path, instead_of=other_path):
                    answer = SERVER.call(method, *his_request, STRANGER)
                    other = SERVER.call(method, *other_request, STRANGER)
                    self.assertLess(answer[0], 500, answer[2])
                    self.assertNotIn(CANARY, answer[2] + str(answer[1]))
                    self.assertNotIn(CANARY, other[2] + str(other[1]))
                    self.assertEqual(shape(*answer, HIS), shape(*other, nobodys))
                    asked += 1
        print(f"asked {asked} questions about things of another tenant")
        self.assertEqual(everything_of_the_owner(), before, "the owner's things have changed")

    def test_what_is_found_by_a_name_is_missing_for_the_other(self):
        for path in (
            entity_path(HIS["type"], "T-1-owned-1"),
            entity_path(HIS["type"], "T-1-owned-1") + "/history",
            f"/v1/ingest/batches/{HIS['batch']}",
        ):
            self.assertEqual(SERVER.call("GET", path, key=OWNER)[0], 200, path)
            status, _, text = SERVER.call("GET", path, key=STRANGER)
            self.assertEqual((status, json.loads(text)["code"]), (404, "not_found"), path)

    def test_a_key_opens_no_other_tenant_whatever_the_header_says(self):
        for operation, questions in requests(HIS, "x").items():
            security = operations().get(operation, {}).get("security")
            if not security or security[0]["key"] == ["admin"]:
                continue
            path, content, headers = questions[0]
            method, named = operation.split(" ")[0].upper(), {**headers, "X-Tenant": HIS["tenant"]}
            status, _, text = SERVER.call(method, path, content, named, STRANGER)
            influx = operation in ("post /write", "post /api/v2/write")
            self.assertIn(status, (401, 403) if influx else (403,), f"{operation}: {text}")

    def test_the_others_token_and_cursor_are_refused(self):
        status, _, text = SERVER.call("GET", "/v1/entities", None, {"X-Consistency-Token": HIS["token"]}, STRANGER)
        self.assertEqual((status, json.loads(text)["code"]), (400, "foreign_token"))
        for path, headers in ((f"/v1/changes?since={HIS['token']}", {}), ("/v1/changes", {"Last-Event-ID": HIS["token"]})):
            status, _, text = SERVER.call("GET", path, None, headers, STRANGER)
            self.assertEqual((status, json.loads(text)["code"]), (400, "foreign_token"))
        path = f"/v1/entities?type={HIS['type']}&limit=2&cursor={HIS['cursor']}"
        self.assertEqual(SERVER.call("GET", path, key=OWNER)[0], 200)
        status, _, text = SERVER.call("GET", path, key=STRANGER)
        self.assertEqual((status, json.loads(text)["code"]), (400, "invalid_cursor"))

    def test_what_an_administrator_may_no_tenant_may(self):
        for operation, described in operations().items():
            if not described.get("security") or described["security"][0]["key"] != ["admin"]:
                continue
            for path, content, headers in requests(HIS, "x")[operation]:
                status, _, text = SERVER.call(operation.split(" ")[0].upper(), path, content, headers, OWNER)
                self.assertEqual((status, json.loads(text)["code"]), (403, "forbidden"), operation)

    def test_metrics_are_for_administrators_and_name_no_tenants_things(self):
        self.assertEqual(SERVER.call("GET", "/metrics", key=OWNER)[0], 403)
        self.assertEqual(SERVER.call("GET", "/metrics", headers={"Authorization": ""})[0], 401)
        status, _, text = SERVER.call("GET", "/metrics", key=SERVER.admin_key)
        self.assertEqual(status, 200)
        self.assertIn("sheaf_http_requests_total", text)
        for secret in (CANARY, HIS["type"], HIS["id"], HIS["attribute"], OWNER):
            self.assertNotIn(secret, text)

    def test_the_log_holds_no_data_and_no_key(self):
        log = SERVER.log_text()
        for secret in (CANARY, OWNER, STRANGER):
            self.assertNotIn(secret, log)


def other_of(name):
    """Another name of the same form."""
    last = "0" if name[-1] != "0" else "1"
    return name[:-1] + last if name.startswith(("b_", "r_", "k_")) else name[:-8] + "AAAAAAAA"


def everything_of_the_owner():
    """All that the owner can see of his own, as one text."""
    paths = [
        "/v1/entities?limit=100", "/v1/attributes", "/v1/rejections", entity_path(HIS["type"], HIS["id"]) + "/history",
        f"/v1/ingest/batches/{HIS['batch']}",
    ]  # fmt: skip
    answers = [ask("GET", path, OWNER) for path in paths]
    for status, answer in answers:
        assert status == 200, answer
        answer.pop("token", None)
    keys = SERVER.call("GET", f"/v1/tenants/{HIS['tenant']}/keys", key=SERVER.admin_key)[2]
    tenants = json.loads(SERVER.call("GET", "/v1/tenants", key=SERVER.admin_key)[2])["items"]
    return json.dumps([answers, keys, [tenant for tenant in tenants if tenant["name"] == HIS["tenant"]]])


if __name__ == "__main__":
    unittest.main(verbosity=2)
