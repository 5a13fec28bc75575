//! The audit record and its compact encoding. One record is one decision's part of one response.
//!
//! # Encoding, version 1
//!
//! Numbers are LEB128 without sign; a text or a byte string is its length and its bytes; a list is its count and its
//! items. `?` marks what is there only when its bit is set in `flags` (in this order, lowest bit first).
//!
//! ```text
//! version=1 flags at_ms decision policy_version rows part parts layer outcome
//! principal domain door action what kinds[] policies[] obligations[]
//! on_behalf? token[16]? from(4|16 bytes as text length)? trace[16]? purpose? agreement? job?
//! query_hash[16]? patient_token[16]? patients(roaring, portable format)? emergency(flag only)
//! patients_of? recipient? destination?
//! ```
//!
//! Later programs add to the end, with a flag of its own; an earlier program does not read a record with a flag that it
//! does not know.
//!
//! Never here: sealing (see `keys`). Never in a record: query text, names, identifiers.

use std::net::IpAddr;

use base::{DomainName, Layer, PrincipalId, Purpose, Timestamp};
use roaring::RoaringBitmap;

const VERSION: u8 = 1;
const LIST_MAX: u64 = 4096;
const TEXT_BYTES_MAX: u64 = 16 << 10;

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Data or an acknowledgement went out.
    Served,
    /// Nothing was there, or nothing the caller may know of.
    NotFound,
    /// Policy said no, or the caller could not be authenticated.
    Refused,
    /// Something broke after the decision.
    Failed,
    /// An emergency access began.
    Granted,
}

impl Outcome {
    const ALL: [Outcome; 5] = [Outcome::Served, Outcome::NotFound, Outcome::Refused, Outcome::Failed, Outcome::Granted];

    pub fn code(self) -> &'static str {
        match self {
            Outcome::Served => "served",
            Outcome::NotFound => "not-found",
            Outcome::Refused => "refused",
            Outcome::Failed => "failed",
            Outcome::Granted => "granted",
        }
    }
}

/// Who did what, why, by which decision, with what result, about whom.
#[derive(Debug, Clone, PartialEq)]
pub struct AuditRecord {
    pub at: Timestamp,
    pub decision: u64,
    pub policy_version: u64,
    /// Rows, resources or messages in the response.
    pub rows: u64,
    /// A large set of patients is spread over several records: part of parts, from 0.
    pub part: u32,
    pub parts: u32,
    pub layer: Layer,
    pub outcome: Outcome,
    pub principal: PrincipalId,
    pub domain: DomainName,
    pub door: String,
    pub action: String,
    /// What was asked for, without PHI: `GET Patient/{id}`, a product's name.
    pub what: String,
    pub kinds: Vec<String>,
    pub policies: Vec<String>,
    pub obligations: Vec<String>,
    pub on_behalf: Option<PrincipalId>,
    /// Names the access token without being it.
    pub token: Option<[u8; 16]>,
    pub from: Option<IpAddr>,
    pub trace: Option<[u8; 16]>,
    pub purpose: Option<Purpose>,
    pub agreement: Option<String>,
    /// A batch this belongs to, or the break-glass session it happened in: `break-glass/ID`.
    pub job: Option<String>,
    /// Keyed hash of the query's text.
    pub query_hash: Option<[u8; 16]>,
    /// Keyed token of the only patient: lets one patient's records be found after the ordinals are gone.
    pub patient_token: Option<[u8; 16]>,
    /// Patients of [`AuditRecord::patient_domain`] whose data was in the response.
    pub patients: RoaringBitmap,
    /// For a product built from another domain's records: the domain that numbers its patients.
    pub patients_of: Option<DomainName>,
    pub emergency: bool,
    /// Name of the person or entity that received what went out, when it is not the principal.
    pub recipient: Option<String>,
    /// Where it was sent: a bucket, an address, an endpoint.
    pub destination: Option<String>,
}

impl AuditRecord {
    /// A record of nothing yet, to fill in.
    pub fn new(at: Timestamp, principal: PrincipalId, domain: DomainName, layer: Layer, outcome: Outcome) -> Self {
        AuditRecord {
            at,
            decision: 0,
            policy_version: 0,
            rows: 0,
            part: 0,
            parts: 1,
            layer,
            outcome,
            principal,
            domain,
            door: String::new(),
            action: String::new(),
            what: String::new(),
            kinds: Vec::new(),
            policies: Vec::new(),
            obligations: Vec::new(),
            on_behalf: None,
            token: None,
            from: None,
            trace: None,
            purpose: None,
            agreement: None,
            job: None,
            query_hash: None,
            patient_token: None,
            patients: RoaringBitmap::new(),
            patients_of: None,
            emergency: false,
            recipient: None,
            destination: None,
        }
    }

