//! What a configuration may say, and what stops the start.

use std::error::Error;

use sheaf_config::{ConfigError, Limits, LogFormat, Password, Place, Provenance, Secret, Settings};

type Outcome = Result<(Settings, Vec<sheaf_config::Shown>), ConfigError>;

fn load(file: &str, variables: &[(&str, &str)]) -> Outcome {
    let variables = variables
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Settings::load(Some(("sheaf.toml", file)), variables)
}

/// The message with its causes, as the executable prints it.
fn message(file: &str, variables: &[(&str, &str)]) -> String {
    let error = load(file, variables).expect_err(file);
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[test]
fn the_example_file_is_the_defaults() {
    let example = include_str!("../../../sheaf.example.toml");
    let (from_example, _) = load(example, &[]).expect("the example is valid");
    let (defaults, shown) = Settings::load(None, []).expect("nothing is valid");
    assert_eq!(from_example, defaults);
    for setting in shown {
        let key = setting.key.rsplit('.').next().expect("keys have a name");
        let documented = example.contains(&format!("\n{key} = "))
            || example.contains(&format!("\n# {key} = "))
            // A secret is better in a file.
            || example.contains(&format!("\n# {key}_file = "))
            || key.ends_with("_password");
        assert!(documented, "the example does not mention {}", setting.key);
        assert_eq!(setting.provenance, Provenance::Default, "{}", setting.key);
    }
}

#[test]
fn the_commented_lines_of_the_example_are_valid_too() {
    let example: String = include_str!("../../../sheaf.example.toml")
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(rest)
                if [" = \"", " = ["].iter().any(|mark| rest.contains(mark))
                    || rest.starts_with('[') =>
            {
                format!("{rest}\n")
            }
            Some(_) | None => format!("{line}\n"),
        })
        .collect();
    let (settings, _) = load(&example, &[]).expect("valid");
    assert!(settings.server.admin_listen.is_some());
    assert!(settings.database.ca_file.is_some());
    assert!(settings.database.passwords.upkeep.is_some());
    assert_eq!(settings.replicas.len(), 1);
    assert_eq!(settings.changes.http.len(), 1);
    assert!(settings.changes.journal.dir.is_some());
    let catalog = settings.lake.and_then(|lake| lake.catalog);
    assert!(catalog.is_some_and(|catalog| catalog.namespace == "lake"));
}

#[test]
fn keys_are_taken_in_clear_from_other_machines_only_where_that_was_said() {
    let pgwire = |lines: &str| format!("[pgwire]\n{lines}\n");
    let certificate = "certificate_file = \"a.pem\"\nkey_file = \"a.key\"";
    for lines in [
        "listen = \"127.0.0.1:7072\"".to_owned(),
        "listen = \"[::1]:7072\"".to_owned(),
        "listen = \"[::ffff:127.0.0.1]:7072\"".to_owned(),
        "listen = \"0.0.0.0:7072\"\ncleartext = \"allow\"".to_owned(),
        format!("listen = \"10.0.0.1:7072\"\n{certificate}"),
    ] {
        let (settings, _) = load(&pgwire(&lines), &[]).expect("valid");
        assert!(settings.pgwire.listen.is_some(), "{lines}");
    }
    for (lines, said) in [
        (
            "listen = \"0.0.0.0:7072\"",
            "sheaf.toml:2:10: pgwire.listen cannot be used: keys would be sent in clear",
        ),
        (
            "listen = \"[::]:7072\"\ncleartext = \"refuse\"",
            "sheaf.toml:2:10: pgwire.listen cannot be used: keys would be sent in clear",
        ),
        (
            "certificate_file = \"a.pem\"",
            "sheaf.toml:2:20: pgwire.key_file cannot be used: missing",
        ),
        (
            "cleartext = \"yes\"",
            "sheaf.toml:2:13: pgwire.cleartext cannot be used: not one of: refuse, allow",
        ),
    ] {
        let message = message(&pgwire(lines), &[]);
        assert!(message.starts_with(said), "{message}");
    }
}

