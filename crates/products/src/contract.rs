//! The contract of a product: the part of ODCS 3.1 (Open Data Contract Standard) that the mesh acts on.
//!
//! A key that the standard does not know is refused where we read the object, since a typo must not become a default;
//! keys of the standard that we do not act on yet are kept as they are. Whether contract and view agree is
//! [`crate::check`]'s question.

use serde::{Deserialize, Serialize};
use serde_yaml_ng::{Mapping, Value};

use crate::diagnostic::{Diagnostic, line_of};

/// Versions of the standard that are read.
pub const API_VERSIONS: &[&str] = &["v3.0.0", "v3.0.1", "v3.0.2", "v3.1.0"];

const TOP_KEYS: &[&str] = &[
    "apiVersion",
    "kind",
    "id",
    "name",
    "version",
    "status",
    "tenant",
    "tags",
    "servers",
    "dataProduct",
    "description",
    "domain",
    "schema",
    "support",
    "price",
    "team",
    "roles",
    "slaDefaultElement",
    "slaProperties",
    "authoritativeDefinitions",
    "customProperties",
    "contractCreatedTs",
];

const SCHEMA_KEYS: &[&str] = &[
    "id",
    "name",
    "physicalType",
    "description",
    "businessName",
    "authoritativeDefinitions",
    "tags",
    "customProperties",
    "logicalType",
    "physicalName",
    "dataGranularityDescription",
    "properties",
    "relationships",
    "quality",
];

const PROPERTY_KEYS: &[&str] = &[
    "id",
    "name",
    "physicalType",
    "physicalName",
    "description",
    "businessName",
    "authoritativeDefinitions",
    "tags",
    "customProperties",
    "primaryKey",
    "primaryKeyPosition",
    "logicalType",
    "logicalTypeOptions",
    "required",
    "unique",
    "partitioned",
    "partitionKeyPosition",
    "classification",
    "encryptedName",
    "transformSourceObjects",
    "transformLogic",
    "transformDescription",
    "examples",
    "criticalDataElement",
    "relationships",
    "quality",
    "properties",
    "items",
];

/// What a column holds (ODCS `logicalType`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogicalType {
    String,
    Date,
    Timestamp,
    Time,
    Number,
    Integer,
    Boolean,
    Array,
    Object,
}

/// One property of the contract's table.
#[derive(Debug, Clone, PartialEq)]
pub struct Property {
    pub name: String,
    pub logical_type: Option<LogicalType>,
    pub physical_type: Option<String>,
    /// As written; a code of `base::DataClass` in a good contract.
    pub classification: Option<String>,
    /// Why the classification differs from the derived one (custom property `classificationReason`).
    pub classification_reason: Option<String>,
    pub description: Option<String>,
    pub required: bool,
    pub primary_key: bool,
    /// Line in the file, from 1.
    pub line: Option<usize>,
}

/// A parsed contract.
#[derive(Debug, Clone, PartialEq)]
pub struct Contract {
    pub api_version: String,
    pub id: String,
    pub name: String,
    pub version: String,
    pub status: String,
    pub domain: String,
    pub purpose: Option<String>,
    pub table: String,
    pub properties: Vec<Property>,
    pub owner: Option<String>,
    pub steward: Option<String>,
    /// Retention class (custom property or SLA property `retention`), as written.
    pub retention: Option<String>,
    /// The file's own words, for what later stages act on.
    pub raw: Value,
}

/// Reads a contract; what is wrong with it is in the diagnostics, and `None` means nothing could be made of it.
pub fn parse(file: &str, text: &str) -> (Option<Contract>, Vec<Diagnostic>) {
    let mut reader = Reader { file, text, found: Vec::new() };
    let raw: Value = match serde_yaml_ng::from_str(text) {
        Ok(value) => value,
        Err(error) => {
            let line = error.location().map(|l| l.line());
            // The parser's message may quote the file; contracts hold no patient data.
            reader.found.push(
                Diagnostic::error(file, line, "the contract is not valid YAML")
                    .because(error.to_string())
                    .help("correct the line; a contract is one YAML document"),
            );
            return (None, reader.found);
        }
    };
    let contract = reader.contract(raw);
    (contract, reader.found)
}

struct Reader<'a> {
    file: &'a str,
    text: &'a str,
    found: Vec<Diagnostic>,
}

