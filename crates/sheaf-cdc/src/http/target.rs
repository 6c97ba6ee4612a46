//! Where a sink posts to, and what it says there besides the changes.

use std::fmt;

use hyper::Uri;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};

/// What a request has in any case, and what would change how it is read.
const OWN_HEADERS: [&str; 11] = [
    "host",
    "content-type",
    "content-length",
    "transfer-encoding",
    "content-encoding",
    "connection",
    "upgrade",
    "expect",
    "trailer",
    super::IDEMPOTENCY_KEY,
    super::POSITION,
];

/// A URL that is no place to post to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TargetFault {
    /// It cannot be read at all.
    #[error("not a URL such as https://host/path")]
    Form,
    /// It may hold a secret where addresses are shown.
    #[error("it has a user, or parameters after a question mark; secrets belong in headers")]
    Secret,
}

/// Where to post to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub(crate) is_encrypted: bool,
    /// A name or an address, without brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// The host as requests name it.
    pub(crate) authority: HeaderValue,
    /// The rest, as requests name it.
    pub(crate) path: Uri,
}

impl Target {
    /// Reads a URL.
    pub fn parse(url: &str) -> Result<Target, TargetFault> {
        if url.contains('#') {
            return Err(TargetFault::Form);
        }
        let uri: Uri = url.parse().map_err(|_| TargetFault::Form)?;
        let authority = uri.authority().ok_or(TargetFault::Form)?;
        if uri.query().is_some() || authority.as_str().contains('@') {
            return Err(TargetFault::Secret);
        }
        let (is_encrypted, port) = match uri.scheme_str() {
            Some("https") => (true, 443),
            Some("http") => (false, 80),
            Some(_) | None => return Err(TargetFault::Form),
        };
        let host = authority.host().trim_matches(['[', ']']);
        // A port that is no number is read as none.
        let is_whole = match authority.port_u16() {
            Some(_) => true,
            None => authority.as_str() == authority.host(),
        };
        if host.is_empty() || !is_whole {
            return Err(TargetFault::Form);
        }
        Ok(Target {
            is_encrypted,
            host: host.to_owned(),
            port: authority.port_u16().unwrap_or(port),
            authority: authority.as_str().parse().map_err(|_| TargetFault::Form)?,
            path: uri.path().parse().map_err(|_| TargetFault::Form)?,
        })
    }
}

/// A text that is no headers. What is in it may be secret, and is not told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeadersFault {
    /// A line of another form.
    #[error("line {line} is no header of the form Name: value")]
    Form {
        /// Which, from 1.
        line: usize,
    },
    /// A header that the sink sends itself.
    #[error("header {name} is not for the settings to say")]
    Own {
        /// Which.
        name: HeaderName,
    },
}

/// Headers that every request has besides the sink's own, most likely a secret among them.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers(pub(crate) HeaderMap);

impl Headers {
    /// Reads them, one a line: `Authorization: Bearer ..`.
    pub fn parse(text: &str) -> Result<Headers, HeadersFault> {
        let mut headers = HeaderMap::new();
        for (place, line) in text.lines().enumerate() {
            if line.trim().is_empty() {
                continue;
            }
            let form = || HeadersFault::Form { line: place + 1 };
            let (name, value) = line.split_once(':').ok_or_else(form)?;
            let name: HeaderName = name.trim().parse().map_err(|_| form())?;
            let mut value: HeaderValue = value.trim().parse().map_err(|_| form())?;
            if OWN_HEADERS.contains(&name.as_str()) {
                return Err(HeadersFault::Own { name });
            }
            value.set_sensitive(true);
            headers.append(name, value);
        }
        Ok(Headers(headers))
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Headers({})", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_says_where_to_post_and_holds_no_secret() {
        for (url, host, port, path, is_encrypted) in [
            ("https://h", "h", 443, "/", true),
            (
                "https://h.example:8443/a/b",
                "h.example",
                8443,
                "/a/b",
                true,
            ),
            ("http://[::1]:7070/in", "::1", 7070, "/in", false),
            (
                "https://[::ffff:127.0.0.1]/",
                "::ffff:127.0.0.1",
                443,
                "/",
                true,
            ),
            ("http://127.1", "127.1", 80, "/", false),
        ] {
            let target = Target::parse(url).expect(url);
            let found = (
                &*target.host,
                target.port,
                target.path.path(),
                target.is_encrypted,
            );
            assert_eq!(found, (host, port, path, is_encrypted), "{url}");
        }
        for (url, fault) in [
            ("", TargetFault::Form),
            ("h/path", TargetFault::Form),
            ("/path", TargetFault::Form),
            ("ftp://h", TargetFault::Form),
            ("https://", TargetFault::Form),
            ("https://h:port/", TargetFault::Form),
            ("https://h:99999/", TargetFault::Form),
            ("https://h/#part", TargetFault::Form),
            ("https://h/a b", TargetFault::Form),
            ("https://user:secret@h/", TargetFault::Secret),
            ("https://h@127.0.0.1/", TargetFault::Secret),
            ("https://h/?key=secret", TargetFault::Secret),
        ] {
            assert_eq!(Target::parse(url), Err(fault), "{url}");
        }
    }

    #[test]
    fn headers_are_read_by_line_and_never_shown() {
        let text = "Authorization: Bearer s3cret\r\n\nX-From:  sheaf \n";
        let headers = Headers::parse(text).expect("headers");
        assert_eq!(headers.0["authorization"], "Bearer s3cret");
        assert_eq!(headers.0["x-from"], "sheaf");
        assert!(!format!("{headers:?}{:?}", headers.0).contains("s3cret"));
        for (text, line) in [
            ("s3cret", 1),
            ("A: b\nname with spaces: s3cret", 2),
            ("A: \u{1}", 1),
        ] {
            let fault = Headers::parse(text).expect_err(text);
            assert_eq!(fault, HeadersFault::Form { line });
            assert!(!format!("{fault} {fault:?}").contains("s3cret"));
        }
        for name in [
            "Host",
            "content-length",
            "Idempotency-Key",
            "Transfer-Encoding",
        ] {
            let fault = Headers::parse(&format!("{name}: x")).expect_err(name);
            assert!(matches!(fault, HeadersFault::Own { .. }), "{name}: {fault}");
        }
    }
}
