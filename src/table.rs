//! Services as a table: pure functions from items to text.

use std::collections::BTreeMap;

use crate::{api::Item, output::Palette};

/// Which columns there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Columns {
    /// The namespace, first.
    pub(crate) namespaces: bool,
    /// Revision, source and the reason in words, last.
    pub(crate) wide: bool,
}

/// Space between two columns; headings have single spaces in them.
const GAP: usize = 3;
/// The column of readiness is coloured by this prefix.
const READY: &str = "True";

impl Columns {
    fn headings(self) -> Vec<&'static str> {
        let mut headings = Vec::new();
        if self.namespaces {
            headings.push("NAMESPACE");
        }
        headings.extend(["NAME", "URL", "READY", "REPLICAS", "IN FLIGHT", "WAITING", "LAST WAKE"]);
        if self.wide {
            headings.extend(["REVISION", "SOURCE", "MESSAGE"]);
        }
        headings
    }

    fn cells(self, item: &Item) -> Vec<String> {
        let mut cells = Vec::new();
        if self.namespaces {
            cells.push(item.namespace.clone());
        }
        cells.extend([
            item.name.clone(),
            item.url.clone(),
            ready(item),
            replicas(item),
            item.in_flight.to_string(),
            item.waiting.to_string(),
            item.last_wake_ms.map_or("-".to_owned(), |ms| format!("{ms:.1} ms")),
        ]);
        if self.wide {
            let shown = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
            cells.extend([shown(&item.revision), source(item), shown(&item.message)]);
        }
        cells
    }
}

fn ready(item: &Item) -> String {
    match (item.ready, &item.reason) {
        (true, _) => READY.to_owned(),
        (false, Some(reason)) => format!("False ({reason})"),
        (false, None) => "False".to_owned(),
    }
}

fn replicas(item: &Item) -> String {
    let replicas = item.replicas;
    match replicas.starting {
        0 => format!("{}/{}", replicas.ready, replicas.desired),
        starting => format!("{}/{} ({starting} starting)", replicas.ready, replicas.desired),
    }
}

fn source(item: &Item) -> String {
    if item.source.file.is_empty() {
        "-".to_owned()
    } else {
        format!("{}:{}", item.source.file, item.source.line)
    }
}

/// The whole table, a line an item.
pub(crate) fn table(items: &[Item], columns: Columns, palette: Palette) -> String {
    let mut layout = Layout::new(columns);
    layout.widen(items);
    let mut text = layout.heading(palette);
    for item in items {
        text += &layout.row(item, palette);
    }
    text
}

/// A table that is told piece by piece: each change is a row below the last.
pub(crate) struct Changes {
    layout: Layout,
    known: BTreeMap<(String, String), Item>,
    begun: bool,
}

impl Changes {
    /// Nothing is known yet.
    pub(crate) fn new(columns: Columns) -> Self {
        Self {
            layout: Layout::new(columns),
            known: BTreeMap::new(),
            begun: false,
        }
    }

    /// The rows of what is different from before, with the heading above the first. A service that is gone gets a last row
    /// that says so.
    pub(crate) fn next(&mut self, items: &[Item], palette: Palette) -> String {
        let now: BTreeMap<_, _> = items
            .iter()
            .map(|item| ((item.namespace.clone(), item.name.clone()), item.clone()))
            .collect();
        let changed = now.iter().filter(|(key, item)| self.known.get(*key) != Some(item));
        let mut rows: Vec<Item> = changed.map(|(_, item)| item.clone()).collect();
        let gone = self.known.iter().filter(|(key, _)| !now.contains_key(*key));
        rows.extend(gone.map(|(_, item)| Item {
            ready: false,
            reason: Some("Deleted".to_owned()),
            ..item.clone()
        }));
        self.layout.widen(&rows);
        let mut text = String::new();
        if !self.begun {
            self.begun = true;
            text += &self.layout.heading(palette);
        }
        for row in &rows {
            text += &self.layout.row(row, palette);
        }
        self.known = now;
        text
    }
}

struct Layout {
    columns: Columns,
    widths: Vec<usize>,
}

impl Layout {
    fn new(columns: Columns) -> Self {
        let widths = columns.headings().iter().map(|heading| heading.len()).collect();
        Self { columns, widths }
    }