impl Reader<'_> {
    fn contract(&mut self, raw: Value) -> Option<Contract> {
        let Some(top) = raw.as_mapping().cloned() else {
            self.error(Some(1), "the contract is not a mapping", "begin it with `apiVersion: v3.1.0`");
            return None;
        };
        self.known_keys(&top, TOP_KEYS, "a contract", 0);
        let api_version = self.required(&top, "apiVersion")?;
        if !API_VERSIONS.contains(&api_version.as_str()) {
            let line = self.line("apiVersion", "");
            self.error(line, "the contract's `apiVersion` is not one we read", "write `apiVersion: v3.1.0`");
        }
        if text_of(&top, "kind").as_deref() != Some("DataContract") {
            let line = self.line("kind", "");
            self.error(line, "the contract's `kind` is not `DataContract`", "write `kind: DataContract`");
        }
        let (table, properties) = self.table(&top)?;
        let (owner, steward) = team(&top);
        Some(Contract {
            api_version,
            id: self.required(&top, "id")?,
            name: text_of(&top, "name").unwrap_or_else(|| table.clone()),
            version: self.version(&top)?,
            status: self.required(&top, "status")?,
            domain: self.required(&top, "domain")?,
            purpose: description(&top),
            table,
            properties,
            owner,
            steward,
            retention: custom(&top, "retention").or_else(|| sla(&top, "retention")),
            raw,
        })
    }

    fn version(&mut self, top: &Mapping) -> Option<String> {
        let version = self.required(top, "version")?;
        let parts: Vec<&str> = version.split('.').collect();
        if parts.len() != 3 || parts.iter().any(|p| p.parse::<u32>().is_err()) {
            let line = self.line("version", "");
            self.error(line, "the contract's `version` is not of the form 1.2.3", "use semantic versioning");
        }
        Some(version)
    }

    fn table(&mut self, top: &Mapping) -> Option<(String, Vec<Property>)> {
        let tables = top.get("schema").and_then(Value::as_sequence).cloned().unwrap_or_default();
        let line = self.line("schema", "");
        let [Value::Mapping(table)] = tables.as_slice() else {
            self.error(
                line,
                "the contract does not hold exactly one schema object",
                "describe one table under `schema`",
            );
            return None;
        };
        self.known_keys(table, SCHEMA_KEYS, "a schema object", line.unwrap_or(0));
        let Some(name) = text_of(table, "name") else {
            self.error(line, "the schema object has no `name`", "name it like the product's folder");
            return None;
        };
        let mut after = self.line("properties", "").unwrap_or(0);
        let mut properties: Vec<Property> = Vec::new();
        for value in table.get("properties").and_then(Value::as_sequence).cloned().unwrap_or_default() {
            let Some(property) = self.property(&value, after) else { continue };
            after = property.line.unwrap_or(after);
            if properties.iter().any(|p| p.name == property.name) {
                self.error(property.line, format!("column `{}` stands twice", property.name), "remove one of them");
            } else {
                properties.push(property);
            }
        }
        if properties.is_empty() {
            self.error(line, "the contract describes no column", "list the view's columns under `properties`");
        }
        Some((name, properties))
    }

    fn property(&mut self, value: &Value, after: usize) -> Option<Property> {
        let Some(map) = value.as_mapping() else {
            self.error(Some(after), "a property is not a mapping", "write `- name: COLUMN`");
            return None;
        };
        let Some(name) = text_of(map, "name") else {
            self.error(Some(after), "a property has no `name`", "name it like the view's column");
            return None;
        };
        let line = line_of(self.text, "name", &name, after);
        self.known_keys(map, PROPERTY_KEYS, "a property", line.unwrap_or(after));
        let logical_type = match map.get("logicalType") {
            None => None,
            Some(value) => match serde_yaml_ng::from_value(value.clone()) {
                Ok(known) => Some(known),
                Err(_) => {
                    self.error(
                        line,
                        format!("column `{name}` has a `logicalType` that the standard does not know"),
                        "use string, date, timestamp, time, number, integer, boolean, array or object",
                    );
                    None
                }
            },
        };
        Some(Property {
            logical_type,
            physical_type: text_of(map, "physicalType"),
            classification: text_of(map, "classification"),
            classification_reason: custom(map, "classificationReason"),
            description: text_of(map, "description"),
            required: map.get("required").and_then(Value::as_bool).unwrap_or(false),
            primary_key: map.get("primaryKey").and_then(Value::as_bool).unwrap_or(false),
            name,
            line,
        })
    }

    fn known_keys(&mut self, map: &Mapping, known: &[&str], object: &str, after: usize) {
        for key in map.keys() {
            let key = key.as_str().unwrap_or("");
            if !known.contains(&key) {
                let line = line_of(self.text, key, "", after.saturating_sub(1));
                let help = match nearest(key, known) {
                    Some(near) => {
                        format!("did you mean `{near}`? additions of your own belong under `customProperties`")
                    }
                    None => "additions of your own belong under `customProperties`".to_owned(),
                };
                self.error(line, format!("`{key}` is not a key of {object}"), help);
            }
        }
    }

    fn required(&mut self, map: &Mapping, key: &str) -> Option<String> {
        let found = text_of(map, key).filter(|t| !t.is_empty());
        if found.is_none() {
            self.error(Some(1), format!("the contract has no `{key}`"), format!("add `{key}:` at the top level"));
        }
        found
    }

    fn line(&self, key: &str, value: &str) -> Option<usize> {
        line_of(self.text, key, value, 0)
    }

    fn error(&mut self, line: Option<usize>, what: impl Into<String>, help: impl Into<String>) {
        self.found.push(
            Diagnostic::error(self.file, line, what)
                .because("the mesh enforces the contract, so it must be able to read all of it (ODCS 3.1)")
                .help(help),
        );
    }
}

