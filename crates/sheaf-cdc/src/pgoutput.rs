//! What the plugin `pgoutput` writes, protocol version 1: the messages of one publication's changes, as bytes.
//!
//! Pure. A message that is cut short, goes on too long or says something unknown is an error with its place, and no input
//! is a panic. It knows no table and gives no value a meaning.
//!
//! Values come in the binary form that PostgreSQL gives each type. Its text form costs the server the formatting of two
//! times and a uuid an event, depends on settings of the session (`TimeZone`, `DateStyle`), and has to be parsed; measured with two
//! clients, it was 7 and 20 % slower in all. `jsonb`, which is most of an event, is text in both.

mod reader;
#[cfg(test)]
mod tests;

use sheaf_model::Lsn;

use reader::Reader;

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message<'a> {
    /// A transaction begins. All that follows up to its commit is of it: whole transactions are sent, in order of commit.
    Begin {
        /// Where its commit is.
        commit_lsn: Lsn,
        /// When it was committed, in microseconds since 2000.
        committed_at: i64,
        /// Its number, without the count of cycles.
        xid: u32,
    },
    /// The transaction ends.
    Commit {
        /// Where its commit is.
        commit_lsn: Lsn,
        /// Where the log goes on after it: who has everything up to here can say so to the slot.
        end_lsn: Lsn,
        /// When it was committed, in microseconds since 2000.
        committed_at: i64,
    },
    /// The transaction came from another server, by replication.
    Origin {
        /// Its name here.
        name: &'a str,
    },
    /// What a table is like from here on: sent before its first row, and again after it was altered.
    Relation(Relation<'a>),
    /// What a type that is not built in is called.
    Type {
        /// Its number in the database.
        oid: u32,
        /// Its schema.
        namespace: &'a str,
        /// Its name.
        name: &'a str,
    },
    /// A row was inserted.
    Insert {
        /// The number of the table.
        relation: u32,
        /// The row.
        row: Tuple<'a>,
    },
    /// A row was updated.
    Update {
        /// The number of the table.
        relation: u32,
        /// What identified the row before, where that changed or the table keeps whole rows.
        before: Option<OldTuple<'a>>,
        /// The row as it is now.
        row: Tuple<'a>,
    },
    /// A row was deleted.
    Delete {
        /// The number of the table.
        relation: u32,
        /// What identified the row.
        before: OldTuple<'a>,
    },
    /// Tables were emptied.
    Truncate {
        /// Their numbers.
        relations: Vec<u32>,
        /// Whether tables that refer to them were emptied too.
        cascade: bool,
        /// Whether their sequences begin again.
        restart_identity: bool,
    },
    /// A message that somebody wrote into the log.
    Logical {
        /// Whether it is part of a transaction; else it is sent at once, and so between others.
        transactional: bool,
        /// Where it is.
        lsn: Lsn,
        /// Whose it is.
        prefix: &'a str,
        /// What it says.
        content: &'a [u8],
    },
}

/// What a table is like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relation<'a> {
    /// Its number in the database.
    pub oid: u32,
    /// Its schema.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
    /// What identifies its rows: `d` the primary key, `i` an index, `f` the whole row, `n` nothing.
    pub replica_identity: u8,
    /// Its columns, in the order of the values of a row.
    pub columns: Vec<RelationColumn<'a>>,
}

/// What a column is like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelationColumn<'a> {
    /// Whether it is part of what identifies a row.
    pub is_key: bool,
    /// Its name.
    pub name: &'a str,
    /// The number of its type.
    pub type_oid: u32,
    /// The modifier of its type; -1 for none.
    pub type_modifier: i32,
}

/// The values of a row, one a column of its table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tuple<'a> {
    /// In the order of the table's columns.
    pub values: Vec<Value<'a>>,
}