#[test]
fn replicas_come_from_the_file_by_name() {
    let file = "[replicas.west]\nurl = \"postgresql://west/sheaf\"\n\
                [replicas.east-2]\nurl = \"postgresql://[::1]:5433/sheaf\"\n";
    let (settings, shown) = load(file, &[]).expect("valid");
    let replicas: Vec<String> = settings
        .replicas
        .iter()
        .map(|(name, url)| format!("{name} {url}"))
        .collect();
    let expected = [
        "east-2 postgresql://[::1]:5433/sheaf",
        "west postgresql://west:5432/sheaf",
    ];
    assert_eq!(replicas, expected);
    let told = shown.iter().find(|shown| shown.key == "replicas.west.url");
    let place = told.map(|shown| shown.provenance.to_string());
    assert_eq!(place.as_deref(), Some("sheaf.toml:2:7"));
    for (file, said) in [
        (
            "[replicas]\nwest = 1\n",
            "sheaf.toml:2:1: replicas.west cannot be used: not a section",
        ),
        (
            "[replicas.west]\n",
            "sheaf.toml:1:11: replicas.west cannot be used: missing",
        ),
        (
            "[replicas.west]\nurl = \"postgresql://a,b/sheaf\"\n",
            "sheaf.toml:2:7: replicas.west.url cannot be used: several hosts",
        ),
        (
            "[replicas.west]\nurl = \"postgresql://u@a/sheaf\"\n",
            "sheaf.toml:2:7: replicas.west.url cannot be used: not the address of a database",
        ),
        (
            "[replicas.west]\nlag = \"1s\"\n",
            "sheaf.toml:2:1: replicas.west.lag: there is no such setting",
        ),
        (
            "[replicas.West]\nurl = \"postgresql://a/sheaf\"\n",
            "sheaf.toml:1:11: replicas.West cannot be used: a replica's name has",
        ),
    ] {
        let message = message(file, &[]);
        assert!(message.starts_with(said), "{message}");
    }
}

#[test]
fn urls_that_changes_are_posted_to_come_from_the_file_by_name() {
    let file = "[changes.http.warehouse]\nurl = \"https://warehouse.example/in\"\n\
                headers_file = \"/run/secrets/warehouse\"\nallow = [\"10.0.0.0/8\", \"fd00::/8\"]\n\
                [changes]\nslot = \"other\"\n[changes.http.search]\nurl = \"http://[::1]:9/\"\nallow = [\"::1\"]\n";
    let variables = [
        (
            "SHEAF_CHANGES_HTTP_SEARCH_HEADERS",
            "Authorization: Bearer s3cret",
        ),
        ("SHEAF_CHANGES_HTTP_WAREHOUSE_DEADLINE", "2s"),
    ];
    let (settings, shown) = load(file, &variables).expect("valid");
    let changes = settings.changes;
    assert_eq!((changes.file, &*changes.slot), (None, "other"));
    let (search, warehouse) = (&changes.http["search"], &changes.http["warehouse"]);
    assert_eq!(warehouse.url, "https://warehouse.example/in");
    assert_eq!(warehouse.deadline, std::time::Duration::from_secs(2));
    let allowed: Vec<String> = warehouse.allow.iter().map(ToString::to_string).collect();
    assert_eq!(allowed, ["10.0.0.0/8", "fd00::/8"]);
    let file_of_headers = Password::File("/run/secrets/warehouse".into());
    assert_eq!(warehouse.headers, Some(file_of_headers));
    let headers = Password::Text(Secret::new("Authorization: Bearer s3cret".to_owned()));
    assert_eq!(search.headers, Some(headers));
    assert_eq!(search.deadline, std::time::Duration::from_secs(10));
    assert!(!format!("{shown:?}{search:?}").contains("s3cret"));
    for (file, said) in [
        (
            "[changes]\nhttp = 1\n",
            "sheaf.toml:2:1: changes.http cannot be used: not a section",
        ),
        (
            "[changes.http]\nurl = \"https://h\"\n",
            "sheaf.toml:2:1: changes.http.url cannot be used: not a section",
        ),
        (
            "[changes.http.a]\n",
            "sheaf.toml:1:15: changes.http.a.url cannot be used: missing",
        ),
        (
            "[changes.http.A-1]\nurl = \"https://h\"\n",
            "sheaf.toml:1:15: changes.http.A-1 cannot be used: a sink's name has",
        ),
        (
            "[changes.http.a]\nurl = \"https://h/?key=s3cret\"\n",
            "sheaf.toml:2:7: changes.http.a.url cannot be used: it has parameters",
        ),
        (
            "[changes.http.a]\nurl = \"http://h/\"\n",
            "sheaf.toml:1:15: changes.http.a.url cannot be used: http:// is not encrypted",
        ),
        (
            "[changes.http.a]\nallow = \"10.0.0.0/8\"\n",
            "sheaf.toml:2:9: changes.http.a.allow cannot be used: not a list of texts",
        ),
        (
            "[changes.http.a]\nurl = \"https://h\"\nallow = [\"10.0.0.1/8\"]\n",
            "sheaf.toml:3:9: changes.http.a.allow cannot be used: it has bits behind its prefix",
        ),
        (
            "[changes.http.a]\nurl = \"https://h\"\ndeadline = \"1h\"\n",
            "sheaf.toml:3:12: changes.http.a.deadline cannot be used: not between",
        ),
        (
            "[changes.http.a]\nuri = \"https://h\"\n",
            "sheaf.toml:2:1: changes.http.a.uri: there is no such setting",
        ),
    ] {
        let message = message(file, &[]);
        assert!(message.starts_with(said), "{message}");
        assert!(!message.contains("s3cret"), "{message}");
    }
}

