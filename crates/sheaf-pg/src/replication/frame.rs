//! Messages of the server, as far as replication needs them.

use bytes::{Buf, Bytes, BytesMut};

use super::ReplicationError;

/// A row of ours is some megabytes at most; what claims to be longer than this is no message.
const BODY_BYTES_MAX: usize = 512 << 20;

/// One message.
pub(super) struct Frame {
    pub(super) tag: u8,
    pub(super) body: Bytes,
}

/// Takes the first message out of what was read, if it is whole.
pub(super) fn take_frame(buffer: &mut BytesMut) -> Result<Option<Frame>, ReplicationError> {
    let Some((header, _)) = buffer.split_first_chunk::<5>() else {
        return Ok(None);
    };
    let [tag, length @ ..] = *header;
    // The length counts itself.
    let body = usize::try_from(u32::from_be_bytes(length))
        .ok()
        .and_then(|length| length.checked_sub(4))
        .filter(|length| *length <= BODY_BYTES_MAX);
    let Some(body) = body else {
        let what = format!("{} of an impossible length", name(tag));
        return Err(ReplicationError::protocol("reading a message", what));
    };
    if buffer.len() < 5 + body {
        return Ok(None);
    }
    buffer.advance(5);
    Ok(Some(Frame {
        tag,
        body: buffer.split_to(body).freeze(),
    }))
}

/// A message's kind, for people.
pub(super) fn name(tag: u8) -> String {
    format!("a message of kind {:?}", char::from(tag))
}

/// The values of a row as text.
pub(super) fn read_row(mut body: Bytes) -> Option<Vec<Option<String>>> {
    let count = body.try_get_u16().ok()?;
    let mut row = Vec::new();
    for _ in 0..count {
        let length = body.try_get_i32().ok()?;
        row.push(match usize::try_from(length) {
            Ok(length) if length <= body.len() => {
                Some(String::from_utf8(body.split_to(length).to_vec()).ok()?)
            }
            Ok(_) => return None,
            Err(_) => None,
        });
    }
    Some(row)
}

/// What a server said when it said no.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message} ({code})")]
pub struct ServerError {
    /// The SQLSTATE.
    pub code: String,
    /// The reason, for people.
    pub message: String,
}

impl ServerError {
    /// Reads the fields of an error: a letter and a text each.
    pub(super) fn read(body: &[u8]) -> ServerError {
        let mut error = ServerError {
            code: String::new(),
            message: String::new(),
        };
        let mut rest = body;
        while let [letter, text @ ..] = rest
            && *letter != 0
        {
            let end = text.iter().position(|byte| *byte == 0);
            let end = end.unwrap_or(text.len());
            let field = String::from_utf8_lossy(&text[..end]).into_owned();
            match letter {
                b'C' => error.code = field,
                b'M' => error.message = field,
                _ => {}
            }
            rest = text.get(end + 1..).unwrap_or_default();
        }
        error
    }

    pub(super) fn refusal(step: &'static str, body: &[u8]) -> ReplicationError {
        ReplicationError::Refused {
            step,
            source: ServerError::read(body),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_taken_once_it_is_whole_and_the_next_one_stays() {
        let whole = [b'd', 0, 0, 0, 7, 1, 2, 3, b'Z', 0];
        for length in 0..8 {
            let mut buffer = BytesMut::from(&whole[..length]);
            assert!(take_frame(&mut buffer).expect("no fault").is_none());
            assert_eq!(buffer.len(), length);
        }
        let mut buffer = BytesMut::from(&whole[..]);
        let frame = take_frame(&mut buffer)
            .expect("no fault")
            .expect("a message");
        assert_eq!((frame.tag, frame.body.as_ref()), (b'd', &[1, 2, 3][..]));
        assert_eq!(buffer.as_ref(), [b'Z', 0]);
    }

    #[test]
    fn a_length_that_cannot_be_is_an_error() {
        for length in [0u32, 3, u32::MAX] {
            let mut buffer = BytesMut::from(&b"d"[..]);
            buffer.extend(length.to_be_bytes());
            assert!(take_frame(&mut buffer).is_err(), "{length}");
        }
    }

    #[test]
    fn an_error_is_read_as_far_as_it_goes() {
        let whole = b"SERROR\0C55006\0Mreplication slot is active\0\0";
        let read = ServerError::read(whole);
        assert_eq!(
            (read.code.as_str(), read.message.as_str()),
            ("55006", "replication slot is active")
        );
        for length in 0..whole.len() {
            let _ = ServerError::read(&whole[..length]);
        }
    }

    #[test]
    fn a_row_that_is_cut_short_is_none() {
        let whole = [0, 2, 0, 0, 0, 1, b'f', 0xff, 0xff, 0xff, 0xff];
        let row = read_row(Bytes::copy_from_slice(&whole));
        assert_eq!(row, Some(vec![Some("f".to_owned()), None]));
        for length in 0..whole.len() {
            assert_eq!(read_row(Bytes::copy_from_slice(&whole[..length])), None);
        }
    }
}
