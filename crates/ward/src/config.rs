//! A mesh is a folder: `mesh.toml`, `principals.toml`, `domains/*/domain.toml`, policies, products, agreements.
//!
//! Read once, checked as a whole, passed by value. Unknown keys are refused. The environment is read here and nowhere
//! else, and secrets never stand in these files: they are referenced.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use base::{DomainName, Limits, PrincipalId, Purpose, Role, Timestamp};
use clinical::{Source, SourceKind, TlsMode};
use serde::{Deserialize, Serialize};

/// `mesh.toml`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mesh {
    /// The mesh's name: part of the origin of its logs.
    pub name: String,
    /// Where the node keeps its data, relative to the mesh folder.
    #[serde(default = "data_folder")]
    pub data: PathBuf,
    pub listen: Listen,
    #[serde(default)]
    pub tls: Tls,
    pub keys: Keys,
    #[serde(default)]
    pub audit: Audit,
    #[serde(default)]
    pub catalog: Catalog,
    #[serde(default)]
    pub break_glass: crate::care::BreakGlass,
    #[serde(default)]
    pub downtime: crate::downtime::Downtime,
    #[serde(default)]
    pub limits: Limits,
}

fn data_folder() -> PathBuf {
    "data".into()
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listen {
    /// FHIR, SQL, the admin API: always TLS.
    pub http: SocketAddr,
    /// The node's own socket, for its commands, relative to the data folder.
    #[serde(default = "socket_path")]
    pub socket: PathBuf,
}

fn socket_path() -> PathBuf {
    "ward.sock".into()
}

/// Certificate and key in PEM, relative to the mesh folder. With `development = true` they are made when missing.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tls {
    pub certificate: PathBuf,
    pub key: PathBuf,
    pub development: bool,
}

impl Default for Tls {
    fn default() -> Self {
        Tls { certificate: "tls/server.pem".into(), key: "tls/server.key".into(), development: false }
    }
}

/// Where the root key is.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keys {
    /// `file:PATH` (a machine key outside the data folder, relative to the mesh folder), `passphrase-file:PATH` (such as a
    /// systemd credential), or `passphrase-env:NAME`.
    pub root: String,
    /// The key epoch turns each so many days; what was erased is final with the turn. 1 to 90.
    #[serde(default = "epoch_days")]
    pub epoch_days: u16,
    /// A folder of checkpoints that others keep of the control log, relative to the mesh folder. A node whose control
    /// log does not hold them opens no door.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub witnesses: Option<PathBuf>,
    /// Whether the node may serve when its memory cannot be locked against swapping.
    #[serde(default)]
    pub locked_memory: LockedMemory,
}

/// `[keys] locked_memory`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LockedMemory {
    /// It says so and serves.
    #[default]
    WhereAllowed,
    /// It does not start.
    Required,
}

