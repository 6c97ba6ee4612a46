//! What clients send, out of whole messages. Pure: every length is checked against what is there, and no bytes panic.

use std::collections::BTreeMap;

/// Names and parameters that a message may have: more than any client sends.
const PARTS_MAX: usize = 4_096;

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

/// A message after the login.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// Statements to run at once.
    Query(String),
    /// A statement to prepare.
    Parse {
        /// Its name; empty for the one without.
        name: String,
        /// Its text.
        text: String,
        /// The types that its parameters are said to have; 0 where nothing is said.
        types: Vec<u32>,
    },
    /// Values for a prepared statement.
    Bind {
        /// The name of what comes of it.
        portal: String,
        /// The name of the statement.
        statement: String,
        /// Whether each value is in binary form.
        forms: Forms,
        /// The values.
        values: Vec<Option<Vec<u8>>>,
        /// Whether each column is wanted in binary form.
        wanted: Forms,
    },
    /// What a statement or portal gives.
    Describe(Target),
    /// Rows of a portal.
    Execute {
        /// Its name.
        portal: String,
        /// How many at most; 0 for all.
        rows_max: u32,
    },
    /// Forgets a statement or portal.
    Close(Target),
    /// What was answered so far shall come.
    Flush,
    /// The end of a series, also of one with an error.
    Sync,
    /// The end of the connection.
    Terminate,
    /// Data of a copy, which there is none of.
    Copy,
}

/// A statement or a portal, by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    Statement(String),
    Portal(String),
}

/// Text or binary, of each of several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Forms(Vec<Form>);

/// How a value is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Text,
    Binary,
}

impl Forms {
    /// All as text.
    pub(super) fn text() -> Forms {
        Forms(Vec::new())
    }

    /// That of one of them: one stands for all, and none for text.
    pub(super) fn of(&self, place: usize) -> Form {
        match self.0.as_slice() {
            [] => Form::Text,
            [one] => *one,
            several => several.get(place).copied().unwrap_or(Form::Text),
        }
    }

    /// Whether they are said of so many.
    pub(super) fn fit(&self, count: usize) -> bool {
        self.0.len() <= 1 || self.0.len() == count
    }
}

/// Why bytes are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum MessageFault {
    /// It ends before what it says it has.
    #[error("a message ends before its parts do")]
    Short,
    /// There is more than it has.
    #[error("a message has more than its parts")]
    Long,
    /// A text that is not UTF-8.
    #[error("a text is not UTF-8")]
    Text,
    /// A number that means nothing here.
    #[error("a number in a message means nothing")]
    Number,
    /// A message of this kind is not expected.
    #[error("no message of kind {0:?} is expected")]
    Kind(char),
    /// A protocol that is not spoken.
    #[error("protocol {0}.{1} is not spoken; 3.0 and 3.2 are")]
    Protocol(u16, u16),
}

const TLS_CODE: u32 = 80_877_103;
const GSS_CODE: u32 = 80_877_104;
const CANCEL_CODE: u32 = 80_877_102;

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

/// Reads a message of a session.
pub(super) fn read_message(kind: u8, body: &[u8]) -> Result<Message, MessageFault> {
    let mut parts = Parts(body);
    let message = match kind {
        b'Q' => Message::Query(parts.text()?),
        b'P' => Message::Parse {
            name: parts.text()?,
            text: parts.text()?,
            types: parts.several(Parts::u32)?,
        },
        b'B' => Message::Bind {
            portal: parts.text()?,
            statement: parts.text()?,
            forms: parts.forms()?,
            values: parts.several(Parts::value)?,
            wanted: parts.forms()?,
        },
        b'D' => Message::Describe(parts.target()?),
        b'C' => Message::Close(parts.target()?),
        b'E' => Message::Execute {
            portal: parts.text()?,
            // Below zero means all as well.
            rows_max: u32::try_from(parts.i32()?).unwrap_or(0),
        },
        b'H' => Message::Flush,
        b'S' => Message::Sync,
        b'X' => Message::Terminate,
        b'd' | b'c' | b'f' => return Ok(Message::Copy),
        kind => return Err(MessageFault::Kind(char::from(kind))),
    };
    parts.end()?;
    Ok(message)
}

/// What is left of a message.
struct Parts<'a>(&'a [u8]);

