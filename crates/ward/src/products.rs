//! Products of the node: registry, engine, snapshots, builder, put together.

use std::sync::Arc;

use base::{Clock, DataClass, Entropy, MaskMethod};
use edge::ShowMasked;
use lake::{Lake, LakeParts, VaultFileKeys};
use ledger::Log;
use products::{Builder, BuilderParts, Registry, SnapshotBook, SqlEngine};
use store::Silver;
use vault::Vault;

use crate::config::Config;
use crate::node::StartError;

pub struct Products {
    pub registry: Arc<Registry>,
    pub snapshots: SnapshotBook,
    pub builder: Arc<Builder>,
    pub engine: Arc<dyn SqlEngine>,
    pub shower: Arc<dyn ShowMasked + Send + Sync>,
}

/// What products are built of.
pub struct Parts<'a> {
    pub config: &'a Config,
    pub silver: &'a Silver,
    pub vault: &'a Vault,
    pub control: &'a Log,
    pub objects: Arc<dyn object_store::ObjectStore>,
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<dyn Entropy>,
}

fn failed<E: std::fmt::Display>(doing: &'static str) -> impl FnOnce(E) -> StartError {
    move |error| StartError { doing: doing.into(), why: error.to_string() }
}

/// Loads the products of the folder; proves on this machine that what is written is encrypted.
pub async fn open(parts: Parts<'_>) -> Result<Products, StartError> {
    let (registry, diagnostics) = Registry::load(&parts.config.folder);
    let errors: Vec<String> = diagnostics.iter().filter(|d| d.is_error()).map(ToString::to_string).collect();
    if !errors.is_empty() {
        return Err(StartError { doing: "reading the products".into(), why: errors.join("\n") });
    }
    let registry = Arc::new(registry);
    let lake = Lake::new(LakeParts {
        objects: parts.objects.clone(),
        keys: Arc::new(VaultFileKeys(parts.vault.clone())),
        clock: parts.clock.clone(),
        limits: parts.config.mesh.limits.clone(),
        partitions: std::thread::available_parallelism().map_or(1, usize::from),
    })
    .map_err(failed("starting the SQL engine"))?;
    lake.self_test().await.map_err(failed("testing that products are encrypted"))?;
    let engine: Arc<dyn SqlEngine> = Arc::new(lake.clone());
    let snapshots = SnapshotBook::open(parts.control.clone(), parts.vault.clone(), parts.objects.clone())
        .await
        .map_err(failed("reading the control log"))?;
    let builder = Arc::new(Builder::new(BuilderParts {
        registry: registry.clone(),
        silver: parts.silver.clone(),
        engine: engine.clone(),
        book: snapshots.clone(),
        objects: parts.objects,
        clock: parts.clock,
        entropy: parts.entropy,
    }));
    Ok(Products { registry, snapshots, builder, engine, shower: Arc::new(Shower(lake)) })
}

/// The lake's masks for the FHIR door: both doors show the same.
struct Shower(Lake);

impl ShowMasked for Shower {
    fn show(&self, method: &MaskMethod, domain: &str, class: DataClass, text: &str) -> Option<String> {
        self.0.show(method, domain, class, text)
    }
}