#[test]
fn a_follower_is_cut_off_before_its_connection_is_reset() {
    let (settings, _) = load("[changes]\ntaken_within = \"50s\"\n", &[]).expect("valid");
    let taken_within = settings.changes.journal.taken_within;
    assert_eq!(taken_within, std::time::Duration::from_secs(50));
    let message = message("[changes]\ntaken_within = \"51s\"\n", &[]);
    let said = "sheaf.toml:2:16: changes.taken_within cannot be used: not between";
    assert!(message.starts_with(said), "{message}");
}

#[test]
fn a_fault_in_the_file_names_line_column_and_key() {
    for (file, wanted) in [
        (
            "[server]\nlisten_on = \"x\"\n",
            "sheaf.toml:2:1: server.listen_on: there is no such setting",
        ),
        (
            "\n[servers]\n",
            "sheaf.toml:2:2: servers: there is no such setting",
        ),
        (
            "[log]\nlevel = 3\n",
            "sheaf.toml:2:9: log.level cannot be used: not a text in quotes",
        ),
        ("[log\n", "sheaf.toml:1:5: log: unclosed table"),
        (
            "listen = \"127.0.0.1:1\"\n",
            "sheaf.toml:1:1: listen: there is no such setting",
        ),
        (
            "log = 3\n",
            "sheaf.toml:1:1: log cannot be used: not a section",
        ),
        (
            "[[log]]\n",
            "sheaf.toml:1:3: log cannot be used: not a section",
        ),
        (
            "[log.level]\n",
            "sheaf.toml:1:1: log.level cannot be used: not a text in quotes",
        ),
        ("[log]\n[log]\n", "sheaf.toml:2:2: log: duplicate key"),
        (
            "log.level = \"info\"\nlog.level = \"warn\"\n",
            "sheaf.toml:2:5: log.level: duplicate key",
        ),
        (
            "[log]\nlevel = loud # = [x]\n",
            "sheaf.toml:2:9: log.level: string values must be quoted",
        ),
        (
            "[database]\napp_password = \"\"\"\nx=y\n\\ #\"\"\"\n",
            "sheaf.toml:4:3: database.app_password: invalid multi-line",
        ),
        (
            "[log]\nlevel = \"info\"\nlevel = \"warn\"\n",
            "sheaf.toml:3:1: log.level: duplicate key",
        ),
        (
            "[database]\n  app_connections = 0\n",
            "sheaf.toml:2:21: database.app_connections cannot be used: not between 1 and 1000",
        ),
        (
            "[database]\napp_connections = \"16\"\n",
            "sheaf.toml:2:19: database.app_connections cannot be used: not a whole number without quotes",
        ),
        (
            "[database]\napp_connections = 99999999999999999999\n",
            "sheaf.toml:2:19: database.app_connections cannot be used: not a whole number: ",
        ),
        (
            "[server]\nlisten = \"localhost\"\n",
            "sheaf.toml:2:10: server.listen cannot be used: not an address",
        ),
        (
            "[server]\nbody_bytes_max = 1\n",
            "sheaf.toml:2:18: server.body_bytes_max cannot be used: not between",
        ),
        (
            "[log]\nlevel = \"loud\"\n",
            "sheaf.toml:2:9: log.level cannot be used: not one of: error,",
        ),
        (
            "[log]\nformat = \"xml\"\n",
            "sheaf.toml:2:10: log.format cannot be used: not one of: text, json",
        ),
        (
            "[database]\nurl = \"postgresql://h\"\n",
            "sheaf.toml:2:7: database.url cannot be used: not the address of a database: the name",
        ),
        (
            "[database]\nca_file = \"\"\n",
            "sheaf.toml:2:11: database.ca_file cannot be used: empty",
        ),
        (
            "[database]\napp_password = \"\"\n",
            "sheaf.toml:2:16: database.app_password cannot be used: empty",
        ),
        (
            "[limits]\nvalues_per_second = 0\n",
            "sheaf.toml:2:21: limits.values_per_second cannot be used: not between 1 and ",
        ),
        (
            "[staging]\npolicy = \"drop\"\n",
            "sheaf.toml:2:10: staging.policy cannot be used: not one of: refuse, durable",
        ),
        (
            "[staging]\nage_max = \"10ms\"\n",
            "sheaf.toml:2:11: staging.age_max cannot be used: not between 100ms and 1h",
        ),
        (
            "[staging]\nflush_every = \"soon\"\n",
            "sheaf.toml:2:15: staging.flush_every cannot be used: not a duration such as 250ms,",
        ),
        (
            "[staging]\nflushers = 0\n",
            "sheaf.toml:2:12: staging.flushers cannot be used: not between 1 and 64",
        ),
        (
            "[ingest]\nidempotency_horizon = \"59m\"\n",
            "sheaf.toml:2:23: ingest.idempotency_horizon cannot be used: not between 1h and 365d",
        ),
        (
            "[partitions]\nmemory_percent = 91\n",
            "sheaf.toml:2:18: partitions.memory_percent cannot be used: not between 1 and 90",
        ),
        (
            "[streams]\nreading_max = 0\n",
            "sheaf.toml:2:15: streams.reading_max cannot be used: not between 1 and 1000",
        ),
        (
            "[streams]\npage_deadline = \"11m\"\n",
            "sheaf.toml:2:17: streams.page_deadline cannot be used: not between 1s and 10m",
        ),
        (
            "[limits]\nrequests_concurrent = 0\n",
            "sheaf.toml:2:23: limits.requests_concurrent cannot be used: not between 1 and ",
        ),
        (
            "[tenants]\nacme = 1\n",
            "sheaf.toml:2:1: tenants.acme cannot be used: not a section",
        ),
        (
            "[tenants.acme]\nlimits = 1\n",
            "sheaf.toml:2:1: tenants.acme.limits cannot be used: not a section",
        ),
        (
            "[tenants.acme]\nvalues_per_second = 1\n",
            "sheaf.toml:2:1: tenants.acme.values_per_second: there is no such setting",
        ),
        (
            "[tenants.acme.limits]\nvalues = 1\n",
            "sheaf.toml:2:1: tenants.acme.limits.values: there is no such setting",
        ),
        (
            "[tenants.acme.limits]\nbytes_per_second = -1\n",
            "sheaf.toml:2:20: tenants.acme.limits.bytes_per_second cannot be used: not between 1 and ",
        ),
        (
            "[tenants.acme.limits]\nbytes_per_second = \"1\"\n",
            "sheaf.toml:2:20: tenants.acme.limits.bytes_per_second cannot be used: not a whole number",
        ),
    ] {
        let message = message(file, &[]);
        assert!(message.starts_with(wanted), "{file}\n{message}\n{wanted}");
    }
}