/// What identified a row before it was changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OldTuple<'a> {
    /// The values of the key; the others are null.
    Key(Tuple<'a>),
    /// The whole row.
    Row(Tuple<'a>),
}

/// One value of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    /// None.
    Null,
    /// A long value that the update left as it was. It is not sent and can be fetched nowhere: whoever keeps rows keeps it.
    Unchanged,
    /// In the text form of its type.
    Text(&'a [u8]),
    /// In the binary form of its type.
    Binary(&'a [u8]),
}

impl Value<'_> {
    /// How many bytes were sent.
    pub(crate) fn len(&self) -> usize {
        match self {
            Value::Null | Value::Unchanged => 0,
            Value::Text(bytes) | Value::Binary(bytes) => bytes.len(),
        }
    }
}

/// What is wrong with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FaultKind {
    /// It ends before it is whole.
    #[error("it ends in the middle of {0}")]
    Short(&'static str),
    /// A byte that stands for nothing known.
    #[error("{what} is {found:#04x}")]
    Unknown {
        /// What the byte was read as.
        what: &'static str,
        /// The byte.
        found: u8,
    },
    /// A name that is not UTF-8. The connection's encoding is.
    #[error("{0} is not UTF-8")]
    NotText(&'static str),
    /// A count below zero.
    #[error("{what} is {found}")]
    Negative {
        /// What was counted.
        what: &'static str,
        /// The count.
        found: i32,
    },
    /// It goes on after its end.
    #[error("it goes on for {0} bytes after its end")]
    Long(usize),
}

/// A message that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("reading a message of pgoutput at byte {at} of {length}: {kind}")]
pub struct Malformed {
    /// Where reading stopped.
    pub at: usize,
    /// How long the message is.
    pub length: usize,
    /// What was found there.
    pub kind: FaultKind,
}

/// Reads one message, all of it.
pub fn decode(bytes: &[u8]) -> Result<Message<'_>, Malformed> {
    let mut reader = Reader::new(bytes);
    let message = message(&mut reader)?;
    reader.finish()?;
    Ok(message)
}

fn message<'a>(reader: &mut Reader<'a>) -> Result<Message<'a>, Malformed> {
    Ok(match reader.byte("the kind of message")? {
        b'B' => Message::Begin {
            commit_lsn: reader.lsn("the position of the commit")?,
            committed_at: reader.i64("the time of the commit")?,
            xid: reader.u32("the number of the transaction")?,
        },
        b'C' => {
            let flags = reader.byte("the flags of a commit")?;
            if flags != 0 {
                return Err(reader.unknown("the flags of a commit", flags));
            }
            Message::Commit {
                commit_lsn: reader.lsn("the position of the commit")?,
                end_lsn: reader.lsn("the end of the commit")?,
                committed_at: reader.i64("the time of the commit")?,
            }
        }
        b'O' => {
            reader.lsn("the position on the origin")?;
            Message::Origin {
                name: reader.text("the name of the origin")?,
            }
        }
        b'R' => Message::Relation(relation(reader)?),
        b'Y' => Message::Type {
            oid: reader.u32("the number of a type")?,
            namespace: reader.text("the schema of a type")?,
            name: reader.text("the name of a type")?,
        },
        b'I' => {
            let relation = reader.u32("the number of a table")?;
            match reader.byte("the kind of a row")? {
                b'N' => Message::Insert {
                    relation,
                    row: tuple(reader)?,
                },
                found => return Err(reader.unknown("the kind of a row", found)),
            }
        }
        b'U' => update(reader)?,
        b'D' => {
            let relation = reader.u32("the number of a table")?;
            let before = match reader.byte("the kind of a row")? {
                b'K' => OldTuple::Key(tuple(reader)?),
                b'O' => OldTuple::Row(tuple(reader)?),
                found => return Err(reader.unknown("the kind of a row", found)),
            };
            Message::Delete { relation, before }
        }
        b'T' => truncate(reader)?,
        b'M' => logical(reader)?,
        found => return Err(reader.unknown("the kind of message", found)),
    })
}

