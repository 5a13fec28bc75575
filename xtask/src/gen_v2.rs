//! `cargo xtask gen v2 [FOLDER]`: writes the tables of `crates/clinical/maps/guide` from the v2-to-FHIR guide's maps.
//!
//! Facts only go into the tables: fields, conditions, elements, types, codes. What the guide leaves to its reader (a
//! condition told in prose, a row that cannot be executed) is decided in `crates/clinical/maps/decisions.toml`; a row
//! that is not decided fails the generation. The reader of the tables, which documents their form, is
//! `clinical::v2::plan`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Decisions {
    decide: Vec<Decision>,
    /// The function of the program that reads a type of the guide's, and why it is one.
    function: Vec<Function>,
}

/// What becomes of the rows that match. The first decision that matches a row counts.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Decision {
    /// The map: `PV1[Patient]`, or a message: `ADT_A01`. `*` stands for any text, in all patterns.
    map: Option<String>,
    /// The field or component: `PV1-16`; in a message the segment.
    field: Option<String>,
    /// The element as the guide writes it; in a message the map that the row names.
    path: Option<String>,
    /// The condition as the guide writes it, computable or told.
    condition: Option<String>,
    /// `take` (as it stands, the told condition counts as met), `drop`, or `fix`.
    then: Then,
    /// For `fix`: what stands in the place of the guide's.
    new_condition: Option<String>,
    new_path: Option<String>,
    new_type: Option<String>,
    new_constant: Option<String>,
    new_references: Option<String>,
    #[allow(dead_code)] // For the reader of the file, who must find one.
    reason: String,
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Then {
    Take,
    Drop,
    Fix,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Function {
    map: String,
    #[allow(dead_code)]
    reason: String,
}

/// A row of any of the guide's maps.
#[derive(Debug, Clone, Default)]
struct Row {
    map: String,
    field: String,
    v2_type: String,
    computable: String,
    told: String,
    path: String,
    type_map: String,
    vocabulary: String,
    constant: String,
    references: String,
}

pub fn run(root: &Path, folder: Option<&str>) -> Result<(), String> {
    let out = root.join("crates/clinical/maps/guide");
    std::fs::create_dir_all(&out).map_err(|e| format!("cannot make {}: {e}", out.display()))?;
    for (name, table) in tables(root, &guide_folder(root, folder))? {
        std::fs::write(out.join(name), &table).map_err(|e| format!("cannot write {name}: {e}"))?;
        eprintln!("{name}: {} lines, {} bytes", table.lines().count(), table.len());
    }
    Ok(())
}

/// The argument, else `WARD_V2_TO_FHIR`, else the shared data beside the checkout.
fn guide_folder(root: &Path, folder: Option<&str>) -> PathBuf {
    match folder {
        Some(folder) => PathBuf::from(folder),
        #[allow(clippy::disallowed_methods)] // The tool's own setting, as an argument by another way.
        None => match std::env::var_os("WARD_V2_TO_FHIR") {
            Some(folder) => PathBuf::from(folder),
            None => root.join("../shared/data/v2-to-fhir"),
        },
    }
}

/// (file name, content) of every table.
fn tables(root: &Path, guide: &Path) -> Result<Vec<(&'static str, String)>, String> {
    let path = root.join("crates/clinical/maps/decisions.toml");
    let text = std::fs::read_to_string(&path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
    let decisions: Decisions = toml::from_str(&text).map_err(|e| format!("{}: {e}", path.display()))?;
    let mut desk = Desk { used: vec![false; decisions.decide.len()], decisions, undecided: Vec::new() };
    let segments = desk.maps(&guide.join("segments"))?;
    let types = desk.maps(&guide.join("datatypes"))?;
    let messages = desk.messages(&guide.join("messages"))?;
    desk.check_types(&segments, &types);
    if !desk.undecided.is_empty() {
        let list = desk.undecided.join("\n  ");
        return Err(format!("{} rows wait for a decision in {}:\n  {list}", desk.undecided.len(), path.display()));
    }
    if let Some(at) = desk.used.iter().position(|used| !used) {
        let decision = &desk.decisions.decide[at];
        return Err(format!(
            "a decision matches no row: map {:?}, field {:?}, path {:?}",
            decision.map, decision.field, decision.path
        ));
    }
    Ok(vec![
        ("segments.txt", map_table(&segments)),
        ("messages.txt", messages),
        ("codes.txt", codes(&guide.join("codesystems"))?),
    ])
}

struct Desk {
    decisions: Decisions,
    used: Vec<bool>,
    undecided: Vec<String>,
}

type Maps = BTreeMap<String, Vec<Row>>;

impl Desk {
    /// Segment or data type maps by name.
    fn maps(&mut self, folder: &Path) -> Result<Maps, String> {
        let mut maps = Maps::new();
        for (name, lines) in sheets(folder)? {
            let rows = maps.entry(name.clone()).or_default();
            for line in lines {
                let cell = |n: usize| one_line(line.get(n).map_or("", String::as_str));
                let path = if cell(9).is_empty() { cell(10) } else { cell(9) };
                let (computable, told) = condition(&cell(6), &cell(7), &cell(8));
                let constant = if cell(16).is_empty() { cell(17) } else { cell(16) };
                let (path, constant) = assigned(path, constant);
                let row = Row {
                    map: name.clone(),
                    field: cell(1),
                    v2_type: cell(3),
                    computable,
                    told,
                    path,
                    type_map: cell(14),
                    vocabulary: cell(15),
                    constant,
                    references: String::new(),
                };
                if row.path.is_empty() && row.told.is_empty() {
                    continue;
                }
                rows.extend(self.decide(row));
            }
        }
        Ok(maps)
    }

    /// The row as it goes into the table, if it does. A condition told in prose only needs a decision.
    fn decide(&mut self, mut row: Row) -> Option<Row> {
        let matches = |pattern: &Option<String>, text: &str| pattern.as_deref().is_none_or(|p| like(p, text));
        let found = self.decisions.decide.iter().position(|d| {
            matches(&d.map, &row.map)
                && matches(&d.field, &row.field)
                && matches(&d.path, &row.path)
                && (matches(&d.condition, &row.computable) || matches(&d.condition, &row.told))
        });
        let Some(at) = found else {
            if !row.told.is_empty() {
                self.undecided.push(format!("{} {} {}: {}", row.map, row.field, row.path, row.told));
                return None;
            }
            return Some(row).filter(|row| !row.path.is_empty());
        };
        self.used[at] = true;
        let decision = &self.decisions.decide[at];
        match decision.then {
            Then::Drop => return None,
            Then::Take => {}
            Then::Fix => {
                let put = |place: &mut String, new: &Option<String>| {
                    if let Some(new) = new {
                        place.clone_from(new);
                    }
                };
                put(&mut row.computable, &decision.new_condition);
                put(&mut row.path, &decision.new_path);
                put(&mut row.type_map, &decision.new_type);
                put(&mut row.constant, &decision.new_constant);
                put(&mut row.references, &decision.new_references);
            }
        }
        Some(row).filter(|row| !row.path.is_empty())
    }

    /// References to data type maps resolve by name without regard to the case of letters, and every map has the
    /// function that reads its type.
    fn check_types(&mut self, segments: &Maps, types: &Maps) {
        let lower = |name: &str| name.to_lowercase();
        let known: BTreeSet<String> = types.keys().map(|name| lower(name)).collect();
        let functions: BTreeSet<String> = self.decisions.function.iter().map(|f| lower(&f.map)).collect();
        for name in known.difference(&functions).chain(functions.difference(&known)) {
            self.undecided.push(format!("the type map {name} and its function do not meet"));
        }
        for row in segments.values().flatten() {
            if !row.type_map.is_empty() && !known.contains(&lower(&row.type_map)) {
                self.undecided.push(format!("{} {}: no type map {}", row.map, row.field, row.type_map));
            }
        }
    }

    fn messages(&mut self, folder: &Path) -> Result<String, String> {
        let mut out = String::new();
        for (name, lines) in sheets(folder)? {
            let _ = writeln!(out, "={name}");
            let mut last = (String::new(), String::new());
            for line in lines {
                let cell = |n: usize| one_line(line.get(n).map_or("", String::as_str));
                let (identifier, syntax, label) = (cell(1), cell(2).replace(' ', ""), cell(3));
                if label.contains("end") && label.starts_with("---") {
                    out.push_str("-\n");
                    last = Default::default();
                } else if label.contains("begin") && label.starts_with("---") {
                    let group = identifier.rsplit('.').next().unwrap_or(&identifier);
                    let _ = writeln!(out, "+{group}{}", if syntax.contains('{') { " *" } else { "" });
                    last = Default::default();
                } else {
                    self.step(&name, &mut out, &mut last, &syntax, &cell)?;
                }
            }
        }
        Ok(out)
    }

    /// One row of a message: a segment, and what it becomes.
    fn step(
        &mut self,
        message: &str,
        out: &mut String,
        last: &mut (String, String),
        syntax: &str,
        cell: &dyn Fn(usize) -> String,
    ) -> Result<(), String> {
        let segment: String = syntax.chars().filter(|c| c.is_ascii_alphanumeric()).collect();
        if segment.len() != 3 {
            return Ok(());
        }
        if *last != (cell(0), segment.clone()) && !(cell(0).len() == 1 && last.1 == segment) {
            let _ = writeln!(out, "{segment}{}", if syntax.contains('{') { " *" } else { "" });
            *last = (cell(0), segment.clone());
        }
        let (computable, told) = condition(&cell(6), &cell(7), &cell(8));
        let row = Row {
            map: message.to_owned(),
            field: segment,
            computable,
            told: if cell(10).is_empty() && cell(9).is_empty() { String::new() } else { told },
            path: cell(10),
            constant: cell(9),
            references: cell(11),
            ..Row::default()
        };
        if row.path.is_empty() && row.constant.is_empty() {
            return Ok(());
        }
        if let Some(row) = self.decide(row) {
            let _ = writeln!(
                out,
                ">{}\t{}\t{}\t{}",
                row.computable,
                label(&row.constant),
                row.path,
                references(&row.references, &row.constant)
            );
        }
        Ok(())
    }
}

/// What the guide writes as condition: (computable, told). The computable one counts where both stand.
fn condition(antlr: &str, path: &str, told: &str) -> (String, String) {
    match (antlr.is_empty(), path.is_empty()) {
        (false, _) => (antlr.to_owned(), String::new()),
        (true, false) => (String::new(), path.to_owned()),
        (true, true) => (String::new(), told.to_owned()),
    }
}

/// `status="finished"` as element and constant.
fn assigned(path: String, constant: String) -> (String, String) {
    match path.split_once('=') {
        Some((element, value)) if constant.is_empty() && value.starts_with('"') => {
            (element.trim().to_owned(), value.trim().to_owned())
        }
        Some((element, value)) if value.starts_with('"') => (element.trim().to_owned(), constant),
        _ => (path, constant),
    }
}

/// `Observation[2].note` as `Observation#2`; `Specimen[n]` as `Specimen#n`.
fn label(target: &str) -> String {
    let kind: String = target.chars().take_while(char::is_ascii_alphanumeric).collect();
    let number = target[kind.len()..].strip_prefix('[').and_then(|rest| rest.chars().next());
    format!("{kind}#{}", number.unwrap_or('1'))
}

/// `A[1].path.reference=B[2].id; …` as `A#1.path=B#2;…`. What does not lead from one resource to another is left out.
fn references(text: &str, target: &str) -> String {
    let own = label(target);
    let own_kind = own.split('#').next().unwrap_or_default().to_owned();
    let named = |text: &str| {
        let kind: String = text.chars().take_while(char::is_ascii_alphanumeric).collect();
        // Without a number, the row's own resource is meant where it is of that type.
        let numbered = text[kind.len()..].starts_with('[') && text[kind.len() + 1..].starts_with(char::is_numeric);
        match (numbered, kind == own_kind) {
            (true, _) => label(text),
            (false, true) => own.clone(),
            (false, false) => format!("{kind}#1"),
        }
    };
    let mut out: Vec<String> = Vec::new();
    for part in text.split([';', ' ']).map(str::trim).filter(|p| p.contains('=') && !p.contains(['"', '#', '('])) {
        let Some((left, right)) = part.split_once('=') else { continue };
        let Some((from, path)) = left.split_once('.') else { continue };
        let path = path.trim_end_matches(".reference").trim_end_matches(".id");
        out.push(format!("{}.{path}={}", named(from), named(right)));
    }
    out.dedup();
    out.join(";")
}

fn map_table(maps: &Maps) -> String {
    let mut out = String::new();
    for (name, rows) in maps.iter().filter(|(_, rows)| !rows.is_empty()) {
        let _ = writeln!(out, "={name}");
        for row in rows {
            let place = row.field.rsplit(['-', '.']).next().unwrap_or_default();
            let place = place.parse::<u16>().unwrap_or(0);
            let line = [
                place.to_string().as_str(),
                &row.v2_type,
                &row.computable,
                &row.path,
                &row.type_map,
                &row.vocabulary,
                &row.constant,
            ]
            .join("\t");
            out.push_str(line.trim_end_matches('\t'));
            out.push('\n');
        }
    }
    out
}

/// `=Name`, then `v2 code, FHIR code, display, system` of every pair that the guide has.
fn codes(folder: &Path) -> Result<String, String> {
    let mut out = String::new();
    for (name, lines) in sheets(folder)? {
        let table = lines.iter().filter_map(|line| line.get(2)).find(|t| t.starts_with("HL7")).cloned();
        let _ = writeln!(out, "={name}\t{}", table.unwrap_or_default());
        for line in lines {
            let cell = |n: usize| one_line(line.get(n).map_or("", String::as_str));
            // Two layouts: with a column between code and display, and without.
            let (display, system) = match cell(9).is_empty() {
                false => (if cell(8).is_empty() { cell(7) } else { cell(8) }, cell(9)),
                true => (cell(7), cell(8)),
            };
            let is_uri = system.starts_with("http") || system.starts_with("urn:");
            if cell(0).is_empty() || cell(6).is_empty() || cell(6).contains(' ') || !is_uri {
                continue;
            }
            let _ = writeln!(out, "{}\t{}\t{display}\t{system}", cell(0), cell(6));
        }
    }
    Ok(out)
}

/// The sheets of a folder by the name of their map, without the two lines of headings.
fn sheets(folder: &Path) -> Result<Vec<(String, Vec<Vec<String>>)>, String> {
    let mut sheets = Vec::new();
    let entries = std::fs::read_dir(folder).map_err(|e| format!("cannot read {}: {e}", folder.display()))?;
    for entry in entries {
        let path = entry.map_err(|e| e.to_string())?.path();
        if path.extension().is_none_or(|e| e != "csv") {
            continue;
        }
        let text = std::fs::read_to_string(&path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let name = file.split_once("R4_ ").or_else(|| file.split_once("Map_ ")).map_or(file.as_str(), |(_, n)| n);
        let name = name.rsplit_once(" - ").map_or(name, |(n, _)| n).to_owned();
        sheets.push((name, csv(&text).into_iter().skip(2).collect()));
    }
    sheets.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(sheets)
}

/// RFC 4180.
fn csv(text: &str) -> Vec<Vec<String>> {
    let (mut rows, mut row, mut cell, mut quoted) = (Vec::new(), Vec::new(), String::new(), false);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                cell.push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => row.push(std::mem::take(&mut cell)),
            '\n' if !quoted => {
                row.push(std::mem::take(&mut cell));
                rows.push(std::mem::take(&mut row));
            }
            '\r' if !quoted => {}
            c => cell.push(c),
        }
    }
    if !cell.is_empty() || !row.is_empty() {
        row.push(cell);
        rows.push(row);
    }
    rows
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Whether the text fits the pattern, in which `*` stands for any text.
fn like(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((head, rest)) => {
            let Some(tail) = text.strip_prefix(head) else { return false };
            (0..=tail.len()).filter(|at| tail.is_char_boundary(*at)).any(|at| like(rest, &tail[at..]))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_are_those_of_the_guide() {
        let root = crate::root();
        let guide = guide_folder(&root, None);
        if !guide.is_dir() {
            eprintln!("skipped: no maps of the guide beside the checkout");
            return;
        }
        for (name, table) in tables(&root, &guide).unwrap() {
            let kept = std::fs::read_to_string(root.join("crates/clinical/maps/guide").join(name)).unwrap();
            assert!(kept == table, "{name} is not what `cargo xtask gen v2` writes");
        }
    }

    #[test]
    fn references_and_patterns() {
        assert_eq!(
            references(
                "DiagnosticReport.result.reference=Observation[2].id Observation[2].subject.id=Patient[1].id",
                "Observation[2]"
            ),
            "DiagnosticReport#1.result=Observation#2;Observation#2.subject=Patient#1"
        );
        assert_eq!(
            references("Coverage.beneficiary.reference=Patient[1].id", "Coverage[1]"),
            "Coverage#1.beneficiary=Patient#1"
        );
        assert!(like("*[Provenance*", "MSH[Provenance-Source]") && !like("PV1*", "PV2[Encounter]"));
        assert_eq!(csv("a,\"b \"\"c\"\"\nd\",e\n"), vec![vec!["a", "b \"c\"\nd", "e"]]);
    }
}
