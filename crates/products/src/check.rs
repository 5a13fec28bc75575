//! Compares a contract with its view, and makes a [`Product`] of the two when nothing is wrong.
//!
//! Errors keep the product closed. Classes come from the FHIR element a column takes its values from
//! ([`crate::classify`]); a contract may tighten them freely and loosen them with a reason.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use base::{DataClass, DomainName};
use fhir::json::Value;
use fhir::view::{ColumnKind, View, ViewColumn};

use crate::classify;
use crate::contract::{Contract, LogicalType, Property};
use crate::diagnostic::Diagnostic;
use crate::registry::Product;
use crate::sql::{ColumnType, ProductColumn, TableName};

/// The files of a product, as read.
pub struct Sources<'a> {
    pub domain: &'a DomainName,
    pub folder: &'a str,
    pub contract_file: &'a str,
    pub contract_text: &'a str,
    pub view_file: &'a str,
    pub view_text: &'a str,
}

/// The product, or `None` when an error stands among the diagnostics.
pub fn check(sources: &Sources<'_>) -> (Option<Product>, Vec<Diagnostic>) {
    let (contract, found) = crate::contract::parse(sources.contract_file, sources.contract_text);
    let mut checker = Checker { sources, found };
    let view = checker.view();
    let product = match (contract, view) {
        (Some(contract), Some((view, definition))) => Some(checker.product(contract, view, &definition)),
        _ => None,
    };
    let clean = !checker.found.iter().any(Diagnostic::is_error);
    (product.filter(|_| clean), checker.found)
}

struct Checker<'a> {
    sources: &'a Sources<'a>,
    found: Vec<Diagnostic>,
}

