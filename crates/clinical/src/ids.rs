//! Ids are minted once and never derived from an identifier.
//!
//! An id is an HMAC, under a key of the domain, of the journal position and the unit within the entry: a replay of the
//! journal into an empty catalog mints the same ids, and an id says nothing about the person.

use aws_lc_rs::hmac;
use base::LogicalId;

pub struct IdMint {
    key: hmac::Key,
}

/// Crockford's alphabet in lower case: no letters that look like digits.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
/// 26 characters of five bits: 130 bits of which 128 are the HMAC's.
const LENGTH: usize = 26;

impl IdMint {
    pub fn new(key: &[u8; 32]) -> Self {
        IdMint { key: hmac::Key::new(hmac::HMAC_SHA256, key) }
    }

    pub fn mint(&self, index: u64, unit: u32) -> LogicalId {
        let mut input = [0; 12];
        input[..8].copy_from_slice(&index.to_be_bytes());
        input[8..].copy_from_slice(&unit.to_be_bytes());
        let tag = hmac::sign(&self.key, &input);
        let mut bits = [0; 16];
        bits.copy_from_slice(&tag.as_ref()[..16]);
        let mut number = u128::from_be_bytes(bits);
        let mut text = String::with_capacity(LENGTH);
        for _ in 0..LENGTH {
            text.push(char::from(ALPHABET[(number & 31) as usize]));
            number >>= 5;
        }
        LogicalId::parse(&text).expect("the alphabet is within FHIR's id")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_place_same_id_other_place_other_id() {
        let mint = IdMint::new(&[7; 32]);
        assert_eq!(mint.mint(1, 2), IdMint::new(&[7; 32]).mint(1, 2));
        let ids: std::collections::HashSet<_> =
            (0..50).flat_map(|i| (0..20).map(move |u| (i, u))).map(|(i, u)| mint.mint(i, u)).collect();
        assert_eq!(ids.len(), 1000);
        assert_ne!(mint.mint(1, 2), IdMint::new(&[8; 32]).mint(1, 2));
    }
}
