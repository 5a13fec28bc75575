//! The keys while the node serves: the epoch turns when it is due or when told, the root and the token signer rotate.
//! Each leaves a fact in the control log (`key-…`), in the clear: epochs and counts, never a key and never a patient.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use base::{Clock, Timestamp};
use edge::{KeyDesk, OperatorError, Rotation};
use gate::{Gate, TokenIssuer, TokenKeys};
use serde_json::{Value, json};
use store::Facts;
use vault::{Epoch, EpochTurn, FileRootKeys, PassphraseCost, RootSecret, ScopeId, Vault, VaultError};

use crate::config::Config;

const DAY_MS: i64 = 86_400_000;
/// How often the scheduler looks at the clock.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// An unfinished turn, or one that failed, is tried again after this time.
const AGAIN_MS: i64 = 600_000;
/// The public key before the newest, believed until every token it signed has expired.
const PREVIOUS: &str = "token-signer-before";

/// See the module.
pub struct NodeKeys {
    pub config: Arc<Config>,
    pub vault: Vault,
    /// `None` where a service keeps the root keys.
    pub root: Option<Arc<FileRootKeys>>,
    pub facts: Facts,
    pub gate: Gate,
    pub issuer: Arc<ArcSwap<TokenIssuer>>,
    pub clock: Arc<dyn Clock>,
    /// One rotation at a time.
    pub rotating: tokio::sync::Mutex<()>,
    /// What the newest turn left, for status and metrics.
    pub last: ArcSwap<Option<EpochTurn>>,
}

fn failed(error: impl std::fmt::Display) -> OperatorError {
    OperatorError(error.to_string())
}

