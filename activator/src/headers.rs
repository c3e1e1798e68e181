//! What changes in the headers of a message that passes through.

use std::borrow::Cow;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header, request};

pub(crate) const COLD_START: HeaderName = HeaderName::from_static("x-keda-http-cold-start");
/// Value of `TE` without which a gRPC server does not answer.
pub(crate) const TRAILERS: HeaderValue = HeaderValue::from_static("trailers");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Headers that concern one connection only (RFC 9110, 7.6.1), and `Expect`, which our server answers itself.
const HOP_BY_HOP: [HeaderName; 9] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::EXPECT,
];

/// Takes off what concerns one connection only, the headers named in `Connection` included.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(header::CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(header::CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|name| name.trim().parse().ok())
            .collect();
        for name in named {
            headers.remove(name);
        }
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
}

/// The same for an answer; one that switches protocols keeps what says so.
pub(crate) fn strip_hop_by_hop_of_answer<B>(response: &mut Response<B>) {
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        strip_hop_by_hop(response.headers_mut());
    }
}

/// Whether the request asks to leave HTTP on this connection, as WebSocket does.
pub(crate) fn wants_upgrade(headers: &HeaderMap) -> bool {
    headers.contains_key(header::UPGRADE)
        && headers.get_all(header::CONNECTION).iter().any(|value| {
            value.to_str().is_ok_and(|value| {
                value
                    .split(',')
                    .any(|token| token.trim().eq_ignore_ascii_case("upgrade"))
            })
        })
}

/// Host and port that the client asked for: from an absolute URI or HTTP/2's `:authority`, else from `Host`.
pub(crate) fn authority(parts: &request::Parts) -> Option<&str> {
    match parts.uri.authority() {
        Some(authority) => Some(authority.as_str()),
        None => parts.headers.get(header::HOST)?.to_str().ok(),
    }
}

/// The host of an authority: without port and trailing dot, in lower case.
pub(crate) fn host_name(authority: &str) -> Cow<'_, str> {
    let host = match authority.rsplit_once(':') {
        // In `[::1]` the last colon is not before a port.
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(host.to_ascii_lowercase())
    } else {
        Cow::Borrowed(host)
    }
}

/// Tells the endpoint who asked, how (`http` or `https`) and under which host. `client` is the peer's address.
pub(crate) fn add_forwarded(
    headers: &mut HeaderMap,
    client: &HeaderValue,
    scheme: HeaderValue,
    host: Option<&HeaderValue>,
) {
    let chain = match headers.get(FORWARDED_FOR) {
        None => client.clone(),
        Some(before) => {
            let text = [before.as_bytes(), b", ", client.as_bytes()].concat();
            HeaderValue::from_maybe_shared(Bytes::from(text)).unwrap_or_else(|_| client.clone())
        }
    };
    headers.insert(FORWARDED_FOR, chain);
    headers.entry(FORWARDED_PROTO).or_insert(scheme);
    if let Some(host) = host {
        headers.entry(FORWARDED_HOST).or_insert_with(|| host.clone());
    }
}

/// Passes a W3C trace context on; makes one where there is none or it is malformed. The new one is not marked as
/// sampled, since nothing of it was recorded here.
pub(crate) fn add_trace_context(headers: &mut HeaderMap, random: impl FnMut() -> u64) {
    if headers
        .get(TRACEPARENT)
        .is_some_and(|value| is_traceparent(value.as_bytes()))
    {
        return;
    }
    headers.remove(TRACESTATE);
    headers.insert(TRACEPARENT, new_traceparent(random));
}

fn new_traceparent(mut random: impl FnMut() -> u64) -> HeaderValue {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
    // An id of zeros is invalid; the lowest bit rules it out.
    let numbers = [(3, random()), (19, random() | 1), (36, random() | 1)];
    for (at, mut number) in numbers {
        for digit in text[at..at + 16].iter_mut().rev() {
            *digit = DIGITS[(number & 15) as usize];
            number >>= 4;
        }
    }
    HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static(
        "00-00000000000000000000000000000001-0000000000000001-00",
    ))
}

