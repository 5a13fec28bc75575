//! The allow-list of `fields.txt`, read once.

use std::collections::HashMap;
use std::sync::LazyLock;

/// What happens with a field. The words are explained in `fields.txt`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Treatment {
    Keep,
    Head,
    Code,
    First,
    Value,
    Date,
    Birth,
    Id,
    Number,
    Ssn,
    Name,
    Person,
    Address,
    Place,
    Phone,
    Text,
}

const WORDS: &[(&str, Treatment)] = &[
    ("keep", Treatment::Keep),
    ("head", Treatment::Head),
    ("code", Treatment::Code),
    ("first", Treatment::First),
    ("value", Treatment::Value),
    ("date", Treatment::Date),
    ("birth", Treatment::Birth),
    ("id", Treatment::Id),
    ("number", Treatment::Number),
    ("ssn", Treatment::Ssn),
    ("name", Treatment::Name),
    ("person", Treatment::Person),
    ("address", Treatment::Address),
    ("place", Treatment::Place),
    ("phone", Treatment::Phone),
    ("text", Treatment::Text),
];

/// Treatments of one segment, by field number.
#[derive(Debug, Default)]
pub struct Fields(Vec<Option<Treatment>>);

impl Fields {
    /// `None`: the field is removed.
    pub fn get(&self, field: usize) -> Option<Treatment> {
        self.0.get(field).copied().flatten()
    }
}

static TABLE: LazyLock<HashMap<&'static str, Fields>> = LazyLock::new(|| {
    let mut table = HashMap::new();
    for line in include_str!("fields.txt").lines().filter(|line| !line.starts_with('#')) {
        let mut items = line.split_whitespace();
        let Some(segment) = items.next() else { continue };
        let mut fields = Fields::default();
        // What does not read is removed, as every field that is not there; a test wants none.
        for (field, treatment) in items.filter_map(read) {
            if fields.0.len() <= field {
                fields.0.resize(field + 1, None);
            }
            fields.0[field] = Some(treatment);
        }
        table.insert(segment, fields);
    }
    table
});

fn read(item: &str) -> Option<(usize, Treatment)> {
    let (field, word) = item.split_once(':')?;
    let (_, treatment) = WORDS.iter().find(|(known, _)| *known == word)?;
    Some((field.parse().ok().filter(|field| (1..200).contains(field))?, *treatment))
}

/// `None` for a segment of which nothing stays.
pub fn treatments(segment: &str) -> Option<&'static Fields> {
    TABLE.get(segment)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_reads_and_no_field_is_there_twice() {
        let mut segments = std::collections::HashSet::new();
        for line in include_str!("fields.txt").lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
            let mut items = line.split_whitespace();
            let segment = items.next().unwrap();
            assert!(segment.len() == 3 && segments.insert(segment), "{segment}");
            let fields: Vec<usize> =
                items.map(|item| read(item).unwrap_or_else(|| panic!("{segment} {item}")).0).collect();
            assert!(fields.is_sorted_by(|a, b| a < b), "{segment}");
        }
        assert_eq!(treatments("PID").unwrap().get(5), Some(Treatment::Name));
        assert!(treatments("NTE").is_none() && treatments("ZPI").is_none());
        assert_eq!(treatments("PID").unwrap().get(99), None);
    }
}
