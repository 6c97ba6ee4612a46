//! The address of a database: hosts and a name, and no more. Users are fixed by the schema, passwords have keys of
//! their own, and how the connection is encrypted follows from `database.ca_file`.

use std::fmt;

const SCHEMES: [&str; 2] = ["postgresql://", "postgres://"];
const PORT_DEFAULT: u16 = 5432;

/// `postgresql://host:port,host:port/name`; a host that begins with `/` (written `%2F`) is a directory of sockets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseUrl {
    /// Tried in this order; at least one.
    pub hosts: Vec<HostPort>,
    /// The database.
    pub name: String,
}

/// One server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    /// A name, an address without brackets, or the absolute path of a directory.
    pub host: String,
    /// The port.
    pub port: u16,
}

/// What is wrong with an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DatabaseUrlFault {
    /// Another scheme or none.
    #[error("it does not begin with postgresql://")]
    Scheme,
    /// It names a user, perhaps with a password.
    #[error(
        "it holds a user or a password; the roles are fixed, and passwords go to database.app_password and its like"
    )]
    UserInfo,
    /// It has parameters.
    #[error("it has parameters after a question mark; encryption is asked for by database.ca_file")]
    Parameters,
    /// A host is empty or cannot be read.
    #[error("a host is missing or malformed")]
    Host,
    /// A port is not a number from 1 to 65535.
    #[error("a port is not a number from 1 to 65535")]
    Port,
    /// It names no database, or a malformed one.
    #[error("the name of the database is missing or malformed")]
    Name,
}

impl DatabaseUrl {
    /// Reads an address.
    pub fn parse(text: &str) -> Result<DatabaseUrl, DatabaseUrlFault> {
        let rest = SCHEMES
            .iter()
            .find_map(|scheme| text.strip_prefix(scheme))
            .ok_or(DatabaseUrlFault::Scheme)?;
        // Before anything else: whatever is wrong besides, a password here is what must be said.
        if rest.contains('@') || rest.contains("password=") {
            return Err(DatabaseUrlFault::UserInfo);
        }
        if rest.contains(['?', '#']) {
            return Err(DatabaseUrlFault::Parameters);
        }
        let (hosts, name) = rest.split_once('/').ok_or(DatabaseUrlFault::Name)?;
        let hosts = hosts.split(',').map(host_port).collect::<Result<_, _>>()?;
        match percent_decoded(name) {
            Some(name) if !name.is_empty() && !name.contains('/') => {
                Ok(DatabaseUrl { hosts, name })
            }
            Some(_) | None => Err(DatabaseUrlFault::Name),
        }
    }
}

fn host_port(text: &str) -> Result<HostPort, DatabaseUrlFault> {
    let (host, port) = match text.strip_prefix('[') {
        Some(bracketed) => {
            let (host, rest) = bracketed.split_once(']').ok_or(DatabaseUrlFault::Host)?;
            if host.parse::<std::net::Ipv6Addr>().is_err() {
                return Err(DatabaseUrlFault::Host);
            }
            match rest.strip_prefix(':') {
                Some(port) => (host, Some(port)),
                None if rest.is_empty() => (host, None),
                None => return Err(DatabaseUrlFault::Host),
            }
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let port = match port {
        Some(port) => match port.parse() {
            Ok(port) if port > 0 => port,
            Ok(_) | Err(_) => return Err(DatabaseUrlFault::Port),
        },
        None => PORT_DEFAULT,
    };
    match percent_decoded(host) {
        Some(host) if !host.is_empty() => Ok(HostPort { host, port }),
        Some(_) | None => Err(DatabaseUrlFault::Host),
    }
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        if *first == b'%' {
            let digits = std::str::from_utf8(after.get(..2)?).ok()?;
            if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return None;
            }
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &after[2..];
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    let decoded = String::from_utf8(bytes).ok()?;
    (!decoded.contains(char::is_control)).then_some(decoded)
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(SCHEMES[0])?;
        for (index, HostPort { host, port }) in self.hosts.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            if host.contains(':') {
                write!(f, "{comma}[{host}]:{port}")?;
            } else {
                write!(f, "{comma}{}:{port}", host.replace('/', "%2F"))?;
            }
        }
        write!(f, "/{}", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_ports_and_names_are_read() {
        for (text, shown) in [
            ("postgresql://db/sheaf", "postgresql://db:5432/sheaf"),
            ("postgres://a:1,b:2/x%20y", "postgresql://a:1,b:2/x y"),
            ("postgresql://[::1]:5433/s", "postgresql://[::1]:5433/s"),
            ("postgresql://[::1]/s", "postgresql://[::1]:5432/s"),
            (
                "postgresql://%2Frun%2Fpg/s",
                "postgresql://%2Frun%2Fpg:5432/s",
            ),
        ] {
            let url = DatabaseUrl::parse(text);
            assert_eq!(
                url.map(|url| url.to_string()),
                Ok(shown.to_owned()),
                "{text}"
            );
        }
    }

    #[test]
    fn each_fault_has_its_name() {
        use DatabaseUrlFault as Fault;
        for (text, fault) in [
            ("mysql://h/d", Fault::Scheme),
            ("h/d", Fault::Scheme),
            ("postgresql://u:p@h/d", Fault::UserInfo),
            ("postgresql://u@h/d", Fault::UserInfo),
            ("postgresql://h/d?password=p", Fault::UserInfo),
            ("postgresql://h/d?sslmode=require", Fault::Parameters),
            ("postgresql:///d", Fault::Host),
            ("postgresql://a,,b/d", Fault::Host),
            ("postgresql://[::1/d", Fault::Host),
            ("postgresql://[x]/d", Fault::Host),
            ("postgresql://h:0/d", Fault::Port),
            ("postgresql://h:65536/d", Fault::Port),
            ("postgresql://h:/d", Fault::Port),
            ("postgresql://h", Fault::Name),
            ("postgresql://h/", Fault::Name),
            ("postgresql://h/a/b", Fault::Name),
            ("postgresql://h/a%zz", Fault::Name),
            ("postgresql://h/a%", Fault::Name),
        ] {
            assert_eq!(DatabaseUrl::parse(text), Err(fault), "{text}");
        }
    }
}