#[test]
fn a_fault_in_the_environment_names_the_variable() {
    for (variable, wanted) in [
        (
            ("SHEAF_SERVER_LISTN", "x"),
            "environment variable SHEAF_SERVER_LISTN: there is no such setting",
        ),
        (
            ("SHEAF_LOG_LEVEL", "loud"),
            "environment variable SHEAF_LOG_LEVEL: log.level cannot be used: not one of",
        ),
        (
            ("SHEAF_DATABASE_APP_CONNECTIONS", "many"),
            "environment variable SHEAF_DATABASE_APP_CONNECTIONS: database.app_connections cannot be used: not a whole number",
        ),
        (
            ("SHEAF_DATABASE_APP_CONNECTIONS", ""),
            "environment variable SHEAF_DATABASE_APP_CONNECTIONS: ",
        ),
        (
            ("SHEAF_DATABASE_URL", "postgresql://u:hunter2@h/d"),
            "environment variable SHEAF_DATABASE_URL: database.url cannot be used: not the address of a database: it holds a user or a password",
        ),
    ] {
        let message = message("", &[variable]);
        assert!(message.starts_with(wanted), "{message}\n{wanted}");
    }
}

#[test]
fn the_environment_wins_over_the_file_and_both_are_told() {
    let file = "[server]\nlisten = \"127.0.0.1:1\"\nadmin_listen = \"127.0.0.1:2\"\n";
    let variables = [
        ("SHEAF_SERVER_LISTEN", "127.0.0.1:3"),
        ("SHEAF_LOG_FORMAT", "json"),
        ("HOME", "/root"),
    ];
    let (settings, shown) = load(file, &variables).expect("valid");
    assert_eq!(settings.server.listen.port(), 3);
    assert_eq!(settings.log.format, LogFormat::Json);
    let origin = |key: &str| {
        let setting = shown.iter().find(|setting| setting.key == key);
        setting.expect(key).provenance.to_string()
    };
    assert_eq!(
        origin("server.listen"),
        "environment variable SHEAF_SERVER_LISTEN"
    );
    assert_eq!(origin("server.admin_listen"), "sheaf.toml:3:16");
    assert_eq!(origin("log.level"), "default");
}

