//! From silver to an answer: contract and view, build, control log, query, on real files.

use std::sync::Arc;

use base::*;
use ledger::{Ed25519Signer, Log, LogOptions, RealDisk};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use products::*;
use store::objects::DurableLocal;
use store::{Batch, Catalog, NewVersion, REFINE, Silver, SilverParts, SqlKeyTable};
use vault::{MemoryRootKeys, Vault};

use crate::tests::mint;
use crate::{Lake, LakeParts, VaultFileKeys};

const VIEW: &str = r#"{
  "resourceType": "ViewDefinition", "name": "patients", "status": "active", "resource": "Patient",
  "select": [ { "column": [
      { "name": "id", "path": "getResourceKey()", "type": "string" },
      { "name": "family", "path": "name.first().family", "type": "string" },
      { "name": "birth_date", "path": "birthDate", "type": "date" } ] } ] }"#;

const CONTRACT: &str = "\
apiVersion: v3.1.0
kind: DataContract
id: urn:ward:ehr:patients
version: 1.0.0
status: active
domain: ehr
schema:
  - name: patients
    properties:
      - name: id
      - name: family
      - name: birth_date
slaProperties: [{property: retention, value: 6, unit: y}]
team: {members: [{username: a, role: Owner}, {username: b, role: Steward}]}
";

const NOW: i64 = 1_795_564_800_000;

struct Node {
    dir: tempfile::TempDir,
    root: Arc<MemoryRootKeys>,
    clock: Arc<ManualClock>,
    entropy: Arc<SystemEntropy>,
}

struct Parts {
    silver: Silver,
    lake: Lake,
    builder: Builder,
    objects: Arc<dyn ObjectStore>,
    control: Log,
}

fn ehr() -> DomainName {
    DomainName::parse("ehr").unwrap()
}

fn table() -> TableName {
    TableName { domain: ehr(), product: "patients".into() }
}

fn grant(layer: Layer, masks: Vec<Mask>) -> Grant {
    Grant {
        decision: 1,
        principal: PrincipalId::parse("node:build").unwrap(),
        purpose: Purpose::Operations,
        domain: ehr(),
        layer,
        kinds: vec![],
        patients: PatientSet::All,
        sensitivity: Sensitivity(u16::MAX),
        masks,
        rows_max: None,
        group_min: None,
        policies: vec![],
        policy_version: 1,
        expires: Timestamp(i64::MAX),
    }
}

impl Node {
    fn new() -> Node {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("mesh/domains/ehr/products/patients");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("contract.yaml"), CONTRACT).unwrap();
        std::fs::write(folder.join("view.json"), VIEW).unwrap();
        let entropy = Arc::new(SystemEntropy);
        let root = Arc::new(MemoryRootKeys::new(entropy.clone()));
        Node { dir, root, clock: Arc::new(ManualClock::at(NOW)), entropy }
    }

    async fn open(&self) -> Parts {
        let path = self.dir.path();
        let file = |name: &str| format!("sqlite:{}", path.join(name).display());
        let keys = Arc::new(SqlKeyTable::open(&file("keys.db")).await.unwrap());
        let vault = Vault::open(self.root.clone(), keys, self.clock.clone(), self.entropy.clone()).await.unwrap();
        let silver = Silver::open(SilverParts {
            catalog: Catalog::open(&file("catalog.db")).await.unwrap(),
            vault: vault.clone(),
            index_dir: path.join("index"),
            domains: vec![ehr()],
            retention: Default::default(),
            clock: self.clock.clone(),
            entropy: self.entropy.clone(),
            limits: Arc::new(Limits::default()),
        })
        .await
        .unwrap();
        let name = LogName::parse("control").unwrap();
        let signer = Arc::new(Ed25519Signer::from_seed("test/control", &[7; 32]).unwrap());
        let options = LogOptions::from_limits("test/control", &Limits::default());
        let control =
            Log::open(Arc::new(RealDisk), &path.join("control"), name, options, signer, self.clock.clone()).unwrap();
        let objects: Arc<dyn ObjectStore> = Arc::new(DurableLocal::open(path.join("objects")).unwrap());
        let lake = Lake::new(LakeParts {
            objects: objects.clone(),
            keys: Arc::new(VaultFileKeys(vault.clone())),
            clock: self.clock.clone(),
            limits: Limits::default(),
            partitions: 2,
        })
        .unwrap();
        lake.self_test().await.unwrap();
        let (registry, found) = Registry::load(&path.join("mesh"));
        assert_eq!(found, vec![]);
        let builder = Builder::new(BuilderParts {
            registry: Arc::new(registry),
            silver: silver.clone(),
            engine: Arc::new(lake.clone()),
            book: SnapshotBook::open(control.clone(), vault, objects.clone()).await.unwrap(),
            objects: objects.clone(),
            clock: self.clock.clone(),
            entropy: self.entropy.clone(),
        });
        Parts { silver, lake, builder, objects, control }
    }
}

fn patient(n: u32, version: u32, family: &str) -> NewVersion {
    let text = format!(
        r#"{{"resourceType":"Patient","id":"p{n}","name":[{{"family":"{family}"}}],"birthDate":"1985-03-07"}}"#
    );
    NewVersion {
        rtype: "Patient".into(),
        id: LogicalId::parse(&format!("p{n}")).unwrap(),
        version,
        last_updated: Timestamp(NOW),
        patient: Ordinal(n),
        sensitivity: Sensitivity::NONE,
        deleted: false,
        positions: vec![u64::from(n)],
        body: Arc::new(fhir::json::parse(text.as_bytes(), &fhir::json::ParseLimits::default()).unwrap()),
    }
}

