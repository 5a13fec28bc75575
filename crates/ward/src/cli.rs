//! The command line, as `--help` tells it.

use std::path::PathBuf;

use base::{DomainName, LogicalId, Position, PrincipalId, Purpose, SourceName};
use clap::{Args, Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "ward", version, about = "A healthcare data mesh in one program", max_term_width = 120)]
pub struct Cli {
    /// The mesh folder.
    #[arg(long, short = 'C', global = true, default_value = ".")]
    pub mesh: PathBuf,
    /// JSON instead of text for people.
    #[arg(long, global = true)]
    pub json: bool,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Write a mesh folder that works.
    Init(Init),
    /// Read the whole mesh folder and report like a compiler.
    Check {
        /// Print every limit with its value.
        #[arg(long)]
        limits: bool,
    },
    /// Run the node until it is told to stop.
    Serve,
    /// Run a whole mesh with a synthetic hospital that feeds every door.
    Demo(Demo),
    /// Put files into a domain: HL7 v2 messages or batches, FHIR Bundles or resources.
    Ingest(Ingest),
    /// Run one SQL statement over the products.
    Query(Query),
    /// Mint a short-lived access token.
    Token(Token),
    /// The audit log: verify it, page through it, see who saw a patient.
    #[command(subcommand)]
    Audit(Audit),
    /// The audit log on its way to others' receivers.
    #[command(subcommand)]
    Ship(Ship),
    /// HL7 v2: what messages become.
    #[command(subcommand)]
    Hl7(Hl7),
    /// The journals.
    #[command(subcommand)]
    Journal(Journal),
    /// What was set aside, and its replay.
    #[command(subcommand)]
    Quarantine(Quarantine),
    /// The search index.
    #[command(subcommand)]
    Index(Index),
    /// Data products.
    #[command(subcommand)]
    Product(Product),
    /// What one ward needs for care when all else fails, sealed and expiring; readable without a node.
    DowntimePack(crate::commands::downtime::DowntimePack),
    /// Routes: messages sent on to others, and what their receivers refused.
    #[command(subcommand)]
    Route(crate::commands::route::Route),
    /// Emergency access to one patient, in two steps, and its review.
    #[command(subcommand)]
    BreakGlass(crate::commands::break_glass::BreakGlass),
    /// Erasure of a patient's record, from the request to its certificate.
    #[command(subcommand)]
    Erase(crate::commands::erase::Erase),
    /// Holds: nothing they name is destroyed while they stand.
    #[command(subcommand)]
    Hold(crate::commands::erase::Hold),
    /// Records that were kept long enough.
    #[command(subcommand)]
    Retention(crate::commands::erase::Retention),
    /// The key epoch and the rotation of keys.
    #[command(subcommand)]
    Keys(crate::commands::keys::Keys),
    /// Take a backup, while serving or stopped: data to one target, keys to another.
    Backup(Backup),
    /// Restore a mesh from its backups into an empty folder.
    Restore(Restore),
    /// Restore into a temporary folder, start it, check it, and report.
    VerifyRestore(VerifyRestore),
    /// Find and explain damage. Changes nothing.
    Doctor,
    /// Build what is derived anew, from logs and objects.
    Rebuild(Rebuild),
    /// Measure this machine: figures with their conditions.
    Bench(Bench),
}

#[derive(Debug, Args)]
pub struct Init {
    /// The folder to write; it must not hold a mesh.
    pub folder: PathBuf,
    #[arg(long, default_value = "hospital")]
    pub name: String,
    /// Port of the HTTP doors; the feeds take the two after it.
    #[arg(long, default_value_t = 8443)]
    pub port: u16,
}

#[derive(Debug, Args)]
pub struct Demo {
    /// Stop after the summary, with exit code 0.
    #[arg(long)]
    pub once: bool,
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    #[arg(long, default_value_t = 200)]
    pub patients: usize,
    /// The folder of the demo's mesh; begun anew each time.
    #[arg(long, default_value = ".ward-demo")]
    pub folder: PathBuf,
}

