//! Content codings: gzip and deflate, of bodies and of answers.

use std::io::{self, Read, Write as _};

use bytes::{BufMut as _, Bytes, BytesMut};
use flate2::bufread::MultiGzDecoder;
use flate2::write::{GzEncoder, ZlibEncoder};
use flate2::{Compression, Decompress, FlushDecompress, Status};
use http::HeaderMap;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING};

use super::body::{Share, too_large};
use crate::error::{ApiError, Code};

/// Shorter answers are sent as they are: they fit one packet either way.
const LEAST: usize = 1024;

/// How much is unpacked between two looks at the bounds.
const STEP: usize = 64 << 10;

/// A content coding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Coding {
    Gzip,
    /// In HTTP the zlib format, not the bare one.
    Deflate,
}

impl Coding {
    /// The coding's name.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
        }
    }

    fn named(name: &str) -> Option<Self> {
        if name.eq_ignore_ascii_case("gzip") || name.eq_ignore_ascii_case("x-gzip") {
            Some(Self::Gzip)
        } else if name.eq_ignore_ascii_case("deflate") {
            Some(Self::Deflate)
        } else {
            None
        }
    }

    /// How the body is packed; `None`: it is not.
    ///
    /// # Errors
    /// 415 for another coding, or several.
    pub(crate) fn of_body(headers: &HeaderMap) -> Result<Option<Self>, ApiError> {
        let name = headers
            .get(CONTENT_ENCODING)
            .map_or("identity", |v| v.to_str().unwrap_or("unreadable"));
        if name.eq_ignore_ascii_case("identity") {
            return Ok(None);
        }
        Self::named(name).map(Some).ok_or_else(|| unknown(name))
    }

    /// How the messages of a gRPC call are packed.
    ///
    /// # Errors
    /// As `of_body`.
    pub(crate) fn of_messages(headers: &HeaderMap) -> Result<Option<Self>, ApiError> {
        let name = headers
            .get("grpc-encoding")
            .map_or("identity", |v| v.to_str().unwrap_or("unreadable"));
        if name == "identity" {
            return Ok(None);
        }
        let unknown = || format!("grpc-encoding {name:?} is not read; identity, gzip and deflate are");
        Self::named(name)
            .map(Some)
            .ok_or_else(|| ApiError::new(Code::UnsupportedMedia, unknown()))
    }

    /// The coding that the client likes best of those there are, gzip where it has no preference.
    pub(crate) fn accepted(headers: &HeaderMap) -> Option<Self> {
        let mut best: Option<(Self, f32)> = None;
        let lists = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|v| v.to_str().ok());
        for item in lists.flat_map(|list| list.split(',')) {
            let (name, quality) = item.split_once(';').unwrap_or((item, ""));
            let quality = match quality.trim().strip_prefix("q=") {
                Some(q) => q.trim().parse().unwrap_or(0.0),
                None => 1.0,
            };
            let Some(coding) = Self::named(name.trim()).filter(|_| quality > 0.0) else {
                continue;
            };
            let better = |(other, q): (Self, f32)| quality > q || (quality == q && other == Self::Deflate);
            if best.is_none_or(better) {
                best = Some((coding, quality));
            }
        }
        best.map(|(coding, _)| coding)
    }

    /// Unpacks a body, at most `limit` bytes of it, all of which the share must have room for.
    ///
    /// # Errors
    /// 400 for what is not of this coding, 413 past the limit.
    pub(crate) fn unpack(self, body: &[u8], limit: usize, share: &mut Share) -> Result<Bytes, ApiError> {
        match self {
            Self::Gzip => self.drain(MultiGzDecoder::new(body), limit, share),
            Self::Deflate => self.inflate(body, limit, share),
        }
    }

    /// By hand, since flate2's reader takes the end of its input for the end of the stream.
    fn inflate(self, body: &[u8], limit: usize, share: &mut Share) -> Result<Bytes, ApiError> {
        let fault = |why: &str| ApiError::invalid(format!("the body is not {}: {why}", self.as_str()));
        let mut inflater = Decompress::new(true);
        let mut whole = Vec::new();
        loop {
            let (read, before) = (inflater.total_in(), whole.len());
            whole.reserve(STEP);
            let status = inflater
                .decompress_vec(&body[read as usize..], &mut whole, FlushDecompress::None)
                .map_err(|error| fault(&error.to_string()))?;
            if whole.len() > limit {
                return Err(too_large(limit));
            }
            share.grow(whole.len() - before)?;
            if status == Status::StreamEnd {
                return Ok(whole.into());
            }
            if inflater.total_in() == read && whole.len() == before {
                return Err(fault("it was cut off"));
            }
        }
    }

    fn drain(self, mut from: impl Read, limit: usize, share: &mut Share) -> Result<Bytes, ApiError> {
        let mut whole = BytesMut::new();
        loop {
            let step = from.by_ref().take(STEP as u64);
            let before = whole.len();
            io::copy(&mut { step }, &mut (&mut whole).writer())
                .map_err(|error| ApiError::invalid(format!("the body is not {}: {error}", self.as_str())))?;
            let more = whole.len() - before;
            if more == 0 {
                return Ok(whole.freeze());
            }
            if whole.len() > limit {
                return Err(too_large(limit));
            }
            share.grow(more)?;
        }
    }

    /// Packs an answer, fast rather than small; `None` where it is too short to be worth it.
    pub(crate) fn pack(self, answer: &[u8]) -> Option<Vec<u8>> {
        if answer.len() < LEAST {
            return None;
        }
        let out = Vec::with_capacity(answer.len() / 2);
        let packed = match self {
            Self::Gzip => {
                let mut encoder = GzEncoder::new(out, Compression::fast());
                encoder.write_all(answer).and_then(|()| encoder.finish())
            }
            Self::Deflate => {
                let mut encoder = ZlibEncoder::new(out, Compression::fast());
                encoder.write_all(answer).and_then(|()| encoder.finish())
            }
        };
        // Writing to memory does not fail.
        packed.ok()
    }
}

