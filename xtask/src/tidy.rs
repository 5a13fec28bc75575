//! Tidy: the walls of the house as a test. Floors, dependency walls, file openings, licences, forbidden words.
//! Prints the longest files and functions as a place to look; those never fail.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Floors {
    floors: BTreeMap<String, u32>,
    allow: Vec<Allowance>,
    wall: Vec<Wall>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Allowance {
    from: String,
    to: String,
    #[allow(dead_code)] // For the reader of the table.
    why: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wall {
    #[serde(rename = "crate")]
    name: String,
    #[serde(default)]
    only: Vec<String>,
    #[serde(default)]
    never: Vec<String>,
}

/// Licences we link (the list in deny.toml).
const LICENCES: &[&str] = &[
    "Apache-2.0",
    "MIT",
    "MIT-0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "MPL-2.0",
    "Unicode-3.0",
    "Zlib",
    "0BSD",
    "CC0-1.0",
    "BSL-1.0",
    "CDLA-Permissive-2.0",
    "OpenSSL",
    "Unlicense",
    "bzip2-1.0.6",
];

pub fn run(root: &Path) -> Result<(), Vec<String>> {
    let mut faults = Vec::new();
    let metadata = cargo_metadata(root).map_err(|error| vec![error])?;
    let floors: Floors = fs::read_to_string(root.join("floors.toml"))
        .map_err(|e| e.to_string())
        .and_then(|text| toml::from_str(&text).map_err(|e| e.to_string()))
        .map_err(|error| vec![format!("floors.toml: {error}")])?;
    check_floors(&metadata, &floors, &mut faults);
    check_walls(&metadata, &floors, &mut faults);
    check_licences(&metadata, &mut faults);
    let files = rust_files(root);
    for file in &files {
        check_file(root, file, &mut faults);
    }
    report_longest(root, &files);
    if faults.is_empty() { Ok(()) } else { Err(faults) }
}

fn cargo_metadata(root: &Path) -> Result<Value, String> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked"])
        .current_dir(root)
        .output()
        .map_err(|e| e.to_string())?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    serde_json::from_slice(&output.stdout).map_err(|e| e.to_string())
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

fn list<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value[key].as_array().into_iter().flatten()
}

/// Packages of the workspace but for xtask, which is a tool and no part of the product.
fn members(metadata: &Value) -> Vec<&Value> {
    let ids: HashSet<&str> = list(metadata, "workspace_members").filter_map(Value::as_str).collect();
    list(metadata, "packages").filter(|p| ids.contains(text(p, "id")) && text(p, "name") != "xtask").collect()
}

fn check_floors(metadata: &Value, floors: &Floors, faults: &mut Vec<String>) {
    let members = members(metadata);
    let names: BTreeSet<&str> = members.iter().map(|p| text(p, "name")).collect();
    for name in floors.floors.keys().filter(|name| !names.contains(name.as_str())) {
        faults.push(format!("floors.toml names `{name}`, which is no crate: remove it from the table"));
    }
    let mut used = HashSet::new();
    for package in &members {
        let from = text(package, "name");
        let Some(from_floor) = floors.floors.get(from) else {
            faults.push(format!("crate `{from}` has no floor: add it to floors.toml"));
            continue;
        };
        for dependency in list(package, "dependencies") {
            let to = text(dependency, "name");
            // What a crate's own tests use is no part of its floor.
            if !names.contains(to) || text(dependency, "kind") == "dev" {
                continue;
            }
            let Some(to_floor) = floors.floors.get(to) else { continue };
            let allowed = floors.allow.iter().any(|a| a.from == from && a.to == to);
            if allowed {
                used.insert((from.to_owned(), to.to_owned()));
            }
            if to_floor >= from_floor && !allowed {
                faults.push(format!(
                    "`{from}` (floor {from_floor}) uses `{to}` (floor {to_floor}): a crate sees only lower floors; move the code down, or put a port where it is needed"
                ));
            }
        }
    }
    for unused in floors.allow.iter().filter(|a| !used.contains(&(a.from.clone(), a.to.clone()))) {
        faults.push(format!(
            "floors.toml allows `{}` to use `{}`, but it does not: remove the allowance",
            unused.from, unused.to
        ));
    }
}