impl Checker<'_> {
    fn view(&mut self) -> Option<(View, Value)> {
        let file = self.sources.view_file;
        let limits = fhir::json::ParseLimits::from(&base::Limits::default());
        let definition = match fhir::json::parse(self.sources.view_text.as_bytes(), &limits) {
            Ok(value) => value,
            Err(error) => {
                let line = Some(error.line);
                self.found.push(
                    Diagnostic::error(file, line, "the view is not valid JSON")
                        .because(error.reason)
                        .help("correct the line"),
                );
                return None;
            }
        };
        match View::parse(&definition) {
            Ok(view) => {
                for warning in view.warnings() {
                    self.found.push(Diagnostic::warning(file, None, format!("{}: {}", warning.place, warning.text)));
                }
                Some((view, definition))
            }
            Err(error) => {
                self.found.push(
                    Diagnostic::error(file, None, format!("{}: {}", error.place, error.text))
                        .because("a product's rows are made by a SQL on FHIR ViewDefinition")
                        .help("correct the view at the place named"),
                );
                None
            }
        }
    }

    fn product(&mut self, contract: Contract, view: View, definition: &Value) -> Product {
        self.names(&contract);
        self.people(&contract);
        let paths = column_paths(definition);
        let columns = view.columns().iter().filter_map(|column| {
            let Some(property) = contract.properties.iter().find(|p| p.name == column.name) else {
                self.missing_in_contract(column);
                return None;
            };
            let derived = derived_class(view.resource(), column, &paths);
            Some(ProductColumn {
                name: column.name.clone(),
                kind: self.kind(property, column),
                collection: column.collection,
                class: self.class(property, derived),
                description: property.description.clone().or_else(|| column.description.clone()),
                nullable: !property.required,
                primary_key: property.primary_key,
                source_path: column.source_path.clone().unwrap_or_else(|| joined(&paths, &column.name)),
            })
        });
        let columns: Vec<ProductColumn> = columns.collect();
        for property in &contract.properties {
            if !view.columns().iter().any(|column| column.name == property.name) {
                self.found.push(
                    Diagnostic::error(
                        self.sources.contract_file,
                        property.line,
                        format!("column `{}` stands in the contract and not in the view", property.name),
                    )
                    .because("the contract promises what the view does not make")
                    .help("add it to view.json, or remove it from the contract"),
                );
            }
        }
        Product {
            table: TableName { domain: self.sources.domain.clone(), product: self.sources.folder.to_owned() },
            title: contract.name,
            version: contract.version,
            status: contract.status,
            description: contract.purpose,
            owner: contract.owner.unwrap_or_default(),
            steward: contract.steward,
            retention: contract.retention,
            columns,
            definition: crate::registry::hash(&[self.sources.contract_text, self.sources.view_text]),
            view: Arc::new(view),
        }
    }

    fn names(&mut self, contract: &Contract) {
        let (file, folder, domain) = (self.sources.contract_file, self.sources.folder, self.sources.domain);
        if contract.table != folder {
            self.found.push(
                Diagnostic::error(
                    file,
                    self.line("schema"),
                    "the schema object is not named like the product's folder",
                )
                .because(format!("the product is read in SQL as `{domain}.{folder}`"))
                .help(format!("write `- name: {folder}` under `schema`")),
            );
        }
        if contract.domain != domain.as_str() {
            self.found.push(
                Diagnostic::error(
                    file,
                    self.line("domain"),
                    "the contract names another domain than the folder it is in",
                )
                .because("a product belongs to the domain that publishes it")
                .help(format!("write `domain: {domain}`")),
            );
        }
    }

    fn people(&mut self, contract: &Contract) {
        let file = self.sources.contract_file;
        if contract.owner.is_none() {
            self.found.push(
                Diagnostic::error(file, self.line("team"), "the contract names no owner")
                    .because("somebody must answer for a product before it can be read")
                    .help("add a member with `role: Owner` and a `username` under `team`"),
            );
        }
        if contract.steward.is_none() {
            self.found.push(
                Diagnostic::warning(file, self.line("team"), "the contract names no steward")
                    .help("add a member with `role: Steward` under `team`"),
            );
        }
        if contract.retention.is_none() {
            self.found.push(
                Diagnostic::warning(file, self.line("slaProperties"), "the contract names no retention")
                    .because("without it the domain's own retention class holds")
                    .help("add `- property: retention` with `value` and `unit` under `slaProperties`"),
            );
        }
    }

    fn missing_in_contract(&mut self, column: &ViewColumn) {
        self.found.push(
            Diagnostic::error(
                self.sources.contract_file,
                self.line("properties"),
                format!("column `{}` stands in the view and not in the contract", column.name),
            )
            .because("a column that nobody described and classified is not published")
            .help("describe it under `properties`, or remove it from view.json"),
        );
    }

    fn kind(&mut self, property: &Property, column: &ViewColumn) -> ColumnType {
        if let Some(logical) = property.logical_type
            && !agrees(logical, column)
        {
            self.found.push(
                Diagnostic::error(
                    self.sources.contract_file,
                    property.line,
                    format!("column `{}` has another type in the contract than in the view", property.name),
                )
                .because(format!(
                    "the view makes {}{}",
                    column.kind.name(),
                    if column.collection { ", in lists" } else { "" }
                ))
                .help("change `logicalType`, or the view's `type`"),
            );
        }
        match (physical(property.physical_type.as_deref()), column.kind) {
            (Some(ColumnType::Double), ColumnKind::Decimal) => ColumnType::Double,
            (Some(decimal @ ColumnType::Decimal { .. }), ColumnKind::Decimal) => decimal,
            (_, ColumnKind::Decimal) => ColumnType::DECIMAL,
            (_, ColumnKind::Boolean) => ColumnType::Boolean,
            (_, ColumnKind::Integer | ColumnKind::Integer64) => ColumnType::Integer,
            _ => ColumnType::Text,
        }
    }

    /// The class: the contract's where it names one, else the derived one.
    fn class(&mut self, property: &Property, derived: DataClass) -> DataClass {
        let file = self.sources.contract_file;
        let Some(text) = &property.classification else { return derived };
        let Some(named) = DataClass::parse(text) else {
            let known: Vec<&str> = DataClass::ALL.iter().map(|class| class.code()).collect();
            self.found.push(
                Diagnostic::error(
                    file,
                    property.line,
                    format!("column `{}` has an unknown classification", property.name),
                )
                .because("masks are written against classes, so each column has one that policy knows")
                .help(format!("use one of {}", known.join(", "))),
            );
            return DataClass::FreeText;
        };
        if derived.identifies() && !named.identifies() && property.classification_reason.is_none() {
            self.found.push(
                Diagnostic::error(
                    file,
                    property.line,
                    format!("column `{}` is classified `{named}` and takes its values from `{derived}`", property.name),
                )
                .because("a class that policy treats less strictly needs its reason")
                .help("leave `classification` out, or add the custom property `classificationReason`"),
            );
            return derived;
        }
        named
    }

    fn line(&self, key: &str) -> Option<usize> {
        crate::diagnostic::line_of(self.sources.contract_text, key, "", 0)
    }
}

