//! Downtime packs as the node keeps and schedules them: `[downtime]` of `mesh.toml`, the codes, the facts, the rounds.
//!
//! Never here: what is in a pack (see `downtime`), who may make one (policies), how it is recorded (see `edge`).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ::downtime::{Code, Header, Opening};
use base::{DomainName, PrincipalId, Purpose, Role};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use edge::{Doors, DowntimeDesk, Made, OperatorError};
use gate::{Issue, Origin, TokenIssuer};
use net::Drain;
use roaring::RoaringBitmap;
use serde::{Deserialize, Serialize};
use store::Facts;
use vault::Vault;

use crate::commands::put_file;

/// `[downtime]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Downtime {
    /// Where packs are put, relative to the mesh folder: a place that the wards can copy from.
    pub folder: PathBuf,
    /// Minutes between two packs of a ward; 1 to 1440.
    pub every_minutes: u32,
    /// Hours that a pack is good for; 1 to 24.
    pub hours: u32,
    /// Wards that get packs by themselves.
    #[serde(rename = "ward")]
    pub wards: Vec<WardPlace>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WardPlace {
    pub domain: DomainName,
    /// The point of care of a bed (PV1-3.1), or a Location.
    pub location: String,
}

impl Default for Downtime {
    fn default() -> Self {
        Downtime { folder: "downtime".into(), every_minutes: 15, hours: 12, wards: Vec::new() }
    }
}

impl Downtime {
    /// What is wrong with it, and what to do.
    pub fn wrong(&self, is_domain: impl Fn(&DomainName) -> bool) -> Option<(&'static str, &'static str)> {
        if !(1..=1440).contains(&self.every_minutes) || !(1..=24).contains(&self.hours) {
            let help = "write 1 to 1440 minutes and 1 to 24 hours";
            return Some(("[downtime] every_minutes or hours is out of bounds", help));
        }
        if !self.wards.iter().all(|ward| is_domain(&ward.domain)) {
            return Some(("[[downtime.ward]] names a domain that is none", "name one of domains/"));
        }
        None
    }
}

/// Who makes the packs of the schedule.
pub fn principal() -> Option<PrincipalId> {
    PrincipalId::parse("ward:downtime").ok()
}

#[derive(Serialize, Deserialize)]
struct MadeFact {
    header: Header,
    /// Domain, and its patients as roaring's portable format in base 64.
    patients: Vec<(DomainName, String)>,
}

#[derive(Serialize, Deserialize)]
struct OpenedFact {
    pack: String,
    mac: String,
}

/// Codes by the node's secret, packs and openings by the control log.
pub struct Desk {
    pub facts: Facts,
    pub vault: Vault,
    pub life_ms: i64,
}

fn failed(error: impl std::fmt::Display) -> OperatorError {
    OperatorError(error.to_string())
}

impl Desk {
    async fn append(&self, kind: &str, body: &impl Serialize) -> Result<(), OperatorError> {
        let body = serde_json::to_vec(body).map_err(failed)?;
        self.facts.append(kind, &body).await.map(drop).map_err(failed)
    }
}

#[async_trait::async_trait]
impl DowntimeDesk for Desk {
    fn code(&self, domain: &DomainName, location: &str, day: &str) -> Code {
        Code::derived(&self.vault.derive(&format!("downtime-code\0{domain}\0{location}\0{day}")))
    }

    fn life_ms(&self) -> i64 {
        self.life_ms
    }

    async fn made(&self, header: &Header, patients: &[(DomainName, RoaringBitmap)]) -> Result<(), OperatorError> {
        let text = |set: &RoaringBitmap| {
            let mut bytes = Vec::with_capacity(set.serialized_size());
            set.serialize_into(&mut bytes).map(|()| STANDARD.encode(bytes))
        };
        let patients: Result<Vec<_>, std::io::Error> =
            patients.iter().map(|(domain, set)| Ok((domain.clone(), text(set)?))).collect();
        let fact = MadeFact { header: header.clone(), patients: patients.map_err(failed)? };
        self.append("downtime-made", &fact).await
    }

