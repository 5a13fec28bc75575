//! How an object is named, and how its name becomes the associated data of its seal.

use std::fmt;

use base::DomainName;

/// The random name of an object's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId(pub [u8; 16]);

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&base::hex::encode(&self.0))
    }
}

impl ObjectId {
    /// From the 32 hex digits that `Display` writes.
    pub fn parse(hex: &str) -> Option<Self> {
        Some(ObjectId(base::hex::decode(hex)?.try_into().ok()?))
    }
}

/// What kind of thing is sealed. The codes are part of what is sealed: never reuse one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Kind {
    /// A sealed part of a journal entry.
    JournalPart = 1,
    /// One version of a FHIR resource.
    Resource = 2,
    /// A body kept by reference.
    LargeObject = 3,
    ParquetFile = 4,
    /// Settings and small records of the node.
    Config = 5,
    /// What a consumer answered to an input.
    Outcome = 6,
    /// An audit record.
    Audit = 7,
    /// A product snapshot's manifest.
    Manifest = 8,
    /// A page link.
    Cursor = 9,
}

/// The full name of an object. Bound into its seal: under another name it does not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ObjectName<'a> {
    pub domain: &'a DomainName,
    pub kind: Kind,
    pub id: &'a [u8],
    pub version: u64,
}

/// How the object is sealed; part of the associated data, so that one way's bytes never pass for another's.
#[derive(Debug, Clone, Copy)]
#[repr(u8)]
pub(crate) enum Form {
    Whole = 1,
    Chunk = 2,
    RawKey = 3,
}

const STACK_BYTES: usize = 192;

impl ObjectName<'_> {
    /// Calls `with` with the associated data: every field at a fixed place or behind its length.
    pub(crate) fn with_aad<T>(&self, form: Form, object: ObjectId, with: impl FnOnce(&[u8]) -> T) -> T {
        let domain = self.domain.as_str().as_bytes();
        let len = 1 + 1 + 1 + 8 + 16 + 1 + domain.len() + self.id.len();
        let mut stack = [0u8; STACK_BYTES];
        let mut heap;
        let out: &mut [u8] = if len <= STACK_BYTES {
            &mut stack[..len]
        } else {
            heap = vec![0u8; len];
            &mut heap
        };
        out[0] = 1; // version of this layout
        out[1] = form as u8;
        out[2] = self.kind as u8;
        out[3..11].copy_from_slice(&self.version.to_be_bytes());
        out[11..27].copy_from_slice(&object.0);
        out[27] = domain.len() as u8; // at most 32, see DomainName
        out[28..28 + domain.len()].copy_from_slice(domain);
        out[28 + domain.len()..].copy_from_slice(self.id);
        with(out)
    }
}
