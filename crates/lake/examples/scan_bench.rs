//! Encrypted against plain Parquet, governed against hand-filtered SQL:
//! `cargo run --release -p lake --example scan_bench -- [ROWS] [RUNS]`.
//!
//! One set of rows, built by the lake (a key per file) and copied to plain Parquet with the same sorting, row groups,
//! statistics and compression. The same statements then run through the lake and through DataFusion as it comes, turn
//! about, in one process; medians are shown. Never here: the node, its sockets and its audit (see `ward bench query`).

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use base::*;
use bytes::Bytes;
use datafusion::prelude::{ParquetReadOptions, SessionConfig, SessionContext};
use lake::barrier::{ORDINAL, SENSITIVITY};
use lake::keys::{FileKeys, MemoryFileKeys, decryption};
use lake::{Lake, LakeParts};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use products::manifest::FORMAT;
use products::*;
use roaring::RoaringBitmap;

type Failure = Box<dyn std::error::Error + Send + Sync>;

const NOW: Timestamp = Timestamp(1_795_564_800_000);
const ROWS_PER_PATIENT: u32 = 40;
/// As `lake::build` writes.
const ROW_GROUP_ROWS: usize = 128 << 10;

/// (what, goal, statement; `@T` is the table)
const STATEMENTS: &[(&str, &str, &str)] = &[
    (
        "scan of all columns",
        "1.10",
        "SELECT count(id) AS a, count(status) AS b, count(code) AS c, sum(n) AS d, sum(value) AS e, max(taken) AS f FROM @T x",
    ),
    ("filter", "1.10", "SELECT count(*) AS c, max(taken) AS m FROM @T x WHERE code = 'code-017' AND n > 500"),
    (
        "aggregate",
        "1.10",
        "SELECT status, code, count(*) AS c, sum(value) AS s, max(taken) AS t FROM @T x GROUP BY status, code \
         ORDER BY c DESC, code, status LIMIT 10",
    ),
    ("join", "1.50", "SELECT count(*) AS c, sum(b.n) AS s FROM @T a JOIN @T b ON a.id = b.id WHERE a.n > 500"),
];

fn columns() -> Vec<ProductColumn> {
    let column = |name: &str, kind, class| ProductColumn {
        name: name.into(),
        kind,
        collection: false,
        class,
        description: None,
        nullable: true,
        primary_key: false,
        source_path: String::new(),
    };
    vec![
        column("id", ColumnType::Text, DataClass::TechnicalKey),
        column("status", ColumnType::Text, DataClass::Clinical),
        column("code", ColumnType::Text, DataClass::Clinical),
        column("taken", ColumnType::Text, DataClass::Date),
        column("n", ColumnType::Integer, DataClass::Clinical),
        column("value", ColumnType::Decimal { precision: 18, scale: 3 }, DataClass::Clinical),
    ]
}

/// Laboratory results of made-up patients, always the same.
struct Rows {
    next: u32,
    all: u32,
}

#[async_trait]
impl RowSource for Rows {
    async fn next(&mut self) -> Result<Option<Vec<ResourceRows>>, SqlError> {
        let upto = (self.next + 10_000).min(self.all);
        let rows: Vec<ResourceRows> = (self.next..upto).map(row).collect();
        self.next = upto;
        Ok((!rows.is_empty()).then_some(rows))
    }

    fn rows_hint(&self) -> u64 {
        u64::from(self.all)
    }
}

fn row(n: u32) -> ResourceRows {
    let mixed = u64::from(n).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let at = |shift: u32, range: u64| (mixed >> shift) % range;
    let status = ["final", "final", "final", "preliminary", "corrected"][at(20, 5) as usize];
    ResourceRows {
        key: u128::from(n),
        change: u64::from(n),
        patient: Ordinal(1 + n / ROWS_PER_PATIENT),
        sensitivity: Sensitivity::NONE,
        rows: vec![vec![
            Cell::Text(format!("{mixed:016x}{n:08x}")),
            Cell::Text(status.to_owned()),
            Cell::Text(format!("code-{:03}", at(24, 200))),
            Cell::Text(format!(
                "20{:02}-{:02}-{:02}T{:02}:15:00Z",
                at(8, 26),
                1 + at(12, 12),
                1 + at(16, 28),
                at(28, 24)
            )),
            Cell::Integer(at(32, 1_000) as i64),
            Cell::Decimal(format!("{}.{}", at(36, 500), at(44, 10))),
        ]],
    }
}

fn ehr() -> Result<DomainName, Failure> {
    Ok(DomainName::parse("ehr")?)
}

fn table() -> Result<TableName, Failure> {
    Ok(TableName { domain: ehr()?, product: "labs".into() })
}

fn grant(patients: PatientSet) -> Result<Grant, Failure> {
    Ok(Grant {
        decision: 1,
        principal: PrincipalId::parse("bench")?,
        purpose: Purpose::Treatment,
        domain: ehr()?,
        layer: Layer::Gold,
        kinds: vec![],
        patients,
        sensitivity: Sensitivity::NONE,
        masks: vec![],
        rows_max: None,
        group_min: None,
        policies: vec![],
        policy_version: 1,
        expires: Timestamp(i64::MAX),
    })
}

