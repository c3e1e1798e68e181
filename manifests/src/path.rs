//! Field paths as messages show them: `spec.predictor.model.env[0].name`, `metadata.annotations["a.b/c"]`.

/// `parent` with the mapping key `key` below it; a key that holds anything but letters, digits, `-` and `_` is quoted.
pub(crate) fn child(parent: &str, key: &str) -> String {
    let plain = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    match (plain, parent.is_empty()) {
        (true, true) => key.to_owned(),
        (true, false) => format!("{parent}.{key}"),
        (false, _) => format!("{parent}[{key:?}]"),
    }
}

/// `parent` with the element `index` of the sequence below it.
pub(crate) fn element(parent: &str, index: usize) -> String {
    format!("{parent}[{index}]")
}

/// The path with every index left out, `spec.predictor.model.env[].name`: what tables are keyed by.
pub(crate) fn shape(path: &str) -> String {
    let mut shape = String::with_capacity(path.len());
    let mut in_index = false;
    for c in path.chars() {
        match c {
            '[' => in_index = true,
            ']' => in_index = false,
            c if in_index && c.is_ascii_digit() => continue,
            _ => {}
        }
        shape.push(c);
    }
    shape
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_could_be_read_otherwise_are_quoted() {
        assert_eq!(
            child("metadata.annotations", "a.b/c"),
            r#"metadata.annotations["a.b/c"]"#
        );
        assert_eq!(child("", "spec"), "spec");
        assert_eq!(child("spec", ""), r#"spec[""]"#);
    }

    #[test]
    fn shape_leaves_indices_out() {
        assert_eq!(shape("spec.model.env[12].name"), "spec.model.env[].name");
    }
}