fn is_traceparent(text: &[u8]) -> bool {
    let hex = |range: std::ops::Range<usize>| text[range].iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let zero = |range: std::ops::Range<usize>| text[range].iter().all(|b| *b == b'0');
    text.len() >= 55
        && hex(0..2)
        && &text[0..2] != b"ff"
        // Version 00 has exactly these fields; later ones may add some after another dash.
        && (text.len() == 55 || (&text[0..2] != b"00" && text[55] == b'-'))
        && text[2] == b'-'
        && hex(3..35)
        && !zero(3..35)
        && text[35] == b'-'
        && hex(36..52)
        && !zero(36..52)
        && text[52] == b'-'
        && hex(53..55)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Add-on unit test `TestUpstreamPreservesXForwardedHeaders`.
    #[test]
    fn add_on_what_a_proxy_before_us_says_of_host_and_scheme_stays_and_the_chain_grows() {
        let client = HeaderValue::from_static("10.0.0.9");
        let (scheme, host) = (HeaderValue::from_static("http"), HeaderValue::from_static("app.test"));
        let mut first = HeaderMap::new();
        add_forwarded(&mut first, &client, scheme.clone(), Some(&host));
        assert_eq!(
            (&first[FORWARDED_FOR], &first[FORWARDED_PROTO], &first[FORWARDED_HOST]),
            (&client, &scheme, &host)
        );
        let mut second = HeaderMap::new();
        for (name, value) in [
            (FORWARDED_FOR, "10.0.0.1"),
            (FORWARDED_PROTO, "https"),
            (FORWARDED_HOST, "outside.test"),
        ] {
            second.insert(name, HeaderValue::from_static(value));
        }
        second.insert("x-forwarded-port", HeaderValue::from_static("443"));
        add_forwarded(&mut second, &client, scheme, Some(&host));
        assert_eq!(second[FORWARDED_FOR], "10.0.0.1, 10.0.0.9");
        assert_eq!(second[FORWARDED_PROTO], "https");
        assert_eq!(second[FORWARDED_HOST], "outside.test");
        assert_eq!(second["x-forwarded-port"], "443");
    }

    #[test]
    fn headers_of_one_connection_are_taken_off_with_those_it_names() {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONNECTION, HeaderValue::from_static("close, X-Private"));
        headers.insert("x-private", HeaderValue::from_static("1"));
        headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        headers.insert("x-kept", HeaderValue::from_static("1"));
        strip_hop_by_hop(&mut headers);
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-kept"]);
    }

    #[test]
    fn hosts_lose_port_case_and_trailing_dot() {
        assert_eq!(host_name("Iris.NS.example.com:8080"), "iris.ns.example.com");
        assert_eq!(host_name("iris.example.com."), "iris.example.com");
        assert_eq!(host_name("[::1]:8080"), "[::1]");
        assert_eq!(host_name("[::1]"), "[::1]");
    }

    #[test]
    fn the_forwarding_chain_grows_and_the_first_host_stays() {
        let mut headers = HeaderMap::new();
        let host = HeaderValue::from_static("a.example.com");
        let https = HeaderValue::from_static("https");
        let http = HeaderValue::from_static("http");
        add_forwarded(&mut headers, &HeaderValue::from_static("10.0.0.1"), https, Some(&host));
        add_forwarded(
            &mut headers,
            &HeaderValue::from_static("10.0.0.2"),
            http,
            Some(&HeaderValue::from_static("b")),
        );
        assert_eq!(headers[FORWARDED_FOR], "10.0.0.1, 10.0.0.2");
        assert_eq!(headers[FORWARDED_HOST], "a.example.com");
        assert_eq!(headers[FORWARDED_PROTO], "https");
    }

    #[test]
    fn a_valid_trace_context_passes_and_a_broken_one_is_replaced() {
        let valid = HeaderValue::from_static("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
        let mut headers = HeaderMap::new();
        headers.insert(TRACEPARENT, valid.clone());
        headers.insert(TRACESTATE, HeaderValue::from_static("a=b"));
        add_trace_context(&mut headers, || 7);
        assert_eq!(headers[TRACEPARENT], valid);
        assert!(headers.contains_key(TRACESTATE));

        headers.insert(TRACEPARENT, HeaderValue::from_static("00-zz"));
        add_trace_context(&mut headers, || 0);
        assert!(is_traceparent(headers[TRACEPARENT].as_bytes()));
        assert!(!headers.contains_key(TRACESTATE));
    }

    #[test]
    fn an_upgrade_needs_both_headers() {
        let mut headers = HeaderMap::new();
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        assert!(!wants_upgrade(&headers));
        headers.insert(header::CONNECTION, HeaderValue::from_static("keep-alive, Upgrade"));
        assert!(wants_upgrade(&headers));
    }
}