/// The lake with its product, and the plain copy.
struct World {
    mint: PermitMint,
    lake: Lake,
    manifest: Arc<Manifest>,
    plain: SessionContext,
    /// (encrypted with its metadata, plain with its metadata)
    files: Vec<[(PathBuf, ArrowReaderMetadata); 2]>,
}

impl World {
    async fn build(folder: &Path, rows: u32, cores: usize) -> Result<World, Failure> {
        let mint = PermitMint::claim().ok_or("the mint was claimed before")?;
        let keys = Arc::new(MemoryFileKeys::new(Arc::new(SystemEntropy)));
        let objects = Arc::new(store::objects::DurableLocal::open(folder.join("lake"))?);
        let lake = Lake::new(LakeParts {
            objects,
            keys: keys.clone(),
            clock: Arc::new(ManualClock::at(NOW.ms())),
            limits: Limits::default(),
            partitions: cores,
        })?;
        let target =
            BuildTarget { table: table()?, snapshot: "s1".into(), columns: columns(), retention: None, at: NOW };
        let write: Permit<Write> = mint.mint(grant(PatientSet::All)?);
        let built = lake.build(&write, &target, &mut Rows { next: 0, all: rows }).await?;
        let plain_folder = folder.join("plain");
        std::fs::create_dir_all(&plain_folder)?;
        let mut files = Vec::new();
        for file in &built.files {
            let key = keys.load(&ehr()?, &file.path, &file.object).await?;
            let options = ArrowReaderOptions::new().with_file_decryption_properties(decryption(key, &file.path)?);
            let sealed = folder.join("lake/objects").join(&file.path);
            let sealed_metadata = ArrowReaderMetadata::load(&Bytes::from(std::fs::read(&sealed)?), options)?;
            let name = file.path.rsplit('/').next().unwrap_or(&file.path);
            let copy = plain_folder.join(name);
            write_plain(&copy, reader(&sealed, &sealed_metadata)?)?;
            let metadata = ArrowReaderMetadata::load(&Bytes::from(std::fs::read(&copy)?), ArrowReaderOptions::new())?;
            files.push([(sealed, sealed_metadata), (copy, metadata)]);
        }
        let manifest = Manifest {
            format: FORMAT,
            domain: ehr()?,
            product: "labs".into(),
            version: "1.0.0".into(),
            definition: String::new(),
            snapshot: "s1".into(),
            columns: columns(),
            buckets: built.buckets,
            files: built.files,
            rows: built.rows,
            change: 1,
            journal: None,
            unfit: built.unfit,
            skipped: 0,
            created: NOW,
        };
        let plain = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(cores));
        let shown = plain_folder.to_str().ok_or("the temporary folder's name is not UTF-8")?;
        plain.register_parquet("labs", shown, ParquetReadOptions::default()).await?;
        Ok(World { mint, lake, manifest: Arc::new(manifest), plain, files })
    }

    /// Through the lake, as a caller who sees these patients; the answer as CSV.
    async fn governed(&self, sql: &str, patients: &PatientSet) -> Result<String, Failure> {
        let source = SourceTable {
            name: table()?,
            columns: columns(),
            manifest: self.manifest.clone(),
            permit: self.mint.mint(grant(patients.clone())?),
        };
        let query = SqlQuery {
            sql: sql.replace("@T", "ehr.labs"),
            default_domain: ehr()?,
            tables: vec![source],
            visible: vec![],
            format: Format::Csv,
            rows_max: None,
        };
        Ok(String::from_utf8(self.lake.query(query).await?.body)?)
    }

    /// Through DataFusion as it comes, with a filter written by hand or none; the answer as CSV.
    async fn by_hand(&self, sql: &str, filter: Option<&str>) -> Result<String, Failure> {
        let table = match filter {
            Some(filter) => format!("(SELECT * FROM labs WHERE {filter})"),
            None => "labs".to_owned(),
        };
        let batches = self.plain.sql(&sql.replace("@T", &table)).await?.collect().await?;
        let mut out = Vec::new();
        let mut writer = arrow::csv::WriterBuilder::new().with_header(true).build(&mut out);
        for batch in &batches {
            writer.write(batch)?;
        }
        drop(writer);
        Ok(String::from_utf8(out)?)
    }

    /// Decodes every column of every file on one core, footers at hand: 0 is encrypted, 1 plain.
    fn decode(&self, which: usize) -> Result<usize, Failure> {
        let mut rows = 0;
        for pair in &self.files {
            let (path, metadata) = &pair[which];
            for batch in reader(path, metadata)? {
                rows += batch?.num_rows();
            }
        }
        Ok(rows)
    }

    fn bytes(&self, which: usize) -> u64 {
        let size =
            |pair: &[(PathBuf, ArrowReaderMetadata); 2]| std::fs::metadata(&pair[which].0).map_or(0, |m| m.len());
        self.files.iter().map(size).sum()
    }
}

