use super::*;

fn set(name: &str, value: Option<&str>) -> Command {
    Command::Set {
        name: name.to_owned(),
        value: value.map(str::to_owned),
        is_local: false,
    }
}

#[test]
fn what_clients_send_beside_questions_is_known() {
    let some = |name: &str| Some(name.to_owned());
    for (text, wanted) in [
        ("", Command::Empty),
        (" -- nothing", Command::Empty),
        ("BEGIN", Command::Begin),
        ("BEGIN TRANSACTION READ ONLY", Command::Begin),
        (
            "start transaction isolation level serializable",
            Command::Begin,
        ),
        ("COMMIT", Command::Commit),
        ("END", Command::Commit),
        ("ROLLBACK", Command::Rollback),
        ("ROLLBACK TO SAVEPOINT a", Command::RollbackTo),
        ("SAVEPOINT \"a\"", Command::Savepoint),
        (
            "SET extra_float_digits = 3",
            set("extra_float_digits", Some("3")),
        ),
        (
            "SET SESSION TIMEZONE TO 'UTC'",
            set("timezone", Some("UTC")),
        ),
        ("SET TIME ZONE 'UTC'", set("timezone", Some("UTC"))),
        ("SET NAMES 'utf8'", set("client_encoding", Some("utf8"))),
        (
            "set DateStyle to ISO, MDY",
            set("datestyle", Some("iso, mdy")),
        ),
        (
            "SET statement_timeout TO DEFAULT",
            set("statement_timeout", None),
        ),
        ("SET sheaf.max_lag = '5m'", set("sheaf.max_lag", Some("5m"))),
        (
            "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
            Command::Nothing("SET"),
        ),
        (
            "SET TRANSACTION ISOLATION LEVEL READ COMMITTED",
            Command::Nothing("SET"),
        ),
        ("RESET ALL", Command::Reset(None)),
        ("RESET sheaf.max_lag", Command::Reset(some("sheaf.max_lag"))),
        ("SHOW ALL", Command::Show(None)),
        ("SHOW server_version", Command::Show(some("server_version"))),
        (
            "SHOW TRANSACTION ISOLATION LEVEL",
            Command::Show(some("transaction_isolation")),
        ),
        ("DISCARD ALL", Command::Discard),
        ("DEALLOCATE ALL", Command::Deallocate(None)),
        ("DEALLOCATE PREPARE s1", Command::Deallocate(some("s1"))),
        ("UNLISTEN *", Command::Nothing("UNLISTEN")),
        ("CLOSE ALL", Command::Nothing("CLOSE CURSOR ALL")),
    ] {
        assert_eq!(read(text), wanted, "{text}");
    }
}

/// As pgjdbc, Metabase and Grafana send them when they connect, change what a connection is for, and look whether it still is one.
#[test]
fn what_drivers_and_dashboards_send_as_they_connect_is_answered_without_the_lake() {
    let some = |name: &str| Some(name.to_owned());
    let constant = |name: &str, what: What| {
        Command::Constants(vec![Constant {
            name: name.to_owned(),
            what,
            divided_by: None,
        }])
    };
    for (text, wanted) in [
        (
            "SET extra_float_digits = 3",
            set("extra_float_digits", Some("3")),
        ),
        (
            "SET application_name = 'PostgreSQL JDBC Driver'",
            set("application_name", Some("PostgreSQL JDBC Driver")),
        ),
        (
            "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED",
            Command::Nothing("SET"),
        ),
        ("BEGIN READ ONLY", Command::Begin),
        (
            "SET SESSION TIMEZONE TO 'UTC';",
            set("timezone", Some("UTC")),
        ),
        ("show timezone;", Command::Show(some("timezone"))),
        ("SHOW search_path", Command::Show(some("search_path"))),
        (
            "select current_schema()",
            constant("current_schema", What::Schema),
        ),
        (
            "SELECT current_catalog",
            constant("current_catalog", What::Database),
        ),
        ("SELECT 1", constant("?column?", What::Int(1))),
        ("-- ping", Command::Empty),
    ] {
        // The end of a statement is no part of it.
        let text = text.trim_end_matches(';');
        assert_eq!(read(text), wanted, "{text}");
    }
}

#[test]
fn values_of_the_session_are_known_and_whatever_is_beside_them_makes_a_question() {
    let one = |text: &str| match read(text) {
        Command::Constants(mut constants) => constants.pop(),
        _ => None,
    };
    let constant = |name: &str, what: What, divided_by| {
        Some(Constant {
            name: name.to_owned(),
            what,
            divided_by,
        })
    };
    let setting = |may_be_missing| What::Setting {
        name: "server_version_num".to_owned(),
        may_be_missing,
    };
    for (text, wanted) in [
        ("SELECT version()", constant("version", What::Version, None)),
        (
            "SELECT pg_catalog.version() AS v",
            constant("v", What::Version, None),
        ),
        (
            "select current_schema",
            constant("current_schema", What::Schema, None),
        ),
        ("SELECT 1", constant("?column?", What::Int(1), None)),
        ("SELECT 1 AS \"One\"", constant("One", What::Int(1), None)),
        (
            "SELECT current_setting('server_version_num')::int/100 as version",
            constant("version", setting(false), Some(100)),
        ),
        (
            "SELECT current_setting('server_version_num', true)",
            constant("current_setting", setting(true), None),
        ),
        (
            "SELECT current_user, user",
            constant("user", What::User, None),
        ),
        ("SELECT version() FROM facts", None),
        ("SELECT 1 + 1", None),
        ("SELECT 1 UNION SELECT 2", None),
        ("SELECT $1", None),
        ("SELECT current_database", None),
        ("SELECT", None),
        ("SELECT version(", None),
    ] {
        assert_eq!(one(text), wanted, "{text}");
    }
}

#[test]
fn a_question_is_what_nothing_else_is_and_goes_on_as_it_stands() {
    for (text, wanted) in [
        ("select 1 + 1", "select 1 + 1"),
        (
            "SELECT \"public\".\"facts\".\"seq\" FROM \"public\".\"facts\"",
            "SELECT \"facts\".\"seq\" FROM \"facts\"",
        ),
        ("SELECT * FROM PUBLIC . facts", "SELECT * FROM facts"),
        ("SELECT a.public.b FROM x", "SELECT a.public.b FROM x"),
        ("SELECT 'public.facts'", ""),
        ("DROP TABLE facts", "DROP TABLE facts"),
        ("EXPLAIN SELECT 1", "EXPLAIN SELECT 1"),
        ("SET = 1", "SET = 1"),
        ("SHOW a b", "SHOW a b"),
        ("SELECT 'x", "SELECT 'x"),
        ("/* x", "/* x"),
    ] {
        let found = read(text);
        let is_it = match &found {
            Command::Ask(question) => question == wanted,
            // A value alone is answered here.
            Command::Constants(_) => text == "SELECT 'public.facts'",
            _ => false,
        };
        assert!(is_it, "{text}: {found:?}");
    }
    for text in [
        "SELECT * FROM pg_catalog.pg_class",
        "SELECT * FROM information_schema.tables",
        "select relname from pg_class",
        "SELECT pg_read_file('/etc/passwd')",
    ] {
        assert!(matches!(read(text), Command::Catalogue(_)), "{text}");
    }
}
