//! [`Lake`]: the SQL port of `products`, implemented.
//!
//! Checks each permit against its table, opens the file keys, turns the permit's masks into column masks, and hands the
//! statement to [`crate::session`].

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base::{Clock, DataClass, DomainName, Layer, Limits, MaskMethod, Permit, Write};
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::GreedyMemoryPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use object_store::ObjectStore;
use parking_lot::Mutex;
use products::manifest::FORMAT;
use products::{
    BuildTarget, Built, MaskedColumn, RowSource, SnapshotFile, SourceTable, SqlAnswer, SqlEngine, SqlError, SqlQuery,
    TableName,
};
use roaring::RoaringBitmap;
use tokio::sync::Semaphore;

use crate::barrier::Guard;
use crate::depth::{self, SqlThreads};
use crate::footers::{Footers, Opener};
use crate::keys::{FileKeys, decryption};
use crate::mask::Masker;
use crate::session::{self, Engine};
use crate::table::{STORE_URL, SecuredTable};
use crate::{build, cells, error, mask, render, selftest, statement};

/// What a lake is made of.
pub struct LakeParts {
    pub objects: Arc<dyn ObjectStore>,
    pub keys: Arc<dyn FileKeys>,
    pub clock: Arc<dyn Clock>,
    pub limits: Limits,
    /// Cores one statement may use.
    pub partitions: usize,
}

/// See the module.
#[derive(Clone)]
pub struct Lake(Arc<Inner>);

struct Inner {
    objects: Arc<dyn ObjectStore>,
    keys: Arc<dyn FileKeys>,
    clock: Arc<dyn Clock>,
    limits: Limits,
    footers: Arc<Footers>,
    engine: Engine,
    running: Semaphore,
    threads: SqlThreads,
}

impl Lake {
    /// Fails only when DataFusion's runtime cannot be made. Run [`SqlEngine::self_test`] before the first build.
    pub fn new(parts: LakeParts) -> Result<Lake, SqlError> {
        // Spill files would be plaintext on disk: what does not fit into memory fails instead.
        let disk = DiskManagerBuilder::default().with_mode(DiskManagerMode::Disabled);
        let runtime = RuntimeEnvBuilder::new()
            .with_memory_pool(Arc::new(GreedyMemoryPool::new(parts.limits.sql_memory_bytes_max)))
            .with_disk_manager_builder(disk)
            .with_metadata_cache_limit(0)
            .build_arc()
            .map_err(|_| error::broken("runtime"))?;
        let url =
            datafusion::execution::object_store::ObjectStoreUrl::parse(STORE_URL).map_err(|_| error::broken("url"))?;
        runtime.register_object_store(url.as_ref(), parts.objects.clone());
        Ok(Lake(Arc::new(Inner {
            footers: Arc::new(Footers::new(parts.clock.clone())),
            engine: Engine::new(runtime, parts.partitions.max(1)),
            running: Semaphore::new(parts.limits.sql_concurrency_max),
            // One for each statement that may run: planning yields to nobody.
            threads: SqlThreads::start(parts.limits.sql_concurrency_max)?,
            objects: parts.objects,
            keys: parts.keys,
            clock: parts.clock,
            limits: parts.limits,
        })))
    }
}

impl Lake {
    /// One value masked as a column of its class would be: for doors that do not go through SQL (law 7).
    pub fn show(&self, method: &MaskMethod, domain: &str, class: DataClass, value: &str) -> Option<String> {
        let key = || *self.0.keys.derive(&mask::label(domain, class));
        Masker::new(method.clone(), class, key, self.0.clock.now()).show(value)
    }
}

/// A table made ready, with what the answer says about it.
struct Opened {
    name: TableName,
    table: SecuredTable,
    guard: Arc<Guard>,
    masked: Vec<MaskedColumn>,
}

