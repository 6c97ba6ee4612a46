"""A configuration that cannot be meant stops the start and says where; so does a database whose roles are not sound."""

import os
import subprocess
import sys
import unittest
import urllib.parse
import urllib.request

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
from server import Server, free_port  # noqa: E402
from support.database import Database, wait_until  # noqa: E402
from support.faults import Faults  # noqa: E402

SERVER = None
DATABASE = None
SECRET = "hunter2-secret"


def setUpModule():
    global SERVER, DATABASE
    SERVER = Server()
    DATABASE = Database(SERVER)


def tearDownModule():
    SERVER.stop()


def config_file(text):
    path = os.path.join(SERVER.directory, "sheaf.toml")
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    return path


def environment_without_settings():
    """SHEAF_BIN is ours, and no setting."""
    return {name: value for name, value in os.environ.items() if not name.startswith("SHEAF_")}


def run(*arguments, variables=None):
    """Exit code and all output; nothing here may go on running."""
    environment = {**environment_without_settings(), **(variables or {})}
    command = [os.environ["SHEAF_BIN"], *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=30, env=environment, check=False)
    return result.returncode, result.stdout + result.stderr


class Refused(unittest.TestCase):
    def test_each_mistake_is_named_with_its_file_line_and_key(self):
        # (what is wrong, text, line, word that must be named)
        mistakes = [
            ("an unknown key", '[server]\nlistn = "127.0.0.1:1"\n', 2, "listn"),
            ("an unknown section", '[log]\nlevel = "info"\n\n[sever]\nlisten = "127.0.0.1:1"\n', 4, "sever"),
            ("a key without a section", 'listen = "127.0.0.1:1"\n', 1, "listen"),
            ("a bad address", '\n[server]\nlisten = "here"\n', 3, "server.listen"),
            ("a port that is none", '[server]\nlisten = "127.0.0.1:70700"\n', 2, "server.listen"),
            ("a number as text", '[server]\nbody_bytes_max = "hunter2-secret"\n', 2, "body_bytes_max"),
            ("a number out of bounds", "[server]\nbody_bytes_max = 1\n", 2, "server.body_bytes_max"),
            ("no connections", "[database]\napp_connections = 0\n", 2, "database.app_connections"),
            ("a negative number", "[database]\nwriter_connections = -1\n", 2, "database.writer_connections"),
            ("a level that is none", '[log]\nformat = "text"\nlevel = "loud"\n', 3, "log.level"),
            ("a format that is none", '[log]\nformat = "xml"\n', 2, "log.format"),
            ("another database", '[database]\nurl = "mysql://localhost/sheaf"\n', 2, "database.url"),
            ("a password in the address", f'[database]\nurl = "postgresql://u:{SECRET}@localhost/sheaf"\n', 2, "database.url"),
            ("parameters in it", f'[database]\nurl = "postgresql://localhost/sheaf?password={SECRET}"\n', 2, "database.url"),
            ("a password that is a number", "[database]\napp_password = 1234\n", 2, "app_password"),
            ("an empty password", '[database]\napp_password = ""\n', 2, "database.app_password"),
            ("a password twice", f'[database]\napp_password = "{SECRET}"\napp_password_file = "x"\n', 2, "database.app_password"),
            ("a secret in the wrong place", f'[log]\nlevel = "{SECRET}"\n', 2, "log.level"),
            ("a key twice", '[log]\nlevel = "info"\nlevel = "warn"\n', 3, "level"),
            ("no TOML", '[log\nlevel = "info"\n', 1, ""),
            ("an open text", f'[database]\napp_password = "{SECRET}\n', 2, ""),
        ]
        for name, text, line, word in mistakes:
            with self.subTest(mistake=name):
                path = config_file(text)
                code, output = run("serve", "--config", path)
                self.assertEqual(code, 2, output)
                self.assertIn(f"{path}:{line}", output)
                self.assertIn(word, output)
                self.assertNotIn(SECRET, output)
                self.assertNotIn("panicked", output)
                self.assertEqual(run("serve", "--config", path, "--print-config")[0], 2)

    def test_a_wrong_variable_is_named(self):
        path = config_file("")
        wrong = {"SHEAF_SERVER_LISTN": "127.0.0.1:1", "SHEAF_SERVER_LISTEN": "here", "SHEAF_LOG_LEVEL": SECRET, "SHEAF_X": SECRET}
        for name, value in wrong.items():
            code, output = run("serve", "--config", path, variables={name: value})
            self.assertEqual(code, 2, output)
            self.assertIn(name, output)
            self.assertNotIn(SECRET, output)

    def test_a_file_that_is_not_there_is_named(self):
        code, output = run("serve", "--config", "/nowhere/sheaf.toml")
        self.assertEqual(code, 2, output)
        self.assertIn("/nowhere/sheaf.toml", output)

    def test_no_secret_is_taken_from_the_command_line(self):
        path = config_file("")
        for option in ("--password", "--app-password", "--database-url", "--key", "--url"):
            self.assertEqual(run("serve", "--config", path, option, SECRET)[0], 2, option)
        for option in ("--key", "--password", "--token"):
            self.assertEqual(run("import", "x.csv", option, SECRET)[0], 2, option)

    def test_settings_are_shown_with_their_origin_and_without_secrets(self):
        path = config_file(f'[database]\napp_password = "{SECRET}"\n[log]\nlevel = "warn"\n')
        code, output = run("serve", "--config", path, "--print-config", variables={"SHEAF_SERVER_LISTEN": "127.0.0.1:1"})
        self.assertEqual(code, 0, output)
        self.assertNotIn(SECRET, output)
        for part in (f"{path}:4", "SHEAF_SERVER_LISTEN", "127.0.0.1:1", "database.app_password"):
            self.assertIn(part, output)


