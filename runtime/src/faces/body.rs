//! Reading a request's body within its bounds.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::CONTENT_LENGTH;
use http_body::Body;
use http_body_util::BodyExt as _;

use super::coding::Coding;
use crate::error::{ApiError, Code, InferError};

/// Room taken ahead on the word of Content-Length alone; more comes with the bytes.
const MOST_AHEAD: usize = 1 << 20;

/// Bytes of all bodies that are being received or parsed, and their bound.
#[derive(Clone, Debug)]
pub(crate) struct Budget(Arc<Counter>);

#[derive(Debug)]
struct Counter {
    used: AtomicUsize,
    limit: usize,
}

impl Budget {
    pub(crate) fn new(limit: usize) -> Self {
        let used = AtomicUsize::new(0);
        Self(Arc::new(Counter { used, limit }))
    }

    pub(crate) fn share(&self) -> Share {
        Share {
            budget: Arc::clone(&self.0),
            held: 0,
        }
    }
}

/// One body's part of the budget, given back on drop.
#[derive(Debug)]
pub(crate) struct Share {
    budget: Arc<Counter>,
    held: usize,
}

impl Share {
    /// A body alone may have any length; together they keep to the bound.
    pub(crate) fn grow(&mut self, bytes: usize) -> Result<(), InferError> {
        let before = self.budget.used.fetch_add(bytes, Ordering::Relaxed);
        self.held += bytes;
        if before + bytes > self.budget.limit && before + bytes > self.held {
            return Err(InferError::QueueBytesFull {
                limit: self.budget.limit,
            });
        }
        Ok(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.held, Ordering::Relaxed);
    }
}

/// The whole body, unpacked, at most `limit` bytes of it, and its share of the budget, to be kept as long as the body.
pub(crate) async fn read<B>(
    headers: &HeaderMap,
    body: B,
    limit: usize,
    budget: &Budget,
) -> Result<(Bytes, Share), ApiError>
where
    B: Body<Data = Bytes>,
    B::Error: std::fmt::Display,
{
    let coding = Coding::of_body(headers)?;
    let (body, mut share) = receive(headers, body, limit, budget).await?;
    match coding {
        None => Ok((body, share)),
        Some(coding) => Ok((coding.unpack(&body, limit, &mut share)?, share)),
    }
}

/// The body as it came.
async fn receive<B>(headers: &HeaderMap, body: B, limit: usize, budget: &Budget) -> Result<(Bytes, Share), ApiError>
where
    B: Body<Data = Bytes>,
    B::Error: std::fmt::Display,
{
    let expected = content_length(headers);
    if expected.is_some_and(|n| n > limit as u64) {
        return Err(too_large(limit));
    }
    let mut body = pin!(body);
    let mut share = budget.share();
    let mut first = Bytes::new();
    let mut whole: Option<BytesMut> = None;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| ApiError::invalid(format!("the body could not be read: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        let so_far = whole.as_ref().map_or(first.len(), BytesMut::len);
        if data.len() > limit - so_far {
            return Err(too_large(limit));
        }
        share.grow(data.len())?;
        if so_far == 0 {
            first = data;
            continue;
        }
        // A body of a single chunk, the usual one, is never copied.
        let whole = whole.get_or_insert_with(|| {
            let ahead = expected
                .map_or(0, |n| n as usize)
                .clamp(first.len() + data.len(), MOST_AHEAD.max(first.len() + data.len()));
            let mut whole = BytesMut::with_capacity(ahead);
            whole.extend_from_slice(&first);
            whole
        });
        whole.extend_from_slice(&data);
    }
    Ok((whole.map_or(first, BytesMut::freeze), share))
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

pub(crate) fn too_large(limit: usize) -> ApiError {
    ApiError::new(
        Code::BodyTooLarge,
        format!("the body is longer than {limit} bytes; send fewer rows at a time, or raise --max-body-bytes"),
    )
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http::header::CONTENT_ENCODING;
    use http_body_util::{Full, StreamBody};
    use hyper::body::Frame;

    use super::*;

    fn chunks(parts: &[&'static str]) -> impl Body<Data = Bytes, Error = Infallible> + use<> {
        let frames: Vec<_> = parts
            .iter()
            .map(|p| Ok(Frame::data(Bytes::from_static(p.as_bytes()))))
            .collect();
        StreamBody::new(tokio_stream::iter(frames))
    }

    #[tokio::test]
    async fn chunks_are_put_together() {
        let budget = Budget::new(100);
        let (body, _) = read(&HeaderMap::new(), chunks(&["a", "", "bc", "d"]), 4, &budget)
            .await
            .unwrap();
        assert_eq!(body, "abcd");
        assert_eq!(read(&HeaderMap::new(), chunks(&[]), 4, &budget).await.unwrap().0, "");
    }

    #[tokio::test]
    async fn bodies_together_keep_to_the_budget_and_give_it_back() {
        let budget = Budget::new(4);
        let alone = read(&HeaderMap::new(), chunks(&["abcdef"]), 9, &budget).await.unwrap();
        let error = read(&HeaderMap::new(), chunks(&["g"]), 9, &budget).await.unwrap_err();
        assert_eq!(error.code, Code::QueueFull);
        drop(alone);
        let one = read(&HeaderMap::new(), chunks(&["a", "b"]), 9, &budget).await.unwrap();
        let two = read(&HeaderMap::new(), chunks(&["c", "d"]), 9, &budget).await.unwrap();
        assert!(read(&HeaderMap::new(), chunks(&["e"]), 9, &budget).await.is_err());
        drop((one, two));
        assert_eq!(budget.0.used.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn a_body_past_the_limit_is_refused_with_or_without_a_length() {
        let error = read(&HeaderMap::new(), chunks(&["abc", "de"]), 4, &Budget::new(9))
            .await
            .unwrap_err();
        assert_eq!(error.code, Code::BodyTooLarge);
        assert!(error.message.contains("--max-body-bytes"));
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_LENGTH, 5.into());
        let error = read(&headers, Full::new(Bytes::from_static(b"")), 4, &Budget::new(9))
            .await
            .unwrap_err();
        assert_eq!(error.code, Code::BodyTooLarge);
    }

    #[tokio::test]
    async fn packed_bodies_are_unpacked_within_the_limit() {
        let text = "x".repeat(5000);
        for coding in [Coding::Gzip, Coding::Deflate] {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_ENCODING, http::HeaderValue::from_static(coding.as_str()));
            let packed = Full::new(Bytes::from(coding.pack(text.as_bytes()).unwrap()));
            let budget = Budget::new(9000);
            let (body, share) = read(&headers, packed.clone(), 5000, &budget).await.unwrap();
            assert_eq!(body, text);
            assert!(
                budget.0.used.load(Ordering::Relaxed) > 5000,
                "packed and unpacked count"
            );
            drop(share);
            let error = read(&headers, packed, 4999, &budget).await.unwrap_err();
            assert_eq!(error.code, Code::BodyTooLarge);
            assert_eq!(budget.0.used.load(Ordering::Relaxed), 0);
        }
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_ENCODING, http::HeaderValue::from_static("br"));
        assert_eq!(
            read(&headers, chunks(&[]), 4, &Budget::new(9)).await.unwrap_err().code,
            Code::UnsupportedMedia
        );
    }
}
