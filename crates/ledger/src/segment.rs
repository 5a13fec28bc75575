//! The header of a segment file: enough to go on from here without reading what came before
//! (docs/log-format.md). Pure.

use std::path::{Path, PathBuf};

use crate::merkle::{Frontier, Hash, sha256_of};

pub const SEGMENT_HEADER: usize = 4096;
const SEGMENT_MAGIC: &[u8; 8] = b"WMSEGMT1";
const FIXED: usize = 136;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    /// SHA-256 of the log's origin: a segment of another log is not taken for one of this.
    pub origin_hash: Hash,
    /// Sequence number of the segment's first frame.
    pub sequence: u64,
    /// First index of the segment before; `None` in the first.
    pub before: Option<u64>,
    /// Hash of the frame before; zeros in the first segment.
    pub previous: Hash,
    /// The tree at the segment's start; its size is the segment's first index.
    pub frontier: Frontier,
}

impl SegmentHeader {
    pub fn first(&self) -> u64 {
        self.frontier.size()
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(SEGMENT_HEADER);
        out.extend_from_slice(SEGMENT_MAGIC);
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&(self.frontier.nodes().len() as u32).to_be_bytes());
        out.extend_from_slice(&self.first().to_be_bytes());
        out.extend_from_slice(&self.sequence.to_be_bytes());
        out.extend_from_slice(&self.before.unwrap_or(u64::MAX).to_be_bytes());
        out.extend_from_slice(&self.previous);
        out.extend_from_slice(&[0; 32]);
        out.extend_from_slice(&self.origin_hash);
        for node in self.frontier.nodes() {
            out.extend_from_slice(node);
        }
        out.resize(SEGMENT_HEADER, 0);
        let hash = sha256_of(&[&out[..72], &out[104..]]);
        out[72..104].copy_from_slice(&hash);
        out
    }

    pub fn parse(bytes: &[u8]) -> Option<SegmentHeader> {
        let header: &[u8; SEGMENT_HEADER] = bytes.get(..SEGMENT_HEADER)?.try_into().ok()?;
        let u64_at = |at: usize| Some(u64::from_be_bytes(header[at..at + 8].try_into().ok()?));
        if !header.starts_with(SEGMENT_MAGIC) || sha256_of(&[&header[..72], &header[104..]]) != header[72..104] {
            return None;
        }
        let nodes = u64_at(8)? as usize;
        if nodes > 64 || header[FIXED + nodes * 32..].iter().any(|b| *b != 0) {
            return None;
        }
        let nodes = header[FIXED..FIXED + nodes * 32].chunks_exact(32).map(|hash| hash.try_into().ok());
        let before = u64_at(32)?;
        Some(SegmentHeader {
            frontier: Frontier::from_parts(u64_at(16)?, nodes.collect::<Option<_>>()?)?,
            sequence: u64_at(24)?,
            before: (before != u64::MAX).then_some(before),
            previous: header[40..72].try_into().ok()?,
            origin_hash: header[104..136].try_into().ok()?,
        })
    }
}

/// `wal/00000000000000000000.seg`
pub(crate) fn segment_path(dir: &Path, first: u64) -> PathBuf {
    dir.join("wal").join(format!("{first:020}.seg"))
}

/// The first index in a segment's file name.
pub(crate) fn parse_segment_name(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".seg")?;
    (digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_round_trip_and_notice_every_changed_byte() {
        let mut frontier = Frontier::default();
        for i in 0..=254u8 {
            frontier.push([i; 32]);
        }
        let header = SegmentHeader { origin_hash: [1; 32], sequence: 9, before: Some(3), previous: [2; 32], frontier };
        let bytes = header.encode();
        assert_eq!(SegmentHeader::parse(&bytes), Some(header));
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert_eq!(SegmentHeader::parse(&changed), None, "{at}");
        }
        assert_eq!(parse_segment_name("00000000000000000042.seg"), Some(42));
        assert_eq!(parse_segment_name("0000000000000000004x.seg"), None);
        assert_eq!(parse_segment_name("99999999999999999999.seg"), None);
    }
}