/// Scalars of a mapping as text: YAML reads `version: 1.0` as a number.
fn text_of(map: &Mapping, key: &str) -> Option<String> {
    scalar(map.get(key)?)
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        _ => None,
    }
}

fn description(top: &Mapping) -> Option<String> {
    match top.get("description")? {
        Value::Mapping(map) => text_of(map, "purpose"),
        other => scalar(other),
    }
}

fn custom(map: &Mapping, property: &str) -> Option<String> {
    pairs(map, "customProperties", property)
}

fn sla(map: &Mapping, property: &str) -> Option<String> {
    pairs(map, "slaProperties", property)
}

fn pairs(map: &Mapping, list: &str, property: &str) -> Option<String> {
    map.get(list)?.as_sequence()?.iter().filter_map(Value::as_mapping).find_map(|pair| {
        (text_of(pair, "property")? == property).then(|| {
            let value = text_of(pair, "value")?;
            Some(match text_of(pair, "unit") {
                Some(unit) => format!("{value} {unit}"),
                None => value,
            })
        })?
    })
}

/// Owner and steward of the team: a list of members (3.0) or an object with `members` (3.1).
fn team(top: &Mapping) -> (Option<String>, Option<String>) {
    let members = match top.get("team") {
        Some(Value::Sequence(list)) => list.clone(),
        Some(Value::Mapping(team)) => team.get("members").and_then(Value::as_sequence).cloned().unwrap_or_default(),
        _ => Vec::new(),
    };
    let with_role = |role: &str| {
        members.iter().filter_map(Value::as_mapping).find_map(|member| {
            let is = text_of(member, "role").is_some_and(|r| r.to_lowercase().contains(role));
            let gone = member.contains_key("dateOut");
            (is && !gone).then(|| text_of(member, "username"))?
        })
    };
    (with_role("owner"), with_role("steward"))
}

/// The known key that differs in at most two edits.
fn nearest<'a>(key: &str, known: &[&'a str]) -> Option<&'a str> {
    known.iter().map(|k| (edits(key, k), *k)).filter(|(n, _)| *n <= 2).min().map(|(_, k)| k)
}

fn edits(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.to_lowercase().chars().collect(), b.to_lowercase().chars().collect());
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut before = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let cost = (before + usize::from(x != y)).min(row[j] + 1).min(row[j + 1] + 1);
            before = row[j + 1];
            row[j + 1] = cost;
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    pub const GOOD: &str = "\
apiVersion: v3.1.0
kind: DataContract
id: urn:ward:ehr:patients
name: Patients
version: 1.0.0
status: active
domain: ehr
description:
  purpose: one row per patient
schema:
  - name: patients
    logicalType: object
    physicalType: table
    properties:
      - name: id
        logicalType: string
        primaryKey: true
        required: true
      - name: birth_date
        logicalType: date
        classification: birth-date
slaProperties:
  - property: retention
    value: 6
    unit: y
team:
  name: registration
  members:
    - username: m.okafor
      role: Product Owner
    - username: j.silva
      role: Data Steward
customProperties:
  - property: x
    value: y
";

    #[test]
    fn reads_the_parts_we_act_on() {
        let (contract, found) = parse("contract.yaml", GOOD);
        assert_eq!(found, vec![]);
        let contract = contract.unwrap();
        assert_eq!(contract.table, "patients");
        assert_eq!(contract.owner.as_deref(), Some("m.okafor"));
        assert_eq!(contract.steward.as_deref(), Some("j.silva"));
        assert_eq!(contract.retention.as_deref(), Some("6 y"));
        assert_eq!(contract.properties.len(), 2);
        assert_eq!(contract.properties[0].line, Some(15));
        assert!(contract.properties[0].primary_key && contract.properties[0].required);
        assert_eq!(contract.properties[1].logical_type, Some(LogicalType::Date));
    }

    #[test]
    fn says_what_is_wrong_and_where() {
        let cases = [
            (
                "classification: birth-date",
                "clasification: birth-date",
                "`clasification` is not a key of a property",
                21,
            ),
            ("status: active", "statuss: active", "`statuss` is not a key of a contract", 6),
            ("kind: DataContract", "kind: Contract", "the contract's `kind` is not `DataContract`", 2),
            ("version: 1.0.0", "version: one", "the contract's `version` is not of the form 1.2.3", 5),
            ("name: birth_date", "name: id", "column `id` stands twice", 19),
        ];
        for (good, bad, what, line) in cases {
            let (_, found) = parse("contract.yaml", &GOOD.replace(good, bad));
            let hit = found.iter().find(|d| d.what == what);
            assert_eq!(hit.and_then(|d| d.line), Some(line), "{what}: {found:?}");
        }
        let (none, found) = parse("contract.yaml", "a: [");
        assert!(none.is_none() && found[0].what == "the contract is not valid YAML");
    }
}
