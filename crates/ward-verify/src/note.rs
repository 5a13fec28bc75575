//! Verifier keys (`name+hash+key`) and signed checkpoints: C2SP signed-note, tlog-checkpoint.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signature, VerifyingKey};
use sha2::{Digest, Sha256};

use crate::tree::Hash;

/// The Ed25519 key that checks a log's checkpoints.
#[derive(Debug, Clone)]
pub struct VerifierKey {
    pub name: String,
    hash: [u8; 4],
    key: VerifyingKey,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Checkpoint {
    pub origin: String,
    pub size: u64,
    pub root: Hash,
}

impl VerifierKey {
    /// Reads `name+hash+key`; the error says what is wrong with it.
    pub fn parse(text: &str) -> Result<VerifierKey, &'static str> {
        // The base64 of the key may hold plus signs, the name may not.
        let mut fields = text.trim().splitn(3, '+');
        let (Some(name), Some(hash), Some(key)) = (fields.next(), fields.next(), fields.next()) else {
            return Err("a verifier key has the form name+hash+key");
        };
        if name.is_empty() || name.chars().any(char::is_whitespace) {
            return Err("the name in the verifier key is empty or has spaces");
        }
        let bytes = STANDARD.decode(key).map_err(|_| "the verifier key is not base64")?;
        let public: &[u8; 32] = match bytes.split_first() {
            Some((1, public)) => {
                public.try_into().map_err(|_| "an Ed25519 verifier key has 32 bytes after its type")?
            }
            _ => return Err("the verifier key is not of type 1 (Ed25519)"),
        };
        let digest = Sha256::new().chain_update(name).chain_update([b'\n']).chain_update(&bytes).finalize();
        let expected = [digest[0], digest[1], digest[2], digest[3]];
        if u32::from_str_radix(hash, 16).ok() != Some(u32::from_be_bytes(expected)) || hash.len() != 8 {
            return Err("the hash in the verifier key is not that of its name and key");
        }
        let key = VerifyingKey::from_bytes(public).map_err(|_| "the verifier key is no Ed25519 key")?;
        Ok(VerifierKey { name: name.to_owned(), hash: expected, key })
    }

    /// The checkpoint in a note, if this key signed it.
    pub(crate) fn open(&self, note: &str) -> Option<Checkpoint> {
        let split = note.rfind("\n\n")?;
        let (text, signatures) = (&note[..=split], &note[split + 2..]);
        // signed-note: every line after the empty one is a signature. Anything else makes the note malformed.
        let is_signature = |line: &str| {
            let parts = line.strip_prefix("\u{2014} ").and_then(|rest| rest.split_once(' '));
            parts.is_some_and(|(name, bytes)| !name.is_empty() && STANDARD.decode(bytes).is_ok_and(|b| b.len() > 4))
        };
        if !signatures.strip_suffix('\n')?.split('\n').all(is_signature) {
            return None;
        }
        let prefix = format!("\u{2014} {} ", self.name);
        let mine = signatures.lines().filter_map(|line| STANDARD.decode(line.strip_prefix(&prefix)?).ok());
        let is_signed = mine.filter_map(|bytes| bytes.strip_prefix(&self.hash).map(<[u8]>::to_vec)).any(|bytes| {
            Signature::from_slice(&bytes)
                .is_ok_and(|signature| self.key.verify_strict(text.as_bytes(), &signature).is_ok())
        });
        if is_signed { parse(text) } else { None }
    }
}

/// The checkpoint in a note, whoever signed it.
pub(crate) fn parse_unsigned(note: &str) -> Option<Checkpoint> {
    parse(&note[..=note.rfind("\n\n")?])
}

/// Origin, size, root: the first three lines.
fn parse(text: &str) -> Option<Checkpoint> {
    let mut lines = text.lines();
    let (origin, digits, root) = (lines.next()?, lines.next()?, lines.next()?);
    let size: u64 = digits.parse().ok()?;
    let root = STANDARD.decode(root).ok()?.try_into().ok()?;
    (!origin.is_empty() && size.to_string() == digits).then(|| Checkpoint { origin: origin.to_owned(), size, root })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_key_of_the_specification_and_refuses_changed_ones() {
        let good = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
        let key = VerifierKey::parse(good).unwrap();
        // The signed note of the specification's example.
        let note = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n\n\
                    \u{2014} PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";
        // It is no checkpoint, so it opens to none, but for the right reason: its text.
        assert!(key.open(note).is_none());
        for bad in [
            "",
            "a+b",
            "PeterNeumann+c74f20a4+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
            "PeterNeuman+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
            "PeterNeumann+c74f20a3+Axpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        ] {
            assert!(VerifierKey::parse(bad).is_err(), "{bad}");
        }
    }
}