    /// The domain that numbers [`AuditRecord::patients`].
    pub fn patient_domain(&self) -> &DomainName {
        self.patients_of.as_ref().unwrap_or(&self.domain)
    }

    pub fn encode(&self) -> Vec<u8> {
        let flags = [
            self.on_behalf.is_some(),
            self.token.is_some(),
            self.from.is_some(),
            self.trace.is_some(),
            self.purpose.is_some(),
            self.agreement.is_some(),
            self.job.is_some(),
            self.query_hash.is_some(),
            self.patient_token.is_some(),
            !self.patients.is_empty(),
            self.emergency,
            self.patients_of.is_some(),
            self.recipient.is_some(),
            self.destination.is_some(),
        ];
        let flags = flags.iter().enumerate().fold(0, |bits, (bit, set)| bits | u64::from(*set) << bit);
        let mut out = Vec::with_capacity(256);
        out.push(VERSION);
        for number in [
            flags,
            // Times before 1970 do not occur.
            u64::try_from(self.at.ms()).unwrap_or(0),
            self.decision,
            self.policy_version,
            self.rows,
            u64::from(self.part),
            u64::from(self.parts),
            layer_code(self.layer),
            self.outcome as u64,
        ] {
            put_number(&mut out, number);
        }
        for text in [self.principal.as_str(), self.domain.as_str(), &self.door, &self.action, &self.what] {
            put_bytes(&mut out, clip(text).as_bytes());
        }
        for list in [&self.kinds, &self.policies, &self.obligations] {
            let shown = &list[..list.len().min(LIST_MAX as usize)];
            put_number(&mut out, shown.len() as u64);
            shown.iter().for_each(|text| put_bytes(&mut out, clip(text).as_bytes()));
        }
        self.encode_optional(&mut out);
        out
    }

    fn encode_optional(&self, out: &mut Vec<u8>) {
        if let Some(on_behalf) = &self.on_behalf {
            put_bytes(out, on_behalf.as_str().as_bytes());
        }
        out.extend(self.token.iter().flatten());
        match self.from {
            Some(IpAddr::V4(ip)) => put_bytes(out, &ip.octets()),
            Some(IpAddr::V6(ip)) => put_bytes(out, &ip.octets()),
            None => {}
        }
        out.extend(self.trace.iter().flatten());
        if let Some(purpose) = self.purpose {
            put_bytes(out, purpose.code().as_bytes());
        }
        for text in [&self.agreement, &self.job].into_iter().flatten() {
            put_bytes(out, clip(text).as_bytes());
        }
        out.extend(self.query_hash.iter().flatten());
        out.extend(self.patient_token.iter().flatten());
        if !self.patients.is_empty() {
            put_number(out, self.patients.serialized_size() as u64);
            // Writing to a Vec does not fail.
            let _ = self.patients.serialize_into(&mut *out);
        }
        if let Some(domain) = &self.patients_of {
            put_bytes(out, domain.as_str().as_bytes());
        }
        for text in [&self.recipient, &self.destination].into_iter().flatten() {
            put_bytes(out, clip(text).as_bytes());
        }
    }

