//! What backups a target holds.

use base::Timestamp;
use serde::{Deserialize, Serialize};

use crate::error::{BackupError, Result};
use crate::manifest::{self, BackupId, Kind, Opener};
use crate::take;
use crate::target::Target;

/// One backup, as `ward backup list` shows it.
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
    pub mesh: String,
    pub taken: Timestamp,
    pub finished: Timestamp,
    pub newest: Option<Timestamp>,
    pub logs: Vec<(String, u64)>,
    pub bytes: u64,
    pub added_bytes: u64,
    pub objects: u64,
    pub slots: u64,
    /// For keys: whether a living epoch opens them. Unknown without the root keys.
    pub opens: Option<bool>,
}

/// All backups of a target, oldest first.
pub async fn list(target: &Target, opener: &Opener) -> Result<Vec<Listed>> {
    let living: Option<Vec<u64>> = match &opener.root {
        Some(root) => Some(root.epochs().await?.into_iter().map(|epoch| epoch.0).collect()),
        None => None,
    };
    let mut listed = Vec::new();
    for kind in [Kind::Data, Kind::Keys] {
        for id in manifest::ids(target, kind).await? {
            let (facts, trouble) = match opener.open(target, kind, &id).await {
                Ok((manifest, _)) => {
                    let keys = manifest.keys.as_ref();
                    let opens =
                        keys.zip(living.as_ref()).map(|(keys, living)| keys.epochs.iter().all(|e| living.contains(e)));
                    let facts = Facts {
                        newest: take::newest_entry(&manifest.logs),
                        bytes: manifest.log_bytes() + manifest.objects.bytes + keys.map_or(0, |keys| keys.bytes),
                        logs: manifest.logs.iter().map(|log| (log.name.clone(), log.size)).collect(),
                        objects: manifest.objects.count,
                        slots: keys.map_or(0, |keys| keys.slots),
                        opens,
                        added_bytes: manifest.added_bytes,
                        taken: manifest.taken,
                        finished: manifest.finished,
                        mesh: manifest.mesh,
                    };
                    (Some(facts), None)
                }
                Err(error @ (BackupError::Target(_) | BackupError::Io { .. })) => return Err(error),
                Err(error) => (None, Some(error.to_string())),
            };
            listed.push(Listed { id, kind, facts, trouble });
        }
    }
    listed.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(listed)
}