fn epoch_days() -> u16 {
    7
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Audit {
    /// A second folder for the audit log, best on another disk, relative to the mesh folder. Either suffices.
    pub second: Option<PathBuf>,
    /// Receivers of the audit log, `[[audit.ship]]`.
    pub ship: Vec<crate::ship::Ship>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Catalog {
    /// `sqlite:` below the data folder when empty; `postgres://...` when one machine is too small.
    pub url: Option<String>,
}

/// `domains/<name>/domain.toml`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Domain {
    pub name: DomainName,
    /// The department that owns the data.
    pub owner: String,
    pub steward: PrincipalId,
    #[serde(default)]
    pub contact: String,
    /// Retention class of its records, with the years after the one of the last entry: `clinical-6y`.
    #[serde(default = "retention")]
    pub retention: String,
    #[serde(default, rename = "source")]
    pub sources: Vec<Source>,
    #[serde(default, rename = "route")]
    pub routes: Vec<relay::Route>,
}

fn retention() -> String {
    "clinical-6y".into()
}

/// One entry of `principals.toml`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Principal {
    pub id: PrincipalId,
    /// As a patient may read it in a report: `Jordan Lee, MD`. Without it a report says the role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    pub kind: PrincipalKind,
    pub roles: Vec<Role>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<DomainName>,
    /// For a feed: the source it sends as.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<base::SourceName>,
    /// Purposes a token may be minted for. The first is the default, for stock apps that name none.
    #[serde(default)]
    pub purposes: Vec<Purpose>,
    /// Day until which privacy training is valid, `YYYY-MM-DD`. Persons need one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub training_until: Option<String>,
    /// The practitioner's number in the feeds: encounters that name it make the care team.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub practitioner: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PrincipalKind {
    Person,
    Service,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Principals {
    #[serde(default, rename = "principal")]
    principals: Vec<Principal>,
}

/// `agreements/<id>.toml`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Agreement {
    pub id: String,
    /// `data-use` or `business-associate`.
    pub kind: String,
    pub parties: Vec<PrincipalId>,
    pub purposes: Vec<Purpose>,
    /// Domains whose products it covers.
    pub domains: Vec<DomainName>,
    /// Last day, `YYYY-MM-DD`.
    pub until: String,
    /// Nothing leaves under it for now.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub suspended: bool,
    /// Who receives what goes out under it, for the accounting of disclosures (45 CFR 164.528(b)(2)(ii)).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipient: Option<Party>,
    /// Of research: what §164.528(b)(4) wants told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub study: Option<gate::Study>,
    /// Why disclosures under it need not be accounted for (§164.528(a)(1)): `authorization`, `limited-data-set`, ...
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_accounted: Option<gate::Exclusion>,
}

impl Agreement {
    /// The end of its last day; `None` while it is suspended, or where the day does not read.
    pub fn in_force_until(&self) -> Option<Timestamp> {
        if self.suspended { None } else { end_of_day(&self.until) }
    }
}

/// A person or an entity outside: business addresses only.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Party {
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phone: Option<String>,
}

/// A whole mesh folder, checked.
#[derive(Debug, Clone)]
pub struct Config {
    pub folder: PathBuf,
    pub mesh: Mesh,
    pub domains: BTreeMap<DomainName, Domain>,
    pub principals: Vec<Principal>,
    pub agreements: Vec<Agreement>,
    /// (path, text) of `policies/*.cedar`.
    pub policies: Vec<(String, String)>,
}

/// A finding, like a compiler's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub file: String,
    pub line: Option<u32>,
    pub what: String,
    pub help: String,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        write!(f, ": {}", self.what)?;
        if !self.help.is_empty() {
            write!(f, "\n  help: {}", self.help)?;
        }
        Ok(())
    }
}

/// The end of the day `YYYY-MM-DD`, UTC.
pub fn end_of_day(text: &str) -> Option<Timestamp> {
    let mut parts = text.splitn(3, '-');
    let (year, month, day) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    base::time::is_date(year, month, day)
        .then(|| Timestamp((base::time::days_from_civil(year, month, day) + 1) * 86_400_000 - 1))
}

struct Reader {
    folder: PathBuf,
    findings: Vec<Finding>,
}

/// What a source says of its units and of what it may change.
fn check_mapping(path: &str, source: &Source, reader: &mut Reader) {
    for (sent, code) in &source.units {
        // The grammar of UCUM's codes (§2.1): printable ASCII without blanks.
        if code.is_empty() || !code.bytes().all(|b| b.is_ascii_graphic()) {
            reader.find(
                path,
                &format!("units of source `{}` give `{sent}` a code that is none of UCUM: `{code}`", source.name),
                "write a UCUM code such as mg/dL or 10*9/L",
            );
        }
    }
    if let clinical::Lists::Whole(segments) = &source.lists {
        for segment in segments.iter().filter(|s| !clinical::v2::listed_segments().any(|known| known == s.as_str())) {
            reader.find(
                path,
                &format!("lists of source `{}` name `{segment}`, which is no list", source.name),
                &format!("write some of {}", clinical::v2::listed_segments().collect::<Vec<_>>().join(", ")),
            );
        }
    }
    for element in &source.authority {
        let (rtype, top) = element.split_once('.').unwrap_or((element, ""));
        let top = top.split('.').next().unwrap_or_default();
        let known =
            fhir::definitions::resource_type(rtype).is_some_and(|kind| top.is_empty() || kind.property(top).is_some());
        if !known {
            reader.find(
                path,
                &format!("authority of source `{}` names `{element}`, which is no element of R4", source.name),
                "write a resource type or an element of one, such as Patient or Encounter.location",
            );
        }
    }
}