impl NodeKeys {
    /// Turns the epoch each time it is due, until told to stop. A failure is told and tried again: nothing is lost by it.
    pub async fn run(self: Arc<Self>, stop: impl Future<Output = ()>) {
        tokio::pin!(stop);
        let mut wait_until = Timestamp(i64::MIN);
        loop {
            let now = self.clock.now();
            if now >= wait_until {
                match self.turn_when_due(now).await {
                    Ok(false) => {}
                    Ok(true) => wait_until = now.plus_ms(AGAIN_MS),
                    Err(error) => {
                        tracing::error!(%error, "the key epoch did not turn; it is tried again");
                        wait_until = now.plus_ms(AGAIN_MS);
                    }
                }
            }
            tokio::select! {
                () = &mut stop => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    /// Whether something was done.
    async fn turn_when_due(&self, now: Timestamp) -> Result<bool, OperatorError> {
        let epochs = self.vault.epochs().await.map_err(failed)?;
        let is_due = self.due(&epochs).is_some_and(|due| now >= due);
        if is_due {
            self.turn_now(false).await?;
        } else if epochs.len() > 1 {
            // Interrupted, or kept for a damaged scope that may be whole again by now.
            let turn = self.vault.finish_turn().await.map_err(failed)?;
            if !turn.destroyed.is_empty() {
                self.fact("key-epoch-turned", turned(&turn)).await?;
            }
            self.note(turn);
        }
        Ok(is_due || epochs.len() > 1)
    }

    /// When the epoch is to turn; one whose beginning was not noted is due at once, one in the future never by a clock
    /// that was set back.
    fn due(&self, epochs: &[(Epoch, Option<Timestamp>)]) -> Option<Timestamp> {
        let days = i64::from(self.config.mesh.keys.epoch_days);
        let (_, begun) = epochs.last()?;
        Some(begun.map_or(Timestamp(0), |begun| begun.plus_ms(days.saturating_mul(DAY_MS))))
    }

    async fn turn_now(&self, on_demand: bool) -> Result<Value, OperatorError> {
        let turn = self.vault.turn_epoch().await.map_err(failed)?;
        let mut told = turned(&turn);
        told["on_demand"] = on_demand.into();
        self.fact("key-epoch-turned", told.clone()).await?;
        self.note(turn);
        Ok(told)
    }

    fn note(&self, turn: EpochTurn) {
        if !turn.damaged.is_empty() {
            tracing::error!(
                scopes = turn.damaged.len(),
                epochs = turn.kept.len(),
                "scope keys are damaged: old epoch keys are kept for them, so no erasure of their time is final; see \
                 `ward keys status`"
            );
        }
        tracing::info!(epoch = %turn.current, scopes = turn.scopes_rewrapped, "the key epoch turned");
        if !turn.destroyed.is_empty() {
            tracing::warn!(
                target: "ward::alarm",
                "backups of the keys from before this turn open nothing any more: take one now (`ward backup --keys-to`)"
            );
        }
        self.last.store(Arc::new(Some(turn)));
    }

    async fn fact(&self, kind: &str, told: Value) -> Result<(), OperatorError> {
        let mut text = told.to_string();
        if text.len() > store::facts::PUBLIC_BYTES_MAX {
            // Very many damaged scopes: their number says enough.
            text =
                json!({ "current": told["current"], "damaged": told["damaged"].as_array().map(Vec::len) }).to_string();
        }
        self.facts.append_public(kind, b"{}", text.as_bytes()).await.map(drop).map_err(failed)
    }

    async fn rotate_root(&self, passphrase: Option<String>) -> Result<Value, OperatorError> {
        let Some(keys) = &self.root else {
            return Err(OperatorError("a key service keeps the root keys of this node: rotate them there".into()));
        };
        let root = crate::keys::file_root(&self.config).map_err(failed)?;
        let (secret, next) = match (root.secret, passphrase) {
            (machine @ RootSecret::MachineKey { .. }, None) => {
                (machine, "the machine key was replaced in its file: make a new copy of it, and destroy the old ones")
            }
            (RootSecret::Passphrase { .. }, Some(passphrase)) if !passphrase.is_empty() => {
                let secret = RootSecret::Passphrase { passphrase: passphrase.into(), cost: PassphraseCost::default() };
                (secret, "the next start needs the new passphrase, in the same file or environment variable")
            }
            (RootSecret::MachineKey { .. }, Some(_)) => {
                return Err(OperatorError("this mesh has a machine key and no passphrase: leave it out".into()));
            }
            (RootSecret::Passphrase { .. }, _) => {
                return Err(OperatorError("name the variable of the new passphrase with --passphrase-env".into()));
            }
        };
        keys.rotate(&secret).await.map_err(failed)?;
        self.fact("key-root-rotated", json!({ "what": "root" })).await?;
        Ok(json!({ "rotated": "root", "next": next }))
    }

    /// New tokens are signed by another key at once; those signed before live out their time.
    async fn rotate_token_signer(&self) -> Result<Value, OperatorError> {
        let before = self.issuer.load_full();
        let until = self.clock.now().plus_ms(self.config.mesh.limits.token_ttl_ms_max);
        let note = [&until.ms().to_be_bytes()[..], before.public_key()].concat();
        // Noted first: a crash between leaves a note of the key that stands.
        self.vault.replace_note(PREVIOUS, &note).await.map_err(failed)?;
        self.vault.renew_es256_pkcs8("tokens").await.map_err(failed)?;
        let issuer = crate::keys::token_issuer(&self.config, &self.vault).await.map_err(failed)?;
        self.gate.trust(token_keys(&self.vault, &issuer, self.clock.now()).await.map_err(failed)?);
        self.issuer.store(Arc::new(issuer));
        self.fact("key-token-signer-rotated", json!({ "what": "token-signer" })).await?;
        Ok(json!({ "rotated": "token-signer", "next": format!("tokens of the key before are believed until {until}") }))
    }
}

/// The keys whose tokens are believed: the newest, and the one before while a token of it may live.
pub async fn token_keys(vault: &Vault, issuer: &TokenIssuer, now: Timestamp) -> Result<TokenKeys, VaultError> {
    let note = vault.note(PREVIOUS).await?;
    let before = note.as_deref().and_then(|note| note.split_first_chunk::<8>());
    let before = before.filter(|(until, _)| Timestamp(i64::from_be_bytes(**until)) > now).map(|(_, point)| point);
    Ok(TokenKeys::with_previous(issuer, before))
}

fn turned(turn: &EpochTurn) -> Value {
    let numbers = |epochs: &[Epoch]| epochs.iter().map(|epoch| epoch.0).collect::<Vec<_>>();
    json!({
        "current": turn.current.0,
        "destroyed": numbers(&turn.destroyed),
        "kept": numbers(&turn.kept),
        "scopes_rewrapped": turn.scopes_rewrapped,
        "damaged": turn.damaged.iter().map(ScopeId::to_string).collect::<Vec<_>>(),
    })
}

/// The epoch of the newest backup of keys, and when it was taken.
const KEYS_BACKUP: &str = "keys-backup";

/// Notes that the keys were backed up while this epoch was the current one.
pub async fn note_backup(vault: &Vault, epoch: Epoch, at: Timestamp) -> Result<(), VaultError> {
    vault.replace_note(KEYS_BACKUP, &[epoch.0.to_be_bytes(), at.ms().to_be_bytes()].concat()).await
}

/// What [`note_backup`] noted, and whether it still opens something: its epoch lives.
async fn newest_backup(vault: &Vault, epochs: &[(Epoch, Option<Timestamp>)]) -> Result<Value, VaultError> {
    let note = vault.note(KEYS_BACKUP).await?;
    let split = note.as_deref().and_then(|note| note.split_first_chunk::<8>());
    let Some((epoch, at)) = split else { return Ok(Value::Null) };
    let (epoch, at) = (u64::from_be_bytes(*epoch), at.try_into().map_or(0, i64::from_be_bytes));
    let opens = epochs.iter().any(|(living, _)| living.0 == epoch);
    Ok(json!({ "epoch": epoch, "taken": Timestamp(at).to_string(), "opens": opens }))
}

#[async_trait::async_trait]
impl KeyDesk for NodeKeys {
    async fn status(&self) -> Result<Value, OperatorError> {
        let epochs = self.vault.epochs().await.map_err(failed)?;
        let (turning, moved) = self.vault.turn_progress();
        let due = self.due(&epochs).map(|due| due.max(Timestamp(0)).to_string());
        let shown = |(epoch, begun): &(Epoch, Option<Timestamp>)| json!({ "epoch": epoch.0, "begun": begun.map(|at| at.to_string()) });
        Ok(json!({
            "epochs": epochs.iter().map(shown).collect::<Vec<_>>(),
            "epoch_days": self.config.mesh.keys.epoch_days,
            "due": due,
            "turning": turning,
            "scopes_moved": moved,
            "keys_backup": newest_backup(&self.vault, &epochs).await.map_err(failed)?,
            "last": self.last.load().as_ref().as_ref().map(turned),
        }))
    }

    async fn turn(&self) -> Result<Value, OperatorError> {
        self.turn_now(true).await
    }

    async fn rotate(&self, what: Rotation) -> Result<Value, OperatorError> {
        let _one = self.rotating.lock().await;
        match what {
            Rotation::Root { passphrase } => self.rotate_root(passphrase).await,
            Rotation::TokenSigner => self.rotate_token_signer().await,
        }
    }

    async fn give_up(&self, scope: &str) -> Result<Value, OperatorError> {
        let id = ScopeId::parse(scope).ok_or_else(|| OperatorError("a scope is named by 32 hex digits".into()))?;
        // Looked at anew: what is whole is never destroyed by this.
        let damaged = self.vault.finish_turn().await.map_err(failed)?.damaged;
        if !damaged.contains(&id) {
            return Err(OperatorError("this scope is not among the damaged ones: see `ward keys status`".into()));
        }
        self.vault.destroy_scope(id).await.map_err(failed)?;
        self.fact("key-scope-given-up", json!({ "scope": scope })).await?;
        let turn = self.vault.finish_turn().await.map_err(failed)?;
        let told = turned(&turn);
        self.note(turn);
        Ok(json!({ "given_up": scope, "turn": told }))
    }
}