#[test]
fn a_tenants_own_limits_are_over_those_of_all_and_told_with_their_place() {
    let file = "[limits]\nvalues_per_second = 1000\n\n[tenants.\"a.limits.b\".limits]\nvalues_per_second = 5\n\
                [tenants.acme.limits]\nbytes_per_second = 7\nrequests_concurrent = 3\n";
    let variables = [("SHEAF_LIMITS_REQUESTS_CONCURRENT", "9")];
    let (settings, shown) = load(file, &variables).expect("valid");
    let limits = |values_per_second, bytes_per_second, requests_concurrent| Limits {
        values_per_second,
        bytes_per_second,
        requests_concurrent,
    };
    assert_eq!(settings.limits, limits(Some(1000), None, 9));
    assert_eq!(settings.tenants["acme"], limits(Some(1000), Some(7), 3));
    assert_eq!(settings.tenants["a.limits.b"], limits(Some(5), None, 9));
    let origins: Vec<String> = shown
        .iter()
        .filter(|setting| setting.key.contains("limits"))
        .map(|setting| format!("{} {}", setting.key, setting.provenance))
        .collect();
    let expected = [
        "limits.values_per_second sheaf.toml:2:21",
        "limits.bytes_per_second default",
        "limits.requests_concurrent environment variable SHEAF_LIMITS_REQUESTS_CONCURRENT",
        "tenants.a.limits.b.limits.values_per_second sheaf.toml:5:21",
        "tenants.acme.limits.bytes_per_second sheaf.toml:7:20",
        "tenants.acme.limits.requests_concurrent sheaf.toml:8:23",
    ];
    assert_eq!(origins, expected);
}