impl Config {
    /// Reads and checks everything that is not policy or product; those have their own compilers.
    pub fn load(folder: &Path) -> Result<Config, Vec<Finding>> {
        let mut reader = Reader { folder: folder.to_owned(), findings: Vec::new() };
        let mesh: Option<Mesh> = reader.toml("mesh.toml", true);
        let principals: Option<Principals> = reader.toml("principals.toml", false);
        let mut domains = BTreeMap::new();
        for entry in reader.list("domains") {
            let path = format!("domains/{entry}/domain.toml");
            if let Some(domain) = reader.toml::<Domain>(&path, true) {
                if domain.name.as_str() != entry {
                    reader.find(&path, "the domain's name is not its folder's name", "rename the folder or the domain");
                }
                domains.insert(domain.name.clone(), domain);
            }
        }
        let mut agreements = Vec::new();
        for entry in reader.list("agreements").into_iter().filter(|name| name.ends_with(".toml")) {
            agreements.extend(reader.toml::<Agreement>(&format!("agreements/{entry}"), true));
        }
        let policies = reader
            .list("policies")
            .into_iter()
            .filter(|name| name.ends_with(".cedar"))
            .filter_map(|name| {
                let path = format!("policies/{name}");
                reader.text(&path).map(|text| (path, text))
            })
            .collect();
        let (Some(mesh), true) = (mesh, reader.findings.is_empty()) else { return Err(reader.findings) };
        let config = Config {
            folder: folder.to_owned(),
            mesh,
            domains,
            principals: principals.map(|p| p.principals).unwrap_or_default(),
            agreements,
            policies,
        };
        config.check(&mut reader);
        if reader.findings.is_empty() { Ok(config) } else { Err(reader.findings) }
    }

    fn check(&self, reader: &mut Reader) {
        if self.domains.is_empty() {
            reader.find(
                "domains",
                "the mesh has no domain",
                "add domains/NAME/domain.toml; `ward init` writes an example",
            );
        }
        for domain in self.domains.values() {
            let is_class = vault::RetentionClass::parse(&domain.retention).is_ok();
            if !is_class || comply::years_of(&domain.retention) == 0 {
                let (path, what) =
                    (format!("domains/{}/domain.toml", domain.name), "`retention` does not say how long");
                reader.find(
                    &path,
                    what,
                    "write a class and its years as clinical-6y: small letters, digits and dashes",
                );
            }
        }
        self.check_listeners(reader);
        self.check_routes(reader);
        self.check_principals(reader);
        for agreement in &self.agreements {
            let path = format!("agreements/{}.toml", agreement.id);
            if end_of_day(&agreement.until).is_none() {
                reader.find(&path, "`until` is not a date", "write it as YYYY-MM-DD");
            }
            for party in agreement.parties.iter().filter(|p| !self.principals.iter().any(|q| q.id == **p)) {
                reader.find(&path, &format!("party `{party}` is no principal"), "add it to principals.toml");
            }
            for domain in agreement.domains.iter().filter(|d| !self.domains.contains_key(*d)) {
                reader.find(&path, &format!("`{domain}` is no domain of this mesh"), "name one of domains/");
            }
        }
        let downtime = self.mesh.downtime.wrong(|domain| self.domains.contains_key(domain));
        if let Some((what, help)) = self.mesh.break_glass.wrong().or(downtime) {
            reader.find("mesh.toml", what, help);
        }
        let mut receivers = BTreeSet::new();
        for ship in &self.mesh.audit.ship {
            if !receivers.insert(&ship.name) {
                let what = format!("[[audit.ship]] `{}` is there twice", ship.name);
                reader.find("mesh.toml", &what, "give each receiver its own name");
            }
            for (what, help) in ship.findings(&self.agreements) {
                reader.find("mesh.toml", &what, &help);
            }
        }
        let root = &self.mesh.keys.root;
        if !["file:", "passphrase-file:", "passphrase-env:"].iter().any(|kind| root.starts_with(kind)) {
            let help = "write `file:PATH`, `passphrase-file:PATH` or `passphrase-env:NAME`";
            reader.find("mesh.toml", "[keys] root is of no known kind", help);
        }
        if !(1..=90).contains(&self.mesh.keys.epoch_days) {
            reader.find("mesh.toml", "[keys] epoch_days is out of bounds", "write 1 to 90; 7 is the default");
        }
        if let Some(path) = root.strip_prefix("file:").or_else(|| root.strip_prefix("passphrase-file:"))
            && self.folder.join(path).starts_with(self.data())
        {
            reader.find(
                "mesh.toml",
                "the root key lies inside the data folder",
                "keep it elsewhere, or a stolen disk opens itself",
            );
        }
    }

