//! Products of the node: registry, engine, snapshots, builder, put together.

use std::sync::Arc;

use base::{DataClass, MaskMethod};
use edge::ShowMasked;
use lake::{Lake, LakeParts, VaultFileKeys};
use products::{Builder, BuilderParts, Registry, SnapshotBook, SqlEngine};

use crate::node::{Ground, StartError};

pub struct Products {
    pub registry: Arc<Registry>,
    pub snapshots: SnapshotBook,
    pub builder: Arc<Builder>,
    pub engine: Arc<dyn SqlEngine>,
    pub shower: Arc<dyn ShowMasked + Send + Sync>,
}

fn failed<E: std::fmt::Display>(doing: &'static str) -> impl FnOnce(E) -> StartError {
    move |error| StartError { doing: doing.into(), why: error.to_string() }
}

/// Loads the products of the folder; proves on this machine that what is written is encrypted.
pub async fn open(ground: &Ground) -> Result<Products, StartError> {
    let (registry, diagnostics) = Registry::load(&ground.config.folder);
    let errors: Vec<String> = diagnostics.iter().filter(|d| d.is_error()).map(ToString::to_string).collect();
    if !errors.is_empty() {
        return Err(StartError { doing: "reading the products".into(), why: errors.join("\n") });
    }
    let registry = Arc::new(registry);
    let lake = Lake::new(LakeParts {
        objects: ground.objects.clone(),
        keys: Arc::new(VaultFileKeys(ground.vault.clone())),
        clock: ground.clock.clone(),
        limits: ground.config.mesh.limits.clone(),
        partitions: std::thread::available_parallelism().map_or(1, usize::from),
    })
    .map_err(failed("starting the SQL engine"))?;
    lake.self_test().await.map_err(failed("testing that products are encrypted"))?;
    let engine: Arc<dyn SqlEngine> = Arc::new(lake.clone());
    let snapshots = SnapshotBook::open(ground.logs["control"].clone(), ground.vault.clone(), ground.objects.clone())
        .await
        .map_err(failed("reading the control log"))?;
    let builder = Arc::new(Builder::new(BuilderParts {
        registry: registry.clone(),
        silver: ground.silver.clone(),
        engine: engine.clone(),
        book: snapshots.clone(),
        objects: ground.objects.clone(),
        clock: ground.clock.clone(),
        entropy: ground.entropy.clone(),
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
