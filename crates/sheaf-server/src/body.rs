//! Bodies: decompressed as they arrive, with the bound on what comes out, so that a small bomb stays small.

use std::time::Instant;

use async_compression::tokio::bufread::{GzipDecoder, ZstdDecoder};
use async_compression::zstd::DParameter;
use axum::body::Body;
use axum::http::{HeaderMap, header};
use bytes::Bytes;
use futures::TryStreamExt;
use sheaf_ingest::Permit;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio_util::io::StreamReader;

use crate::admission::throttled;
use crate::problem::{Code, Problem};
use crate::remainder::TooSlow;

/// Bytes of a body that describes something: a tenant, an attribute, a search.
pub(crate) const SMALL_BYTES_MAX: usize = 256 * 1024;
/// 8 MiB: what RFC 9659 lets a zstd content coding ask of its receiver.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;

/// How a body is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encoding {
    Identity,
    Gzip,
    Zstd,
}

impl Encoding {
    /// One encoding or none. A second one would only serve to hide how much comes out.
    fn of(headers: &HeaderMap) -> Result<Encoding, Problem> {
        let unsupported = || {
            Problem::new(
                Code::UnsupportedMediaType,
                "the content encoding is gzip or zstd, once, or none",
            )
        };
        let mut values = headers.get_all(header::CONTENT_ENCODING).iter();
        let (Some(value), None) = (values.next(), values.next()) else {
            return if headers.contains_key(header::CONTENT_ENCODING) {
                Err(unsupported())
            } else {
                Ok(Encoding::Identity)
            };
        };
        let name = value
            .to_str()
            .map_err(|_| unsupported())?
            .trim()
            .to_ascii_lowercase();
        match name.as_str() {
            "identity" | "" => Ok(Encoding::Identity),
            "gzip" | "x-gzip" => Ok(Encoding::Gzip),
            "zstd" => Ok(Encoding::Zstd),
            _ => Err(unsupported()),
        }
    }
}

/// The whole body, of at most so many bytes once decompressed.
pub(crate) async fn read_body(
    headers: &HeaderMap,
    body: Body,
    bytes_max: usize,
) -> Result<Bytes, Problem> {
    read(headers, body, bytes_max, None).await
}

/// The same for a request that was admitted: what arrives is counted, and the memory for it is taken first.
pub(crate) async fn read_admitted(
    headers: &HeaderMap,
    body: Body,
    bytes_max: usize,
    permit: &mut Permit,
) -> Result<Bytes, Problem> {
    read(headers, body, bytes_max, Some(permit)).await
}

async fn read(
    headers: &HeaderMap,
    body: Body,
    bytes_max: usize,
    permit: Option<&mut Permit>,
) -> Result<Bytes, Problem> {
    let encoding = Encoding::of(headers)?;
    let declared = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if declared.is_some_and(|length| length > bytes_max) {
        return Err(too_large(bytes_max));
    }
    let sent = StreamReader::new(body.into_data_stream().map_err(std::io::Error::other));
    let mut buffer = Buffer {
        read: Vec::new(),
        bytes_max,
        declared: None,
        permit,
    };
    match encoding {
        Encoding::Identity => {
            buffer.declared = declared;
            buffer.fill(sent).await
        }
        Encoding::Gzip => {
            let mut decoder = GzipDecoder::new(sent);
            decoder.multiple_members(true);
            buffer.fill(decoder).await
        }
        Encoding::Zstd => {
            let window = DParameter::window_log_max(ZSTD_WINDOW_LOG_MAX);
            let mut decoder = ZstdDecoder::with_params(sent, &[window]);
            decoder.multiple_members(true);
            buffer.fill(decoder).await
        }
    }
}

/// Bytes that a buffer begins with where nothing is known of the length.
const FIRST_BYTES: usize = 8 * 1024;
/// A declared length is only believed so far: it costs its sender nothing.
const BELIEVED_BYTES_MAX: usize = 1024 * 1024;

/// A body as it grows.
struct Buffer<'a> {
    read: Vec<u8>,
    bytes_max: usize,
    /// How long the body says that it is, where nothing is decompressed.
    declared: Option<usize>,
    permit: Option<&'a mut Permit>,
}