    async fn pack(&self, pack: &str) -> Result<Option<Made>, OperatorError> {
        let (mut at, mut found, mut opened) = (0, None, Vec::new());
        loop {
            let facts = self.facts.follow_kinds(at, "downtime-").await.map_err(failed)?;
            let Some(last) = facts.last() else { break };
            at = last.position + 1;
            for fact in &facts {
                if fact.kind == "downtime-made" {
                    let made: MadeFact = serde_json::from_slice(&fact.body).map_err(failed)?;
                    found = if made.header.pack == pack { Some(made) } else { found };
                } else if let Ok(OpenedFact { pack: of, mac }) = serde_json::from_slice(&fact.body)
                    && of == pack
                {
                    opened.push(mac);
                }
            }
        }
        let Some(MadeFact { header, patients }) = found else { return Ok(None) };
        let set = |text: &str| {
            let bytes = STANDARD.decode(text).map_err(failed)?;
            RoaringBitmap::deserialize_from(bytes.as_slice()).map_err(failed)
        };
        let patients: Result<Vec<_>, OperatorError> =
            patients.iter().map(|(domain, text)| Ok((domain.clone(), set(text)?))).collect();
        Ok(Some(Made { header, patients: patients?, opened }))
    }

    async fn opened(&self, opening: &Opening) -> Result<(), OperatorError> {
        self.append("downtime-opened", &OpenedFact { pack: opening.pack.clone(), mac: opening.mac.clone() }).await
    }
}

/// The schedule: a pack for each ward of the configuration, at the start and then at its interval.
pub struct Rounds {
    pub config: Downtime,
    pub mesh: PathBuf,
    pub doors: Arc<Doors>,
    pub issuer: Arc<arc_swap::ArcSwap<TokenIssuer>>,
}

impl Rounds {
    pub async fn run(self, drain: Drain) {
        if self.config.wards.is_empty() {
            return;
        }
        let mut round = tokio::time::interval(Duration::from_secs(u64::from(self.config.every_minutes) * 60));
        loop {
            tokio::select! {
                () = drain.closing() => return,
                _ = round.tick() => {}
            }
            for ward in &self.config.wards {
                if let Err(error) = self.make(ward).await {
                    // The packs of before are there still, until they expire.
                    tracing::warn!(target: "ward::alarm", domain = %ward.domain, location = ward.location, %error,
                        "a downtime pack could not be made");
                }
            }
        }
    }

    async fn make(&self, ward: &WardPlace) -> Result<(), OperatorError> {
        let id = principal().ok_or_else(|| failed("the node has no name"))?;
        let issue = Issue {
            domain: Some(ward.domain.clone()),
            purpose: Some(Purpose::Treatment),
            ttl_ms: 300_000,
            ..Issue::new(id, Role::Node)
        };
        let doors = &self.doors;
        let token = self.issuer.load().issue(&issue, doors.clock.now(), &*doors.entropy).map_err(failed)?;
        let caller = doors.gate.authenticate(Some(&token)).await.map_err(failed)?;
        let origin = Origin::new("downtime", None, None);
        let made = edge::make_pack(doors, &caller, &origin, &ward.domain, &ward.location).await;
        let (held, release) = made.map_err(|error| failed(error.sentence()))?;
        let packed = held.release(release).map_err(failed)?;
        let folder = self.mesh.join(&self.config.folder);
        let name = file_name(&ward.domain, &ward.location);
        let now = doors.clock.now();
        let write = move || {
            put_file(&folder.join(format!("{name}-{}.pack", packed.header.made_ms)), &packed.file)?;
            forget_expired(&folder, now.ms())
        };
        tokio::task::spawn_blocking(write).await.map_err(failed)?.map_err(failed)
    }
}

/// A location can hold any character; a file's name cannot.
fn file_name(domain: &DomainName, location: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
    format!("{domain}-{}", location.chars().map(plain).collect::<String>())
}

/// Removes packs that nobody can open any more. Records of openings stay, until they were handed in.
fn forget_expired(folder: &Path, now_ms: i64) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "pack") {
            continue;
        }
        if let Ok((header, _)) = ::downtime::read_header(&std::fs::read(&path)?)
            && header.expires_ms <= now_ms
        {
            std::fs::remove_file(&path)?;
        }
    }
    Ok(())
}
