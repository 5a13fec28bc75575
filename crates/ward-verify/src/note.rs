//! Verifier keys (`name+hash+key`) and signed checkpoints: C2SP signed-note, tlog-checkpoint.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signature, VerifyingKey};
use sha2::{Digest, Sha256};

use crate::tree::Hash;

/// The longest note that is looked at: many signatures of any known kind fit.
pub(crate) const NOTE_BYTES_MAX: u64 = 1 << 20;
/// signed-note: at least 16 must be accepted.
const SIGNATURES_MAX: usize = 256;

/// An Ed25519 key that checks a log's checkpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifierKey {
    pub name: String,
    hash: [u8; 4],
    key: VerifyingKey,
}

/// The keys of one log: more than one when its signer was replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys(Vec<VerifierKey>);

/// A checkpoint, and who of the known keys signed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    pub origin: String,
    pub size: u64,
    pub root: Hash,
    /// The name of each key; `name+hash` where several are known.
    pub signers: Vec<String>,
}

/// Why a note is not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refused {
    Malformed(&'static str),
    /// None of the known keys signed it.
    Unsigned,
    /// A known key is named, and the signature is not its own.
    Forged(String),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::Malformed(why) => write!(f, "is not a signed checkpoint: {why}"),
            Refused::Unsigned => {
                f.write_str("the checkpoint is not signed by the given key (or the key is another log's)")
            }
            Refused::Forged(key) => write!(f, "the checkpoint carries a signature that is not by its key `{key}`"),
        }
    }
}

impl VerifierKey {
    /// Reads `name+hash+key`; the error says what is wrong with it.
    pub fn parse(text: &str) -> Result<VerifierKey, &'static str> {
        // The base64 of the key may hold plus signs, the name may not.
        let mut fields = text.trim().splitn(3, '+');
        let (Some(name), Some(hash), Some(key)) = (fields.next(), fields.next(), fields.next()) else {
            return Err("a verifier key has the form name+hash+key");
        };
        if !is_key_name(name) {
            return Err("the name in the verifier key is empty, or has spaces or control characters");
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

    /// `name+hash`: what tells the keys of one name apart.
    pub fn id(&self) -> String {
        format!("{}+{:08x}", self.name, u32::from_be_bytes(self.hash))
    }
}

impl From<VerifierKey> for Keys {
    fn from(key: VerifierKey) -> Keys {
        Keys(vec![key])
    }
}

impl Keys {
    /// Reads one key per line; empty lines and lines that begin with `#` are passed over.
    pub fn parse(text: &str) -> Result<Keys, &'static str> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let keys: Vec<VerifierKey> = lines.map(VerifierKey::parse).collect::<Result<_, _>>()?;
        if keys.is_empty() { Err("there is no verifier key") } else { Ok(Keys(keys)) }
    }

    pub fn add(&mut self, more: Keys) {
        for key in more.0 {
            if !self.0.contains(&key) {
                self.0.push(key);
            }
        }
    }

    /// The first key's name.
    pub fn name(&self) -> &str {
        self.0.first().map_or("", |key| &key.name)
    }

    /// The checkpoint in a note that one of these keys signed. signed-note: unknown keys are ignored, but a signature
    /// that names a known key must be its own.
    pub(crate) fn open(&self, note: &str) -> Result<Checkpoint, Refused> {
        let (text, signatures) = split(note)?;
        let mut checkpoint = parse(text)?;
        for (name, bytes) in &signatures {
            let Some(key) = self.0.iter().find(|key| key.name == *name && bytes.starts_with(&key.hash)) else {
                continue;
            };
            let is_signed = Signature::from_slice(&bytes[4..])
                .is_ok_and(|signature| key.key.verify_strict(text.as_bytes(), &signature).is_ok());
            if !is_signed {
                return Err(Refused::Forged(key.id()));
            }
            // One key needs no hash to be told from others.
            checkpoint.signers.push(if self.0.len() == 1 { key.name.clone() } else { key.id() });
        }
        if checkpoint.signers.is_empty() { Err(Refused::Unsigned) } else { Ok(checkpoint) }
    }
}

/// signed-note: non-empty, no Unicode spaces, no plus sign; a note has no control characters.
fn is_key_name(name: &str) -> bool {
    !name.is_empty() && !name.chars().any(|c| c.is_whitespace() || c < ' ' || c == '+')
}

/// Name and bytes of each signature line.
type Signatures<'a> = Vec<(&'a str, Vec<u8>)>;

/// The text of a note, with its last newline, and its signatures.
fn split(note: &str) -> Result<(&str, Signatures<'_>), Refused> {
    let malformed = |why| Err(Refused::Malformed(why));
    if note.len() as u64 > NOTE_BYTES_MAX {
        return malformed("it is too long");
    }
    if note.bytes().any(|byte| byte < b' ' && byte != b'\n') {
        return malformed("it holds a control character");
    }
    let Some(at) = note.rfind("\n\n") else { return malformed("no empty line before the signatures") };
    let (text, lines) = (&note[..=at], &note[at + 2..]);
    let Some(lines) = lines.strip_suffix('\n') else { return malformed("it does not end with a signature line") };
    let signature = |line: &'_ str| -> Option<usize> {
        let (name, bytes) = line.strip_prefix("\u{2014} ")?.split_once(' ')?;
        (is_key_name(name) && STANDARD.decode(bytes).is_ok_and(|bytes| bytes.len() > 4)).then_some(name.len())
    };
    let mut signatures = Vec::new();
    for line in lines.split('\n') {
        // signed-note: every line after the empty one is a signature. Anything else makes the note malformed.
        let Some(name) = signature(line) else { return malformed("a line after its text is no signature") };
        let (name, bytes) = line["\u{2014} ".len()..].split_at(name);
        signatures.push((name, STANDARD.decode(&bytes[1..]).unwrap_or_default()));
        if signatures.len() > SIGNATURES_MAX {
            return malformed("it has too many signatures");
        }
    }
    Ok((text, signatures))
}

