//! What clients send once they are logged in, out of whole messages. Pure, and no bytes panic.

use super::parts::{MessageFault, Parts};

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

    /// How many are said.
    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    /// Whether they are said of so many.
    pub(super) fn fit(&self, count: usize) -> bool {
        self.0.len() <= 1 || self.0.len() == count
    }
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

impl Parts<'_> {
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
}
