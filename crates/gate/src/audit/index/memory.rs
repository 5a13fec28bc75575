//! The newest rows of the index, in memory until they are a run. Bounded; what is lost with the process is read from the
//! log again.

use std::collections::HashSet;
use std::io;

use base::Timestamp;

use crate::audit::index::rows::{MEMBER, Opened, WIDE, rows_of};
use crate::audit::index::table::{Key, TableWriter};
use crate::audit::log::AuditLog;

/// Rows and bytes after which they become a run.
const ROWS_MAX: usize = 65_536;
const BYTES_MAX: usize = 16 << 20;

#[derive(Default)]
pub(crate) struct Memory {
    rows: Vec<(Key, u32, u32)>,
    bytes: Vec<u8>,
    sets: HashSet<[u8; 16]>,
    pub records: u64,
    /// Of the records: earliest and latest.
    pub span: Option<(Timestamp, Timestamp)>,
}

impl Memory {
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
        self.rows.sort_unstable();
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

    /// Calls `each` with the rows between two keys, in no order.
    pub fn between(&self, from: &Key, to: &Key, each: &mut dyn FnMut(&Key, &[u8])) {
        for row in self.rows.iter().filter(|row| (from..=to).contains(&&row.0)) {
            each(&row.0, self.value(row));
        }
    }
}

/// Rows that say the same each time.
pub(crate) fn is_once(key: &Key) -> bool {
    matches!(key[0], MEMBER | WIDE)
}
