//! Governance facts in the control log: holds, erasures, break-glass sessions, grants. The log is the truth; whoever
//! acts on facts follows it from position 0 before a door opens, and derives the rest (laws 8, 10, 11).
//!
//! An entry is `fact/1 KIND`, a sealed body, and what may be public, in the clear: a hash a stranger can check, never a
//! patient. Kind and public part are bound into the seal. The slot travels in the frame, as everywhere in a log. Other
//! tenants of the control log (product snapshots, `products::SnapshotBook`) have other labels and are passed over.
//! Never here: what a fact means (`comply`, `gate`).

use std::sync::Arc;

use base::{DomainName, Timestamp};
use bytes::Bytes;
use ledger::{AppendError, Entry, LedgerError, Log, NewEntry};
use vault::{Holder, Kind, ObjectName, RetentionClass, Scope, Slot, Vault, VaultError};

/// First part of an entry of ours, in the clear, before the kind.
const LABEL: &[u8] = b"fact/1 ";
/// The domain and retention class under which governance facts are sealed; no expiry touches them.
const GOVERNANCE: &str = "governance";
pub const KIND_BYTES_MAX: usize = 64;
pub const BODY_BYTES_MAX: usize = 1 << 20;
pub const PUBLIC_BYTES_MAX: usize = 4096;
/// Facts given at once by [`Facts::follow`].
pub const FOLLOW_MAX: usize = 10_000;
/// Entries read at once.
const READ_ENTRIES: usize = 256;
const READ_BYTES: usize = 8 << 20;