#[test]
fn an_invalid_value_in_the_file_is_no_matter_where_the_environment_wins() {
    let file = "[log]\nlevel = \"loud\"\n";
    let (settings, _) = load(file, &[("SHEAF_LOG_LEVEL", "warn")]).expect("not looked at");
    assert_eq!(settings.log.level.to_string(), "warn");
}

#[test]
fn a_secret_is_shown_nowhere() {
    const SECRET: &str = "hunter2";
    let whole = format!("[database]\napp_password = \"{SECRET}\"\n");
    let (settings, shown) =
        load(&whole, &[("SHEAF_DATABASE_WRITER_PASSWORD", SECRET)]).expect("valid");
    let password = Password::Text(Secret::new(SECRET.to_owned()));
    assert_eq!(settings.database.passwords.app, Some(password.clone()));
    assert_eq!(settings.database.passwords.writer, Some(password));
    for text in [format!("{settings:?}"), format!("{shown:?}")] {
        assert!(!text.contains(SECRET), "{text}");
        assert!(text.contains("(secret)"), "{text}");
    }
    for file in [
        format!("[database]\napp_password = {SECRET}\n"),
        format!("[database]\napp_pasword = \"{SECRET}\"\n"),
        format!("[database]\napp_password = [\"{SECRET}\"]\n"),
        format!("[database]\napp_password = \"{SECRET}\napp_connections = 3\n"),
        format!("[database]\nurl = \"postgresql://u:{SECRET}@h/d\"\n"),
        format!("[database]\nurl = \"postgresql://h/d?password={SECRET}\"\n"),
        format!("app_password = \"{SECRET}\"\n"),
        format!("[database]\napp_password = {{ text = \"{SECRET}\" }}\n"),
        format!("[database]\napp_password = \"\"\"\n[{SECRET}]\n{SECRET} = 1\n\\q\"\"\"\n"),
        format!("[database]\napp_connections = \"{SECRET}\"\n"),
        format!("[server]\nbody_bytes_max = \"{SECRET}\"\n"),
        format!("[server]\nlisten = \"{SECRET}\"\n"),
        format!("[log]\nlevel = \"{SECRET}\"\nlevel = \"{SECRET}\"\n"),
        format!("log = \"{SECRET}\"\n"),
    ] {
        let message = message(&file, &[]);
        assert!(message.starts_with("sheaf.toml:"), "{message}");
        assert!(!message.contains(SECRET), "{message}");
        let debug = format!("{:?}", load(&file, &[]).expect_err(&file));
        assert!(!debug.contains(SECRET), "{debug}");
    }
}

#[test]
fn a_password_comes_from_one_place() {
    let file = "[database]\nsearch_password_file = \"/run/secret\"\n";
    let (settings, _) = load(file, &[]).expect("valid");
    let path = Password::File("/run/secret".into());
    assert_eq!(settings.database.passwords.search, Some(path));
    let twice = load(file, &[("SHEAF_DATABASE_SEARCH_PASSWORD", "x")]);
    let Err(ConfigError::PasswordTwice { key, place, .. }) = twice else {
        panic!("two passwords for one role are refused: {twice:?}");
    };
    assert_eq!(key, "database.search_password");
    assert_eq!(
        place,
        Place::Variable("SHEAF_DATABASE_SEARCH_PASSWORD".to_owned())
    );
}