class Roles(unittest.TestCase):
    """`sheaf serve` on the PostgreSQL of the running `sheaf dev`."""

    def config(self, port):
        _, database_port, directory = DATABASE.address()
        url = f"postgresql://{urllib.parse.quote(directory, safe='')}:{database_port}/sheaf"
        return config_file(f'[server]\nlisten = "127.0.0.1:{port}"\n[database]\nurl = "{url}"\n')

    def serves(self):
        port = free_port()
        command = [os.environ["SHEAF_BIN"], "serve", "--config", self.config(port)]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment_without_settings())
        try:

            def answers():
                try:
                    return urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2).status == 200
                except OSError:
                    return False

            wait_until(answers, "sheaf serve answers")
        finally:
            process.terminate()
            self.assertEqual(process.wait(30), 0)

    def refused(self):
        code, output = run("serve", "--config", self.config(free_port()))
        self.assertNotIn(code, (0, None), output)
        self.assertNotIn("panicked", output)
        return output

    def test_a_role_that_row_level_security_does_not_bind_is_refused(self):
        self.serves()
        roles = ("sheaf_app", "sheaf_search", "sheaf_writer")
        with Faults("a role with too many rights") as faults:
            for role in roles:
                for drift, back in (
                    (f"ALTER ROLE {role} SUPERUSER", f"ALTER ROLE {role} NOSUPERUSER"),
                    (f"ALTER ROLE {role} BYPASSRLS", f"ALTER ROLE {role} NOBYPASSRLS"),
                    (f"GRANT sheaf_owner TO {role}", f"REVOKE sheaf_owner FROM {role}"),
                ):
                    with self.subTest(drift=drift):
                        DATABASE.rows(drift)
                        try:
                            faults.inject()
                            self.assertIn(role, self.refused())
                            code, output = run("doctor", "--data-dir", SERVER.data)
                            self.assertNotEqual(code, 0, output)
                        finally:
                            DATABASE.rows(back)
        self.serves()

    def test_a_database_without_the_schema_is_refused_with_what_to_do(self):
        DATABASE.rows("CREATE DATABASE nothing")
        path = self.config(free_port())
        with open(path, encoding="utf-8") as file:
            text = file.read().replace("/sheaf\"", "/nothing\"")
        code, output = run("serve", "--config", config_file(text))
        self.assertEqual(code, 1, output)
        self.assertIn("sheaf migrate up", output)

    def test_each_kind_of_work_has_a_role_of_its_own(self):
        def ran(role, word):
            sql = f"SELECT count(*) FROM pg_stat_activity WHERE usename = '{role}' AND query ILIKE '%{word}%'"
            return int(DATABASE.value(sql)) > 0

        self.assertEqual(SERVER.send("PATCH", "/v1/entities/role/a", {"attributes": {"n": 1}})[0], 201)
        wait_until(lambda: not ran("sheaf_writer", "SELECT 1"), "the last statement of the writer is of the write")
        self.assertEqual(len(SERVER.get("/v1/entities", filter="n >= 1")["items"]), 1)
        self.assertFalse(ran("sheaf_search", "SELECT 1"), "the last statement of the search role is of the filter")
        SERVER.get("/v1/entities/role/a")
        ours = "SELECT usename FROM pg_stat_activity WHERE application_name LIKE 'sheaf %'"
        users = {row[0] for row in DATABASE.rows(ours)}
        self.assertLessEqual({"sheaf_app", "sheaf_search", "sheaf_writer"}, users)
        self.assertNotIn("sheaf_superuser", users)
        self.assertNotIn("sheaf_owner", users)

    def test_the_role_of_point_reads_sees_nothing_without_a_tenant_and_no_other_role_sees_keys(self):
        SERVER.send("PATCH", "/v1/entities/role/b", {"attributes": {"n": 1}})
        tables = "tenants api_keys attributes entities entity_jsonb entity_events ingest_requests rejections"
        for table in tables.split():
            self.assertEqual(DATABASE.value(f"SET ROLE sheaf_app; SELECT count(*) FROM sheaf.{table}"), "0", table)
        for role in ("sheaf_search", "sheaf_writer"):
            for table in ("api_keys", "admin_keys"):
                sql = f"SELECT has_table_privilege('{role}', 'sheaf.{table}', 'SELECT')"
                self.assertEqual(DATABASE.value(sql), "f", f"{role} {table}")


if __name__ == "__main__":
    unittest.main(verbosity=2)
