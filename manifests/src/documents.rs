//! Splits a text into its YAML documents before anything is parsed, so that broken syntax in one does not hide the others.

/// One document's text and where it begins.
pub(crate) struct Chunk<'a> {
    pub(crate) text: &'a str,
    /// Lines of the whole text before the chunk's first.
    pub(crate) lines_before: usize,
}

/// Splits at `---` lines. YAML forbids that marker at the start of a line within a document, block scalars included, so a line
/// of text is enough to decide. The marker stays with the document that it begins (`--- {a: b}` is legal); directives
/// (`%YAML 1.2`) have no say in what we read and are left out.
pub(crate) fn split(text: &str) -> Vec<Chunk<'_>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut chunks = Vec::new();
    let (mut begin, mut begin_line) = (0, 0);
    let mut offset = 0;
    for (number, line) in text.split_inclusive('\n').enumerate() {
        if is_marker(line) && offset > begin {
            chunks.push(Chunk {
                text: &text[begin..offset],
                lines_before: begin_line,
            });
            (begin, begin_line) = (offset, number);
        }
        offset += line.len();
    }
    chunks.push(Chunk {
        text: &text[begin..],
        lines_before: begin_line,
    });
    chunks.retain(|chunk| !only_directives(chunk.text));
    chunks
}

fn is_marker(line: &str) -> bool {
    line.strip_prefix("---")
        .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\n', '\r']))
}

fn only_directives(text: &str) -> bool {
    text.lines()
        .all(|line| line.trim().is_empty() || line.starts_with(['%', '#']))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(text: &str) -> Vec<(&str, usize)> {
        split(text)
            .into_iter()
            .map(|chunk| (chunk.text, chunk.lines_before))
            .collect()
    }

    #[test]
    fn markers_part_documents_and_keep_their_lines() {
        assert_eq!(
            texts("a\n---\nb\n--- c\n"),
            [("a\n", 0), ("---\nb\n", 1), ("--- c\n", 3)]
        );
    }

    #[test]
    fn leading_comments_directives_and_nothing_are_no_document() {
        assert_eq!(texts("# hello\n---\na\n"), [("---\na\n", 1)]);
        assert_eq!(texts("%YAML 1.2\n---\na"), [("---\na", 1)]);
        assert_eq!(texts(""), []);
    }

    #[test]
    fn text_that_only_looks_like_a_marker_stays() {
        assert_eq!(texts("a: |\n  ---\n----\n"), [("a: |\n  ---\n----\n", 0)]);
    }
}
