//! Signed checkpoints: C2SP tlog-checkpoint in a C2SP signed-note with Ed25519. Making, parsing, verifying.
//! Keys come from elsewhere (the vault) behind [`CheckpointSigner`].

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::merkle::{Hash, sha256_of};

/// Signature type of Ed25519 in a signed-note.
const ED25519_TYPE: u8 = 1;

/// Signs checkpoints. The private key never enters this crate.
pub trait CheckpointSigner: Send + Sync {
    /// The key name on the signature line: no spaces, no plus sign.
    fn name(&self) -> &str;
    /// The Ed25519 signature of exactly these bytes.
    fn sign(&self, note_text: &[u8]) -> [u8; 64];
    fn public_key(&self) -> [u8; 32];
}

/// A signer over a seed in memory.
pub struct Ed25519Signer {
    name: String,
    pair: Ed25519KeyPair,
    public: [u8; 32],
}

impl Ed25519Signer {
    /// `None` for a name that a signature line cannot hold, or a seed that is no key.
    pub fn from_seed(name: &str, seed: &[u8; 32]) -> Option<Self> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).ok()?;
        let public = pair.public_key().as_ref().try_into().ok()?;
        is_key_name(name).then(|| Ed25519Signer { name: name.to_owned(), pair, public })
    }
}

impl CheckpointSigner for Ed25519Signer {
    fn name(&self) -> &str {
        &self.name
    }

    fn sign(&self, note_text: &[u8]) -> [u8; 64] {
        let mut out = [0; 64];
        out.copy_from_slice(self.pair.sign(note_text).as_ref());
        out
    }

    fn public_key(&self) -> [u8; 32] {
        self.public
    }
}

/// signed-note: a key name is non-empty, without Unicode spaces and plus signs.
pub fn is_key_name(name: &str) -> bool {
    !name.is_empty() && !name.chars().any(|c| c.is_whitespace() || c.is_control() || c == '+')
}

/// signed-note: SHA-256(name || 0x0A || type || public key)[..4].
pub fn key_hash(name: &str, public_key: &[u8; 32]) -> [u8; 4] {
    let hash = sha256_of(&[name.as_bytes(), &[b'\n', ED25519_TYPE], public_key]);
    [hash[0], hash[1], hash[2], hash[3]]
}

/// The verifier key text `name+hash+key`, which an auditor is given.
pub fn vkey(name: &str, public_key: &[u8; 32]) -> String {
    let mut key = vec![ED25519_TYPE];
    key.extend_from_slice(public_key);
    format!("{name}+{}+{}", base::hex::encode(&key_hash(name, public_key)), STANDARD.encode(key))
}

/// What a checkpoint says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    pub origin: String,
    pub size: u64,
    pub root: Hash,
}

/// The signed checkpoint of a tree.
pub fn sign(signer: &dyn CheckpointSigner, origin: &str, size: u64, root: &Hash) -> String {
    let mut note = format!("{origin}\n{size}\n{}\n", STANDARD.encode(root));
    let mut signature = key_hash(signer.name(), &signer.public_key()).to_vec();
    signature.extend_from_slice(&signer.sign(note.as_bytes()));
    note.push_str("\n\u{2014} ");
    note.push_str(signer.name());
    note.push(' ');
    STANDARD.encode_string(signature, &mut note);
    note.push('\n');
    note
}

/// Splits a note into its text (with the last newline) and its signature lines.
fn split_note(note: &str) -> Option<(&str, &str)> {
    let at = note.rfind("\n\n")?;
    Some((&note[..=at], &note[at + 2..]))
}

/// The checkpoint in a note, signatures not looked at.
pub fn parse(note: &str) -> Option<Checkpoint> {
    let (text, _) = split_note(note)?;
    let mut lines = text.lines();
    let origin = lines.next().filter(|line| !line.is_empty())?.to_owned();
    let digits = lines.next()?;
    let size: u64 = digits.parse().ok()?;
    let root = STANDARD.decode(lines.next()?).ok()?.try_into().ok()?;
    (size.to_string() == digits).then_some(Checkpoint { origin, size, root })
}

/// The checkpoint in a note that the key of this `vkey` signed.
pub fn verify_by(note: &str, vkey: &str) -> Option<Checkpoint> {
    // NAME+HASH+KEY, and the key in base64 may hold a `+` too.
    let mut parts = vkey.trim().splitn(3, '+');
    let (name, key) = (parts.next()?, parts.nth(1)?);
    let key = STANDARD.decode(key).ok()?;
    verify(note, name, key.get(1..)?.try_into().ok()?)
}

/// The checkpoint in a note that carries a valid signature by this key.
pub fn verify(note: &str, name: &str, public_key: &[u8; 32]) -> Option<Checkpoint> {
    let (text, signatures) = split_note(note)?;
    let prefix = format!("\u{2014} {name} ");
    let hash = key_hash(name, public_key);
    let valid = signatures.lines().filter_map(|line| STANDARD.decode(line.strip_prefix(&prefix)?).ok()).any(|bytes| {
        bytes.len() == 68
            && bytes[..4] == hash
            && UnparsedPublicKey::new(&ED25519, public_key).verify(text.as_bytes(), &bytes[4..]).is_ok()
    });
    if valid { parse(note) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_verifies_only_unchanged_and_by_its_key() {
        let signer = Ed25519Signer::from_seed("ward.example/audit", &[7; 32]).unwrap();
        let note = sign(&signer, "ward.example/audit", 42, &[9; 32]);
        let expected = Checkpoint { origin: "ward.example/audit".into(), size: 42, root: [9; 32] };
        let public = signer.public_key();
        assert_eq!(verify(&note, signer.name(), &public), Some(expected));
        for changed in
            [note.replace("\n42\n", "\n43\n"), note.replace("\n42\n", "\n042\n"), note.replacen("ward", "w", 1)]
        {
            assert_eq!(verify(&changed, signer.name(), &public), None);
        }
        let other = Ed25519Signer::from_seed("ward.example/audit", &[8; 32]).unwrap();
        assert_eq!(verify(&note, other.name(), &other.public_key()), None);
        assert!(Ed25519Signer::from_seed("a b", &[7; 32]).is_none());
    }

    /// The key and its text from the signed-note specification's example.
    #[test]
    fn the_verifier_key_is_that_of_the_specification() {
        let key = STANDARD.decode("ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW").unwrap();
        let public: [u8; 32] = key[1..].try_into().unwrap();
        assert_eq!(vkey("PeterNeumann", &public), "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW");
    }
}