/// The checkpoint in a note, whoever signed it.
pub(crate) fn parse_unsigned(note: &str) -> Option<Checkpoint> {
    parse(split(note).ok()?.0).ok()
}

/// tlog-checkpoint: origin, size, root, then extension lines, none empty.
fn parse(text: &str) -> Result<Checkpoint, Refused> {
    let malformed = |why| Err(Refused::Malformed(why));
    let lines: Vec<&str> = text.strip_suffix('\n').unwrap_or(text).split('\n').collect();
    let [origin, digits, root, ..] = lines[..] else { return malformed("it has less than three lines") };
    if lines.iter().any(|line| line.is_empty()) {
        return malformed("it has an empty line");
    }
    let size: u64 = digits.parse().unwrap_or_default();
    if size.to_string() != digits {
        return malformed("its second line is no number of entries");
    }
    let Some(root) = STANDARD.decode(root).ok().and_then(|root| root.try_into().ok()) else {
        return malformed("its third line is no hash");
    };
    Ok(Checkpoint { origin: origin.to_owned(), size, root, signers: Vec::new() })
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::{Signer, SigningKey};

    use super::*;

    const EXAMPLE_KEY: &str = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";

    #[test]
    fn reads_the_key_of_the_specification_and_refuses_changed_ones() {
        let keys = Keys::parse(EXAMPLE_KEY).unwrap();
        // The signed note of the specification's example.
        let note = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n\n\
                    \u{2014} PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";
        // It is no checkpoint, so it opens to none, but for the right reason: its text.
        assert_eq!(keys.open(note), Err(Refused::Malformed("it has less than three lines")));
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

    fn signer(seed: u8, name: &str) -> (SigningKey, VerifierKey) {
        let key = SigningKey::from_bytes(&[seed; 32]);
        let typed = [&[1], key.verifying_key().as_bytes().as_slice()].concat();
        let digest = Sha256::new().chain_update(name).chain_update([b'\n']).chain_update(&typed).finalize();
        let hash: String = digest[..4].iter().map(|byte| format!("{byte:02x}")).collect();
        let verifier = VerifierKey::parse(&format!("{name}+{hash}+{}", STANDARD.encode(typed))).unwrap();
        (key, verifier)
    }

    fn line(key: &SigningKey, verifier: &VerifierKey, text: &str) -> String {
        let bytes = [verifier.hash.as_slice(), &key.sign(text.as_bytes()).to_bytes()].concat();
        format!("\u{2014} {} {}\n", verifier.name, STANDARD.encode(bytes))
    }

    #[test]
    fn a_note_is_taken_only_as_the_specification_says() {
        let text = format!("log\n7\n{}\n", STANDARD.encode([3; 32]));
        let ((old, old_key), (new, new_key), (witness, witness_key)) =
            (signer(1, "log"), signer(2, "log"), signer(3, "log.witness"));
        let mut keys = Keys::from(old_key.clone());
        keys.add(Keys::from(new_key.clone()));
        let good = line(&old, &old_key, &text);
        let open = |text: &str, lines: &str| keys.open(&format!("{text}\n{lines}"));

        let opened = open(&text, &good).unwrap();
        assert_eq!((opened.size, opened.root, opened.signers), (7, [3; 32], vec![old_key.id()]));
        let both = open(&text, &[good.clone(), line(&new, &new_key, &text)].concat()).unwrap();
        assert_eq!(both.signers, [old_key.id(), new_key.id()]);
        // An unknown key is ignored, also one that shares the name.
        let strangers = [line(&witness, &witness_key, &text), good.clone(), line(&witness, &witness_key, "other")];
        assert_eq!(open(&text, &strangers.concat()).unwrap().signers, [old_key.id()]);
        assert_eq!(open(&text, &line(&witness, &witness_key, &text)), Err(Refused::Unsigned));
        // A known key's signature of something else refuses the note, whatever stands beside it.
        for lines in [[good.clone(), line(&new, &new_key, "other")], [line(&new, &new_key, "other"), good.clone()]] {
            assert_eq!(open(&text, &lines.concat()), Err(Refused::Forged(new_key.id())));
        }
        // Also when its bytes are no signature at all.
        let short = STANDARD.encode([new_key.hash.as_slice(), &[0; 5]].concat());
        assert_eq!(open(&text, &format!("{good}\u{2014} log {short}\n")), Err(Refused::Forged(new_key.id())));

        let sign = |text: &str| (text.to_owned(), line(&old, &old_key, text));
        for (text, lines) in [
            sign(&text.replace("log", "lo\tg")),
            sign(&text.replace('\n', "\r\n")),
            sign(&text.replace('7', "07")),
            sign(&text.replace('7', "+7")),
            sign(&format!("\n{text}")),
            sign(&format!("{text}extension\n\nafter an empty line\n")),
            sign("log\n7\n"),
            (text.clone(), good.replace("\u{2014} log ", "\u{2014} lo\u{a0}g ")),
            (text.clone(), good.replace('\u{2014}', "-")),
            (text.clone(), good.trim_end().to_owned()),
            (text.clone(), format!("{good}and more\n")),
            (text.clone(), good.repeat(SIGNATURES_MAX + 1)),
            (text.clone(), String::new()),
        ] {
            assert!(matches!(open(&text, &lines), Err(Refused::Malformed(_))), "{text}{lines}");
        }
        assert!(open(&format!("{text}extension\n"), &line(&old, &old_key, &format!("{text}extension\n"))).is_ok());
        assert!(open(&text, &good.repeat(16)).is_ok());
    }
}
