//! What a plain YAML scalar means: the core schema of YAML 1.2, which JSON's literals are part of.

/// A resolved scalar.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Scalar {
    /// `null`, `~` or nothing.
    Null,
    /// `true` or `false`; `yes` and `on` are strings, as in YAML 1.2.
    Bool(bool),
    /// A whole number that fits 64 bits.
    Int(i64),
    /// Any other finite number.
    Float(f64),
    /// Everything else.
    Str(String),
}

impl Scalar {
    /// Reads an unquoted, untagged scalar.
    pub(crate) fn plain(text: &str) -> Self {
        match text {
            "" | "~" | "null" | "Null" | "NULL" => Self::Null,
            "true" | "True" | "TRUE" => Self::Bool(true),
            "false" | "False" | "FALSE" => Self::Bool(false),
            _ => integer(text)
                .map(Self::Int)
                .or_else(|| float(text).map(Self::Float))
                .unwrap_or_else(|| Self::Str(text.to_owned())),
        }
    }

    /// Reads a scalar that carries the core tag `!!suffix`. `None` where the text is no such thing or the tag unknown.
    pub(crate) fn tagged(suffix: &str, text: &str) -> Option<Self> {
        let plain = Self::plain(text);
        match (suffix, plain) {
            ("str", _) => Some(Self::Str(text.to_owned())),
            ("int", value @ Self::Int(_))
            | ("float", value @ Self::Float(_))
            | ("bool", value @ Self::Bool(_))
            | ("null", value @ Self::Null) => Some(value),
            ("float", Self::Int(i)) => Some(Self::Float(i as f64)),
            _ => None,
        }
    }
}

fn integer(text: &str) -> Option<i64> {
    if let Some(digits) = text.strip_prefix("0x") {
        return digits
            .bytes()
            .all(|b| b.is_ascii_hexdigit())
            .then(|| i64::from_str_radix(digits, 16).ok())?;
    }
    if let Some(digits) = text.strip_prefix("0o") {
        return digits
            .bytes()
            .all(|b| b.is_ascii_digit())
            .then(|| i64::from_str_radix(digits, 8).ok())?;
    }
    text.parse().ok()
}

/// Rust's own grammar takes `inf` and `nan` too, which no field of ours could use: they stay strings.
fn float(text: &str) -> Option<f64> {
    let numeric = text
        .bytes()
        .all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'+' | b'e' | b'E'));
    if !numeric || !text.bytes().any(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().filter(|value: &f64| value.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn core_schema() {
        for (text, expected) in [
            ("", Scalar::Null),
            ("~", Scalar::Null),
            ("True", Scalar::Bool(true)),
            ("yes", Scalar::Str("yes".into())),
            ("12", Scalar::Int(12)),
            ("+12", Scalar::Int(12)),
            ("-3", Scalar::Int(-3)),
            ("0x1f", Scalar::Int(31)),
            ("0x-1f", Scalar::Str("0x-1f".into())),
            ("0o17", Scalar::Int(15)),
            ("1.5", Scalar::Float(1.5)),
            ("1e3", Scalar::Float(1000.0)),
            ("e", Scalar::Str("e".into())),
            (".nan", Scalar::Str(".nan".into())),
            ("inf", Scalar::Str("inf".into())),
            ("1e999", Scalar::Str("1e999".into())),
            ("99999999999999999999", Scalar::Float(1e20)),
            ("10Mi", Scalar::Str("10Mi".into())),
        ] {
            assert_eq!(Scalar::plain(text), expected, "{text}");
        }
    }

    #[test]
    fn core_tags_decide() {
        assert_eq!(Scalar::tagged("str", "12"), Some(Scalar::Str("12".into())));
        assert_eq!(Scalar::tagged("float", "12"), Some(Scalar::Float(12.0)));
        assert_eq!(Scalar::tagged("int", "twelve"), None);
        assert_eq!(Scalar::tagged("set", "x"), None);
    }
}
