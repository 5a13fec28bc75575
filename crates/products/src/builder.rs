//! Builds a product: silver in the order of changes, through the view, to the engine, then into the book.
//!
//! Full rebuilds; the manifest keeps the change number, from which an incremental build will go on. One build of a
//! product at a time. A snapshot is readable only when it stands in the control log; what a failed build left behind is
//! removed by the engine, and by [`Builder::sweep`] after a crash.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use async_trait::async_trait;
use base::{Clock, Entropy, Permit, Read, Timestamp, Write};
use fhir::json::ParseLimits;
use fhir::view::CellRef;
use futures::StreamExt;
use object_store::ObjectStore;
use object_store::path::Path;
use parking_lot::Mutex;
use serde::Serialize;
use store::{Resource, Silver};

use crate::manifest::{FORMAT, Manifest};
use crate::registry::{Product, Registry};
use crate::snapshots::{Published, SnapshotBook, SnapshotError};
use crate::sql::{BuildTarget, Built, Cell, ResourceRows, RowSource, SqlEngine, SqlError, TableName};

/// Resources read at once.
const SCAN_MAX: usize = 500;
/// Snapshots of a product that stay: the newest, and the one before for statements that are running.
const SNAPSHOTS_KEPT: usize = 2;
/// How often a build begins anew because resources changed under it.
const ATTEMPTS_MAX: u32 = 3;

/// Why a build failed. Names no data.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("product `{0}` does not exist, or `ward check` found an error in it")]
    Unknown(TableName),
    #[error("product `{0}` is being built already")]
    Running(TableName),
    #[error("silver could not be read")]
    Silver(#[source] store::StoreError),
    #[error(transparent)]
    Engine(#[from] SqlError),
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error("the object store could not be listed")]
    Objects(#[from] object_store::Error),
}

/// How the last build of a product went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BuildReport {
    pub table: TableName,
    pub snapshot: String,
    pub rows: u64,
    pub bytes: u64,
    pub files: usize,
    /// Resources the view could not be applied to.
    pub skipped: u64,
    pub unfit: Vec<(String, u64)>,
    pub change: u64,
    pub finished: Timestamp,
    /// `None` when it went well.
    pub error: Option<String>,
}

/// What a product still lacks before it can be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProductStatus {
    pub table: TableName,
    pub version: String,
    pub owner: String,
    /// Empty when the product may be read.
    pub missing: Vec<String>,
    pub snapshot: Option<Published>,
    pub last_build: Option<BuildReport>,
}

/// What a builder works with.
pub struct BuilderParts {
    pub registry: Arc<Registry>,
    pub silver: Silver,
    pub engine: Arc<dyn SqlEngine>,
    pub book: SnapshotBook,
    pub objects: Arc<dyn ObjectStore>,
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<dyn Entropy>,
}

/// See the module.
pub struct Builder {
    parts: BuilderParts,
    running: Mutex<HashSet<TableName>>,
    reports: Mutex<HashMap<TableName, BuildReport>>,
}

impl Builder {
    pub fn new(parts: BuilderParts) -> Self {
        Builder { parts, running: Mutex::default(), reports: Mutex::default() }
    }

    pub fn book(&self) -> &SnapshotBook {
        &self.parts.book
    }

    /// Builds and publishes. `read` covers silver of the domain, `write` covers gold.
    pub async fn build(
        &self,
        read: &Permit<Read>,
        write: &Permit<Write>,
        table: &TableName,
    ) -> Result<BuildReport, BuildError> {
        let product = self.parts.registry.get(table).ok_or_else(|| BuildError::Unknown(table.clone()))?.clone();
        let _running = Running::begin(&self.running, table)?;
        let outcome = self.attempts(read, write, &product).await;
        let report = match &outcome {
            Ok(report) => report.clone(),
            Err(error) => self.failed(&product, error),
        };
        self.reports.lock().insert(table.clone(), report);
        if outcome.is_ok()
            && let Err(error) = self.retire_old(write, table).await
        {
            // The new snapshot stands; the next build tries again.
            tracing::warn!(%table, %error, "an old snapshot could not be retired");
        }
        outcome
    }

    async fn attempts(
        &self,
        read: &Permit<Read>,
        write: &Permit<Write>,
        product: &Product,
    ) -> Result<BuildReport, BuildError> {
        let mut attempt = 1;
        loop {
            match self.once(read, write, product).await {
                Err(BuildError::Engine(SqlError::Busy { .. })) if attempt < ATTEMPTS_MAX => attempt += 1,
                outcome => return outcome,
            }
        }
    }

