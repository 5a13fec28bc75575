//! What the standard calls the fields of a segment, what they hold, and the codes of its tables. Facts for people and
//! for [`crate::lint`]; parsing needs none of them.

use std::collections::HashMap;
use std::sync::LazyLock;

/// A segment of the standard.
#[derive(Debug)]
pub struct SegmentDef {
    pub id: &'static str,
    pub name: &'static str,
    /// By number, from 1.
    pub fields: Vec<FieldDef>,
    /// Every field up to the newest version is listed.
    pub is_complete: bool,
}

#[derive(Debug)]
pub struct FieldDef {
    pub name: &'static str,
    /// `DTM`, `CX`; `varies` for OBX-5.
    pub kind: &'static str,
    pub is_required: bool,
    pub repeats: bool,
    /// It says how the message works and nothing about anybody.
    pub is_open: bool,
    /// Longest value in characters, for versions before 2.7.
    pub length_max: Option<usize>,
    /// Number of the table its codes come from.
    pub table: Option<&'static str>,
}

/// A table of codes.
#[derive(Debug)]
pub struct Table {
    /// Sites add codes of their own.
    pub is_user_defined: bool,
    codes: Vec<&'static str>,
}

impl Table {
    pub fn has(&self, code: &str) -> bool {
        self.codes.binary_search(&code).is_ok()
    }
}

/// `None` for Z-segments and those that are not in the list.
pub fn segment(id: &str) -> Option<&'static SegmentDef> {
    static SEGMENTS: LazyLock<HashMap<&'static str, SegmentDef>> =
        LazyLock::new(|| read_segments(include_str!("fields.txt")));
    SEGMENTS.get(id)
}

pub fn field(segment_id: &str, n: usize) -> Option<&'static FieldDef> {
    segment(segment_id)?.fields.get(n.checked_sub(1)?)
}

pub fn table(number: &str) -> Option<&'static Table> {
    static TABLES: LazyLock<HashMap<&'static str, Table>> = LazyLock::new(|| read_tables(include_str!("tables.txt")));
    TABLES.get(number)
}

fn read_segments(text: &'static str) -> HashMap<&'static str, SegmentDef> {
    let mut all: Vec<SegmentDef> = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(title) = line.strip_prefix('=') {
            let (id, name) = title.split_once(' ').unwrap_or((title, ""));
            let is_complete = !name.ends_with('~');
            all.push(SegmentDef { id, name: name.trim_end_matches('~'), fields: Vec::new(), is_complete });
        } else if let Some(segment) = all.last_mut() {
            segment.fields.push(read_field(line));
        }
    }
    all.into_iter().map(|segment| (segment.id, segment)).collect()
}

fn read_field(line: &'static str) -> FieldDef {
    let mut cells = line.split('|').skip(1);
    let mut cell = || cells.next().unwrap_or_default();
    let (name, kind, flags, length, table) = (cell(), cell(), cell(), cell(), cell());
    FieldDef {
        name,
        kind,
        is_required: flags.contains('R'),
        repeats: flags.contains('*'),
        is_open: flags.contains('s') || kind == "SI",
        length_max: length.parse().ok(),
        table: (!table.is_empty()).then_some(table),
    }
}

fn read_tables(text: &'static str) -> HashMap<&'static str, Table> {
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let table = |line: &'static str| {
        let mut words = line.split(' ').peekable();
        let number = words.next().unwrap_or_default();
        let is_user_defined = words.next_if_eq(&"user").is_some();
        let mut codes: Vec<&'static str> = words.collect();
        codes.sort_unstable();
        (number, Table { is_user_defined, codes })
    };
    lines.map(table).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_read_and_every_table_is_there() {
        let text = include_str!("fields.txt");
        let mut id = "";
        let mut next = 1;
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            if let Some(title) = line.strip_prefix('=') {
                (id, next) = (title.split(' ').next().unwrap(), 1);
                continue;
            }
            assert_eq!(line.split('|').next(), Some(next.to_string().as_str()), "{id} in order");
            let field = field(id, next).unwrap_or_else(|| panic!("{id}-{next}"));
            assert!(!field.name.is_empty(), "{id}-{next}");
            if let Some(number) = field.table {
                assert!(table(number).is_some(), "{id}-{next}: table {number}");
            }
            next += 1;
        }
        assert!(segment("PID").unwrap().is_complete && !segment("GT1").unwrap().is_complete);
        assert_eq!(field("PID", 5).unwrap().name, "Patient Name");
        assert!(table("0085").unwrap().has("F") && !table("0085").unwrap().has("Q"));
        assert!(segment("ZB1").is_none() && field("PID", 0).is_none() && field("PID", 99).is_none());
    }
}