fn relation<'a>(reader: &mut Reader<'a>) -> Result<Relation<'a>, Malformed> {
    let oid = reader.u32("the number of a table")?;
    // An empty name stands for the catalogue's schema.
    let namespace = match reader.text("the schema of a table")? {
        "" => "pg_catalog",
        namespace => namespace,
    };
    let name = reader.text("the name of a table")?;
    let replica_identity = match reader.byte("the identity of rows")? {
        known @ (b'd' | b'n' | b'f' | b'i') => known,
        found => return Err(reader.unknown("the identity of rows", found)),
    };
    let count = reader.u16("the number of columns")?;
    // Bounded by what is left, not by what is said.
    let mut columns = Vec::with_capacity(usize::from(count).min(reader.left()));
    for _ in 0..count {
        let is_key = match reader.byte("the flags of a column")? {
            0 => false,
            1 => true,
            found => return Err(reader.unknown("the flags of a column", found)),
        };
        columns.push(RelationColumn {
            is_key,
            name: reader.text("the name of a column")?,
            type_oid: reader.u32("the type of a column")?,
            type_modifier: reader.i32("the type's modifier of a column")?,
        });
    }
    Ok(Relation {
        oid,
        namespace,
        name,
        replica_identity,
        columns,
    })
}

fn update<'a>(reader: &mut Reader<'a>) -> Result<Message<'a>, Malformed> {
    let relation = reader.u32("the number of a table")?;
    let mut kind = reader.byte("the kind of a row")?;
    let before = match kind {
        b'K' => Some(OldTuple::Key(tuple(reader)?)),
        b'O' => Some(OldTuple::Row(tuple(reader)?)),
        _ => None,
    };
    if before.is_some() {
        kind = reader.byte("the kind of a row")?;
    }
    match kind {
        b'N' => Ok(Message::Update {
            relation,
            before,
            row: tuple(reader)?,
        }),
        found => Err(reader.unknown("the kind of a row", found)),
    }
}

fn truncate<'a>(reader: &mut Reader<'a>) -> Result<Message<'a>, Malformed> {
    let count = reader.count("the number of tables")?;
    let options = reader.byte("the options of a truncate")?;
    if options & !3 != 0 {
        return Err(reader.unknown("the options of a truncate", options));
    }
    let mut relations = Vec::with_capacity(count.min(reader.left() / 4));
    for _ in 0..count {
        relations.push(reader.u32("the number of a table")?);
    }
    Ok(Message::Truncate {
        relations,
        cascade: options & 1 != 0,
        restart_identity: options & 2 != 0,
    })
}

fn logical<'a>(reader: &mut Reader<'a>) -> Result<Message<'a>, Malformed> {
    let transactional = match reader.byte("the flags of a message")? {
        0 => false,
        1 => true,
        found => return Err(reader.unknown("the flags of a message", found)),
    };
    let lsn = reader.lsn("the position of a message")?;
    let prefix = reader.text("the prefix of a message")?;
    let length = reader.count("the length of a message")?;
    Ok(Message::Logical {
        transactional,
        lsn,
        prefix,
        content: reader.bytes(length, "the content of a message")?,
    })
}

fn tuple<'a>(reader: &mut Reader<'a>) -> Result<Tuple<'a>, Malformed> {
    let count = reader.u16("the number of values")?;
    let mut values = Vec::with_capacity(usize::from(count).min(reader.left()));
    for _ in 0..count {
        values.push(match reader.byte("the kind of a value")? {
            b'n' => Value::Null,
            b'u' => Value::Unchanged,
            kind @ (b't' | b'b') => {
                let length = reader.count("the length of a value")?;
                let bytes = reader.bytes(length, "a value")?;
                if kind == b't' {
                    Value::Text(bytes)
                } else {
                    Value::Binary(bytes)
                }
            }
            found => return Err(reader.unknown("the kind of a value", found)),
        });
    }
    Ok(Tuple { values })
}
