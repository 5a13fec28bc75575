//! What a row of the index says, and which rows a record makes.
//!
//! | kind | key after the kind | value |
//! |---|---|---|
//! | own | patient token (16), time, number | the record |
//! | member | patient token (16), set (16) | nothing |
//! | event | set (16), time, number | the record without its patients |
//! | wide | domain (12) and container (4), set (16) | that container of the set |
//! | name | generation of the record's keys (16), number | its log, and its place there |
//!
//! A record about at most four patients is written for each. One about more is an *event* of its **set**; equal sets
//! have the same name and are stored once in a run: as *member* rows, or, when they are large, as bitmaps by container
//! of 65,536 patients, of which a question reads those with its own patient's number.
//!
//! Numbers in keys are big-endian, so that rows of one patient lie together in the order of time.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;

use aws_lc_rs::digest;
use base::{DomainName, Timestamp};
use roaring::RoaringBitmap;

use crate::audit::index::table::Key;
use crate::audit::keys::RecordId;
use crate::audit::log::AuditLog;
use crate::audit::record::{AuditRecord, put_bytes, put_number, take_bytes, take_number};

pub(crate) const OWN: u8 = 0;
pub(crate) const MEMBER: u8 = 1;
pub(crate) const EVENT: u8 = 2;
pub(crate) const WIDE: u8 = 3;
pub(crate) const NAME: u8 = 4;

/// A record about so many patients is written for each of them.
const OWN_MAX: u64 = 4;
/// A set of more patients is stored as bitmaps: two bytes for a patient at most, where a row takes forty and a token.
const MEMBERS_MAX: u64 = 512;

pub(crate) fn key(kind: u8, id: &[u8; 16], rest: &[u8; 16]) -> Key {
    let mut key = [0; 33];
    key[0] = kind;
    key[1..17].copy_from_slice(id);
    key[17..].copy_from_slice(rest);
    key
}

/// Time and a number that tells records of one millisecond apart.
pub(crate) fn moment(at: Timestamp, number: u64) -> [u8; 16] {
    let mut out = [0; 16];
    // Times before 1970 do not occur.
    out[..8].copy_from_slice(&u64::try_from(at.ms()).unwrap_or(0).to_be_bytes());
    out[8..].copy_from_slice(&number.to_be_bytes());
    out
}

pub(crate) fn time_of(key: &Key) -> Timestamp {
    let ms = u64::from_be_bytes(std::array::from_fn(|n| key[17 + n]));
    Timestamp(i64::try_from(ms).unwrap_or(i64::MAX))
}

/// The last 16 bytes of a key: of a member or wide row, its set.
pub(crate) fn set_of(key: &Key) -> [u8; 16] {
    std::array::from_fn(|n| key[17 + n])
}

pub(crate) fn container_id(domain: &DomainName, patient: u32) -> [u8; 16] {
    let mut out = [0; 16];
    out[..12].copy_from_slice(&hash(&[domain.as_str().as_bytes()])[..12]);
    out[12..].copy_from_slice(&(patient >> 16).to_be_bytes());
    out
}

fn hash(parts: &[&[u8]]) -> [u8; 16] {
    let mut context = digest::Context::new(&digest::SHA256);
    parts.iter().for_each(|part| context.update(part));
    let digest = context.finish();
    std::array::from_fn(|n| digest.as_ref()[n])
}

/// A record as the index keeps it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Found {
    pub id: RecordId,
    /// Names the log that showed it first, and its place there.
    pub log: Arc<str>,
    pub index: u64,
    /// How many patients it is about; an event's record names them no more.
    pub patients: u64,
    pub record: AuditRecord,
}

fn found(id: RecordId, place: &[u8], patients: u64, encoded: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(encoded.len() + place.len() + 26);
    out.extend_from_slice(&id.generation);
    put_number(&mut out, u64::from(id.number));
    out.extend_from_slice(place);
    put_number(&mut out, patients);
    out.extend_from_slice(encoded);
    out
}

/// Names a log, and a place there.
pub(crate) fn put_place(log: &str, index: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(log.len() + 10);
    put_bytes(&mut out, log.as_bytes());
    put_number(&mut out, index);
    out
}