    fn check_listeners(&self, reader: &mut Reader) {
        let mut taken = BTreeSet::from([self.mesh.listen.http]);
        // A sender is one source of one domain: names are unique in the mesh.
        let mut names = BTreeSet::new();
        for domain in self.domains.values() {
            let path = format!("domains/{}/domain.toml", domain.name);
            for source in &domain.sources {
                if !names.insert(&source.name) {
                    reader.find(
                        &path,
                        &format!("source `{}` is declared twice", source.name),
                        "give each its own name",
                    );
                }
                match (source.kind, source.listen) {
                    (SourceKind::Hl7v2, None) => {
                        reader.find(
                            &path,
                            &format!("source `{}` listens nowhere", source.name),
                            "add listen = \"ADDRESS:PORT\"",
                        );
                    }
                    (SourceKind::Fhir, Some(_)) => {
                        reader.find(
                            &path,
                            &format!("source `{}` is FHIR and needs no listener", source.name),
                            "remove `listen`: FHIR comes by [listen] http",
                        );
                    }
                    (_, Some(address)) if address.port() != 0 && !taken.insert(address) => {
                        reader.find(&path, &format!("{address} is used twice"), "give each listener its own address");
                    }
                    (_, Some(address)) if source.tls == TlsMode::None && !address.ip().is_loopback() => {
                        reader.find(
                            &path,
                            &format!("source `{}` would take PHI in the clear from the network", source.name),
                            "set tls = \"server\" or \"mutual\", or listen on 127.0.0.1",
                        );
                    }
                    _ => {}
                }
                if source.tls == TlsMode::Mutual && source.client_authorities.is_none() {
                    reader.find(
                        &path,
                        &format!("source `{}` wants client certificates but names no authority", source.name),
                        "add client_authorities = \"PATH\"",
                    );
                }
                if !source.senders.is_empty() && source.tls != TlsMode::Mutual {
                    reader.find(
                        &path,
                        &format!("source `{}` names senders but asks for no certificate", source.name),
                        "set tls = \"mutual\", or remove `senders`",
                    );
                }
                if source.connections_max == Some(0) || source.messages_per_second_max == Some(0) {
                    reader.find(
                        &path,
                        &format!("source `{}` may have no connection or no message at all", source.name),
                        "write a number above 0",
                    );
                }
                if let Some(word) = source.accepts.iter().find(|word| !relay::is_message_type(word)) {
                    reader.find(
                        &path,
                        &format!("`accepts` of source `{}`: `{word}` is no message type", source.name),
                        "write it as ADT or ADT^A01",
                    );
                }
                let kept = [source.keep.received, source.keep.refined, source.keep.set_aside, source.keep.forwarded];
                if kept.into_iter().flatten().any(|days| !(1..=36_500).contains(&days)) {
                    reader.find(
                        &path,
                        &format!("`keep` of source `{}` is out of bounds", source.name),
                        "write days from 1 to 36500, or leave a state out to keep its bodies as long as the record",
                    );
                }
                if source.silent_after_minutes == Some(0) {
                    reader.find(
                        &path,
                        &format!("source `{}` would be silent at once", source.name),
                        "write silent_after_minutes from 1 up, or leave it out",
                    );
                }
                if source.kind == SourceKind::Fhir && source.shadow {
                    reader.find(
                        &path,
                        &format!("source `{}` is FHIR and cannot be in shadow", source.name),
                        "remove `shadow`: a FHIR write is answered with what it did",
                    );
                }
                if hl7v2::time::Offset::parse(&source.utc_offset).is_err() {
                    reader.find(
                        &path,
                        &format!("utc_offset of source `{}` is no offset", source.name),
                        "write it as -05:00",
                    );
                }
                check_mapping(&path, source, reader);
                self.check_query(&path, source, reader);
            }
        }
    }