    fn widen(&mut self, items: &[Item]) {
        for item in items {
            for (width, cell) in self.widths.iter_mut().zip(self.columns.cells(item)) {
                *width = (*width).max(cell.chars().count());
            }
        }
    }

    fn heading(&self, palette: Palette) -> String {
        let headings: Vec<String> = self.columns.headings().into_iter().map(str::to_owned).collect();
        self.line(&headings, |_, heading| palette.quiet(heading))
    }

    fn row(&self, item: &Item, palette: Palette) -> String {
        let ready = self.columns.headings().iter().position(|heading| *heading == "READY");
        self.line(&self.columns.cells(item), |index, cell| {
            match (Some(index) == ready, item.ready) {
                (true, true) => palette.good(cell),
                (true, false) => palette.bad(cell),
                (false, _) => cell.to_owned(),
            }
        })
    }

    /// Pads by what is seen and not by the colours in it.
    fn line(&self, cells: &[String], paint: impl Fn(usize, &str) -> String) -> String {
        let mut line = String::new();
        for (index, cell) in cells.iter().enumerate() {
            line += &paint(index, cell);
            if index + 1 < cells.len() {
                let width = self.widths.get(index).copied().unwrap_or_default();
                line.extend(std::iter::repeat_n(
                    ' ',
                    GAP + width.saturating_sub(cell.chars().count()),
                ));
            }
        }
        line.push('\n');
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Replicas, Source};

    fn item(name: &str) -> Item {
        Item {
            name: name.to_owned(),
            namespace: "default".to_owned(),
            url: format!("http://127.0.0.1:8080/serving/default/{name}"),
            ready: true,
            replicas: Replicas {
                ready: 1,
                starting: 0,
                desired: 1,
            },
            in_flight: 2,
            waiting: 0,
            last_wake_ms: Some(38.24),
            revision: Some("00a1".to_owned()),
            source: Source {
                file: "iris.yaml".to_owned(),
                line: 2,
            },
            ..Item::default()
        }
    }

    fn broken(name: &str) -> Item {
        Item {
            ready: false,
            reason: Some("ModelLoadFailed".to_owned()),
            message: Some("no such file".to_owned()),
            replicas: Replicas {
                ready: 0,
                starting: 1,
                desired: 1,
            },
            last_wake_ms: None,
            ..item(name)
        }
    }

    #[test]
    fn columns_line_up() {
        let text = table(&[item("iris"), broken("digits")], Columns::default(), Palette::PLAIN);
        let expected = "\
NAME     URL                                            READY                     REPLICAS           IN FLIGHT   WAITING   LAST WAKE
iris     http://127.0.0.1:8080/serving/default/iris     True                      1/1                2           0         38.2 ms
digits   http://127.0.0.1:8080/serving/default/digits   False (ModelLoadFailed)   0/1 (1 starting)   2           0         -
";
        assert_eq!(text, expected);
    }

    #[test]
    fn namespaces_and_more_are_there_on_demand() {
        let columns = Columns {
            namespaces: true,
            wide: true,
        };
        let text = table(&[broken("iris")], columns, Palette::PLAIN);
        let lines: Vec<&str> = text.lines().collect();
        assert!(
            lines[0].starts_with("NAMESPACE   NAME") && lines[0].ends_with("REVISION   SOURCE        MESSAGE"),
            "{text}"
        );
        assert!(
            lines[1].starts_with("default     iris") && lines[1].ends_with("00a1       iris.yaml:2   no such file"),
            "{text}"
        );
    }

    #[test]
    fn nothing_is_a_heading() {
        assert_eq!(table(&[], Columns::default(), Palette::PLAIN).lines().count(), 1);
    }

    #[test]
    fn a_watch_shows_what_changed() {
        let mut changes = Changes::new(Columns::default());
        let first = changes.next(&[item("a"), item("b")], Palette::PLAIN);
        assert_eq!(first.lines().count(), 3, "{first}");
        assert_eq!(changes.next(&[item("a"), item("b")], Palette::PLAIN), "");

        let busy = Item {
            in_flight: 9,
            ..item("b")
        };
        let second = changes.next(&[item("a"), busy.clone()], Palette::PLAIN);
        assert!(
            second.lines().count() == 1 && second.starts_with("b ") && second.contains("   9   "),
            "{second}"
        );

        let third = changes.next(&[busy], Palette::PLAIN);
        assert!(third.starts_with("a ") && third.contains("False (Deleted)"), "{third}");
    }
}
