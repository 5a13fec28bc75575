//! The newest rows of the index, in memory until they are a run. Bounded; what is lost with the process is read from the
//! log again.

use std::collections::HashSet;
use std::io;

use base::Timestamp;

use crate::audit::index::rows::{MEMBER, Opened, WIDE, rows_of};
use crate::audit::index::table::{Key, TableWriter};
use crate::audit::log::AuditLog;

/// Rows and bytes after which they become a run.
const ROWS_MAX: usize = 131_072;
const BYTES_MAX: usize = 32 << 20;

/// A sorted part with fewer rows is sorted together with what is added to it.
const PART_ROWS_MIN: usize = 8_192;

#[derive(Default)]
pub(crate) struct Memory {
    rows: Vec<(Key, u32, u32)>,
    /// Where each sorted part begins; the last ends at `sorted`.
    parts: Vec<usize>,
    sorted: usize,
    bytes: Vec<u8>,
    sets: HashSet<[u8; 16]>,
    pub records: u64,
    /// Of the records: earliest and latest.
    pub span: Option<(Timestamp, Timestamp)>,
}

impl Memory {
    /// Sorts what was added, so that questions find it.
    pub fn settle(&mut self) {
        let is_short = |begin: &usize| self.sorted - begin < PART_ROWS_MIN;
        let begin = self.parts.last().copied().filter(is_short).unwrap_or(self.sorted);
        if self.parts.last() != Some(&begin) {
            self.parts.push(begin);
        }
        self.rows[begin..].sort_unstable();
        self.sorted = self.rows.len();
    }

    /// `audit` has the key of the tokens.
    pub fn add(&mut self, opened: Opened, audit: &AuditLog) {
        let record = &opened.record;
        self.records += 1;
        let (first, last) = self.span.unwrap_or((record.at, record.at));
        self.span = Some((first.min(record.at), last.max(record.at)));
        let Memory { rows, bytes, sets, .. } = self;
        rows_of(opened, audit, sets, |key, value| {
            rows.push((key, bytes.len() as u32, value.len() as u32));
            bytes.extend_from_slice(value);
        });
    }

    pub fn is_full(&self) -> bool {
        self.rows.len() >= ROWS_MAX || self.bytes.len() >= BYTES_MAX
    }

    fn value(&self, row: &(Key, u32, u32)) -> &[u8] {
        &self.bytes[row.1 as usize..(row.1 + row.2) as usize]
    }

    /// Writes the rows in order, equal members of equal sets once.
    pub fn write(&mut self, writer: &mut TableWriter) -> io::Result<()> {
        // Stable sorting makes use of parts that are in order.
        self.rows.sort();
        let mut before: Option<Key> = None;
        for row in &self.rows {
            if is_once(&row.0) && before == Some(row.0) {
                continue;
            }
            before = Some(row.0);
            writer.push(&row.0, self.value(row))?;
        }
        Ok(())
    }

    /// Calls `each` with the rows between two keys, part by part.
    pub fn between(&self, from: &Key, to: &Key, each: &mut dyn FnMut(&Key, &[u8])) {
        let ends = self.parts.iter().skip(1).chain([&self.sorted]);
        for (begin, end) in self.parts.iter().zip(ends) {
            let part = &self.rows[*begin..*end];
            let first = part.partition_point(|row| row.0 < *from);
            part[first..].iter().take_while(|row| row.0 <= *to).for_each(|row| each(&row.0, self.value(row)));
        }
    }
}

/// Rows that say the same each time.
pub(crate) fn is_once(key: &Key) -> bool {
    matches!(key[0], MEMBER | WIDE)
}