impl Parts<'_> {
    fn bytes(&mut self, count: usize) -> Result<&[u8], MessageFault> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(MessageFault::Short)?;
        self.0 = rest;
        Ok(taken)
    }

    fn number<const N: usize>(&mut self) -> Result<[u8; N], MessageFault> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(MessageFault::Short)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn u16(&mut self) -> Result<u16, MessageFault> {
        self.number().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, MessageFault> {
        self.number().map(u32::from_be_bytes)
    }

    fn i32(&mut self) -> Result<i32, MessageFault> {
        self.number().map(i32::from_be_bytes)
    }

    /// A text up to the zero that ends it.
    fn text(&mut self) -> Result<String, MessageFault> {
        let length = self.0.iter().position(|byte| *byte == 0);
        let length = length.ok_or(MessageFault::Short)?;
        let text = self.bytes(length)?.to_vec();
        self.bytes(1)?;
        String::from_utf8(text).map_err(|_| MessageFault::Text)
    }

    /// A count and so many of something. Nothing is set aside for what is only said to come.
    fn several<T>(
        &mut self,
        mut one: impl FnMut(&mut Self) -> Result<T, MessageFault>,
    ) -> Result<Vec<T>, MessageFault> {
        let count = usize::from(self.u16()?);
        if count > PARTS_MAX {
            return Err(MessageFault::Number);
        }
        let mut several = Vec::new();
        for _ in 0..count {
            several.push(one(self)?);
        }
        Ok(several)
    }

    fn value(&mut self) -> Result<Option<Vec<u8>>, MessageFault> {
        match self.i32()? {
            -1 => Ok(None),
            length => {
                let length = usize::try_from(length).map_err(|_| MessageFault::Number)?;
                Ok(Some(self.bytes(length)?.to_vec()))
            }
        }
    }

    fn forms(&mut self) -> Result<Forms, MessageFault> {
        let form = |parts: &mut Self| match parts.u16()? {
            0 => Ok(Form::Text),
            1 => Ok(Form::Binary),
            _ => Err(MessageFault::Number),
        };
        Ok(Forms(self.several(form)?))
    }

    fn target(&mut self) -> Result<Target, MessageFault> {
        let [kind] = self.number()?;
        let name = self.text()?;
        match kind {
            b'S' => Ok(Target::Statement(name)),
            b'P' => Ok(Target::Portal(name)),
            _ => Err(MessageFault::Number),
        }
    }

    fn end(&self) -> Result<(), MessageFault> {
        match self.0.is_empty() {
            true => Ok(()),
            false => Err(MessageFault::Long),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whole messages of every kind.
    fn whole() -> Vec<(u8, Vec<u8>)> {
        vec![
            (b'Q', b"select 1\0".to_vec()),
            (b'P', b"s\0select $1\0\0\x01\0\0\0\x14".to_vec()),
            (
                b'B',
                b"p\0s\0\0\x01\0\x01\0\x02\0\0\0\x02ab\xff\xff\xff\xff\0\0".to_vec(),
            ),
            (b'D', b"Ss\0".to_vec()),
            (b'C', b"P\0".to_vec()),
            (b'E', b"p\0\0\0\0\x05".to_vec()),
            (b'H', Vec::new()),
            (b'S', Vec::new()),
            (b'X', Vec::new()),
        ]
    }

    #[test]
    fn whole_messages_are_read() {
        let read: Vec<_> = whole()
            .iter()
            .map(|(kind, body)| read_message(*kind, body).expect("a message"))
            .collect();
        assert_eq!(read[0], Message::Query("select 1".to_owned()));
        assert_eq!(
            read[1],
            Message::Parse {
                name: "s".to_owned(),
                text: "select $1".to_owned(),
                types: vec![20]
            }
        );
        assert_eq!(
            read[2],
            Message::Bind {
                portal: "p".to_owned(),
                statement: "s".to_owned(),
                forms: Forms(vec![Form::Binary]),
                values: vec![Some(b"ab".to_vec()), None],
                wanted: Forms::text(),
            }
        );
        assert_eq!(
            read[5],
            Message::Execute {
                portal: "p".to_owned(),
                rows_max: 5
            }
        );
    }

    #[test]
    fn no_message_that_is_cut_or_longer_is_read_and_none_panics() {
        for (kind, body) in whole() {
            for end in 0..body.len() {
                assert!(
                    read_message(kind, &body[..end]).is_err(),
                    "{kind} cut at {end}"
                );
            }
            let longer = [body.as_slice(), b"x"].concat();
            assert_eq!(read_message(kind, &longer), Err(MessageFault::Long));
        }
        // Counts and lengths that nothing follows.
        for body in [
            &b"p\0s\0\xff\xff"[..],
            b"p\0s\0\0\0\0\x01\x7f\xff\xff\xff",
            b"p\0s\0\0\0\0\x01\xff\xff\xff\xfe",
            b"p\0s\0\0\0\xff\xff",
        ] {
            assert!(read_message(b'B', body).is_err(), "{body:?}");
        }
        assert_eq!(read_message(b'Q', b"\xff\0"), Err(MessageFault::Text));
        assert_eq!(read_message(b'F', b""), Err(MessageFault::Kind('F')));
    }

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