fn agrees(logical: LogicalType, column: &ViewColumn) -> bool {
    use ColumnKind::*;
    if column.collection {
        return logical == LogicalType::Array;
    }
    match logical {
        // Dates are partial in FHIR and stay text.
        LogicalType::String => !matches!(column.kind, Boolean | Integer | Integer64 | Decimal),
        LogicalType::Date => matches!(column.kind, Date | DateTime),
        LogicalType::Timestamp => matches!(column.kind, DateTime | Instant),
        LogicalType::Time => column.kind == Time,
        LogicalType::Number => matches!(column.kind, Decimal | Integer | Integer64),
        LogicalType::Integer => matches!(column.kind, Integer | Integer64),
        LogicalType::Boolean => column.kind == Boolean,
        LogicalType::Array | LogicalType::Object => false,
    }
}

/// The physical types that say more than the view does.
fn physical(text: Option<&str>) -> Option<ColumnType> {
    let text = text?.trim().to_ascii_lowercase();
    if matches!(text.as_str(), "double" | "float" | "double precision" | "float8" | "real") {
        return Some(ColumnType::Double);
    }
    let inside = ["decimal(", "numeric("].iter().find_map(|p| text.strip_prefix(p))?.strip_suffix(')')?;
    let (precision, scale) = inside.split_once(',').unwrap_or((inside, "0"));
    let (precision, scale): (u8, i8) = (precision.trim().parse().ok()?, scale.trim().parse().ok()?);
    let fits = (1..=38).contains(&precision) && scale >= 0 && scale as u8 <= precision;
    fits.then_some(ColumnType::Decimal { precision, scale })
}

/// The class of what the view puts into a column; several sources of different classes make it free text.
fn derived_class(rtype: &str, column: &ViewColumn, paths: &BTreeMap<String, BTreeSet<String>>) -> DataClass {
    if let Some(path) = &column.source_path {
        return classify::derive(rtype, path);
    }
    let mut classes = paths.get(&column.name).into_iter().flatten().map(|path| classify::derive(rtype, path));
    let Some(first) = classes.next() else { return DataClass::FreeText };
    if classes.all(|class| class == first) { first } else { DataClass::FreeText }
}

/// The FHIRPaths that each column name has in the definition, with the `forEach` they stand under.
fn column_paths(definition: &Value) -> BTreeMap<String, BTreeSet<String>> {
    fn walk(select: &Value, prefix: &str, depth: usize, out: &mut BTreeMap<String, BTreeSet<String>>) {
        if depth == 0 {
            return;
        }
        let each = ["forEach", "forEachOrNull"].iter().find_map(|key| select.get(key)?.as_str());
        let prefix = match each {
            Some(each) => join(prefix, each),
            None => prefix.to_owned(),
        };
        for column in select.get("column").and_then(Value::as_array).into_iter().flatten() {
            if let (Some(name), Some(path)) =
                (column.get("name").and_then(Value::as_str), column.get("path").and_then(Value::as_str))
            {
                out.entry(name.to_owned()).or_default().insert(join(&prefix, path));
            }
        }
        for key in ["select", "unionAll"] {
            for inner in select.get(key).and_then(Value::as_array).into_iter().flatten() {
                walk(inner, &prefix, depth - 1, out);
            }
        }
    }
    let mut out = BTreeMap::new();
    walk(definition, "", 32, &mut out);
    out
}

fn join(prefix: &str, path: &str) -> String {
    match (prefix, path) {
        ("", path) => path.to_owned(),
        (prefix, "$this") => prefix.to_owned(),
        (prefix, path) => format!("{prefix}.{path}"),
    }
}