/// Every crate that reaches a dependency by normal edges, as `cargo tree -i` would show it.
fn check_walls(metadata: &Value, floors: &Floors, faults: &mut Vec<String>) {
    let names: HashMap<&str, &str> = list(metadata, "packages").map(|p| (text(p, "id"), text(p, "name"))).collect();
    let mut uses: HashMap<&str, Vec<&str>> = HashMap::new();
    for node in list(&metadata["resolve"], "nodes") {
        for dependency in list(node, "deps") {
            let normal = list(dependency, "dep_kinds").any(|kind| kind["kind"].is_null());
            if normal {
                uses.entry(text(node, "id")).or_default().push(text(dependency, "pkg"));
            }
        }
    }
    let members = members(metadata);
    for wall in &floors.wall {
        for package in &members {
            let name = text(package, "name");
            let mut seen = HashSet::new();
            let mut stack = vec![text(package, "id")];
            let mut reaches = false;
            while let Some(id) = stack.pop() {
                if seen.insert(id) {
                    reaches |= names.get(id) == Some(&wall.name.as_str()) && id != text(package, "id");
                    stack.extend(uses.get(id).into_iter().flatten());
                }
            }
            let may = if wall.never.is_empty() {
                wall.only.iter().any(|only| only == name)
            } else {
                !wall.never.iter().any(|never| never == name)
            };
            if reaches && !may {
                faults.push(format!("`{name}` reaches `{}`, from which it is walled off (floors.toml)", wall.name));
            }
            if !reaches && wall.only.iter().any(|only| only == name) {
                faults.push(format!(
                    "the wall around `{}` names `{name}`, which does not reach it: the check would prove nothing",
                    wall.name
                ));
            }
        }
    }
}

fn check_licences(metadata: &Value, faults: &mut Vec<String>) {
    for package in list(metadata, "packages") {
        let licence = text(package, "license");
        if text(package, "source").is_empty() {
            continue;
        }
        // An SPDX expression is fine when one arm of each OR holds only licences we link.
        let fine = licence.replace('/', " OR ").split(" OR ").any(|arm| {
            arm.split(" AND ").all(|name| {
                let name = name.trim().trim_matches(['(', ')']);
                let name = name.split(" WITH ").next().unwrap_or(name);
                LICENCES.contains(&name)
            })
        });
        if !fine && !list(package, "license_file").next().is_some_and(Value::is_string) {
            faults.push(format!(
                "`{}` {} is licensed `{licence}`, which is not on the list in deny.toml",
                text(package, "name"),
                text(package, "version")
            ));
        }
    }
}

fn rust_files(root: &Path) -> Vec<PathBuf> {
    let output = Command::new("git").args(["ls-files", "-co", "--exclude-standard", "*.rs"]).current_dir(root).output();
    let Ok(output) = output else { return Vec::new() };
    String::from_utf8_lossy(&output.stdout).lines().map(|line| root.join(line)).filter(|p| p.exists()).collect()
}

fn is_generated(file: &Path) -> bool {
    file.components().any(|part| part.as_os_str() == "gen")
}

fn check_file(root: &Path, file: &Path, faults: &mut Vec<String>) {
    let Ok(content) = fs::read_to_string(file) else { return };
    let shown = file.strip_prefix(root).unwrap_or(file).display();
    if !content.starts_with("//!") {
        faults.push(format!("{shown}: begin with `//!`: what is here, what is never here, where to look next"));
    }
    for (n, line) in content.lines().enumerate() {
        let words = ["todo!(", "unimplemented!(", "dbg!("];
        if words.iter().any(|word| line.contains(word))
            && !line.trim_start().starts_with("//")
            && !shown.to_string().starts_with("xtask")
        {
            faults.push(format!("{shown}:{}: finish it, or leave it out", n + 1));
        }
        if line.contains("unsafe ")
            && line.contains('{')
            && !line.trim_start().starts_with("//")
            && !shown.to_string().starts_with("xtask")
        {
            faults.push(format!("{shown}:{}: unsafe code needs its reason in ARCHITECTURE.md and here", n + 1));
        }
    }
}

fn report_longest(root: &Path, files: &[PathBuf]) {
    let mut lengths = Vec::new();
    let mut functions = Vec::new();
    for file in files.iter().filter(|f| !is_generated(f)) {
        let Ok(content) = fs::read_to_string(file) else { continue };
        let shown = file.strip_prefix(root).unwrap_or(file).display().to_string();
        let lines: Vec<&str> = content.lines().collect();
        lengths.push((lines.len(), shown.clone()));
        for (start, line) in lines.iter().enumerate() {
            let trimmed = line.trim_start();
            let indent = line.len() - trimmed.len();
            let is_function = ["fn ", "pub fn ", "async fn ", "pub async fn ", "pub(crate) fn ", "pub(super) fn "]
                .iter()
                .any(|head| trimmed.starts_with(head));
            if is_function {
                let close = format!("{}}}", " ".repeat(indent));
                let length = lines[start..].iter().position(|l| *l == close).unwrap_or(0);
                functions.push((length, format!("{shown}:{}", start + 1)));
            }
        }
    }
    for (title, mut rows) in [("longest files", lengths), ("longest functions", functions)] {
        rows.sort_by(|a, b| b.cmp(a));
        let top: Vec<String> = rows.iter().take(5).map(|(n, at)| format!("{at} ({n})")).collect();
        eprintln!("tidy: {title}: {}", top.join(", "));
    }
}