fn unknown(name: &str) -> ApiError {
    ApiError::new(
        Code::UnsupportedMedia,
        format!("Content-Encoding {name:?} is not read; send the body as it is, or packed with gzip or deflate"),
    )
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::super::body::Budget;
    use super::*;

    const BOTH: [Coding; 2] = [Coding::Gzip, Coding::Deflate];

    #[test]
    fn packed_answers_unpack_to_the_same() {
        let text = "all the same ".repeat(20_000);
        for coding in BOTH {
            let packed = coding.pack(text.as_bytes()).unwrap();
            assert!(packed.len() < text.len() / 10);
            let budget = Budget::new(usize::MAX);
            assert_eq!(coding.unpack(&packed, text.len(), &mut budget.share()).unwrap(), text);
        }
        assert_eq!(Coding::Gzip.pack(b"short"), None);
    }

    #[test]
    fn a_small_body_that_unpacks_to_a_large_one_is_stopped_at_the_bounds() {
        let zeros = vec![0; 4 << 20];
        for coding in BOTH {
            let packed = coding.pack(&zeros).unwrap();
            let budget = Budget::new(usize::MAX);
            let error = coding.unpack(&packed, 1 << 20, &mut budget.share()).unwrap_err();
            assert_eq!(error.code, Code::BodyTooLarge);
            let budget = Budget::new(1 << 20);
            let mut other = budget.share();
            other.grow(1).unwrap();
            let error = coding.unpack(&packed, 8 << 20, &mut budget.share()).unwrap_err();
            assert_eq!(error.code, Code::QueueFull);
        }
    }

    #[test]
    fn what_is_not_of_the_coding_is_a_400() {
        let packed = Coding::Gzip.pack(&[7; 2000]).unwrap();
        let deflated = Coding::Deflate.pack(&[7; 2000]).unwrap();
        for (coding, body) in [
            (Coding::Gzip, &b"no"[..]),
            (Coding::Gzip, &packed[..packed.len() - 9]),
            (Coding::Deflate, &packed[..]),
            (Coding::Deflate, &deflated[..deflated.len() - 1]),
            (Coding::Deflate, &deflated[..deflated.len() - 9]),
            (Coding::Deflate, &[]),
        ] {
            let error = coding.unpack(body, 9000, &mut Budget::new(9000).share()).unwrap_err();
            assert_eq!(error.code, Code::InvalidRequest);
            assert!(error.message.contains(coding.as_str()), "{error}");
        }
    }

    #[test]
    fn the_client_chooses_the_coding() {
        for (list, expected) in [
            ("gzip", Some(Coding::Gzip)),
            ("deflate, gzip", Some(Coding::Gzip)),
            ("gzip;q=0.5, deflate", Some(Coding::Deflate)),
            ("gzip;q=0, br", None),
            ("identity", None),
            ("", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_static(list));
            assert_eq!(Coding::accepted(&headers), expected, "{list}");
        }
        assert_eq!(Coding::accepted(&HeaderMap::new()), None);
    }
}