    pub fn decode(bytes: &[u8]) -> Result<AuditRecord, BadRecord> {
        let mut r = Reader(bytes);
        if r.take(1)?[0] != VERSION {
            return Err(BadRecord("version"));
        }
        let flags = r.number()?;
        let has = |bit: u32| flags >> bit & 1 == 1;
        let at = Timestamp(i64::try_from(r.number()?).map_err(|_| BadRecord("time"))?);
        let (decision, policy_version, rows) = (r.number()?, r.number()?, r.number()?);
        let (part, parts) = (r.small()?, r.small()?);
        let layer = layer_of(r.number()?).ok_or(BadRecord("layer"))?;
        let outcome = r.number()?;
        let outcome = Outcome::ALL.into_iter().find(|o| *o as u64 == outcome).ok_or(BadRecord("outcome"))?;
        let principal = PrincipalId::parse(&r.text()?).map_err(|_| BadRecord("principal"))?;
        let domain = DomainName::parse(&r.text()?).map_err(|_| BadRecord("domain"))?;
        let record = AuditRecord {
            decision,
            policy_version,
            rows,
            part,
            parts,
            door: r.text()?,
            action: r.text()?,
            what: r.text()?,
            kinds: r.list()?,
            policies: r.list()?,
            obligations: r.list()?,
            on_behalf: match has(0) {
                true => Some(PrincipalId::parse(&r.text()?).map_err(|_| BadRecord("principal"))?),
                false => None,
            },
            token: r.fixed(has(1))?,
            from: if has(2) { Some(r.address()?) } else { None },
            trace: r.fixed(has(3))?,
            purpose: match has(4) {
                true => Some(Purpose::parse(&r.text()?).ok_or(BadRecord("purpose"))?),
                false => None,
            },
            agreement: if has(5) { Some(r.text()?) } else { None },
            job: if has(6) { Some(r.text()?) } else { None },
            query_hash: r.fixed(has(7))?,
            patient_token: r.fixed(has(8))?,
            patients: if has(9) { r.bitmap()? } else { RoaringBitmap::new() },
            emergency: has(10),
            patients_of: match has(11) {
                true => Some(DomainName::parse(&r.text()?).map_err(|_| BadRecord("domain"))?),
                false => None,
            },
            recipient: if has(12) { Some(r.text()?) } else { None },
            destination: if has(13) { Some(r.text()?) } else { None },
            ..AuditRecord::new(at, principal, domain, layer, outcome)
        };
        if !r.0.is_empty() || flags >> 14 != 0 {
            return Err(BadRecord("end"));
        }
        Ok(record)
    }

    /// Spreads a large set of patients over records of bounded size, each with the same decision. A roaring container
    /// holds 65,536 ordinals in at most 8 KiB; four of them stay well below the 65,535 bytes that an entry may have.
    pub(crate) fn split(mut self) -> Vec<AuditRecord> {
        const CONTAINERS: u32 = 4;
        // A whole ward, a whole product: runs of ordinals.
        self.patients.optimize();
        if self.patients.serialized_size() <= 32 << 10 {
            return vec![self];
        }
        let mut sets: Vec<RoaringBitmap> = Vec::new();
        let mut chunk = None;
        for patient in &self.patients {
            let own = (patient >> 16) / CONTAINERS;
            if chunk != Some(own) {
                chunk = Some(own);
                sets.push(RoaringBitmap::new());
            }
            if let Some(set) = sets.last_mut() {
                set.insert(patient);
            }
        }
        let parts = sets.len() as u32;
        self.patients.clear();
        let record = |(part, mut patients): (usize, RoaringBitmap)| {
            patients.optimize();
            AuditRecord { part: part as u32, parts, patients, ..self.clone() }
        };
        sets.into_iter().enumerate().map(record).collect()
    }
}

