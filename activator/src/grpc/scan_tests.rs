//! Messages as clients send them and as nobody should.

use proptest::prelude::*;

use super::*;

fn framed(message: &[u8]) -> Vec<u8> {
    let mut body = vec![0];
    body.extend_from_slice(&(message.len() as u32).to_be_bytes());
    body.extend_from_slice(message);
    body
}

/// What comes of a body that arrives in pieces of `step` bytes.
fn scan(field: u32, body: &[u8], step: usize) -> Result<Progress, Fault> {
    let mut scanner = Scanner::new(field);
    for piece in body.chunks(step.max(1)) {
        match scanner.push(piece)? {
            Progress::More => {}
            found @ Progress::Found(_) => return Ok(found),
        }
    }
    Ok(Progress::More)
}

fn found(name: &str) -> Result<Progress, Fault> {
    Ok(Progress::Found(Some(name.to_owned())))
}

fn varint(mut value: u64, to: &mut Vec<u8>) {
    while value >= 0x80 {
        to.push(value as u8 | 0x80);
        value >>= 7;
    }
    to.push(value as u8);
}

fn string(field: u32, value: &[u8], to: &mut Vec<u8>) {
    varint(u64::from(field << 3 | 2), to);
    varint(value.len() as u64, to);
    to.extend_from_slice(value);
}

#[test]
fn the_name_is_found_at_once_though_the_message_goes_on() {
    let body = b"\0\0\x01\0\0\x0a\x04irisREST";
    assert_eq!(scan(1, body, body.len()), found("iris"));
    assert_eq!(scan(1, &body[..11], 1), found("iris"));
    assert_eq!(scan(1, &body[..10], 1), Ok(Progress::More));
}

#[test]
fn an_absent_or_empty_name_is_none() {
    for message in [&b""[..], b"\x12\x01x", b"\x0a\0"] {
        assert_eq!(scan(1, &framed(message), 1), Ok(Progress::Found(None)), "{message:?}");
    }
    assert_eq!(scan(1, b"", 1), Ok(Progress::More));
}

#[test]
fn a_compressed_message_is_not_looked_into() {
    assert_eq!(scan(1, b"\x01\0\0\0\x03abc", 8), Err(Fault::Compressed));
}

#[test]
fn what_is_no_message_is_refused() {
    for message in [
        // Field number 0.
        &b"\x02\x00"[..],
        // Field 1 as a number.
        b"\x08\x01",
        // A group.
        b"\x13",
        // A wire type that does not exist.
        b"\x17",
        // Longer than the message.
        b"\x0a\x05abcd",
        b"\x12\x05abcd",
        b"\x11abcd",
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        // A varint of eleven bytes, and one beyond 64 bits.
        b"\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02",
        // Cut off in the key, in a number and before a length.
        b"\x80",
        b"\x10\x80",
        b"\x0a",
        // A key beyond 32 bits.
        b"\xff\xff\xff\xff\xff\x01x",
        // No UTF-8.
        b"\x0a\x01\xff",
    ] {
        let outcome = scan(1, &framed(message), message.len());
        assert!(matches!(outcome, Err(Fault::Malformed(_))), "{message:?}: {outcome:?}");
    }
    assert!(matches!(scan(1, b"\x02\0\0\0\0", 5), Err(Fault::Malformed(_))));
    let mut long = Vec::new();
    string(1, &[b'a'; MAX_NAME + 1], &mut long);
    assert!(matches!(scan(1, &framed(&long), 64), Err(Fault::Malformed(_))));
}

#[derive(Clone, Debug)]
enum Other {
    Number(u64),
    Eight([u8; 8]),
    Four([u8; 4]),
    Bytes(Vec<u8>),
}

fn other() -> impl Strategy<Value = (u32, Other)> {
    let value = prop_oneof![
        any::<u64>().prop_map(Other::Number),
        any::<[u8; 8]>().prop_map(Other::Eight),
        any::<[u8; 4]>().prop_map(Other::Four),
        proptest::collection::vec(any::<u8>(), 0..300).prop_map(Other::Bytes),
    ];
    (3u32..1 << 29, value)
}

fn write(field: u32, value: &Other, to: &mut Vec<u8>) {
    let key = u64::from(field) << 3;
    match value {
        Other::Number(number) => {
            varint(key, to);
            varint(*number, to);
        }
        Other::Eight(bytes) => {
            varint(key | 1, to);
            to.extend_from_slice(bytes);
        }
        Other::Four(bytes) => {
            varint(key | 5, to);
            to.extend_from_slice(bytes);
        }
        Other::Bytes(bytes) => {
            varint(key | 2, to);
            varint(bytes.len() as u64, to);
            to.extend_from_slice(bytes);
        }
    }
}

proptest! {
    #[test]
    fn a_name_is_found_behind_any_fields_and_in_any_pieces(
        before in proptest::collection::vec(other(), 0..8),
        name in "[a-z0-9.-]{1,60}",
        after in proptest::collection::vec(any::<u8>(), 0..50),
        field in 1u32..3,
        step in 1usize..40,
    ) {
        let mut message = Vec::new();
        for (number, value) in &before {
            write(*number, value, &mut message);
        }
        string(field, name.as_bytes(), &mut message);
        message.extend_from_slice(&after);
        prop_assert_eq!(scan(field, &framed(&message), step), found(&name));
    }

    #[test]
    fn hostile_bytes_give_the_same_outcome_in_any_pieces(
        message in proptest::collection::vec(any::<u8>(), 0..64),
        lie in proptest::option::of(any::<u32>()),
        step in 1usize..70,
    ) {
        let mut body = framed(&message);
        if let Some(length) = lie {
            body[1..5].copy_from_slice(&length.to_be_bytes());
        }
        prop_assert_eq!(scan(1, &body, step), scan(1, &body, 1));
    }
}