/// Why a fact could not be written or read. Names no content.
#[derive(Debug, thiserror::Error)]
pub enum FactError {
    #[error("a fact's {what} must be {rule}")]
    Invalid { what: &'static str, rule: &'static str },
    #[error("a fact in the control log does not open as what its label says: run `ward doctor`")]
    Forged { position: u64 },
    #[error("the control log takes no entry now")]
    Append(#[from] AppendError),
    #[error("the control log cannot be read now")]
    Log(#[from] LedgerError),
    #[error("the keys of the control log cannot be used now")]
    Vault(#[from] VaultError),
}

/// A fact as the control log holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fact {
    /// Index in the control log.
    pub position: u64,
    /// When it was appended, by the log's clock.
    pub at: Timestamp,
    pub kind: String,
    pub body: Vec<u8>,
    /// In the clear for whoever holds the log without keys.
    pub public: Vec<u8>,
}

/// The facts of a control log. Clones are handles to the same log.
#[derive(Clone)]
pub struct Facts(Arc<Inner>);

struct Inner {
    log: Log,
    vault: Vault,
    domain: DomainName,
    scope: Scope,
}

impl Facts {
    pub fn open(control: Log, vault: Vault) -> Result<Facts, FactError> {
        let wrong = |e: base::InvalidId| FactError::Invalid { what: e.kind, rule: e.rule };
        let domain = DomainName::parse(GOVERNANCE).map_err(wrong)?;
        let retention = RetentionClass::parse(GOVERNANCE).map_err(wrong)?;
        let scope = Scope { domain: domain.clone(), holder: Holder::Shared, retention, year: 0 };
        Ok(Facts(Arc::new(Inner { log: control, vault, domain, scope })))
    }

    /// When this returns the fact is durable. `kind` is a word such as `erasure-requested`, in the clear.
    pub async fn append(&self, kind: &str, body: &[u8]) -> Result<u64, FactError> {
        self.append_public(kind, body, &[]).await
    }

    /// Like [`Facts::append`], with a part that stays in the clear. It is the caller's word that it names no patient.
    pub async fn append_public(&self, kind: &str, body: &[u8], public: &[u8]) -> Result<u64, FactError> {
        check(kind, body, public)?;
        let id = name_id(kind, public);
        let (sealed, slot) = self.0.vault.seal(self.name(&id), &self.0.scope, body).await?;
        let label = [LABEL, kind.as_bytes()].concat();
        let parts = vec![Bytes::from(label), Bytes::from(sealed), Bytes::copy_from_slice(public)];
        Ok(self.0.log.append(NewEntry { parts, slots: slot.to_bytes().to_vec() }).await?)
    }

    /// The facts at `from` and later, oldest first, at most [`FOLLOW_MAX`]: go on from the last one's position + 1
    /// until none comes. A fact that cannot be opened is an error, never passed over.
    pub async fn follow(&self, from: u64) -> Result<Vec<Fact>, FactError> {
        self.follow_kinds(from, "").await
    }

    /// Like [`Facts::follow`], only the facts whose kind begins with `prefix`; no other is opened.
    pub async fn follow_kinds(&self, from: u64, prefix: &str) -> Result<Vec<Fact>, FactError> {
        let (mut at, mut facts) = (from, Vec::new());
        while facts.len() < FOLLOW_MAX {
            let entries = self.0.log.read(at, READ_ENTRIES, READ_BYTES)?;
            let Some(last) = entries.last() else { break };
            at = last.index + 1;
            for entry in &entries {
                if facts.len() < FOLLOW_MAX
                    && let Some(fact) = self.open_entry(entry, prefix).await?
                {
                    facts.push(fact);
                }
            }
        }
        Ok(facts)
    }

    /// The size of the control log: where a follower goes on that has seen everything so far.
    pub fn size(&self) -> u64 {
        self.0.log.size()
    }

    /// Follows the durable size of the control log.
    pub fn subscribe(&self) -> tokio::sync::watch::Receiver<u64> {
        self.0.log.subscribe()
    }

    /// The log itself, for proofs and checkpoints.
    pub fn log(&self) -> &Log {
        &self.0.log
    }

    /// `None` for entries that are not ours or not asked for.
    async fn open_entry(&self, entry: &Entry, prefix: &str) -> Result<Option<Fact>, FactError> {
        let Some(kind) = entry.parts.first().and_then(|label| label.strip_prefix(LABEL)) else { return Ok(None) };
        let forged = || FactError::Forged { position: entry.index };
        let kind = std::str::from_utf8(kind).map_err(|_| forged())?;
        if !kind.starts_with(prefix) {
            return Ok(None);
        }
        let [_, sealed, public] = entry.parts.as_slice() else { return Err(forged()) };
        let slot = Slot::from_bytes(&entry.slots).ok_or_else(forged)?;
        let id = name_id(kind, public);
        let body = match self.0.vault.open_with_slot(&slot, self.name(&id), sealed).await {
            Ok(body) => body.to_vec(),
            Err(error) if error.is_outage() => return Err(error.into()),
            Err(_) => return Err(forged()),
        };
        let (kind, public) = (kind.to_owned(), public.to_vec());
        Ok(Some(Fact { position: entry.index, at: entry.appended, kind, body, public }))
    }

    fn name<'a>(&'a self, id: &'a [u8]) -> ObjectName<'a> {
        ObjectName { domain: &self.0.domain, kind: Kind::Config, id, version: 1 }
    }
}

/// Kind and public part in one: a kind holds no zero byte.
fn name_id(kind: &str, public: &[u8]) -> Vec<u8> {
    [b"control/fact/", kind.as_bytes(), b"\0", public].concat()
}

fn check(kind: &str, body: &[u8], public: &[u8]) -> Result<(), FactError> {
    let letter = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.');
    if kind.is_empty() || kind.len() > KIND_BYTES_MAX || !kind.bytes().all(letter) {
        return Err(FactError::Invalid { what: "kind", rule: "1 to 64 of a-z 0-9 - _ ." });
    }
    if body.len() > BODY_BYTES_MAX {
        return Err(FactError::Invalid { what: "body", rule: "at most 1 MiB" });
    }
    if public.len() > PUBLIC_BYTES_MAX {
        return Err(FactError::Invalid { what: "public part", rule: "at most 4 KiB" });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use base::{LogName, ManualClock, SeededEntropy};
    use ledger::{Ed25519Signer, LogOptions, RealDisk};
    use vault::{MemoryKeyTable, MemoryRootKeys};

    use super::*;

    const NOW: i64 = 1_764_000_000_000;

    struct Ground {
        vault: Vault,
        folder: tempfile::TempDir,
        clock: Arc<ManualClock>,
    }

    impl Ground {
        async fn new() -> Ground {
            let clock = Arc::new(ManualClock::at(NOW));
            let entropy = Arc::new(SeededEntropy::new(7));
            let root = Arc::new(MemoryRootKeys::new(entropy.clone()));
            let table = Arc::new(MemoryKeyTable::default());
            let vault = Vault::open(root, table, clock.clone(), entropy).await.unwrap();
            Ground { vault, folder: tempfile::tempdir().unwrap(), clock }
        }

        fn log(&self, folder: &Path) -> Log {
            let signer = Arc::new(Ed25519Signer::from_seed("test/control", &[3; 32]).unwrap());
            let name = LogName::parse("control").unwrap();
            Log::open(Arc::new(RealDisk), folder, name, LogOptions::new("test/control"), signer, self.clock.clone())
                .unwrap()
        }

        fn facts(&self) -> Facts {
            Facts::open(self.log(self.folder.path()), self.vault.clone()).unwrap()
        }
    }

    fn stranger() -> NewEntry {
        NewEntry {
            parts: vec![Bytes::from_static(b"product-snapshot/1 ehr"), Bytes::from_static(b"sealed")],
            slots: vec![],
        }
    }

    #[tokio::test]
    async fn facts_come_back_in_order_over_a_reopening_and_others_entries_are_passed_over() {
        let ground = Ground::new().await;
        let facts = ground.facts();
        assert_eq!(facts.append("hold-placed", b"one").await.unwrap(), 0);
        facts.log().append(stranger()).await.unwrap();
        assert_eq!(facts.append_public("erasure-certified", b"two", b"sha256 ab").await.unwrap(), 2);
        facts.log().close().await;
        drop(facts);

        let facts = ground.facts();
        let all = facts.follow(0).await.unwrap();
        let seen: Vec<_> =
            all.iter().map(|f| (f.position, f.kind.as_str(), f.body.as_slice(), f.public.as_slice())).collect();
        let none: &[u8] = b"";
        assert_eq!(
            seen,
            [(0, "hold-placed", &b"one"[..], none), (2, "erasure-certified", &b"two"[..], &b"sha256 ab"[..])]
        );
        assert_eq!(all[0].at, Timestamp(NOW));
        assert_eq!(facts.follow(1).await.unwrap(), all[1..]);
        assert_eq!(facts.follow_kinds(0, "hold-").await.unwrap(), all[..1]);
        assert!(facts.follow(facts.size()).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_fact_under_another_kind_or_public_part_is_an_error_and_not_passed_over() {
        let ground = Ground::new().await;
        let facts = ground.facts();
        facts.append_public("hold-placed", b"one", b"public").await.unwrap();
        let entry = facts.log().read(0, 1, 1 << 20).unwrap().remove(0);
        for (label, public) in [("fact/1 hold-lifted", "public"), ("fact/1 hold-placed", "other")] {
            let parts = vec![
                Bytes::from_static(label.as_bytes()),
                entry.parts[1].clone(),
                Bytes::from_static(public.as_bytes()),
            ];
            let at = facts.log().append(NewEntry { parts, slots: entry.slots.clone() }).await.unwrap();
            assert!(matches!(facts.follow(at).await, Err(FactError::Forged { position }) if position == at));
        }
    }

    #[tokio::test]
    async fn limits_hold_and_bodies_are_never_in_the_clear() {
        let ground = Ground::new().await;
        let facts = ground.facts();
        let long = vec![0; BODY_BYTES_MAX + 1];
        for (kind, body, public) in [
            ("", &b""[..], &b""[..]),
            ("With Space", b"", b""),
            ("k", &long, b""),
            ("k", b"", &long[..PUBLIC_BYTES_MAX + 1]),
        ] {
            assert!(matches!(facts.append_public(kind, body, public).await, Err(FactError::Invalid { .. })));
        }
        facts.append("hold-placed", b"ZQXSENTINELWORD").await.unwrap();
        let entry = facts.log().read(0, 1, 1 << 20).unwrap().remove(0);
        let sealed = &entry.parts[1];
        assert!(!sealed.windows(15).any(|w| w == b"ZQXSENTINELWORD"));
    }
}
