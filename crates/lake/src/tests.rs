//! What must hold of the engine as a whole: only permitted rows, masks that stay, no word too much, nothing in the clear.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, OnceLock};

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringViewArray, StructArray, UInt16Array, UInt32Array};
use arrow::datatypes::{DataType, Field, Schema};
use async_trait::async_trait;
use base::*;
use datafusion::physical_plan::ExecutionPlan;
use futures::StreamExt;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parking_lot::Mutex;
use products::manifest::FORMAT;
use products::*;
use roaring::RoaringBitmap;

use crate::barrier::Guard;
use crate::engine::{Lake, LakeParts};
use crate::footers::{Footers, Opener};
use crate::keys::{FileKeys, MemoryFileKeys, decryption};
use crate::mask::Masker;
use crate::session::{self, Engine};
use crate::table::{STORE_URL, SecuredTable};
use crate::{build, cells, render, statement};

static MINT: OnceLock<PermitMint> = OnceLock::new();

pub(crate) fn mint() -> &'static PermitMint {
    MINT.get_or_init(|| PermitMint::claim().expect("the first claim in this process"))
}

const NOW: Timestamp = Timestamp(1_795_564_800_000); // 2026-11-25

fn domain(name: &str) -> DomainName {
    DomainName::parse(name).unwrap()
}

fn table(name: &str) -> TableName {
    TableName { domain: domain("ehr"), product: name.into() }
}

fn grant(patients: PatientSet, masks: &[(DataClass, MaskMethod)]) -> Grant {
    let mask = |(class, method): &(DataClass, MaskMethod)| Mask {
        class: *class,
        method: method.clone(),
        policy: "research-masks".into(),
        reason: "researchers see no identifiers".into(),
    };
    Grant {
        decision: 1,
        principal: PrincipalId::parse("dr-lee").unwrap(),
        purpose: Purpose::Treatment,
        domain: domain("ehr"),
        layer: Layer::Gold,
        kinds: vec![],
        patients,
        sensitivity: Sensitivity::NONE,
        masks: masks.iter().map(mask).collect(),
        rows_max: None,
        group_min: None,
        policies: vec![],
        policy_version: 1,
        expires: NOW.plus_ms(1_000),
    }
}

fn only(patients: impl IntoIterator<Item = u32>) -> PatientSet {
    PatientSet::Only(Arc::new(RoaringBitmap::from_iter(patients)))
}

fn column(name: &str, kind: ColumnType, class: DataClass) -> ProductColumn {
    ProductColumn {
        name: name.into(),
        kind,
        collection: false,
        class,
        description: None,
        nullable: true,
        primary_key: false,
        source_path: String::new(),
    }
}

fn columns() -> Vec<ProductColumn> {
    let tags = ProductColumn { collection: true, ..column("given", ColumnType::Text, DataClass::Name) };
    vec![
        column("id", ColumnType::Text, DataClass::TechnicalKey),
        column("ssn", ColumnType::Text, DataClass::NationalId),
        column("birth_date", ColumnType::Text, DataClass::BirthDate),
        column("n", ColumnType::Integer, DataClass::Clinical),
        column("value", ColumnType::Decimal { precision: 38, scale: 9 }, DataClass::Clinical),
        tags,
    ]
}

struct Rows(Vec<Vec<ResourceRows>>);

#[async_trait]
impl RowSource for Rows {
    async fn next(&mut self) -> Result<Option<Vec<ResourceRows>>, SqlError> {
        Ok(self.0.pop())
    }

    fn rows_hint(&self) -> u64 {
        // So that four buckets are made.
        300_000
    }
}

fn ssn(patient: u32) -> String {
    format!("999-00-{patient:04}")
}

/// Twenty patients with two rows each, one row about nobody, one sensitive row of patient 1. `n` is 0 for patient 13.
fn rows() -> Vec<ResourceRows> {
    let text = |text: String| Cell::Text(text);
    let row = |patient: u32, k: u64, sensitivity| ResourceRows {
        key: u128::from(patient) << 64 | u128::from(k),
        change: k,
        patient: Ordinal(patient),
        sensitivity,
        rows: vec![vec![
            text(format!("p{patient}-{k}")),
            text(ssn(patient)),
            text(format!("{}-03-07", 1920 + patient * 4)),
            Cell::Integer(if patient == 13 { 0 } else { i64::from(patient) }),
            Cell::Decimal(format!("{patient}.5")),
            Cell::List(vec![text(format!("GIVENNAME{patient}")), Cell::Null]),
        ]],
    };
    let mut rows: Vec<ResourceRows> =
        (1..=20).flat_map(|p| [row(p, 0, Sensitivity::NONE), row(p, 1, Sensitivity::NONE)]).collect();
    rows.push(row(0, 0, Sensitivity::NONE));
    rows.push(row(1, 2, Sensitivity::PART2));
    rows
}