fn reader(path: &Path, metadata: &ArrowReaderMetadata) -> Result<ParquetRecordBatchReader, Failure> {
    let bytes = Bytes::from(std::fs::read(path)?);
    Ok(ParquetRecordBatchReaderBuilder::new_with_metadata(bytes, metadata.clone()).with_batch_size(8_192).build()?)
}

fn write_plain(path: &Path, rows: ParquetRecordBatchReader) -> Result<(), Failure> {
    use arrow::record_batch::RecordBatchReader;
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?))
        .set_statistics_enabled(EnabledStatistics::Page)
        .set_bloom_filter_enabled(false)
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .build();
    let mut writer = ArrowWriter::try_new(std::fs::File::create(path)?, rows.schema(), Some(properties))?;
    for batch in rows {
        writer.write(&batch?)?;
    }
    writer.close()?;
    Ok(())
}

fn median(times: &mut [Duration]) -> f64 {
    times.sort_unstable();
    times.get(times.len() / 2).map_or(0.0, |t| t.as_secs_f64() * 1e3)
}

/// Median times of two statements' turns, in milliseconds. Their answers must be the same.
async fn compare(
    world: &World,
    sql: &str,
    patients: &PatientSet,
    filter: Option<&str>,
    runs: usize,
) -> Result<[f64; 2], Failure> {
    let mut times = [Vec::new(), Vec::new()];
    for run in 0..=runs {
        let begun = Instant::now();
        let ours = world.governed(sql, patients).await?;
        let first = begun.elapsed();
        let begun = Instant::now();
        let theirs = world.by_hand(sql, filter).await?;
        let second = begun.elapsed();
        if ours.trim() != theirs.trim() {
            return Err(format!("the answers differ for `{sql}`:\n{ours}\n{theirs}").into());
        }
        // The first turn warms both.
        if run > 0 {
            times[0].push(first);
            times[1].push(second);
        }
    }
    Ok([median(&mut times[0]), median(&mut times[1])])
}

#[tokio::main(flavor = "multi_thread")]
async fn main() -> Result<(), Failure> {
    let mut args = std::env::args().skip(1);
    let rows: u32 = args.next().map_or(Ok(1_000_000), |text| text.parse())?;
    let runs: usize = args.next().map_or(Ok(15), |text| text.parse())?;
    let cores = std::thread::available_parallelism()?.get();
    let folder = tempfile::tempdir()?;
    let mut out = std::io::stdout();
    if cfg!(debug_assertions) {
        writeln!(out, "WARNING: a debug build: these figures say nothing")?;
    }
    let begun = Instant::now();
    let world = World::build(folder.path(), rows, cores).await?;
    writeln!(
        out,
        "{rows} rows, {} files, {:.1} MB encrypted, {:.1} MB plain, built and copied in {:.1} s; {cores} cores, {runs} runs, files in the page cache",
        world.files.len(),
        world.bytes(0) as f64 / 1e6,
        world.bytes(1) as f64 / 1e6,
        begun.elapsed().as_secs_f64(),
    )?;
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..runs {
        for (which, times) in times.iter_mut().enumerate() {
            let begun = Instant::now();
            world.decode(which)?;
            times.push(begun.elapsed());
        }
    }
    let [encrypted, plain] = times.each_mut().map(|times| median(times));
    writeln!(out, "{:<64} {:>9} {:>9} {:>7}  goal", "what", "ours ms", "theirs ms", "ratio")?;
    let mut line = |what: &str, ours: f64, theirs: f64, goal: &str| {
        writeln!(out, "{what:<64} {ours:>9.2} {theirs:>9.2} {:>7.3}  {goal}", ours / theirs)
    };
    line("encrypted ÷ plain: all columns, one core, no engine", encrypted, plain, "1.05")?;
    for (what, goal, sql) in STATEMENTS {
        let [ours, theirs] = compare(&world, sql, &PatientSet::All, None, runs).await?;
        line(&format!("lake, all patients ÷ plain DataFusion: {what}"), ours, theirs, goal)?;
    }
    // The cheapest filter a hand could write for half of the patients; a real set of patients has no such formula.
    let patients = 1 + rows / ROWS_PER_PATIENT;
    let even = PatientSet::Only(Arc::new(RoaringBitmap::from_iter((0..=patients).filter(|p| p % 2 == 0))));
    let filter = format!("\"{ORDINAL}\" % 2 = 0 AND \"{SENSITIVITY}\" = 0");
    for (what, goal, sql) in STATEMENTS {
        let [ours, theirs] = compare(&world, sql, &even, Some(&filter), runs).await?;
        line(&format!("governed ÷ hand-filtered, half: {what}"), ours, theirs, goal)?;
    }
    let few: Vec<u32> = (0..patients).filter(|p| p % 97 == 5).collect();
    let filter = format!("\"{ORDINAL}\" % 97 = 5 AND \"{SENSITIVITY}\" = 0");
    let few = PatientSet::Only(Arc::new(RoaringBitmap::from_iter(few)));
    for (what, goal, sql) in STATEMENTS {
        let [ours, theirs] = compare(&world, sql, &few, Some(&filter), runs).await?;
        line(&format!("governed ÷ hand-filtered, 1 in 97: {what}"), ours, theirs, goal)?;
    }
    Ok(())
}