impl Inner {
    async fn answer(&self, query: SqlQuery) -> Result<SqlAnswer, SqlError> {
        let _running = self.running.try_acquire().map_err(|_| SqlError::Busy { retry_after_ms: 500 })?;
        let admitted = statement::admit(&query.sql, &self.limits)?;
        let named = statement::tables(&admitted.query, &query.default_domain)?;
        if let Some(missing) = named.iter().find(|name| !query.tables.iter().any(|t| t.name == **name)) {
            return Err(SqlError::NoSuchTable { table: missing.to_string() });
        }
        // Only what the statement names is opened, noted and told of.
        let mut rows_max = (self.limits.sql_rows_max as u64).min(query.rows_max.unwrap_or(u64::MAX));
        let mut opened: Vec<Opened> = Vec::new();
        for source in query.tables {
            if named.contains(&source.name) && !opened.iter().any(|o| o.name == source.name) {
                rows_max = rows_max.min(source.permit.grant().rows_max.unwrap_or(u64::MAX));
                opened.push(self.open(source).await?);
            }
        }
        let (mut tables, mut guards, mut masked) = (Vec::new(), Vec::new(), Vec::new());
        for one in opened {
            guards.push((one.name.domain.clone(), one.guard));
            masked.extend(one.masked);
            tables.push((one.name, one.table));
        }
        let state = self.engine.session(&query.default_domain, tables, &query.visible)?;
        let explain = admitted.explain;
        let plan = session::plan(&state, admitted, &query.sql).await?;
        let rows = match explain {
            true => session::explain(&plan),
            false => session::run(&state, plan, rows_max, &self.limits).await?,
        };
        let body = render::render(query.format, &rows.schema, &rows.batches).map_err(|_| error::broken("render"))?;
        if body.len() > self.limits.sql_result_bytes_max {
            return Err(SqlError::TooLarge { what: "the largest answer" });
        }
        Ok(SqlAnswer {
            columns: render::columns(&rows.schema),
            rows: rows.rows,
            truncated: rows.truncated,
            body,
            format: query.format,
            masked,
            patients: touched(guards),
        })
    }

    fn check(&self, source: &SourceTable) -> Result<(), SqlError> {
        let name = &source.name;
        source.permit.covers_kind(&name.domain, Layer::Gold, &name.product).map_err(|e| SqlError::NotCovered(e.0))?;
        if !source.permit.is_live(self.clock.now()) {
            return Err(SqlError::NotCovered("time"));
        }
        // Showing groups only is an obligation this engine cannot keep yet, so such a permit gives nothing.
        if source.permit.grant().group_min.is_some() {
            return Err(SqlError::Refused {
                what: format!("your permit shows `{name}` in groups of patients only, which SQL cannot promise yet"),
            });
        }
        let manifest = &source.manifest;
        if manifest.format != FORMAT || manifest.domain != name.domain || manifest.product != name.product {
            return Err(error::broken("a manifest of another product"));
        }
        Ok(())
    }

    fn may_write(&self, permit: &Permit<Write>, table: &TableName) -> Result<(), SqlError> {
        permit.covers_kind(&table.domain, Layer::Gold, &table.product).map_err(|e| SqlError::NotCovered(e.0))?;
        if permit.is_live(self.clock.now()) { Ok(()) } else { Err(SqlError::NotCovered("time")) }
    }

    async fn open(&self, source: SourceTable) -> Result<Opened, SqlError> {
        self.check(&source)?;
        let SourceTable { name, columns, manifest, permit } = source;
        let grant = permit.grant();
        let now = self.clock.now();
        let (mut masks, mut masked) = (Vec::new(), Vec::new());
        for column in &manifest.columns {
            // The class of today's contract; a column it does not know any more is free text, the most restricted.
            let class = columns.iter().find(|c| c.name == column.name).map_or(base::DataClass::FreeText, |c| c.class);
            let mask = base::Mask::strictest(&grant.masks, class);
            masks.push(mask.map(|mask| {
                let label = mask::label(name.domain.as_str(), class);
                Masker::new(mask.method.clone(), class, || *self.keys.derive(&label), now)
            }));
            masked.extend(mask.map(|mask| MaskedColumn {
                table: name.clone(),
                column: column.name.clone(),
                mask: mask.clone(),
            }));
        }
        let guard = Arc::new(Guard {
            patients: grant.patients.clone(),
            sensitivity: grant.sensitivity,
            touched: Mutex::new(RoaringBitmap::new()),
        });
        let mut class = DefaultHasher::new();
        (&grant.masks, grant.sensitivity, &grant.purpose, grant.policy_version).hash(&mut class);
        let keys = self.file_keys(&name.domain, &manifest.files).await?;
        let opener = Opener::new(self.objects.clone(), self.footers.clone(), class.finish(), keys);
        let schema = cells::schema(&manifest.columns);
        let table =
            SecuredTable::new(name.clone(), &schema, masks, guard.clone(), manifest.files.clone(), Arc::new(opener))
                .map_err(|_| error::broken("table"))?;
        Ok(Opened { name, table, guard, masked })
    }