/// A record that cannot be read, by the part that is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the audit record's {0} cannot be read; it is newer than this program or damaged")]
pub struct BadRecord(pub &'static str);

fn layer_code(layer: Layer) -> u64 {
    match layer {
        Layer::Bronze => 0,
        Layer::Silver => 1,
        Layer::Gold => 2,
        Layer::Governance => 3,
    }
}

fn layer_of(code: u64) -> Option<Layer> {
    [Layer::Bronze, Layer::Silver, Layer::Gold, Layer::Governance].get(usize::try_from(code).ok()?).copied()
}

fn clip(text: &str) -> &str {
    let mut end = text.len().min(TEXT_BYTES_MAX as usize);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

pub(crate) fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_number(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// The number at the beginning of `bytes`, which then begin after it.
pub(crate) fn take_number(bytes: &mut &[u8]) -> Option<u64> {
    let mut reader = Reader(bytes);
    let number = reader.number().ok()?;
    *bytes = reader.0;
    Some(number)
}

/// The byte string at the beginning of `bytes`, of at most `max`.
pub(crate) fn take_bytes<'a>(bytes: &mut &'a [u8], max: u64) -> Option<&'a [u8]> {
    let mut reader = Reader(bytes);
    let taken = reader.bytes(max).ok()?;
    *bytes = reader.0;
    Some(taken)
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], BadRecord> {
        let (taken, rest) = self.0.split_at_checked(n).ok_or(BadRecord("length"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn number(&mut self) -> Result<u64, BadRecord> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            number |= bits << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(BadRecord("number"))
    }

    fn small(&mut self) -> Result<u32, BadRecord> {
        u32::try_from(self.number()?).map_err(|_| BadRecord("number"))
    }

    fn bytes(&mut self, max: u64) -> Result<&'a [u8], BadRecord> {
        let length = self.number()?;
        if length > max {
            return Err(BadRecord("length"));
        }
        self.take(length as usize)
    }

    fn text(&mut self) -> Result<String, BadRecord> {
        let bytes = self.bytes(TEXT_BYTES_MAX)?;
        std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| BadRecord("text"))
    }

    fn list(&mut self) -> Result<Vec<String>, BadRecord> {
        let count = self.number()?;
        if count > LIST_MAX {
            return Err(BadRecord("list"));
        }
        (0..count).map(|_| self.text()).collect()
    }

    fn fixed(&mut self, there: bool) -> Result<Option<[u8; 16]>, BadRecord> {
        if !there {
            return Ok(None);
        }
        let mut out = [0; 16];
        out.copy_from_slice(self.take(16)?);
        Ok(Some(out))
    }

    fn address(&mut self) -> Result<IpAddr, BadRecord> {
        let bytes = self.bytes(16)?;
        if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
            return Ok(IpAddr::from(v4));
        }
        <[u8; 16]>::try_from(bytes).map(IpAddr::from).map_err(|_| BadRecord("address"))
    }

    fn bitmap(&mut self) -> Result<RoaringBitmap, BadRecord> {
        let bytes = self.bytes(1 << 20)?;
        RoaringBitmap::deserialize_from(bytes).map_err(|_| BadRecord("patients"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn full() -> AuditRecord {
        AuditRecord {
            decision: u64::MAX,
            policy_version: 77,
            rows: 300,
            door: "fhir".into(),
            action: "read".into(),
            what: "GET Patient/{id}".into(),
            kinds: vec!["Patient".into()],
            policies: vec!["a".into(), "b".into()],
            obligations: vec!["mask(name, null)".into()],
            on_behalf: Some(PrincipalId::parse("dr-kim").unwrap()),
            token: Some([1; 16]),
            from: Some("2001:db8::1".parse().unwrap()),
            trace: Some([2; 16]),
            purpose: Some(Purpose::Treatment),
            agreement: Some("dua-7".into()),
            job: Some("job-1".into()),
            query_hash: Some([3; 16]),
            patient_token: Some([4; 16]),
            patients: (1..500).collect(),
            patients_of: Some(DomainName::parse("research").unwrap()),
            emergency: true,
            recipient: Some("State University".into()),
            destination: Some("s3://outcomes".into()),
            ..empty()
        }
    }

    fn empty() -> AuditRecord {
        let (who, domain) = (PrincipalId::parse("dr-lee").unwrap(), DomainName::parse("ehr").unwrap());
        AuditRecord::new(Timestamp(1_790_000_000_000), who, domain, Layer::Silver, Outcome::Served)
    }

    #[test]
    fn records_round_trip_and_are_compact() {
        for record in [full(), empty()] {
            assert_eq!(AuditRecord::decode(&record.encode()), Ok(record));
        }
        assert!(empty().encode().len() < 40);
    }

    #[test]
    fn every_truncation_and_addition_is_found() {
        let bytes = full().encode();
        for end in 0..bytes.len() {
            assert!(AuditRecord::decode(&bytes[..end]).is_err(), "{end}");
        }
        assert!(AuditRecord::decode(&[bytes.as_slice(), b"x"].concat()).is_err());
    }

    #[test]
    fn a_large_set_is_spread_and_nobody_is_lost() {
        let patients: RoaringBitmap = (0..2_000_000).step_by(3).collect();
        let parts = AuditRecord { patients: patients.clone(), ..full() }.split();
        assert!(parts.len() > 1);
        let mut union = RoaringBitmap::new();
        for (n, part) in parts.iter().enumerate() {
            assert_eq!((part.part as usize, part.parts as usize), (n, parts.len()));
            assert!(part.encode().len() < 60_000);
            union |= &part.patients;
        }
        assert_eq!(union, patients);
        assert_eq!(full().split().len(), 1);
    }

    proptest! {
        #[test]
        fn decoding_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300), at in 0usize..200, byte: u8) {
            let _ = AuditRecord::decode(&bytes);
            let mut near = full().encode();
            let at = at % near.len();
            near[at] = byte;
            let _ = AuditRecord::decode(&near);
        }
    }
}