pub(crate) fn take_place(bytes: &mut &[u8]) -> Option<(Arc<str>, u64)> {
    let log = std::str::from_utf8(take_bytes(bytes, 4096)?).ok()?.into();
    Some((log, take_number(bytes)?))
}

/// The row that finds a record by its name.
pub(crate) fn name_key(id: RecordId) -> Key {
    key(NAME, &id.generation, &moment(Timestamp(0), u64::from(id.number)))
}

impl Found {
    pub fn decode(mut bytes: &[u8]) -> io::Result<Found> {
        let bad = || io::Error::new(io::ErrorKind::InvalidData, "a record in the audit index cannot be read");
        let (generation, rest) = bytes.split_first_chunk::<16>().ok_or_else(bad)?;
        bytes = rest;
        let number = take_number(&mut bytes).and_then(|number| u32::try_from(number).ok()).ok_or_else(bad)?;
        let id = RecordId { generation: *generation, number };
        let (log, index) = take_place(&mut bytes).ok_or_else(bad)?;
        let patients = take_number(&mut bytes).ok_or_else(bad)?;
        let record = AuditRecord::decode(bytes).map_err(|_| bad())?;
        Ok(Found { id, log, index, patients, record })
    }
}

/// A record as it came from a target.
pub(crate) struct Opened {
    pub id: RecordId,
    /// The log that showed it, and its place there.
    pub log: Arc<str>,
    pub index: u64,
    pub record: AuditRecord,
    /// The record as it is encoded.
    pub encoded: Vec<u8>,
}

/// The rows of one record.
pub(crate) fn rows_of(
    opened: Opened,
    audit: &AuditLog,
    sets: &mut HashSet<[u8; 16]>,
    mut push: impl FnMut(Key, &[u8]),
) {
    let Opened { id, log, index, record, encoded } = opened;
    let patients = record.patients.len();
    let at = moment(record.at, number_of(id));
    let place = put_place(&log, index);
    push(name_key(id), &place);
    let domain = record.patient_domain().clone();
    if patients <= OWN_MAX {
        // The token names the only patient; a refusal names the one that was asked for by the token alone.
        let mut own: Vec<[u8; 16]> = record.patient_token.into_iter().collect();
        if patients > 1 || own.is_empty() {
            own.extend(record.patients.iter().map(|patient| audit.patient_token(&domain, patient)));
            own.sort_unstable();
            own.dedup();
        }
        if !own.is_empty() {
            let value = found(id, &place, patients, &encoded);
            own.iter().for_each(|token| push(key(OWN, token, &at), &value));
        }
        return;
    }
    let mut bitmap = Vec::with_capacity(record.patients.serialized_size());
    // Writing to a Vec does not fail.
    let _ = record.patients.serialize_into(&mut bitmap);
    let set = hash(&[domain.as_str().as_bytes(), b"\0", &bitmap]);
    // Of equal sets the first has written who is in it.
    if !sets.insert(set) {
    } else if patients <= MEMBERS_MAX {
        for patient in &record.patients {
            push(key(MEMBER, &audit.patient_token(&domain, patient), &set), &[]);
        }
    } else {
        push_wide(&domain, &record.patients, &set, &mut push);
    }
    let record = AuditRecord { patients: RoaringBitmap::new(), ..record };
    push(key(EVENT, &set, &at), &found(id, &place, patients, &record.encode()));
}

fn push_wide(domain: &DomainName, patients: &RoaringBitmap, set: &[u8; 16], push: &mut impl FnMut(Key, &[u8])) {
    let mut at = patients.min();
    while let Some(first) = at {
        let (from, to) = (first >> 16 << 16, first >> 16 << 16 | 0xffff);
        let mut container = RoaringBitmap::new();
        container.extend(patients.range(from..=to));
        let mut value = Vec::with_capacity(container.serialized_size());
        let _ = container.serialize_into(&mut value);
        push(key(WIDE, &container_id(domain, first), set), &value);
        at = if to == u32::MAX { None } else { patients.range(to + 1..).next() };
    }
}

fn number_of(id: RecordId) -> u64 {
    let [a, b, c, d, ..] = id.generation;
    u64::from(u32::from_be_bytes([a, b, c, d])) << 32 | u64::from(id.number)
}