impl Parts {
    async fn put(&self, from: u64, versions: Vec<NewVersion>, patients: Vec<Ordinal>) {
        let permit: Permit<Write> = mint().mint(grant(Layer::Silver, vec![]));
        let batch = Batch {
            domain: ehr(),
            consumer: REFINE.into(),
            log: LogName::parse("journal-ehr").unwrap(),
            from,
            upto: from + 10,
            versions,
            patients,
            set_aside: vec![],
            resolved: vec![],
            outcomes: vec![],
            seen: vec![],
            held: vec![],
            named: vec![],
            labelled: vec![],
            counts: vec![],
            entries: vec![],
            unmapped: vec![],
            lists: vec![],
        };
        self.silver.commit(&permit, batch).await.unwrap();
    }

    async fn build(&self) -> Result<BuildReport, BuildError> {
        let read: Permit<Read> = mint().mint(grant(Layer::Silver, vec![]));
        let write: Permit<Write> = mint().mint(grant(Layer::Gold, vec![]));
        self.builder.build(&read, &write, &table()).await
    }

    async fn ask(&self, sql: &str, masks: Vec<Mask>) -> Result<String, SqlError> {
        let manifest = self.builder.book().current(&table()).await.unwrap();
        let query = SqlQuery {
            sql: sql.into(),
            default_domain: ehr(),
            tables: vec![SourceTable {
                name: table(),
                columns: manifest.columns.clone(),
                manifest,
                permit: mint().mint(grant(Layer::Gold, masks)),
            }],
            visible: vec![],
            format: Format::JsonLines,
            rows_max: None,
        };
        Ok(String::from_utf8(self.lake.query(query).await?.body).unwrap())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_product_is_built_published_queried_and_found_again_after_a_restart() {
    let node = Node::new();
    let parts = node.open().await;
    assert_eq!(parts.builder.status(&table()).unwrap().missing, ["a build that succeeded"]);
    assert!(matches!(parts.builder.book().current(&table()).await, Err(SnapshotError::None)));

    parts.put(0, (1..=3).map(|n| patient(n, 1, "EVERYWOMAN")).collect(), (1..=3).map(Ordinal).collect()).await;
    let report = parts.build().await.unwrap();
    assert_eq!((report.rows, report.skipped, report.error.clone()), (3, 0, None));
    assert_eq!(parts.builder.status(&table()).unwrap().missing, Vec::<String>::new());
    let sql = "select id, family, birth_date from patients order by id";
    let shown = parts.ask(sql, vec![]).await.unwrap();
    assert!(shown.starts_with(r#"{"id":"Patient/p1","family":"EVERYWOMAN","birth_date":"1985-03-07"}"#), "{shown}");

    // A change and a deletion come with the next build.
    let deleted = NewVersion { deleted: true, body: Arc::new(fhir::json::Value::Null), ..patient(2, 2, "") };
    parts.put(10, vec![patient(1, 2, "NEWNAME"), deleted], vec![]).await;
    assert_eq!(parts.build().await.unwrap().rows, 2);
    let mask = Mask { class: DataClass::Name, method: MaskMethod::Last(4), policy: "p".into(), reason: "r".into() };
    let shown = parts.ask(sql, vec![mask]).await.unwrap();
    assert!(shown.starts_with(r#"{"id":"Patient/p1","family":"***NAME""#) && !shown.contains("Patient/p2"), "{shown}");

    // Old snapshots go; the newest and the one before stay.
    let newest = parts.build().await.unwrap();
    let living: Vec<String> = parts.builder.book().living(&table()).into_iter().map(|p| p.snapshot).collect();
    assert_eq!((living.len(), living.last()), (2, Some(&newest.snapshot)));
    parts.objects.put(&Path::from("gold/ehr/patients/orphan/00-0000.parquet"), "x".into()).await.unwrap();
    assert_eq!(parts.builder.sweep(&table()).await.unwrap(), 1);
    parts.control.close().await;
    drop(parts);

    let parts = node.open().await;
    assert_eq!(parts.builder.book().current(&table()).await.unwrap().snapshot, newest.snapshot);
    assert!(parts.ask(sql, vec![]).await.unwrap().contains("NEWNAME"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forged_snapshot_is_refused() {
    let node = Node::new();
    let parts = node.open().await;
    parts.put(0, vec![patient(1, 1, "EVERYWOMAN")], vec![Ordinal(1)]).await;
    parts.build().await.unwrap();
    parts.build().await.unwrap();
    let living = parts.builder.book().living(&table());
    let path = |p: &Published| Path::from(format!("gold/ehr/patients/{}/manifest", p.snapshot));
    // The older manifest put in place of the newer one, as someone who writes to the store could.
    let old = parts.objects.get(&path(&living[0])).await.unwrap().bytes().await.unwrap();
    parts.objects.put(&path(&living[1]), old.into()).await.unwrap();
    parts.control.close().await;
    drop(parts);
    let parts = node.open().await;
    assert!(matches!(parts.builder.book().current(&table()).await, Err(SnapshotError::Forged)));
    // The other one is what the log says still.
    assert!(parts.builder.book().manifest(&living[0]).await.is_ok());
}
