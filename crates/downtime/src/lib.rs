//! The downtime pack: what one ward needs for care when all else fails (DESIGN law 12), in one sealed, expiring file.
//!
//! 1. [`gather`] reads the ward's patients from silver under permits to export, and makes a [`Ward`] of them.
//! 2. [`seal`] makes the file, under a [`Code`] that is good for one ward and one day and stands on a printed card.
//! 3. [`open`] reads it anywhere, without a node; [`Openings`] writes down each opening first, and the node takes these
//!    over when it is back.
//! 4. [`text`] and [`html`] render it for paper.
//!
//! Never here: who may make one (`gate`), files and folders of a node (`ward`).

mod code;
mod file;
mod gather;
mod openings;
mod render;

pub use code::Code;
pub use file::{Header, Keys, PACK_BYTES_MAX, PackError, open, read_header, seal};
pub use gather::{GatherError, Gathered, KINDS, Reader, gather};
pub use openings::{Opening, OpeningError, Openings, verify};
pub use render::{html, text};

use serde::{Deserialize, Serialize};

/// Patients of one pack.
pub const PATIENTS_MAX: usize = 500;
/// Lines of one kind for one patient; the newest are kept.
pub const LINES_MAX: usize = 60;

/// A ward's patients, in the order of their beds.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ward {
    pub patients: Vec<Sheet>,
}

/// One patient's page. Texts as a person reads them; lines newest first.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sheet {
    pub name: String,
    pub birth_date: String,
    pub gender: String,
    pub identifiers: Vec<String>,
    pub place: String,
    pub since: String,
    pub attending: Vec<String>,
    pub allergies: Vec<String>,
    pub problems: Vec<String>,
    pub medications: Vec<String>,
    /// The newest of each vital sign.
    pub vitals: Vec<Finding>,
    /// The newest of each other observation.
    pub results: Vec<Finding>,
    /// Lines left out for the limit.
    pub left_out: u64,
}

/// The shape only.
impl std::fmt::Debug for Sheet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sheet(..)")
    }
}

/// One observation.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Finding {
    pub what: String,
    pub value: String,
    pub at: String,
    /// `H`, `LL`, ... as sent.
    pub flag: String,
    /// HL7 v3 ObservationInterpretation HH, LL or AA.
    pub critical: bool,
}

impl std::fmt::Debug for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Finding(..)")
    }
}
