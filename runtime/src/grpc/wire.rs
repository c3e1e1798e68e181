//! gRPC over HTTP/2: messages behind a prefix of five bytes, deadlines in a header, statuses in trailers.

use std::fmt::Write as _;
use std::pin::Pin;
use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Response};
use http_body::Body;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use prost::Message;

use crate::error::{ApiError, Code, REASON_HEADER};
use crate::faces::{Budget, Coding, Share, too_large};

/// What an answer consists of.
/// Tonic's bodies may fail; our own never do.
pub(crate) type GrpcBody = UnsyncBoxBody<Bytes, tonic::Status>;

/// One byte that says whether the message is packed, four bytes of its length.
const PREFIX: usize = 5;

/// Room taken ahead on the word of a prefix alone.
const MOST_AHEAD: usize = 1 << 20;

/// Reads the messages of a request.
pub(crate) struct Messages<B> {
    body: Pin<Box<B>>,
    received: BytesMut,
    coding: Result<Option<Coding>, ApiError>,
    limit: usize,
    budget: Budget,
}

impl<B> Messages<B>
where
    B: Body<Data = Bytes>,
    B::Error: std::fmt::Display,
{
    /// Of this body; each message may have `limit` bytes, and all that are being received share the budget.
    pub(crate) fn new(headers: &HeaderMap, body: B, limit: usize, budget: Budget) -> Self {
        Self {
            body: Box::pin(body),
            received: BytesMut::new(),
            coding: Coding::of_messages(headers),
            limit,
            budget,
        }
    }

    /// The next message, unpacked, and its share of the budget, to be kept as long as the message. `None`: there are no more.
    pub(crate) async fn next(&mut self) -> Result<Option<(Bytes, Share)>, ApiError> {
        let mut share = self.budget.share();
        share.grow(self.received.len())?;
        loop {
            if let Some((packed, len)) = self.prefix()? {
                if self.received.len() >= PREFIX + len {
                    self.received.advance(PREFIX);
                    let message = self.received.split_to(len).freeze();
                    return self.unpack(packed, message, share).map(Some);
                }
                let missing = PREFIX + len - self.received.len();
                self.received.reserve(missing.min(MOST_AHEAD));
            }
            match self.body.frame().await {
                None if self.received.is_empty() => return Ok(None),
                None => return Err(ApiError::invalid("the request ends within a message")),
                Some(Err(error)) => return Err(ApiError::invalid(format!("the request could not be read: {error}"))),
                Some(Ok(frame)) => {
                    let Ok(data) = frame.into_data() else { continue };
                    share.grow(data.len())?;
                    self.received.extend_from_slice(&data);
                }
            }
        }
    }

    /// Of the message that comes next: whether it is packed, and its length.
    fn prefix(&self) -> Result<Option<(bool, usize)>, ApiError> {
        let Some(mut prefix) = self.received.get(..PREFIX) else {
            return Ok(None);
        };
        let (packed, len) = (prefix.get_u8() == 1, prefix.get_u32() as usize);
        if len > self.limit {
            return Err(too_large(self.limit));
        }
        Ok(Some((packed, len)))
    }

    fn unpack(&self, packed: bool, message: Bytes, mut share: Share) -> Result<(Bytes, Share), ApiError> {
        if !packed {
            return Ok((message, share));
        }
        match self.coding.clone()? {
            None => Err(ApiError::invalid("a message is packed, but there is no grpc-encoding")),
            Some(coding) => Ok((coding.unpack(&message, self.limit, &mut share)?, share)),
        }
    }
}

/// Reads a message.
pub(crate) fn decode<M: Message + Default>(message: Bytes) -> Result<M, ApiError> {
    M::decode(message).map_err(|error| ApiError::invalid(format!("the message can't be read: {error}")))
}

/// A message with its prefix.
pub(crate) fn encode(message: &impl Message) -> Bytes {
    let len = message.encoded_len();
    let mut out = BytesMut::with_capacity(PREFIX + len);
    out.put_u8(0);
    out.put_u32(len as u32);
    message.encode_raw(&mut out);
    out.freeze()
}

/// The `grpc-timeout` of a request: at most eight digits and a unit.
pub(crate) fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, ApiError> {
    let Some(value) = headers.get("grpc-timeout") else {
        return Ok(None);
    };
    let read = |text: &str| {
        let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
        let n: u32 = digits.parse().ok().filter(|_| (1..=8).contains(&digits.len()))?;
        let n = u64::from(n);
        Some(match unit {
            "H" => Duration::from_secs(n * 3600),
            "M" => Duration::from_secs(n * 60),
            "S" => Duration::from_secs(n),
            "m" => Duration::from_millis(n),
            "u" => Duration::from_micros(n),
            "n" => Duration::from_nanos(n),
            _ => return None,
        })
    };
    let timeout = value.to_str().ok().and_then(read);
    timeout
        .map(Some)
        .ok_or_else(|| ApiError::invalid(format!("grpc-timeout {value:?} is not a number and one of H M S m u n")))
}