struct World {
    lake: Lake,
    store: Arc<InMemory>,
    keys: Arc<MemoryFileKeys>,
    manifest: Arc<Manifest>,
}

async fn world() -> World {
    world_with(Limits::default()).await
}

async fn world_with(limits: Limits) -> World {
    let store = Arc::new(InMemory::new());
    let keys = Arc::new(MemoryFileKeys::new(Arc::new(SystemEntropy)));
    let lake = Lake::new(LakeParts {
        objects: store.clone(),
        keys: keys.clone(),
        clock: Arc::new(ManualClock::at(NOW.ms())),
        limits,
        partitions: 4,
    })
    .unwrap();
    let target =
        BuildTarget { table: table("patients"), snapshot: "s1".into(), columns: columns(), retention: None, at: NOW };
    let write: Permit<Write> = mint().mint(grant(PatientSet::All, &[]));
    let built = lake.build(&write, &target, &mut Rows(vec![rows()])).await.unwrap();
    assert_eq!((built.rows, built.buckets), (42, 4));
    let manifest = Manifest {
        format: FORMAT,
        domain: domain("ehr"),
        product: "patients".into(),
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
    World { lake, store, keys, manifest: Arc::new(manifest) }
}

impl World {
    fn source(&self, grant: Grant) -> SourceTable {
        SourceTable {
            name: table("patients"),
            columns: columns(),
            manifest: self.manifest.clone(),
            permit: mint().mint(grant),
        }
    }

    async fn ask(&self, sql: &str, grant: Grant) -> Result<SqlAnswer, SqlError> {
        let query = SqlQuery {
            sql: sql.into(),
            default_domain: domain("ehr"),
            tables: vec![self.source(grant)],
            visible: vec![VisibleTable { name: table("patients"), description: None, columns: columns() }],
            format: Format::JsonLines,
            rows_max: None,
        };
        self.lake.query(query).await
    }

    async fn text(&self, sql: &str, grant: Grant) -> String {
        let answer = self.ask(sql, grant).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
        String::from_utf8(answer.body).unwrap()
    }
}

fn lines(text: &str) -> BTreeSet<String> {
    text.lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn only_permitted_rows_come_and_the_record_names_their_patients() {
    let world = world().await;
    for (patients, sql, count, touched) in [
        (PatientSet::All, "select id from patients", 41, 20),
        (PatientSet::None, "select id from patients", 1, 0),
        (only([3, 7]), "select id from patients", 5, 2),
        (only([3, 7]), "select id from ehr.patients where n = 3", 2, 1),
        (only([3, 7]), "select id from ehr.patients where n = 8", 0, 0),
        (only([3, 7]), "select id from patients where ssn = '999-00-0008'", 0, 2),
        (only([3, 7]), "select distinct n from patients where n is not null", 3, 2),
        (PatientSet::AllBut(Arc::new(RoaringBitmap::from_iter([1]))), "select id from patients", 39, 19),
        (only([3, 7]), "select a.id from patients a join patients b on a.ssn = b.ssn where a.n > 0", 8, 2),
        (only([3, 7]), "with c as (select * from patients) select id from c union all select id from c", 10, 2),
    ] {
        let masks = [(DataClass::NationalId, MaskMethod::KeyedHash)];
        let masks = if sql.contains("ssn =") { &[][..] } else { &masks[..] };
        let answer = world.ask(sql, grant(patients, masks)).await.unwrap();
        assert_eq!(answer.rows, count, "{sql}");
        let seen: u64 = answer.patients.iter().map(|(_, p)| p.len()).sum();
        // Over-counting is allowed, missing is not.
        assert!(seen >= touched.min(count), "{sql}: {seen}");
        assert!(seen <= 20, "{sql}");
    }
    let sensitive = Grant { sensitivity: Sensitivity::PART2, ..grant(only([1]), &[]) };
    assert_eq!(world.ask("select id from patients", sensitive).await.unwrap().rows, 4);
}

#[tokio::test]
async fn a_resource_that_changes_during_a_build_is_in_it_once() {
    let world = world().await;
    let write: Permit<Write> = mint().mint(grant(PatientSet::All, &[]));
    let target =
        BuildTarget { table: table("patients"), snapshot: "s2".into(), columns: columns(), retention: None, at: NOW };
    let old = rows().remove(0);
    let moved = ResourceRows { change: 100, patient: Ordinal(2), ..old.clone() };
    let gone = ResourceRows { change: 101, rows: vec![], ..rows().remove(2) };
    let built = world.lake.build(&write, &target, &mut Rows(vec![vec![moved, gone], rows()])).await.unwrap();
    assert_eq!(built.rows, 41);
    // Written already: the build begins anew.
    let small = world_with(Limits { sql_memory_bytes_max: 8 << 10, ..Limits::default() }).await;
    let again = ResourceRows { change: 100, ..old };
    let failed = small.lake.build(&write, &target, &mut Rows(vec![vec![again], rows()])).await;
    assert_eq!(failed.unwrap_err(), SqlError::Busy { retry_after_ms: 0 });
    let left = small
        .store
        .list(None)
        .filter(|o| futures::future::ready(o.as_ref().unwrap().location.as_ref().contains("/s2/")));
    assert_eq!(left.count().await, 0);
}

#[tokio::test]
async fn counts_and_aggregates_never_come_from_metadata() {
    let world = world().await;
    for (sql, shown) in [
        ("select count(*) as c from patients", r#"{"c":5}"#),
        ("select count(id) as c from patients", r#"{"c":5}"#),
        ("select count(*) as c from patients where n > 100", r#"{"c":0}"#),
        ("select min(n) as a, max(n) as b from patients", r#"{"a":0,"b":7}"#),
        ("select max(id) as m from patients", r#"{"m":"p7-1"}"#),
        ("select count(*) as c from (select 1 from patients limit 100)", r#"{"c":5}"#),
        ("select count(*) as c from patients a, patients b", r#"{"c":25}"#),
    ] {
        assert_eq!(world.text(sql, grant(only([3, 7]), &[])).await.trim(), shown, "{sql}");
    }
    assert_eq!(world.ask("select id from patients limit 2", grant(PatientSet::All, &[])).await.unwrap().rows, 2);
    let top = world.text("select n from patients order by n desc limit 1", grant(only([3, 7]), &[])).await;
    assert_eq!(top.trim(), r#"{"n":7}"#);
}

#[tokio::test]
async fn masked_columns_show_masked_values_whatever_is_asked() {
    let world = world().await;
    let masks = [
        (DataClass::NationalId, MaskMethod::Last(4)),
        (DataClass::BirthDate, MaskMethod::YearOnly),
        (DataClass::Name, MaskMethod::KeyedHash),
    ];
    for sql in [
        "select * from patients",
        "select ssn from patients order by ssn",
        "select ssn, count(*) from patients group by ssn",
        "select * from (select ssn as s, given from patients) x",
        "with recursive r as (select ssn, 1 as k from patients union all select ssn, k + 1 from r where k < 2) select * from r",
        "select ssn from patients where ssn like '%0003'",
        "select upper(ssn), given[1], array_to_string(given, ',') from patients",
        "select unnest(given) from patients",
        "select max(ssn), min(birth_date), array_agg(ssn) from patients",
        "select (select max(ssn) from patients) as m, ssn || '' from patients",
        "select a.ssn from patients a left join lateral (select b.ssn from patients b where b.n = a.n) l on true",
        "select ssn, lag(ssn) over (order by ssn), first_value(given) over (partition by birth_date) from patients",
        "select ssn from patients union select birth_date from patients except select 'x'",
        "select case when ssn like '999-00%' then ssn else birth_date end from patients",
        "select named_struct('a', ssn)['a'], named_struct('b', given)['b'][1] from patients",
        "select concat_ws('|', ssn, birth_date) from patients where n in (select n from patients)",
    ] {
        let text = world.text(sql, grant(only([3, 7]), &masks)).await;
        assert!(!text.contains("999-00-"), "{sql}: {text}");
        assert!(!text.contains("GIVENNAME"), "{sql}: {text}");
        assert!(!text.contains("-03-07"), "{sql}: {text}");
    }
    // Conditions see what the caller sees.
    for (sql, rows) in [
        ("select id from patients where ssn = '999-00-0003'", 0),
        ("select id from patients where ssn = '*******0003'", 2),
        ("select id from patients where birth_date = '1932-03-07'", 0),
        ("select id from patients where birth_date = '1948'", 2),
        ("select id from patients where ssn > '9'", 0),
        ("select id from patients where ssn is null", 0),
        ("select n from patients group by n, ssn having ssn like '999%'", 0),
    ] {
        assert_eq!(world.ask(sql, grant(only([3, 7]), &masks)).await.unwrap().rows, rows, "{sql}");
    }
    let answer = world.ask("select 1 from patients", grant(PatientSet::All, &masks)).await.unwrap();
    let told: Vec<&str> = answer.masked.iter().map(|m| m.column.as_str()).collect();
    assert_eq!(told, ["ssn", "birth_date", "given"]);
    assert_eq!(answer.masked[0].mask.policy, "research-masks");
}

#[tokio::test]
async fn a_null_or_constant_mask_says_nothing_at_all() {
    let world = world().await;
    for (method, shown) in [(MaskMethod::Null, "null"), (MaskMethod::Constant("hidden".into()), "\"hidden\"")] {
        let text = world
            .text("select distinct ssn from patients", grant(PatientSet::All, &[(DataClass::NationalId, method)]))
            .await;
        assert_eq!(text.trim(), format!("{{\"ssn\":{shown}}}"));
    }
    // Several masks on a class: the one that shows least.
    let both = [(DataClass::NationalId, MaskMethod::Last(4)), (DataClass::NationalId, MaskMethod::Null)];
    let text = world.text("select distinct ssn from patients", grant(PatientSet::All, &both)).await;
    assert_eq!(text.trim(), r#"{"ssn":null}"#);
}

/// A table with a struct beside a masked column, as apache/datafusion#25414 needs it.
async fn with_struct() -> (Engine, SecuredTable, Arc<Guard>) {
    let zip = Field::new("zip", DataType::Utf8View, true);
    let city = Field::new("city", DataType::Utf8View, true);
    let info = Field::new("info", DataType::Struct(vec![zip.clone(), city.clone()].into()), true);
    let schema =
        Schema::new(vec![Field::new("ssn", DataType::Utf8View, true), info, Field::new("n", DataType::Int64, true)]);
    let text = |prefix: &str| -> ArrayRef {
        Arc::new((0..100).map(|i| Some(format!("{prefix}{i:04}"))).collect::<StringViewArray>())
    };
    let arrays: Vec<ArrayRef> = vec![
        text("999-00-"),
        Arc::new(StructArray::from(vec![(Arc::new(zip), text("02")), (Arc::new(city), text("CITYNAME"))])),
        Arc::new(Int64Array::from_iter_values(0..100)),
        Arc::new(UInt32Array::from_iter_values((0..100).map(|i| i % 10 + 1))),
        Arc::new(UInt16Array::from_iter_values((0..100).map(|_| 0))),
    ];
    let file = Arc::new(cells::file_schema(&schema));
    let batch = build::sorted(&RecordBatch::try_new(file.clone(), arrays).unwrap()).unwrap();
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let key = [9; 32].into();
    let path = "gold/ehr/t/s/00.parquet";
    let (bytes, sha256, rows) =
        build::encrypted(store.as_ref(), &key, path, file, std::iter::once(Ok(batch))).await.unwrap();

    let runtime = Arc::new(datafusion::execution::runtime_env::RuntimeEnv::default());
    runtime.register_object_store(&STORE_URL.try_into().unwrap(), store.clone());
    let keys = HashMap::from([(path.to_owned(), decryption(key, path).unwrap())]);
    let opener = Opener::new(store, Arc::new(Footers::new(Arc::new(SystemClock))), 0, keys);
    let guard = Arc::new(Guard {
        patients: only([1, 2]),
        sensitivity: Sensitivity::NONE,
        touched: Mutex::new(RoaringBitmap::new()),
    });
    let masks = vec![Some(Masker::new(MaskMethod::Last(2), DataClass::NationalId, || [0; 32], NOW)), None, None];
    let file = SnapshotFile { path: path.into(), rows, bytes, object: String::new(), sha256, bucket: 0 };
    let table = SecuredTable::new(table("t"), &schema, masks, guard.clone(), vec![file], Arc::new(opener)).unwrap();
    (Engine::new(runtime, 2), table, guard)
}

#[tokio::test]
async fn a_mask_holds_beside_a_struct_field() {
    for sql in [
        "select ssn, info['zip'] from t",
        "select info['zip'], ssn from t where info['city'] like 'CITY%'",
        "with c as (select ssn, info from t) select ssn, info['zip'] from c",
        "select s, z from (select ssn as s, info['zip'] as z from t) x",
        "select ssn, info['zip'] from t union all select 'x', info['city'] from t",
        "select ssn, info['zip'] from t order by info['city'], ssn",
        "select ssn, max(info['zip']) from t group by ssn",
        "select info['zip'], max(ssn) from t group by info['zip']",
        "select a.ssn, b.info['zip'] from t a join t b on a.info['city'] = b.info['city']",
        "select a.ssn, b.ssn from t a join t b on a.info['zip'] = b.info['zip'] and a.ssn = b.ssn",
        "select ssn, info['zip'], row_number() over (partition by info['city'] order by ssn) from t",
        "select * from (select ssn, info['zip'] as z, info from t limit 5) where z is not null",
        "select ssn, info from t where info['zip'] in (select info['zip'] from t)",
        "select named_struct('s', ssn, 'i', info)['s'], named_struct('i', info)['i']['zip'] from t",
        "select ssn, get_field(info, 'zip'), n from t where n >= 0",
    ] {
        let (engine, table, guard) = with_struct().await;
        let state = engine.session(&domain("ehr"), vec![(self::table("t"), table)], &[]).unwrap();
        let admitted = statement::admit(sql, &Limits::default()).unwrap();
        let plan = session::plan(&state, admitted, sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
        let rows = session::run(&state, plan, 10_000, &Limits::default()).await.unwrap();
        let shown = render::render(Format::JsonLines, &rows.schema, &rows.batches).unwrap();
        let shown = String::from_utf8(shown).unwrap();
        assert!(rows.rows > 0, "{sql}");
        assert!(!shown.contains("999-00"), "{sql}: {shown}");
        assert!(shown.contains("*********"), "{sql}: {shown}");
        let touched: Vec<u32> = guard.touched.lock().iter().collect();
        // A limit inside the barrier touches fewer.
        assert!(if sql.contains("limit") { touched == [1] } else { touched == [1, 2] }, "{sql}: {touched:?}");
    }
}

#[tokio::test]
async fn hidden_rows_neither_fail_nor_leak() {
    let world = world().await;
    // Patient 13 has n = 0, and is hidden.
    for sql in [
        "select 10 / n as q from patients where n > 0",
        "select id from patients where n > 0 and 10 / n > 2",
        "select id from patients where 100 / n = 5",
        "select cast(id as bigint) from patients where n = 13",
    ] {
        let permitted = Grant { patients: only([3, 7]), ..grant(PatientSet::None, &[]) };
        // The row about nobody has n = 0 too, so keep it away by its id.
        let sql = format!("{sql} and id <> 'p0-0'")
            .replace("from patients where", "from (select * from patients where id <> 'p0-0') p where");
        assert!(world.ask(&sql, permitted).await.is_ok(), "{sql}");
    }
    // On visible rows an error comes, without a value in it.
    let error = world.ask("select cast(ssn as bigint) from patients", grant(only([3]), &[])).await.unwrap_err();
    assert!(matches!(error, SqlError::Data { .. }), "{error}");
    assert!(!error.to_string().contains("999"), "{error}");
    let error = world.ask("select 1 / n from patients", grant(PatientSet::All, &[])).await.unwrap_err();
    assert!(matches!(error, SqlError::Data { .. }));
}

#[tokio::test]
async fn the_unknown_the_forbidden_and_the_hidden_look_alike() {
    let world = world().await;
    let ask = |sql: &'static str| world.ask(sql, grant(PatientSet::All, &[]));
    for sql in [
        "select * from nothing",
        "select * from laboratory.labs",
        "select * from \"../etc\"",
        "select * from pg_catalog.pg_class",
    ] {
        let error = ask(sql).await.unwrap_err();
        assert!(matches!(error, SqlError::NoSuchTable { .. }), "{sql}: {error}");
        assert!(error.to_string().ends_with("does not exist or you may not read it"));
    }
    for sql in [
        "select __ordinal from patients",
        "select p.__sensitivity from patients p",
        "select * from patients where __ordinal = 1",
        "select nope from patients",
    ] {
        let error = ask(sql).await.unwrap_err();
        assert!(matches!(error, SqlError::Invalid { .. }), "{sql}: {error}");
        assert!(!error.to_string().contains("birth_date"), "{error}");
    }
    for sql in [
        "select * from generate_series(1, 10)",
        "select range(1, 10)",
        "select repeat('x', 1000000000)",
        "select * from read_parquet('/etc/passwd')",
        "select 1 into x from patients",
    ] {
        assert!(ask(sql).await.is_err(), "{sql}");
    }
    let other = Grant { domain: domain("laboratory"), ..grant(PatientSet::All, &[]) };
    assert_eq!(world.ask("select 1 from patients", other).await.unwrap_err(), SqlError::NotCovered("domain"));
    let silver = Grant { layer: Layer::Silver, ..grant(PatientSet::All, &[]) };
    assert_eq!(world.ask("select 1 from patients", silver).await.unwrap_err(), SqlError::NotCovered("layer"));
    let past = Grant { expires: NOW, ..grant(PatientSet::All, &[]) };
    assert_eq!(world.ask("select 1 from patients", past).await.unwrap_err(), SqlError::NotCovered("time"));
    let groups = Grant { group_min: Some(5), ..grant(PatientSet::All, &[]) };
    assert!(matches!(world.ask("select 1 from patients", groups).await.unwrap_err(), SqlError::Refused { .. }));
}

#[tokio::test]
async fn explain_and_the_system_tables_tell_only_shapes_and_what_is_visible() {
    let world = world().await;
    let sql = "explain select ssn from patients where id = 'p3-0' and ssn like '%9%'";
    let text = world.text(sql, grant(only([3]), &[(DataClass::NationalId, MaskMethod::Null)])).await;
    assert!(text.contains("Read ehr.patients"), "{text}");
    for word in ["p3-0", "%9%", "parquet", "__ordinal", "gold/", "rows", "research"] {
        assert!(!text.contains(word), "{word}: {text}");
    }
    let text =
        world.text("select table_schema, table_name from information_schema.tables", grant(only([3]), &[])).await;
    assert_eq!(text.trim(), r#"{"table_schema":"ehr","table_name":"patients"}"#);
    let sql = "select column_name from information_schema.columns where table_name = 'patients'";
    assert_eq!(lines(&world.text(sql, grant(only([3]), &[])).await).len(), 6);
}

#[tokio::test]
async fn files_hold_nothing_in_the_clear_and_open_only_under_their_own_key() {
    let world = world().await;
    for file in &world.manifest.files {
        let bytes = world.store.get(&Path::from(file.path.as_str())).await.unwrap().bytes().await.unwrap();
        assert!(bytes.starts_with(b"PARE") && bytes.ends_with(b"PARE"));
        for word in ["999-00", "GIVENNAME", "birth_date", "__ordinal", "p3-0"] {
            assert!(!bytes.windows(word.len()).any(|w| w == word.as_bytes()), "{word}");
        }
    }
    // A file put in another's place does not open: its path is bound.
    let (a, b) = (&world.manifest.files[0], &world.manifest.files[1]);
    let moved = world.store.get(&Path::from(a.path.as_str())).await.unwrap().bytes().await.unwrap();
    let mut forged = (*world.manifest).clone();
    forged.files[1].bytes = moved.len() as u64;
    forged.files[1].object = a.object.clone();
    world.store.put(&Path::from(b.path.as_str()), moved.into()).await.unwrap();
    let forged = World { manifest: Arc::new(forged), ..world };
    assert!(matches!(
        forged.ask("select id from patients", grant(PatientSet::All, &[])).await,
        Err(SqlError::Broken { .. })
    ));
    // A destroyed key: nothing opens any more.
    forged.keys.destroy(&forged.manifest.files[0].object).await.unwrap();
    assert!(forged.ask("select id from patients", grant(PatientSet::All, &[])).await.is_err());
}

#[tokio::test]
async fn answers_have_limits() {
    let world_small = world_with(Limits { sql_rows_max: 3, ..Limits::default() }).await;
    let answer = world_small.ask("select id from patients", grant(PatientSet::All, &[])).await.unwrap();
    assert_eq!((answer.rows, answer.truncated), (3, true));
    let capped = Grant { rows_max: Some(2), ..grant(PatientSet::All, &[]) };
    let answer = world_small.ask("select id from patients order by id", capped).await.unwrap();
    assert_eq!((answer.rows, answer.truncated), (2, true));

    let tiny = world_with(Limits { sql_result_bytes_max: 100, ..Limits::default() }).await;
    assert!(matches!(
        tiny.ask("select * from patients", grant(PatientSet::All, &[])).await,
        Err(SqlError::TooLarge { .. })
    ));
    let none = world_with(Limits { sql_concurrency_max: 0, ..Limits::default() }).await;
    assert!(matches!(none.ask("select 1", grant(PatientSet::All, &[])).await, Err(SqlError::Busy { .. })));
    let poor = world_with(Limits { sql_memory_bytes_max: 64 << 10, ..Limits::default() }).await;
    let sql = "select a.id, b.id, c.id from patients a, patients b, patients c order by a.id || b.id || c.id";
    assert!(matches!(poor.ask(sql, grant(PatientSet::All, &[])).await, Err(SqlError::TooLarge { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_that_does_not_end_is_stopped() {
    let world = world_with(Limits { sql_timeout_ms: 300, ..Limits::default() }).await;
    for sql in [
        "with recursive r as (select 1 as k union all select k + 1 from r) select count(*) from r",
        "select count(*) from patients a, patients b, patients c, patients d, patients e, patients f",
        "select sum(a.n * b.n % 7) from patients a, patients b, patients c, patients d, patients e, patients f",
    ] {
        let failed = world.ask(sql, grant(PatientSet::All, &[])).await.unwrap_err();
        assert_eq!(failed, SqlError::TimedOut { timeout_ms: 300 }, "{sql}");
    }
}

#[tokio::test]
async fn every_format_carries_the_same_rows() {
    let world = world().await;
    for (format, start) in
        [(Format::JsonLines, "{\"id\":"), (Format::Csv, "id,value,given\n"), (Format::ArrowStream, "\u{fffd}")]
    {
        let query = SqlQuery {
            sql: "select id, value, given from patients where n = 3 order by id".into(),
            default_domain: domain("ehr"),
            tables: vec![world.source(grant(PatientSet::All, &[]))],
            visible: vec![],
            format,
            rows_max: None,
        };
        let answer = world.lake.query(query).await.unwrap();
        assert_eq!(answer.rows, 2);
        let body = String::from_utf8_lossy(&answer.body).into_owned();
        assert!(body.starts_with(start), "{body}");
        if format != Format::ArrowStream {
            assert!(body.contains("p3-0") && body.contains("3.5") && body.contains("GIVENNAME3"), "{body}");
        } else {
            let reader = arrow::ipc::reader::StreamReader::try_new(answer.body.as_slice(), None).unwrap();
            assert_eq!(reader.map(|b| b.unwrap().num_rows()).sum::<usize>(), 2);
        }
    }
}

#[tokio::test]
async fn the_verifier_refuses_a_scan_without_a_barrier() {
    use datafusion::datasource::physical_plan::{FileScanConfigBuilder, ParquetSource};
    use datafusion::datasource::source::DataSourceExec;
    use datafusion::execution::object_store::ObjectStoreUrl;
    use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;

    let schema = Arc::new(Schema::new(vec![Field::new("a", DataType::Int64, true)]));
    let source = Arc::new(ParquetSource::new(schema));
    let config = FileScanConfigBuilder::new(ObjectStoreUrl::local_filesystem(), source).build();
    let bare: Arc<dyn ExecutionPlan> = DataSourceExec::from_data_source(config);
    assert!(crate::verify::verify(&bare).is_err());
    let wrapped: Arc<dyn ExecutionPlan> = Arc::new(CoalescePartitionsExec::new(bare));
    assert!(crate::verify::verify(&wrapped).is_err());

    let (engine, table, _) = with_struct().await;
    let state = engine.session(&domain("ehr"), vec![(self::table("t"), table)], &[]).unwrap();
    let sql = "select a.n from t a join t b on a.n = b.n where a.n > (select min(n) from t)";
    let admitted = statement::admit(sql, &Limits::default()).unwrap();
    let plan = session::plan(&state, admitted, sql).await.unwrap();
    assert!(crate::verify::verify(&plan).is_ok());
}