    async fn once(
        &self,
        read: &Permit<Read>,
        write: &Permit<Write>,
        product: &Product,
    ) -> Result<BuildReport, BuildError> {
        let at = self.parts.clock.now();
        let target = BuildTarget {
            table: product.table.clone(),
            snapshot: self.snapshot_id(at),
            columns: product.columns.clone(),
            // The contract's words are for people; keys are kept under the domain's class for products.
            retention: None,
            at,
        };
        let mut source = SilverRows::new(&self.parts.silver, read, product, self.rows_hint(&product.table));
        let built = match self.parts.engine.build(write, &target, &mut source).await {
            Ok(built) => built,
            Err(error) => return Err(source.error.take().map_or(BuildError::Engine(error), BuildError::Silver)),
        };
        let manifest = manifest(product, &target, &source, built);
        if let Err(error) = self.parts.book.publish(write, &manifest).await {
            // It may or may not stand in the log; the sweep after the next start decides by the log.
            return Err(error.into());
        }
        Ok(report(&product.table, &manifest))
    }

    /// Time first, so that snapshots list in order.
    fn snapshot_id(&self, at: Timestamp) -> String {
        let mut random = [0; 4];
        self.parts.entropy.fill(&mut random);
        format!("{:013}-{}", at.ms().max(0), base::hex::encode(&random))
    }

    fn rows_hint(&self, table: &TableName) -> u64 {
        self.parts.book.living(table).last().map_or(0, |published| published.rows)
    }

    async fn retire_old(&self, write: &Permit<Write>, table: &TableName) -> Result<(), BuildError> {
        let living = self.parts.book.living(table);
        let old = living.len().saturating_sub(SNAPSHOTS_KEPT);
        for published in &living[..old] {
            self.end(write, table, published).await?;
        }
        Ok(())
    }

    /// Files and their keys first: a crash between leaves a snapshot that cannot be read and is ended again.
    async fn end(&self, write: &Permit<Write>, table: &TableName, published: &Published) -> Result<(), BuildError> {
        // A manifest that cannot be had names no files; the sweep finds them by their folder.
        if let Ok(manifest) = self.parts.book.manifest(published).await {
            self.parts.engine.remove(write, table, &manifest.files).await?;
        }
        self.parts.book.retire(write, published, self.parts.clock.now()).await?;
        Ok(())
    }

    /// Builds anew and ends every earlier snapshot, their files and file keys: what was taken out of silver is then in
    /// none. A product that is no longer defined only loses its snapshots. Refused while a build is running.
    pub async fn renew(
        &self,
        read: &Permit<Read>,
        write: &Permit<Write>,
        table: &TableName,
    ) -> Result<usize, BuildError> {
        let _running = Running::begin(&self.running, table)?;
        let mut old = self.parts.book.living(table);
        if let Some(product) = self.parts.registry.get(table).cloned()
            && !old.is_empty()
        {
            let report = self.attempts(read, write, &product).await?;
            self.reports.lock().insert(table.clone(), report);
        }
        let count = old.len();
        for published in old.drain(..) {
            self.end(write, table, &published).await?;
        }
        Ok(count)
    }

    /// Removes files of snapshots that do not stand in the log: what crashes left behind. Not while building.
    pub async fn sweep(&self, table: &TableName) -> Result<usize, BuildError> {
        let _running = Running::begin(&self.running, table)?;
        let living: HashSet<String> = self.parts.book.living(table).into_iter().map(|p| p.snapshot).collect();
        let folder = Path::from(format!("gold/{}/{}", table.domain, table.product));
        let mut objects = self.parts.objects.list(Some(&folder));
        let mut orphans = Vec::new();
        while let Some(object) = objects.next().await {
            let location = object?.location;
            let snapshot = location.as_ref().split('/').nth(3).unwrap_or("");
            if !living.contains(snapshot) {
                orphans.push(location);
            }
        }
        for orphan in &orphans {
            object_store::ObjectStoreExt::delete(&self.parts.objects, orphan).await?;
        }
        Ok(orphans.len())
    }

    /// The state of a product: what it lacks, its newest snapshot, its last build in this process.
    pub fn status(&self, table: &TableName) -> Option<ProductStatus> {
        let product = self.parts.registry.get(table)?;
        let snapshot = self.parts.book.living(table).pop();
        let last_build = self.reports.lock().get(table).cloned();
        let mut missing = Vec::new();
        if product.owner.is_empty() {
            missing.push("an owner".to_owned());
        }
        if product.status != "active" {
            missing.push(format!("the status `active` (it is `{}`)", product.status));
        }
        match (&snapshot, &last_build) {
            (None, _) => missing.push("a build that succeeded".to_owned()),
            (Some(_), Some(report)) if report.error.is_some() => missing.push("a last build that succeeded".to_owned()),
            (Some(published), _) if published.version != product.version => {
                missing.push(format!("a build of version {}", product.version));
            }
            _ => {}
        }
        Some(ProductStatus {
            table: table.clone(),
            version: product.version.clone(),
            owner: product.owner.clone(),
            missing,
            snapshot,
            last_build,
        })
    }

    fn failed(&self, product: &Product, error: &BuildError) -> BuildReport {
        BuildReport {
            table: product.table.clone(),
            snapshot: String::new(),
            rows: 0,
            bytes: 0,
            files: 0,
            skipped: 0,
            unfit: Vec::new(),
            change: 0,
            finished: self.parts.clock.now(),
            error: Some(error.to_string()),
        }
    }
}