/// An answer of these frames.
pub(crate) fn reply<S>(frames: S) -> Response<GrpcBody>
where
    S: futures_util::Stream<Item = Frame<Bytes>> + Send + 'static,
{
    use futures_util::StreamExt as _;
    let mut reply = Response::new(StreamBody::new(frames.map(Ok)).boxed_unsync());
    reply.headers_mut().insert(CONTENT_TYPE, GRPC);
    reply
}

/// An answer that is an error alone: its status stands in the headers.
pub(crate) fn failed(error: &ApiError) -> Response<GrpcBody> {
    let mut reply = Response::new(
        http_body_util::Empty::new()
            .map_err(|never| match never {})
            .boxed_unsync(),
    );
    *reply.headers_mut() = trailers(Err(error));
    reply.headers_mut().insert(CONTENT_TYPE, GRPC);
    reply
}

const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");

/// The end of an answer.
pub(crate) fn trailers(result: Result<(), &ApiError>) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    let status = result.map_or_else(|error| status(error.code), |()| 0);
    trailers.insert("grpc-status", status.into());
    if let Err(error) = result {
        if let Ok(text) = HeaderValue::try_from(escape(&error.message)) {
            trailers.insert("grpc-message", text);
        }
        trailers.insert(REASON_HEADER, HeaderValue::from_static(error.code.as_str()));
    }
    trailers
}

/// The number of gRPC's status.
pub(crate) fn status(code: Code) -> u16 {
    match code {
        Code::InvalidRequest => 3,
        Code::RequestTimeout => 4,
        Code::ModelNotFound => 5,
        Code::BodyTooLarge => 8,
        Code::Unsupported | Code::UnknownPath | Code::MethodNotAllowed | Code::UnsupportedMedia => 12,
        Code::ExecutionFailed => 13,
        Code::ModelNotReady | Code::NotReady | Code::QueueFull | Code::DeadlineUnreachable | Code::Draining => 14,
    }
}

/// `grpc-message` is in percent-encoding.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => out.push(char::from(byte)),
            // Writing to a string does not fail.
            _ => drop(write!(out, "%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http_body_util::StreamBody;

    use super::super::messages::ServerLiveResponse;
    use super::*;

    fn messages(chunks: &[&[u8]], limit: usize) -> Messages<impl Body<Data = Bytes, Error = Infallible> + use<>> {
        let frames: Vec<_> = chunks
            .iter()
            .map(|chunk| Ok::<_, Infallible>(Frame::data(Bytes::copy_from_slice(chunk))))
            .collect();
        let body = StreamBody::new(tokio_stream::iter(frames));
        Messages::new(&HeaderMap::new(), body, limit, Budget::new(1000))
    }

    #[tokio::test]
    async fn messages_are_found_wherever_the_chunks_are_cut() {
        let whole = [
            encode(&ServerLiveResponse { live: true }),
            encode(&ServerLiveResponse { live: false }),
        ]
        .concat();
        for cut in 0..whole.len() {
            let mut messages = messages(&[&whole[..cut], &whole[cut..]], 10);
            for live in [true, false] {
                let (message, _) = messages.next().await.unwrap().unwrap();
                assert_eq!(decode::<ServerLiveResponse>(message).unwrap().live, live);
            }
            assert!(messages.next().await.unwrap().is_none());
        }
    }

    #[tokio::test]
    async fn long_cut_off_and_packed_messages_are_refused() {
        let code = |chunk: &'static [u8]| async move { messages(&[chunk], 4).next().await.unwrap_err().code };
        assert_eq!(code(&[0, 0, 0, 0, 5]).await, Code::BodyTooLarge);
        assert_eq!(code(&[0, 0, 0, 0, 1]).await, Code::InvalidRequest);
        assert_eq!(code(&[1, 0, 0, 0, 1, 0]).await, Code::InvalidRequest);
    }

    #[test]
    fn timeouts_have_units() {
        let read = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", HeaderValue::from_static(text));
            timeout(&headers).ok().flatten()
        };
        assert_eq!(read("250m"), Some(Duration::from_millis(250)));
        assert_eq!(read("99999999H"), Some(Duration::from_hours(99_999_999)));
        for wrong in ["", "m", "1", "-1S", "123456789S", "1x"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn texts_of_statuses_are_escaped() {
        assert_eq!(escape("a \"b\" 5% ü\n"), "a \"b\" 5%25 %C3%BC%0A");
    }
}
