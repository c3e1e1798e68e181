//! The gRPC answers that the activator gives itself: the few messages, encoded by hand.

use bytes::{BufMut, BytesMut};
use http::{Response, header};

use super::status;
use crate::{
    body::{Content, Kept, ProxyBody},
    catalogue::{self, Scope},
    inference::Call,
};

/// The answer to a call about the server.
pub(crate) fn server(call: Call, scope: Scope<'_>) -> Response<ProxyBody> {
    let mut message = Message::default();
    match call {
        Call::Ready => message.flag(1, catalogue::is_ready(scope)),
        Call::ServerMetadata => {
            message.string(1, catalogue::NAME);
            message.string(2, catalogue::VERSION);
            for extension in catalogue::EXTENSIONS {
                message.string(3, extension);
            }
        }
        Call::RepositoryIndex => {
            for row in catalogue::rows(scope) {
                let mut model = Message::default();
                model.string(1, row.name);
                model.string(2, row.version);
                model.string(3, row.state);
                model.string(4, &row.reason);
                message.bytes(1, &model.0);
            }
        }
        _ => message.flag(1, true),
    }
    unary(&message)
}

/// The answer to `ModelReady`.
pub(crate) fn model_ready(ready: bool) -> Response<ProxyBody> {
    let mut message = Message::default();
    message.flag(1, ready);
    unary(&message)
}

/// The answer of the health protocol.
pub(crate) fn health(serving: bool) -> Response<ProxyBody> {
    let mut message = Message::default();
    // SERVING and NOT_SERVING.
    message.number(1, if serving { 1 } else { 2 });
    unary(&message)
}

fn unary(message: &Message) -> Response<ProxyBody> {
    let mut body = BytesMut::with_capacity(5 + message.0.len());
    body.put_u8(0);
    // Names and reasons of routes; nowhere near 4 GiB.
    body.put_u32(message.0.len() as u32);
    body.put_slice(&message.0);
    let kept = Kept::from(body.freeze()).with_trailers(status::success());
    let mut response = Response::new(ProxyBody::new(Content::Kept(kept.into())));
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, status::CONTENT_TYPE);
    response
}

/// A protobuf message being written. Fields of default value are left out.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn flag(&mut self, field: u8, value: bool) {
        self.number(field, u8::from(value));
    }

    /// A number below 128.
    fn number(&mut self, field: u8, value: u8) {
        if value > 0 {
            self.0.extend([field << 3, value]);
        }
    }

    fn string(&mut self, field: u8, value: &str) {
        if !value.is_empty() {
            self.bytes(field, value.as_bytes());
        }
    }

    fn bytes(&mut self, field: u8, value: &[u8]) {
        self.0.push(field << 3 | 2);
        let mut length = value.len();
        while length >= 0x80 {
            self.0.push(length as u8 | 0x80);
            length >>= 7;
        }
        self.0.push(length as u8);
        self.0.extend_from_slice(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_encoded_as_protobuf_has_them() {
        let mut message = Message::default();
        message.flag(1, true);
        message.flag(2, false);
        message.string(3, "");
        message.string(3, &"a".repeat(300));
        assert_eq!(message.0[..5], [0x08, 1, 0x1a, 0xac, 0x02]);
        assert_eq!(message.0.len(), 305);
    }
}
