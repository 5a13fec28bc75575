//! What backups a target holds.

use base::Timestamp;
use serde::{Deserialize, Serialize};

use crate::error::{BackupError, Result};
use crate::manifest::{self, BackupId, Kind, Manifest, Opener};
use crate::target::Target;

/// One backup, as `ward backup --list` shows it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Listed {
    pub id: BackupId,
    pub kind: Kind,
    /// None when the manifest is damaged or of another node.
    pub facts: Option<Facts>,
    pub trouble: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Facts {
    pub taken: Timestamp,
    pub newest: Option<Timestamp>,
    pub logs: Vec<(String, u64)>,
    pub bytes: u64,
    pub added_bytes: u64,
    /// For keys: whether a living epoch opens them. Unknown without the root keys.
    pub opens: Option<bool>,
}

/// All backups of a kind in a target, oldest first.
pub async fn list(target: &Target, kind: Kind, opener: &Opener) -> Result<Vec<Listed>> {
    let living: Option<Vec<u64>> = match &opener.root {
        Some(root) => Some(root.epochs().await?.into_iter().map(|epoch| epoch.0).collect()),
        None => None,
    };
    let mut listed = Vec::new();
    for id in manifest::ids(target, kind).await? {
        let (facts, trouble) = match opener.open(target, kind, &id).await {
            Ok((manifest, _)) => (Some(facts(&manifest, living.as_deref())), None),
            Err(error @ (BackupError::Target(_) | BackupError::Io { .. })) => return Err(error),
            Err(error) => (None, Some(error.to_string())),
        };
        listed.push(Listed { id, kind, facts, trouble });
    }
    Ok(listed)
}

fn facts(manifest: &Manifest, living: Option<&[u64]>) -> Facts {
    let keys = manifest.keys.as_ref();
    Facts {
        taken: manifest.taken,
        newest: manifest.newest_entry(),
        logs: manifest.logs.iter().map(|log| (log.name.clone(), log.size)).collect(),
        bytes: manifest.bytes(),
        added_bytes: manifest.added_bytes,
        opens: keys.zip(living).map(|(keys, living)| keys.epochs.iter().all(|epoch| living.contains(epoch))),
    }
}
