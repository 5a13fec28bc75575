//! `check` (the quick inner loop) and `ci` (everything), as lists of commands with their times.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

/// Crates that do not reach DataFusion: the inner loop builds only these.
const QUICK: &[&str] = &[
    "base",
    "hl7v2",
    "fhir",
    "policy",
    "ledger",
    "vault",
    "store",
    "net",
    "gate",
    "clinical",
    "products",
    "synth",
    "ward-verify",
];

fn cargo(root: &Path, arguments: &[&str]) -> Result<(), String> {
    let shown = format!("cargo {}", arguments.join(" "));
    eprintln!("→ {shown}");
    let start = Instant::now();
    let status = Command::new(env!("CARGO"))
        .args(arguments)
        .current_dir(root)
        .status()
        .map_err(|error| format!("{shown}: {error}"))?;
    eprintln!("  {} in {} s", if status.success() { "done" } else { "FAILED" }, start.elapsed().as_secs());
    if status.success() { Ok(()) } else { Err(format!("`{shown}` failed")) }
}

fn with_packages<'a>(head: &[&'a str], tail: &[&'a str]) -> Vec<&'a str> {
    let mut arguments = head.to_vec();
    for package in QUICK {
        arguments.extend(["-p", package]);
    }
    arguments.extend(tail);
    arguments
}

/// Format, tidy, clippy and tests of the crates below `lake`.
pub fn check(root: &Path) -> Result<(), String> {
    cargo(root, &["fmt", "--all", "--check"])?;
    tidy(root)?;
    cargo(root, &with_packages(&["clippy", "--all-targets"], &["--", "-D", "warnings"]))?;
    cargo(root, &with_packages(&["test", "--quiet"], &[]))
}

/// Everything that must hold before a change lands.
pub fn ci(root: &Path) -> Result<(), String> {
    cargo(root, &["fmt", "--all", "--check"])?;
    tidy(root)?;
    // Everything in one set of features, tests included, so that the dependencies are built once; the binaries among
    // it, since the suite runs them as processes.
    cargo(root, &["build", "--locked", "--workspace", "--all-targets"])?;
    cargo(root, &["clippy", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"])?;
    cargo(root, &["test", "--locked", "--workspace"])
}

pub fn tidy(root: &Path) -> Result<(), String> {
    crate::tidy::run(root).map_err(|faults| {
        for fault in &faults {
            eprintln!("tidy: {fault}");
        }
        format!("tidy found {} fault(s)", faults.len())
    })?;
    eprintln!("tidy: floors, walls, licences and files are as they should be");
    Ok(())
}