impl Buffer<'_> {
    async fn fill(mut self, reader: impl AsyncRead) -> Result<Bytes, Problem> {
        let mut reader = std::pin::pin!(reader);
        loop {
            self.make_room()?;
            match reader.read_buf(&mut self.read).await {
                Ok(0) => return Ok(self.read.into()),
                Ok(_) if self.read.len() > self.bytes_max => return Err(too_large(self.bytes_max)),
                Ok(bytes) => {
                    if let Some(permit) = &self.permit {
                        permit.charge_bytes(bytes, Instant::now());
                    }
                }
                Err(fault) if TooSlow::is_behind(&fault) => {
                    return Err(
                        Problem::new(Code::BodyTooSlow, "the body came too slowly").because(fault)
                    );
                }
                Err(fault) => {
                    return Err(Problem::new(
                        Code::MalformedBody,
                        "the body ends early or its compression is broken",
                    )
                    .because(fault));
                }
            }
        }
    }

    /// Doubles a buffer that is full, never past what a body may have and the one byte that tells that it has more.
    fn make_room(&mut self) -> Result<(), Problem> {
        let length = self.read.len();
        if length < self.read.capacity() {
            return Ok(());
        }
        let first = self.declared.map_or(FIRST_BYTES, |declared| {
            (declared + 1).min(BELIEVED_BYTES_MAX)
        });
        let wanted = (2 * length).max(first).min(self.bytes_max + 1);
        // Room for one more is needed to see the end, whatever was declared.
        let more = wanted.saturating_sub(length).max(1);
        if let Some(permit) = &mut self.permit {
            permit.hold(more).map_err(throttled)?;
        }
        self.read.reserve_exact(more);
        Ok(())
    }
}

fn too_large(bytes_max: usize) -> Problem {
    Problem::new(
        Code::BodyTooLarge,
        format!("a body has at most {bytes_max} bytes once decompressed"),
    )
}

/// The media type of a body, without parameters, in lower case; empty where none is given.
pub(crate) fn media_type(headers: &HeaderMap) -> String {
    let value = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    value
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase()
}

/// Reads a body that must be JSON.
pub(crate) async fn read_json(
    headers: &HeaderMap,
    body: Body,
    bytes_max: usize,
) -> Result<Bytes, Problem> {
    require_json(headers)?;
    read_body(headers, body, bytes_max).await
}

/// Refuses a body that says that it is something else than JSON.
pub(crate) fn require_json(headers: &HeaderMap) -> Result<(), Problem> {
    match media_type(headers).as_str() {
        "application/json" | "application/merge-patch+json" | "" => Ok(()),
        _ => Err(Problem::new(
            Code::UnsupportedMediaType,
            "the content type is application/json",
        )),
    }
}

#[cfg(test)]
mod tests {
    use async_compression::tokio::bufread::{GzipEncoder, ZstdEncoder};

    use super::*;

    async fn compressed(encoding: &str, content: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        match encoding {
            "gzip" => GzipEncoder::new(content).read_to_end(&mut out).await,
            _ => ZstdEncoder::new(content).read_to_end(&mut out).await,
        }
        .expect("compressing memory");
        out
    }

    async fn read(encoding: &str, body: Vec<u8>, bytes_max: usize) -> Result<Bytes, Code> {
        let mut headers = HeaderMap::new();
        headers.insert(
            header::CONTENT_ENCODING,
            encoding.parse().expect("a header value"),
        );
        read_body(&headers, Body::from(body), bytes_max)
            .await
            .map_err(|problem| problem.code)
    }

    #[tokio::test]
    async fn what_was_compressed_comes_out_whole_also_in_several_members() {
        for encoding in ["gzip", "zstd"] {
            let mut body = compressed(encoding, b"hello ").await;
            body.extend(compressed(encoding, b"world").await);
            assert_eq!(
                read(encoding, body, 100).await,
                Ok(Bytes::from("hello world")),
                "{encoding}"
            );
        }
    }

    #[tokio::test]
    async fn the_bound_is_on_what_comes_out() {
        for encoding in ["gzip", "zstd"] {
            let bomb = compressed(encoding, &vec![b'x'; 10_000_000]).await;
            assert!(bomb.len() < 100_000);
            assert_eq!(
                read(encoding, bomb.clone(), 1_000_000).await,
                Err(Code::BodyTooLarge),
                "{encoding}"
            );
            assert!(read(encoding, bomb, 10_000_000).await.is_ok(), "{encoding}");
        }
    }

    #[tokio::test]
    async fn a_body_that_ends_early_is_told_at_every_byte() {
        for encoding in ["gzip", "zstd"] {
            let whole = compressed(encoding, b"one event, and another").await;
            for length in 1..whole.len() {
                let cut = read(encoding, whole[..length].to_vec(), 1_000).await;
                assert_eq!(
                    cut,
                    Err(Code::MalformedBody),
                    "{encoding}, {length} of {} bytes",
                    whole.len()
                );
            }
        }
    }

    #[tokio::test]
    async fn other_and_nested_encodings_are_refused() {
        for encoding in ["br", "deflate", "gzip, gzip", "gzip,zstd", "x"] {
            assert_eq!(
                read(encoding, Vec::new(), 10).await,
                Err(Code::UnsupportedMediaType),
                "{encoding}"
            );
        }
        let mut headers = HeaderMap::new();
        headers.append(
            header::CONTENT_ENCODING,
            "gzip".parse().expect("a header value"),
        );
        headers.append(
            header::CONTENT_ENCODING,
            "gzip".parse().expect("a header value"),
        );
        assert_eq!(
            Encoding::of(&headers).expect_err("two").code,
            Code::UnsupportedMediaType
        );
    }
}
