//! What clients send before they are logged in: what a connection is for, and a password. Pure, and no bytes panic.

use std::collections::BTreeMap;

use super::parts::{MessageFault, Parts};

const TLS_CODE: u32 = 80_877_103;
const GSS_CODE: u32 = 80_877_104;
const CANCEL_CODE: u32 = 80_877_102;

/// The first message of a connection, which has no kind.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Opening {
    /// Whether the connection may be encrypted.
    Tls,
    /// Whether it may be by Kerberos.
    Gss,
    /// Ends what another connection is doing.
    Cancel {
        /// The number of that connection.
        process: i32,
        /// What it was told and nobody else.
        secret: Vec<u8>,
    },
    /// Begins a session.
    Startup {
        /// The minor version of the third protocol.
        minor: u16,
        /// By name: user, database, and settings.
        parameters: BTreeMap<String, String>,
    },
}

/// Reads the first message.
pub(super) fn read_opening(body: &[u8]) -> Result<Opening, MessageFault> {
    let mut parts = Parts(body);
    let code = parts.u32()?;
    match code {
        TLS_CODE | GSS_CODE => {
            parts.end()?;
            return Ok(if code == TLS_CODE {
                Opening::Tls
            } else {
                Opening::Gss
            });
        }
        CANCEL_CODE => {
            let process = parts.i32()?;
            let secret = parts.0.to_vec();
            return Ok(Opening::Cancel { process, secret });
        }
        _ => {}
    }
    let [major, minor] = [code >> 16, code & 0xffff].map(|half| u16::try_from(half).unwrap_or(0));
    if major != 3 {
        return Err(MessageFault::Protocol(major, minor));
    }
    let mut parameters = BTreeMap::new();
    loop {
        let name = parts.text()?;
        if name.is_empty() {
            break;
        }
        let value = parts.text()?;
        parameters.insert(name, value);
    }
    parts.end()?;
    Ok(Opening::Startup { minor, parameters })
}

/// Reads a password.
pub(super) fn read_password(kind: u8, body: &[u8]) -> Result<String, MessageFault> {
    if kind != b'p' {
        return Err(MessageFault::Kind(char::from(kind)));
    }
    let mut parts = Parts(body);
    let password = parts.text()?;
    parts.end()?;
    Ok(password)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_message_says_what_the_connection_is_for() {
        let code = |number: u32, rest: &[u8]| [&number.to_be_bytes()[..], rest].concat();
        let open = |number, rest: &[u8]| read_opening(&code(number, rest));
        assert_eq!(open(TLS_CODE, b""), Ok(Opening::Tls));
        assert_eq!(open(GSS_CODE, b""), Ok(Opening::Gss));
        let cancel = Opening::Cancel {
            process: 7,
            secret: b"abcd".to_vec(),
        };
        assert_eq!(open(CANCEL_CODE, b"\0\0\0\x07abcd"), Ok(cancel));
        let Ok(Opening::Startup { minor, parameters }) =
            open(196_610, b"user\0acme\0database\0sheaf\0\0")
        else {
            panic!("a startup")
        };
        assert_eq!((minor, parameters["user"].as_str()), (2, "acme"));
        assert_eq!(
            open(131_072, b"\0"),
            Err(MessageFault::Protocol(2, 0)),
            "an earlier protocol"
        );
        for rest in [&b"user"[..], b"user\0acme", b"user\0acme\0", b"\0x"] {
            assert!(open(196_608, rest).is_err(), "{rest:?}");
        }
        assert!(read_opening(b"\0\x03").is_err());
    }
}