    async fn file_keys(
        &self,
        domain: &DomainName,
        files: &[SnapshotFile],
    ) -> Result<HashMap<String, Arc<parquet::encryption::decrypt::FileDecryptionProperties>>, SqlError> {
        let mut keys = HashMap::with_capacity(files.len());
        for file in files {
            let key = self.keys.load(domain, &file.path, &file.object).await?;
            let properties = decryption(key, &file.path).map_err(|_| error::broken("key"))?;
            keys.insert(file.path.clone(), properties);
        }
        Ok(keys)
    }
}

#[async_trait]
impl SqlEngine for Lake {
    fn tables(&self, sql: &str, default_domain: &DomainName) -> Result<Vec<TableName>, SqlError> {
        depth::deeply(|| statement::tables(&statement::admit(sql, &self.0.limits)?.query, default_domain))
    }

    async fn query(&self, query: SqlQuery) -> Result<SqlAnswer, SqlError> {
        let inner = self.0.clone();
        let timeout_ms = inner.limits.sql_timeout_ms;
        // Planning yields to nobody: this clock runs outside it. What it leaves behind ends with its own timeout.
        let limit = Duration::from_millis(timeout_ms.saturating_add(1_000));
        let answer = self.0.threads.run(async move { inner.answer(query).await });
        tokio::time::timeout(limit, answer).await.unwrap_or(Err(SqlError::TimedOut { timeout_ms }))
    }

    async fn build(
        &self,
        permit: &Permit<Write>,
        target: &BuildTarget,
        rows: &mut dyn RowSource,
    ) -> Result<Built, SqlError> {
        self.0.may_write(permit, &target.table)?;
        let inner = &*self.0;
        build::build(&inner.objects, inner.keys.as_ref(), target, rows, inner.limits.sql_memory_bytes_max / 8).await
    }

    async fn remove(&self, permit: &Permit<Write>, table: &TableName, files: &[SnapshotFile]) -> Result<(), SqlError> {
        self.0.may_write(permit, table)?;
        let folder = format!("gold/{}/{}/", table.domain, table.product);
        if files.iter().any(|file| !file.path.starts_with(&folder)) {
            return Err(SqlError::NotCovered("file"));
        }
        // Keys first: a file that stays behind is noise.
        for file in files {
            self.0.keys.destroy(&file.object).await?;
        }
        build::remove(self.0.objects.as_ref(), files).await;
        for file in files {
            self.0.footers.forget(&file.path);
        }
        Ok(())
    }

    async fn self_test(&self) -> Result<(), SqlError> {
        selftest::prove().await.map_err(error::broken)
    }
}

/// Patients by domain, those of several tables of one domain together.
fn touched(guards: Vec<(DomainName, Arc<Guard>)>) -> Vec<(DomainName, RoaringBitmap)> {
    let mut all: Vec<(DomainName, RoaringBitmap)> = Vec::new();
    for (domain, guard) in guards {
        let seen = guard.touched.lock().clone();
        match all.iter_mut().find(|(d, _)| *d == domain) {
            Some((_, patients)) => *patients |= seen,
            None => all.push((domain, seen)),
        }
    }
    all
}