#[derive(Debug, Args)]
pub struct Ingest {
    #[arg(required = true)]
    pub files: Vec<PathBuf>,
    #[arg(long)]
    pub domain: DomainName,
    /// The source they count as; by default the domain's first of the fitting kind.
    #[arg(long)]
    pub source: Option<SourceName>,
}

/// Who reads, and why.
#[derive(Debug, Args)]
pub struct As {
    /// The principal to act as.
    #[arg(long = "as", value_name = "PRINCIPAL")]
    pub principal: PrincipalId,
    /// Purpose of use; by default the principal's first.
    #[arg(long, value_parser = purpose)]
    pub purpose: Option<Purpose>,
}

pub(crate) fn purpose(text: &str) -> Result<Purpose, String> {
    Purpose::parse(text).ok_or_else(|| {
        let known: Vec<_> = Purpose::ALL.iter().map(|p| p.code()).collect();
        format!("not a purpose of use: one of {}", known.join(", "))
    })
}

#[derive(Debug, Args)]
pub struct Query {
    pub sql: String,
    #[command(flatten)]
    pub who: As,
    /// jsonl, csv or arrow.
    #[arg(long, default_value = "csv")]
    pub format: String,
    /// A break-glass session: the rows of its patient, whatever else policy says.
    #[arg(long, value_name = "SESSION")]
    pub break_glass: Option<String>,
}

#[derive(Debug, Args)]
pub struct Token {
    pub principal: PrincipalId,
    #[arg(long, value_parser = purpose)]
    pub purpose: Option<Purpose>,
    /// Leave the purpose out: such a token reaches no patient data.
    #[arg(long, conflicts_with = "purpose")]
    pub without_purpose: bool,
    #[arg(long, default_value_t = 60)]
    pub minutes: i64,
}

#[derive(Debug, Subcommand)]
pub enum Audit {
    /// Verify the audit log with ward-verify's checks.
    Verify,
    /// How its targets stand: the log and the second folder.
    Status,
    /// Destroy the keys of records whose six years are over.
    Expire,
    /// The newest accesses.
    Show {
        #[command(flatten)]
        who: As,
        #[arg(long, default_value_t = 20)]
        last: usize,
    },
    /// Who saw this patient, through every door.
    WhoSaw(PatientReport),
    /// To whom this patient's information was disclosed, as 45 CFR 164.528 asks for: six years back.
    Disclosures(PatientReport),
    /// Leave out of a patient's accountings what was disclosed to an agency, for a time, at its statement.
    #[command(subcommand)]
    Suspend(crate::commands::erase::Suspend),
    /// A span of the log as others read it, into a file.
    Export(Export),
}

/// One patient's report.
#[derive(Debug, Args)]
pub struct PatientReport {
    pub domain: DomainName,
    /// The id of the Patient resource, with or without `Patient/` before it.
    #[arg(value_parser = patient)]
    pub patient: LogicalId,
    #[command(flatten)]
    pub who: As,
    /// First day, YYYY-MM-DD.
    #[arg(long)]
    pub from: Option<String>,
    /// Last day, YYYY-MM-DD.
    #[arg(long)]
    pub to: Option<String>,
    /// Write it to a file that can be handed to the patient: a page when its name ends with .html, else text.
    #[arg(long, value_name = "FILE")]
    pub print: Option<PathBuf>,
}

fn patient(text: &str) -> Result<LogicalId, String> {
    LogicalId::parse(text.strip_prefix("Patient/").unwrap_or(text)).map_err(|error| error.to_string())
}

/// A span of the audit log as others read it.
#[derive(Debug, Args)]
pub struct Export {
    /// fhir (AuditEvent by IHE BALP), atna (DICOM PS3.15 A.5), ocsf or cef: one a line.
    #[arg(long, value_parser = format)]
    pub format: herald::Format,
    /// From this day or instant on; the log's beginning when left out.
    #[arg(long)]
    pub from: Option<String>,
    /// Up to and with this day or instant; now when left out.
    #[arg(long)]
    pub to: Option<String>,
    /// The file to write.
    #[arg(long)]
    pub out: PathBuf,
    #[command(flatten)]
    pub who: As,
}

