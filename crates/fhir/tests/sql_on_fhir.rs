//! The SQL on FHIR v2 test cases, all of them, from the shared data beside the checkout. Skipped, and said so, where
//! that is not there.
#![allow(clippy::print_stdout, reason = "the counts are what a reader of the test wants")]

use std::path::{Path, PathBuf};

use fhir::json::{ParseLimits, Value, parse};
use fhir::view::{Cell, View};

/// Cases that pass; may only grow.
const PASSING_MIN: usize = 144;

/// A folder of the shared test data, by `WARD_SHARED_DATA` or beside the checkout.
fn shared(folder: &str) -> Option<PathBuf> {
    let set = std::env::var_os("WARD_SHARED_DATA").map(PathBuf::from);
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().map(|a| a.join("shared/data"));
    set.into_iter().chain(beside).map(|d| d.join(folder)).find(|d| d.is_dir())
}

fn read(path: &Path) -> Value {
    parse(&std::fs::read(path).unwrap(), &ParseLimits::default()).unwrap()
}

fn to_json(cell: &Cell) -> Value {
    match cell {
        Cell::Null => Value::Null,
        Cell::Bool(b) => Value::Bool(*b),
        Cell::Int(i) => Value::from(*i),
        Cell::Decimal(d) => Value::Number(fhir::json::Number::parse(d).unwrap()),
        Cell::Text(t) => Value::from(t.as_str()),
        Cell::List(cells) => Value::Array(cells.iter().map(to_json).collect()),
    }
}

/// Numbers by value, rows without regard to order.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(x), Value::Number(y)) => x.as_f64() == y.as_f64(),
        (Value::Array(x), Value::Array(y)) => x.len() == y.len() && x.iter().zip(y).all(|(a, b)| same(a, b)),
        (Value::Object(x), Value::Object(y)) => {
            x.iter().all(|(k, v)| same(v, y.get(k).unwrap_or(&Value::Null)))
                && y.iter().all(|(k, v)| same(v, x.get(k).unwrap_or(&Value::Null)))
        }
        _ => a == b,
    }
}

fn rows(view: &View, resources: &[Value]) -> Result<Vec<Value>, String> {
    let mut out = Vec::new();
    for resource in resources {
        for row in view.rows(resource).map_err(|e| e.to_string())? {
            let members = view.columns().iter().zip(&row).map(|(c, cell)| (c.name.as_str(), to_json(cell)));
            out.push(Value::Object(members.collect()));
        }
    }
    Ok(out)
}

fn run(case: &Value, resources: &[Value]) -> Result<(), String> {
    let result = View::parse(case.get("view").unwrap())
        .map_err(|e| e.to_string())
        .and_then(|view| rows(&view, resources).map(|rows| (view, rows)));
    if case.get("expectError").and_then(Value::as_bool) == Some(true) {
        return match result {
            Err(_) => Ok(()),
            Ok(_) => Err("an error was expected".to_owned()),
        };
    }
    let (view, rows) = result?;
    if let Some(columns) = case.get("expectColumns").and_then(Value::as_array) {
        let names: Vec<&str> = view.columns().iter().map(|c| c.name.as_str()).collect();
        if columns.iter().filter_map(Value::as_str).collect::<Vec<_>>() != names {
            return Err(format!("columns are {names:?}"));
        }
    }
    let expected = case.get("expect").and_then(Value::as_array).unwrap_or_default();
    let mut open: Vec<&Value> = expected.iter().collect();
    for row in &rows {
        match open.iter().position(|e| same(row, e)) {
            Some(at) => drop(open.swap_remove(at)),
            None => return Err(format!("row not expected: {}", fhir::json::to_string(row))),
        }
    }
    if open.is_empty() { Ok(()) } else { Err(format!("{} rows are missing", open.len())) }
}

#[test]
fn sql_on_fhir_suite() {
    let Some(folder) = shared("sql-on-fhir") else {
        println!("skipped: shared/data/sql-on-fhir is not there");
        return;
    };
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|f| f.unwrap().path()).collect();
    files.sort();
    let (mut passed, mut total, mut failures) = (0, 0, Vec::new());
    for file in files.iter().filter(|f| f.extension().is_some_and(|e| e == "json")) {
        let suite = read(file);
        let resources = suite.get("resources").unwrap().as_array().unwrap();
        let cases = suite.get("tests").unwrap().as_array().unwrap();
        let mut here = 0;
        for case in cases {
            match run(case, resources) {
                Ok(()) => here += 1,
                Err(why) => {
                    let title = case.get("title").and_then(Value::as_str).unwrap_or_default();
                    failures.push(format!("{}: {title}: {why}", file.file_stem().unwrap().display()));
                }
            }
        }
        println!("{}: {here} of {}", file.file_stem().unwrap().display(), cases.len());
        (passed, total) = (passed + here, total + cases.len());
    }
    println!("{passed} of {total}");
    assert!(passed >= PASSING_MIN, "{passed} of {total} pass, {PASSING_MIN} did before:\n{}", failures.join("\n"));
}