fn joined(paths: &BTreeMap<String, BTreeSet<String>>, name: &str) -> String {
    paths.get(name).map(|paths| paths.iter().cloned().collect::<Vec<_>>().join(" | ")).unwrap_or_default()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) const VIEW: &str = r#"{
  "resourceType": "ViewDefinition", "name": "patients", "status": "active", "resource": "Patient",
  "select": [
    { "column": [
      { "name": "id", "path": "getResourceKey()", "type": "string" },
      { "name": "birth_date", "path": "birthDate", "type": "date" },
      { "name": "gender", "path": "gender", "type": "code" } ] },
    { "forEachOrNull": "name.first()", "column": [ { "name": "family", "path": "family", "type": "string" } ] }
  ] }"#;

    pub(crate) const CONTRACT: &str = "\
apiVersion: v3.1.0
kind: DataContract
id: urn:ward:ehr:patients
name: Patients
version: 1.0.0
status: active
domain: ehr
schema:
  - name: patients
    properties:
      - name: id
        logicalType: string
        primaryKey: true
        required: true
      - name: birth_date
        logicalType: date
      - name: gender
        logicalType: string
        classification: demographic
      - name: family
        logicalType: string
slaProperties:
  - property: retention
    value: 6
    unit: y
team:
  members:
    - username: m.okafor
      role: Owner
    - username: j.silva
      role: Steward
";

    fn run(contract: &str, view: &str) -> (Option<Product>, Vec<Diagnostic>) {
        check(&Sources {
            domain: &DomainName::parse("ehr").unwrap(),
            folder: "patients",
            contract_file: "contract.yaml",
            contract_text: contract,
            view_file: "view.json",
            view_text: view,
        })
    }

    #[test]
    fn a_good_product_has_classes_from_its_paths() {
        let (product, found) = run(CONTRACT, VIEW);
        assert_eq!(found, vec![]);
        let product = product.unwrap();
        let classes: Vec<(&str, DataClass)> = product.columns.iter().map(|c| (c.name.as_str(), c.class)).collect();
        assert_eq!(
            classes,
            [
                ("id", DataClass::TechnicalKey),
                ("birth_date", DataClass::BirthDate),
                ("gender", DataClass::Demographic),
                ("family", DataClass::Name)
            ]
        );
        assert!(!product.columns[0].nullable && product.columns[0].primary_key);
    }

    #[test]
    fn disagreements_are_found_with_their_line() {
        for (from, to, what, line) in [
            ("name: family", "name: surname", "column `surname` stands in the contract and not in the view", Some(20)),
            ("name: family", "name: surname", "column `family` stands in the view and not in the contract", Some(10)),
            (
                "logicalType: date",
                "logicalType: integer",
                "column `birth_date` has another type in the contract than in the view",
                Some(15),
            ),
            (
                "classification: demographic",
                "classification: secret",
                "column `gender` has an unknown classification",
                Some(17),
            ),
            ("role: Owner", "role: Member", "the contract names no owner", Some(26)),
            (
                "domain: ehr",
                "domain: laboratory",
                "the contract names another domain than the folder it is in",
                Some(7),
            ),
            (
                "  - name: patients",
                "  - name: people",
                "the schema object is not named like the product's folder",
                Some(8),
            ),
        ] {
            let (product, found) = run(&CONTRACT.replace(from, to), VIEW);
            assert!(product.is_none(), "{what}");
            let hit = found.iter().find(|d| d.what == what).unwrap_or_else(|| panic!("{what}: {found:?}"));
            assert_eq!(hit.line, line, "{what}");
        }
        let loose =
            CONTRACT.replace("      - name: family\n", "      - name: family\n        classification: clinical\n");
        let (product, found) = run(&loose, VIEW);
        assert!(product.is_none() && found[0].what.contains("takes its values from `name`"), "{found:?}");
        let (product, found) = run(CONTRACT, "{");
        assert!(product.is_none() && found[0].file == "view.json");
        let (product, found) = run(CONTRACT, r#"{"resourceType":"ViewDefinition"}"#);
        assert!(product.is_none() && !found.is_empty());
    }

    #[test]
    fn physical_types_refine_numbers() {
        for (text, kind) in [
            ("DECIMAL(10,2)", Some(ColumnType::Decimal { precision: 10, scale: 2 })),
            ("numeric(5)", Some(ColumnType::Decimal { precision: 5, scale: 0 })),
            ("double precision", Some(ColumnType::Double)),
            ("decimal(99,1)", None),
            ("decimal(3,9)", None),
            ("varchar", None),
        ] {
            assert_eq!(physical(Some(text)), kind, "{text}");
        }
    }
}