    /// Who a source asks as is a service of this domain, for a purpose it may have.
    fn check_query(&self, path: &str, source: &Source, reader: &mut Reader) {
        let Some(right) = &source.query else { return };
        let known = self.principals.iter().find(|principal| principal.id == right.principal);
        let what = match known {
            None => "is no principal",
            Some(known) if known.kind != PrincipalKind::Service => "is a person: a query needs a service",
            Some(known) if !known.purposes.contains(&right.purpose) => "may not have this purpose",
            Some(known) if known.domain.is_none() => "belongs to no domain",
            Some(_) => return,
        };
        reader.find(
            path,
            &format!("source `{}` asks as `{}`, which {what}", source.name, right.principal),
            "name a service of principals.toml with a role that policy lets search Patient, and one of its purposes",
        );
    }

    fn check_routes(&self, reader: &mut Reader) {
        for domain in self.domains.values() {
            let path = format!("domains/{}/domain.toml", domain.name);
            let mut names = BTreeSet::new();
            for route in &domain.routes {
                if !names.insert(&route.name) {
                    let what = format!("route `{}` is declared twice", route.name);
                    reader.find(&path, &what, "give each its own name: its position is kept under it");
                }
                let is_source = |name: &base::SourceName| {
                    domain.sources.iter().any(|source| source.name == *name && source.kind == SourceKind::Hl7v2)
                };
                // What is written through the API is silver's, and comes in no message.
                let is_api = |name: &&base::SourceName| !route.make.is_empty() && name.as_str() == "fhir-api";
                if let Some(name) = route.from.iter().filter(|name| !is_api(name)).find(|name| !is_source(name)) {
                    let what = format!("route `{}` takes from `{name}`, which is no HL7 v2 source here", route.name);
                    reader.find(&path, &what, "name sources of this domain, or leave `from` out for all of them");
                }
                for (what, help) in crate::routes::findings(route, &self.agreements) {
                    reader.find(&path, &what, &help);
                }
            }
        }
    }

    fn check_principals(&self, reader: &mut Reader) {
        let mut ids = BTreeSet::new();
        for principal in &self.principals {
            let named = format!("principal `{}`", principal.id);
            if !ids.insert(&principal.id) {
                reader.find("principals.toml", &format!("{named} is there twice"), "remove one");
            }
            if principal.kind == PrincipalKind::Person
                && principal.training_until.as_deref().and_then(end_of_day).is_none()
            {
                reader.find(
                    "principals.toml",
                    &format!("{named} has no valid training_until"),
                    "write the last day of the privacy training as YYYY-MM-DD",
                );
            }
            if principal.roles.iter().any(|role| matches!(role, Role::Node | Role::Route)) {
                reader.find(
                    "principals.toml",
                    &format!("{named} cannot have the role of the node itself"),
                    "choose another role",
                );
            }
            if let Some(domain) = principal.domain.as_ref().filter(|d| !self.domains.contains_key(*d)) {
                reader.find(
                    "principals.toml",
                    &format!("{named} belongs to `{domain}`, which is no domain"),
                    "name one of domains/",
                );
            }
        }
    }

