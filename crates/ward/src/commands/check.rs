//! `ward check`: the whole mesh folder, reported like a compiler: file, line, what, why, what to do.

use super::{Failure, Result, config, say};
use crate::cli::Cli;
use crate::config::Finding;

pub fn run(cli: &Cli, limits: bool) -> Result {
    let config = config(cli)?;
    let mut findings = Vec::new();
    match policy::Engine::load(&config.policies) {
        Ok(engine) => findings.extend(crate::routes::never_permitted(&engine, &config)),
        Err(diagnostics) => findings.extend(diagnostics.iter().map(|d| Finding {
            file: d.file.clone(),
            line: Some(d.line as u32),
            what: d.what.clone(),
            help: d.help.clone(),
        })),
    }
    let (registry, diagnostics) = products::Registry::load(&config.folder);
    let mut warnings = 0;
    for diagnostic in &diagnostics {
        if diagnostic.is_error() {
            findings.push(Finding {
                file: diagnostic.file.clone(),
                line: diagnostic.line.map(|line| line as u32),
                what: format!("{}{}", diagnostic.what, because(&diagnostic.why)),
                help: diagnostic.help.clone(),
            });
        } else {
            warnings += 1;
            super::progress(&diagnostic.to_string());
        }
    }
    if !findings.is_empty() {
        return Err(Failure::Findings(findings));
    }
    let sources: usize = config.domains.values().map(|domain| domain.sources.len()).sum();
    let products = registry.products().count();
    if cli.json {
        let value = serde_json::json!({
            "mesh": config.mesh.name,
            "domains": config.domains.len(),
            "sources": sources,
            "products": products,
            "principals": config.principals.len(),
            "policies": config.policies.len(),
            "agreements": config.agreements.len(),
            "warnings": warnings,
            "limits": limits.then_some(&config.mesh.limits),
        });
        say(&value.to_string());
        return Ok(());
    }
    say(&format!(
        "{}: {} domains, {sources} sources, {products} products, {} principals, {} policy files, {} agreements: all right",
        config.mesh.name,
        config.domains.len(),
        config.principals.len(),
        config.policies.len(),
        config.agreements.len()
    ));
    for claim in claims(&config.mesh.keys.root) {
        say(&format!("  {claim}"));
    }
    if limits {
        let text = toml::to_string(&config.mesh.limits).map_err(|error| Failure::said(error.to_string()))?;
        say(&format!("\n[limits]\n{text}"));
    }
    Ok(())
}

fn because(why: &str) -> String {
    if why.is_empty() { String::new() } else { format!(": {why}") }
}

/// Which claims hold with the root key as it is configured (DESIGN §1).
fn claims(root: &str) -> Vec<String> {
    let against = "a stolen backup or database dump opens nothing: the root key is not in it";
    match root.split_once(':') {
        Some(("file", path)) => vec![
            format!("root key: machine key in `{path}`"),
            format!("holds: {against}"),
            "holds only if the key file lies on another disk: a stolen data disk opens nothing".to_owned(),
            "does not hold: whoever copies this whole machine's disks can open the data; use a passphrase, TPM or HSM"
                .to_owned(),
        ],
        Some(("passphrase-file", path)) => vec![
            format!("root key: passphrase from the file `{path}` (Argon2id)"),
            format!("holds: {against}"),
            "holds only if that file lies on no disk, such as a systemd credential: stolen disks open nothing"
                .to_owned(),
        ],
        Some(("passphrase-env", name)) => vec![
            format!("root key: passphrase from the environment variable `{name}` (Argon2id)"),
            format!("holds: {against}"),
            "holds: stolen disks open nothing without the passphrase, as far as it cannot be guessed".to_owned(),
        ],
        _ => Vec::new(),
    }
}