/// Holds a table's place among the running builds.
struct Running<'a>(&'a Mutex<HashSet<TableName>>, TableName);

impl<'a> Running<'a> {
    fn begin(running: &'a Mutex<HashSet<TableName>>, table: &TableName) -> Result<Self, BuildError> {
        match running.lock().insert(table.clone()) {
            true => Ok(Running(running, table.clone())),
            false => Err(BuildError::Running(table.clone())),
        }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.lock().remove(&self.1);
    }
}

fn manifest(product: &Product, target: &BuildTarget, source: &SilverRows<'_>, built: Built) -> Manifest {
    Manifest {
        format: FORMAT,
        domain: product.table.domain.clone(),
        product: product.table.product.clone(),
        version: product.version.clone(),
        definition: product.definition.clone(),
        snapshot: target.snapshot.clone(),
        columns: product.columns.clone(),
        buckets: built.buckets,
        files: built.files,
        rows: built.rows,
        change: source.after,
        journal: source.journal,
        unfit: built.unfit,
        skipped: source.skipped,
        created: target.at,
    }
}

fn report(table: &TableName, manifest: &Manifest) -> BuildReport {
    BuildReport {
        table: table.clone(),
        snapshot: manifest.snapshot.clone(),
        rows: manifest.rows,
        bytes: manifest.files.iter().map(|f| f.bytes).sum(),
        files: manifest.files.len(),
        skipped: manifest.skipped,
        unfit: manifest.unfit.clone(),
        change: manifest.change,
        finished: manifest.created,
        error: None,
    }
}

/// Silver's resources of one type through the view.
struct SilverRows<'a> {
    silver: &'a Silver,
    permit: &'a Permit<Read>,
    product: &'a Product,
    hint: u64,
    after: u64,
    done: bool,
    journal: Option<(u64, u64)>,
    skipped: u64,
    keys: (RandomState, RandomState),
    error: Option<store::StoreError>,
}

impl<'a> SilverRows<'a> {
    fn new(silver: &'a Silver, permit: &'a Permit<Read>, product: &'a Product, hint: u64) -> Self {
        let keys = (RandomState::new(), RandomState::new());
        SilverRows {
            silver,
            permit,
            product,
            hint,
            after: 0,
            done: false,
            journal: None,
            skipped: 0,
            keys,
            error: None,
        }
    }

    fn rows(&mut self, resource: Resource) -> ResourceRows {
        for position in &resource.positions {
            let (low, high) = self.journal.unwrap_or((*position, *position));
            self.journal = Some((low.min(*position), high.max(*position)));
        }
        let id = resource.id.as_str();
        let key = u128::from(self.keys.0.hash_one(id)) << 64 | u128::from(self.keys.1.hash_one(id));
        let rows = if resource.deleted { Some(Vec::new()) } else { self.view(resource.body.expose()) };
        self.skipped += u64::from(rows.is_none());
        ResourceRows {
            key,
            change: resource.change,
            patient: resource.patient,
            sensitivity: resource.sensitivity,
            rows: rows.unwrap_or_default(),
        }
    }

    /// `None` when the view cannot be applied: the resource is counted, the build goes on.
    fn view(&self, body: &[u8]) -> Option<Vec<Vec<Cell>>> {
        let resource = fhir::json::parse(body, &ParseLimits::default()).ok()?;
        let mut rows = Vec::new();
        self.product.view.each_row(&resource, &mut |row| rows.push(row.iter().map(cell).collect())).ok()?;
        Some(rows)
    }
}

#[async_trait]
impl RowSource for SilverRows<'_> {
    async fn next(&mut self) -> Result<Option<Vec<ResourceRows>>, SqlError> {
        if self.done {
            return Ok(None);
        }
        let rtype = self.product.view.resource();
        let domain = &self.product.table.domain;
        match self.silver.scan(self.permit, domain, rtype, self.after, SCAN_MAX).await {
            Ok(scanned) => {
                (self.after, self.done) = (scanned.after, !scanned.more);
                let rows = scanned.resources.into_iter().map(|resource| self.rows(resource)).collect();
                Ok(Some(rows))
            }
            Err(error) => {
                self.error = Some(error);
                Err(SqlError::Broken { incident: "silver".into() })
            }
        }
    }

    fn rows_hint(&self) -> u64 {
        self.hint
    }
}

fn cell(one: &CellRef<'_>) -> Cell {
    match one {
        CellRef::Null => Cell::Null,
        CellRef::Bool(value) => Cell::Boolean(*value),
        CellRef::Int(value) => Cell::Integer(*value),
        CellRef::Decimal(text) => Cell::Decimal(text.to_string()),
        CellRef::Text(text) => Cell::Text(text.to_string()),
        CellRef::List(cells) => Cell::List(cells.iter().map(cell).collect()),
    }
}
