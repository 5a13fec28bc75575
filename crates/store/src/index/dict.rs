//! Small numbers for resource types and parameters, so that index rows stay short. Both sets are bounded by the
//! definitions of R4; systems of codes are not, and stand as 64 bits of their SHA-256.

use std::collections::HashMap;

use rusqlite::Connection;

#[derive(Debug, Default, Clone)]
pub(super) struct Dict {
    changed: bool,
    types: HashMap<String, i64>,
    params: HashMap<(i64, String), Param>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Param {
    pub n: i64,
    /// Some resource has more than one value of it.
    pub multi: bool,
}

/// Of text beside a code, searched by `:text`.
pub(super) const TEXT: &str = ":text";
/// Of a reference by identifier, searched by `:identifier`.
pub(super) const IDENTIFIER: &str = ":identifier";

/// The name of the n-th part of a composite parameter.
pub(super) fn part(code: &str, n: usize) -> String {
    format!("{code}${n}")
}

/// The row has no system.
pub(super) const NO_SYSTEM: i64 = 0;
/// The row's code is a unit as people write it.
pub(super) const UNIT: i64 = -1;

pub(super) fn system(uri: Option<&str>) -> i64 {
    let Some(uri) = uri else { return NO_SYSTEM };
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, uri.as_bytes());
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&digest.as_ref()[..8]);
    match i64::from_le_bytes(bytes) {
        NO_SYSTEM | UNIT => 1,
        hash => hash,
    }
}

impl Dict {
    pub fn load(connection: &Connection) -> rusqlite::Result<Dict> {
        let mut dict = Dict::default();
        let mut types = connection.prepare("SELECT name, n FROM rtype")?;
        for row in types.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))? {
            let (name, n) = row?;
            dict.types.insert(name, n);
        }
        let mut params = connection.prepare("SELECT rtype, code, n, multi FROM param")?;
        let rows = params
            .query_map([], |row| Ok(((row.get(0)?, row.get(1)?), Param { n: row.get(2)?, multi: row.get(3)? })))?;
        for row in rows {
            let (key, param) = row?;
            dict.params.insert(key, param);
        }
        Ok(dict)
    }

    /// `None` for a type of which there is no resource.
    pub fn rtype(&self, name: &str) -> Option<i64> {
        self.types.get(name).copied()
    }

    /// The types of which there are, or were, resources.
    pub fn types(&self) -> impl Iterator<Item = (&str, i64)> {
        self.types.iter().map(|(name, n)| (name.as_str(), *n))
    }

    pub fn param(&self, rtype: i64, code: &str) -> Option<Param> {
        // A map by owned pairs: looking up means owning. Codes are short.
        self.params.get(&(rtype, code.to_owned())).copied()
    }

    /// The numbers of all parameters of a type.
    pub fn params_of(&self, rtype: i64) -> Vec<i64> {
        let mut all: Vec<i64> = self.params.iter().filter(|((of, _), _)| *of == rtype).map(|(_, p)| p.n).collect();
        all.sort_unstable();
        all
    }

    /// Whether something was added since this was last asked.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    pub fn make_type(&mut self, connection: &Connection, name: &str) -> rusqlite::Result<i64> {
        if let Some(n) = self.rtype(name) {
            return Ok(n);
        }
        connection.execute("INSERT INTO rtype (name) VALUES (?)", [name])?;
        let n = connection.last_insert_rowid();
        self.types.insert(name.to_owned(), n);
        self.changed = true;
        Ok(n)
    }

    pub fn make_param(&mut self, connection: &Connection, rtype: i64, code: &str) -> rusqlite::Result<i64> {
        if let Some(param) = self.param(rtype, code) {
            return Ok(param.n);
        }
        connection.execute("INSERT INTO param (rtype, code, multi) VALUES (?, ?, 0)", (rtype, code))?;
        let n = connection.last_insert_rowid();
        self.params.insert((rtype, code.to_owned()), Param { n, multi: false });
        self.changed = true;
        Ok(n)
    }

    pub fn mark_multi(&mut self, connection: &Connection, rtype: i64, code: &str) -> rusqlite::Result<()> {
        if let Some(param) = self.params.get_mut(&(rtype, code.to_owned()))
            && !param.multi
        {
            param.multi = true;
            self.changed = true;
            connection.execute("UPDATE param SET multi = 1 WHERE n = ?", [param.n])?;
        }
        Ok(())
    }
}
