//! Long lists of numbers are cut out of a body before serde sees it.
//!
//! serde reads one number at a time through two layers of visitors. A tensor of 150,000 numbers is better read by [`super::scan`], once
//! it is known which input it belongs to. So `cut` takes the long lists of numbers out and leaves a mark, a text, for each;
//! serde reads the short rest, and where it finds a mark for a tensor, the list is scanned straight into the tensor's vector.
//! Whatever is unusual makes the caller fall back to reading the whole body by serde: no fault is found or told here.

/// Shorter lists stay where they are.
const LEAST: usize = 256;

/// How a mark begins, as JSON writes it. A body that has this anywhere is not cut.
const MARK: &str = "\\u0001pilotlight:";

/// How a mark begins once it is read.
const READ_MARK: &str = "\u{1}pilotlight:";

/// The lists that were cut out.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Holes<'b> {
    lists: &'b [&'b [u8]],
}

/// A body without its long lists of numbers.
#[derive(Debug)]
pub(crate) struct Cut<'b> {
    rest: Vec<u8>,
    lists: Vec<&'b [u8]>,
}

impl Cut<'_> {
    /// JSON with marks.
    pub(crate) fn rest(&self) -> &[u8] {
        &self.rest
    }

    /// What the marks stand for.
    pub(crate) fn holes(&self) -> Holes<'_> {
        Holes { lists: &self.lists }
    }
}

impl<'b> Holes<'b> {
    /// The list that a text marks.
    pub(crate) fn list(&self, text: &str) -> Option<&'b [u8]> {
        let index: usize = text.strip_prefix(READ_MARK)?.parse().ok()?;
        self.lists.get(index).copied()
    }
}

/// Cuts the long lists of numbers out; `None` where there are none, or something is unusual.
pub(crate) fn cut(body: &[u8]) -> Option<Cut<'_>> {
    if body.len() < LEAST {
        return None;
    }
    let mut cut = Cut {
        rest: Vec::new(),
        lists: Vec::new(),
    };
    let (mut at, mut copied) = (0, 0);
    while let Some(next) = find(&body[at..], |b| b == b'"' || b == b'[') {
        at += next;
        if body[at] == b'"' {
            at = string_end(body, at)?;
            continue;
        }
        let end = at + find(&body[at..], |b| !of_numbers(b)).unwrap_or(body.len() - at);
        let Some(last) = body[at..end].iter().rposition(|&b| b == b']') else {
            // Brackets that open before something else. Many of them are no request, and looking at each again takes long.
            if end - at > LEAST {
                return None;
            }
            at += 1;
            continue;
        };
        let mut list = &body[at..=at + last];
        let (open, close) = (count(list, b'['), count(list, b']'));
        if open > close {
            return None;
        }
        // What closes more than was opened belongs to the lists around this one.
        for _ in open..close {
            list = &list[..=list[..list.len() - 1].iter().rposition(|&b| b == b']')?];
        }
        if list.len() >= LEAST {
            cut.rest.extend_from_slice(&body[copied..at]);
            cut.rest
                .extend_from_slice(format!("\"{MARK}{}\"", cut.lists.len()).as_bytes());
            cut.lists.push(list);
            copied = at + list.len();
        }
        at += list.len();
    }
    if cut.lists.is_empty() {
        return None;
    }
    cut.rest.extend_from_slice(&body[copied..]);
    let marks = cut
        .rest
        .windows(MARK.len())
        .filter(|part| *part == MARK.as_bytes())
        .count();
    (marks == cut.lists.len()).then_some(cut)
}

/// Whether a byte can stand in a list of numbers. Some others are let through so that it takes few comparisons, all of which are
/// made, as vector instructions want it; the scan refuses them.
#[allow(clippy::needless_bitwise_bool, reason = "a lazy operator is a branch")]
fn of_numbers(byte: u8) -> bool {
    let written = byte.wrapping_sub(b'+') <= b'9' - b'+';
    let exponent = (byte | 0x20) == b'e';
    let bracket = (byte == b'[') | (byte == b']');
    let space = (byte == b' ') | (byte.wrapping_sub(b'\t') <= b'\r' - b'\t');
    written | exponent | bracket | space
}

/// The first byte that this holds for. Looks at whole blocks, which the compiler turns into vector instructions.
fn find(bytes: &[u8], of: impl Fn(u8) -> bool + Copy) -> Option<usize> {
    const BLOCK: usize = 64;
    let (blocks, _) = bytes.as_chunks::<BLOCK>();
    let clean = |block: &&[u8; BLOCK]| !block.iter().fold(false, |found, &b| found | of(b));
    let from = blocks.iter().take_while(clean).count() * BLOCK;
    bytes[from..].iter().position(|&b| of(b)).map(|at| from + at)
}

/// How often a byte is there. Counted in bytes as far as these hold it, since wider sums take that many times longer.
pub(super) fn count(bytes: &[u8], byte: u8) -> usize {
    let block = |block: &[u8]| usize::from(block.iter().fold(0, |n: u8, &b| n + u8::from(b == byte)));
    bytes.chunks(u8::MAX.into()).map(block).sum()
}

/// Behind the string that begins at `at`.
fn string_end(body: &[u8], at: usize) -> Option<usize> {
    let mut at = at + 1;
    loop {
        at += find(&body[at..], |b| b == b'"' || b == b'\\')?;
        if body[at] == b'"' {
            return Some(at + 1);
        }
        at += 2;
        if at > body.len() {
            return None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(len: usize) -> String {
        format!("[[{}]]", vec!["1.5"; len].join(", "))
    }

    #[test]
    fn long_lists_are_cut_out_and_the_rest_stays() {
        let long = list(100);
        let body = format!(r#"{{"a\"[": [1, 2], "b": {long}, "c": ["x", {long}], "d": [[], []]}}"#);
        let cut = cut(body.as_bytes()).unwrap();
        let rest = std::str::from_utf8(cut.rest()).unwrap();
        assert_eq!(
            rest,
            r#"{"a\"[": [1, 2], "b": "\u0001pilotlight:0", "c": ["x", "\u0001pilotlight:1"], "d": [[], []]}"#
        );
        let read: serde_json::Value = serde_json::from_str(rest).unwrap();
        assert_eq!(cut.holes().list(read["c"][1].as_str().unwrap()), Some(long.as_bytes()));
        assert_eq!(cut.holes().list("\u{1}pilotlight:2"), None);
        assert_eq!(cut.holes().list("1"), None);
    }

    #[test]
    fn what_is_unusual_is_left_alone() {
        let long = list(100);
        for body in [
            format!(r#"{{"a": {}}}"#, list(9)),
            format!(r#"{{"a": {long}, "b": "\u0001pilotlight:0"}}"#),
            format!(r#"{{"a": [{long}, null]}}"#),
            format!(r#"{{"a": {long}, "b": "no end"#),
            format!(r#"{{"a": {long}, "b": "no end\"#),
            "[".repeat(1000) + "{",
        ] {
            assert!(cut(body.as_bytes()).is_none(), "{body}");
        }
    }
}