    /// How long each domain keeps its records.
    pub fn retention(&self) -> std::collections::HashMap<DomainName, vault::RetentionClass> {
        let class = |domain: &Domain| vault::RetentionClass::parse(&domain.retention).ok();
        self.domains.values().filter_map(|domain| Some((domain.name.clone(), class(domain)?))).collect()
    }

    pub fn data(&self) -> PathBuf {
        self.folder.join(&self.mesh.data)
    }

    /// The folder of a log by its name; `audit-second` is the copy beside.
    pub fn log_folder(&self, name: &str) -> PathBuf {
        match (name, &self.mesh.audit.second) {
            ("audit-second", Some(second)) => self.folder.join(second).join("audit"),
            _ => self.data().join("logs").join(name),
        }
    }

    /// Names of the node's logs.
    pub fn log_names(&self) -> Vec<String> {
        let journals = self.domains.keys().map(|domain| format!("journal-{domain}"));
        let second = self.mesh.audit.second.iter().map(|_| "audit-second".to_owned());
        journals.chain(["control".to_owned(), "audit".to_owned()]).chain(second).collect()
    }

    pub fn socket(&self) -> PathBuf {
        self.data().join(&self.mesh.listen.socket)
    }

    pub fn principal(&self, id: &PrincipalId) -> Option<&Principal> {
        self.principals.iter().find(|p| p.id == *id)
    }
}

impl Reader {
    fn find(&mut self, file: &str, what: &str, help: &str) {
        self.findings.push(Finding { file: file.into(), line: None, what: what.into(), help: help.into() });
    }

    fn text(&mut self, path: &str) -> Option<String> {
        match std::fs::read_to_string(self.folder.join(path)) {
            Ok(text) => Some(text),
            Err(error) => {
                self.find(
                    path,
                    &format!("cannot be read: {error}"),
                    "is this a mesh folder? `ward init DIR` writes one",
                );
                None
            }
        }
    }

    fn toml<T: serde::de::DeserializeOwned>(&mut self, path: &str, required: bool) -> Option<T> {
        if !required && !self.folder.join(path).exists() {
            return None;
        }
        let text = self.text(path)?;
        match toml::from_str(&text) {
            Ok(value) => Some(value),
            Err(error) => {
                let line = error.span().map(|span| text[..span.start.min(text.len())].matches('\n').count() as u32 + 1);
                self.findings.push(Finding {
                    file: path.into(),
                    line,
                    what: error.message().trim().replace('\n', ", "),
                    help: String::new(),
                });
                None
            }
        }
    }

    fn list(&mut self, folder: &str) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(self.folder.join(folder))
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .collect();
        names.sort();
        names
    }
}

/// A secret from a file of its own, without the newline at its end. Refused where others can read it.
pub fn secret_from_file(path: &Path) -> std::io::Result<zeroize::Zeroizing<String>> {
    use std::io::{Error, Read};
    use std::os::unix::fs::MetadataExt;
    const BYTES_MAX: u64 = 4_096;
    let file = std::fs::File::open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() || meta.len() > BYTES_MAX {
        return Err(Error::other("it is no regular file of at most 4 KiB"));
    }
    if meta.mode() & 0o077 != 0 {
        return Err(Error::other("others can read it, set its mode to 0600 or 0400"));
    }
    let mut text = zeroize::Zeroizing::new(String::with_capacity(BYTES_MAX as usize));
    file.take(BYTES_MAX).read_to_string(&mut text)?;
    let length = text.strip_suffix('\n').unwrap_or(&text).len();
    text.truncate(length);
    if text.is_empty() { Err(Error::other("it is empty")) } else { Ok(text) }
}

/// A secret from the environment. The only place that reads it.
#[allow(clippy::disallowed_methods)]
pub fn secret_from_environment(name: &str) -> Option<zeroize::Zeroizing<String>> {
    std::env::var(name).ok().map(zeroize::Zeroizing::new)
}