fn format(text: &str) -> Result<herald::Format, String> {
    herald::Format::parse(text).ok_or_else(|| {
        let known: Vec<_> = herald::Format::ALL.iter().map(|format| format.code()).collect();
        format!("not a rendering: one of {}", known.join(", "))
    })
}

#[derive(Debug, Subcommand)]
pub enum Ship {
    /// Each receiver with how far it has confirmed, and why nothing moves where nothing moves.
    Status,
}

#[derive(Debug, Subcommand)]
pub enum Journal {
    /// One entry: where it came from and what became of it. Shows no content.
    Trace {
        /// journal-DOMAIN/INDEX
        position: Position,
    },
    /// Find entries by source, type, sender, control id, patient, time or state.
    Search(crate::commands::journal::Search),
    /// Messages and bytes by day and source: as they came, and as they lie on the disk.
    Size(crate::commands::journal::Size),
    /// Destroy the raw bodies whose time is over, as `keep` of their sources says; the node does so each hour.
    Expire(crate::commands::journal::Expire),
}

#[derive(Debug, Subcommand)]
pub enum Hl7 {
    /// What messages of a file become: each field and where it goes. Needs no node.
    Map {
        /// A file of one message, of several, or a batch.
        file: PathBuf,
        /// Also the resources they would make in an empty domain, with their content.
        #[arg(long)]
        explain: bool,
        /// The source they would come from: its assigners, units and clock; by default a plain one.
        #[arg(long)]
        source: Option<String>,
    },
    /// Message by segment: mapped by the guide, by our own rows, or kept raw. A table in Markdown.
    Coverage,
    /// The fields of messages with their names. Values are shown by their shape (`a` letters, `9` digits).
    Show(crate::commands::desk::Show),
    /// What of messages departs from the standard, by place. Exit code 1 where an error is found.
    Lint(crate::commands::desk::Lint),
    /// Two messages compared field by field. Exit code 1 where they differ.
    Diff(crate::commands::desk::Diff),
    /// Send messages over MLLP and tell how they were answered, and how fast.
    Send(crate::commands::mllp::Send),
    /// Take messages over MLLP, write each into a folder, and answer with a code of your choice. For tests.
    Receive(crate::commands::mllp::Receive),
    /// Refine messages of the journal again, after a map or a code was mended. On record; twice changes nothing more.
    Replay(crate::commands::journal::Replay),
    /// How each source does: rate, last message, lag, what is set aside, fields without a map.
    Sources,
    /// Results that could not find their patient or order, and whose they are.
    #[command(subcommand)]
    Worklist(crate::commands::journal::Worklist),
    /// What a source in shadow would have become, against the output of another engine.
    ShadowDiff(crate::commands::shadow::ShadowDiff),
}

#[derive(Debug, Subcommand)]
pub enum Quarantine {
    /// What is set aside and not yet resolved.
    List {
        #[arg(long)]
        domain: Option<DomainName>,
    },
    /// One entry's set-aside units with their reasons.
    Show { position: Position },
    /// Refine the set-aside units of an entry once more.
    Replay { position: Position },
}

#[derive(Debug, Subcommand)]
pub enum Index {
    /// Drop the search index of a domain and build it again from silver.
    Rebuild { domain: DomainName },
}

#[derive(Debug, Subcommand)]
pub enum Product {
    /// Products with their newest snapshots.
    List,
    /// Build a new snapshot.
    Build {
        domain: DomainName,
        product: String,
        #[command(flatten)]
        who: As,
    },
}

#[derive(Debug, Args)]
pub struct Backup {
    /// A folder or `file:FOLDER`; `s3:`, `az:`, `gs:` with the cargo feature `cloud`.
    pub target: String,
    /// Where key slots go: another place, kept shortly. Without it none are copied.
    #[arg(long, value_name = "TARGET")]
    pub keys_to: Option<String>,
    /// Backups of data to keep. The newest holds every entry; older ones matter when it is damaged.
    #[arg(long, default_value_t = 48)]
    pub keep: usize,
    /// Backups of keys to keep. Few: what was destroyed must not live on in them.
    #[arg(long, default_value_t = 2)]
    pub keys_keep: usize,
    /// Show what the target holds instead.
    #[arg(long)]
    pub list: bool,
}

#[derive(Debug, Args)]
pub struct Restore {
    /// Where the data was backed up to.
    pub target: Option<String>,
    /// Where the keys were backed up to.
    #[arg(long, value_name = "TARGET")]
    pub keys_from: Option<String>,
    /// The new mesh folder: empty but for `keys/`.
    #[arg(long, value_name = "FOLDER")]
    pub into: Option<PathBuf>,
    /// Restore journals as they were at a time (RFC 3339), or when a journal entry was appended (journal-DOMAIN/N).
    #[arg(long, value_name = "TIME|POSITION")]
    pub at: Option<String>,
    /// Restore journals as this backup saw them.
    #[arg(long, value_name = "ID", conflicts_with = "at")]
    pub backup: Option<String>,
    /// The root keys, as in `[keys] root`; by default those in the new folder, or of the mesh that -C names.
    #[arg(long, value_name = "ROOT")]
    pub root: Option<String>,
    /// Accept that governance entries are lost, and say why: it goes on record. Alone, for a folder restored by hand.
    #[arg(long, value_name = "REASON")]
    pub accept_loss: Option<String>,
}

#[derive(Debug, Args)]
pub struct VerifyRestore {
    /// Where the data was backed up to.
    pub target: String,
    /// Where the keys were backed up to.
    #[arg(long, value_name = "TARGET")]
    pub keys_from: String,
    /// Folder for the temporary copy, which holds a copy of the root keys while it lives; by default the system's.
    #[arg(long, value_name = "FOLDER")]
    pub scratch: Option<PathBuf>,
    /// Folder for the report, as text and JSON.
    #[arg(long, value_name = "FOLDER", default_value = ".")]
    pub report: PathBuf,
}

#[derive(Debug, Args)]
pub struct Rebuild {
    #[arg(value_enum)]
    pub what: Derived,
    /// One domain; by default all.
    pub domain: Option<DomainName>,
}

/// What is derived, and from what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Derived {
    /// Search indexes, from silver.
    Index,
    /// Merkle tiles and published checkpoints, from the logs' segments (node stopped).
    Tiles,
    /// Silver with its index, from the journals (node stopped).
    Catalog,
    /// Data products, from silver.
    Products,
    All,
}

#[derive(Debug, Args)]
pub struct Bench {
    #[arg(value_enum, default_value = "all")]
    pub what: Figures,
    /// Seconds for each figure.
    #[arg(long, default_value_t = 5)]
    pub seconds: u64,
    /// Folder of FHIR transaction Bundles to import; by default `synthea-r4` of the shared data, else synthetic ones.
    #[arg(long)]
    pub bundles: Option<PathBuf>,
    /// Folder of shared data; by default the first `shared/data` beside or above the working folder.
    #[arg(long)]
    pub data: Option<PathBuf>,
    /// The folder of the bench's mesh, on the disk to measure; begun anew, removed at the end.
    #[arg(long, default_value = ".ward-bench")]
    pub folder: PathBuf,
}

/// Families of figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Figures {
    All,
    /// HL7 v2 over MLLP: acknowledged, and refined into silver.
    Hl7,
    /// FHIR transactions, bytes at rest, memory.
    Fhir,
    /// FHIR reads by id.
    Read,
    /// FHIR searches of six families.
    Search,
    /// Durable audit records.
    Audit,
    /// Sealing and opening by the vault.
    Seal,
    /// Parsing, validation, search values.
    Parse,
    /// Governed SQL.
    Query,
}
