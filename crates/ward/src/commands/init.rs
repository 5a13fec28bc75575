//! `ward init`: writes a mesh folder that works, with its machine key.

use std::path::Path;

use base::SystemEntropy;
use vault::FileRootKeys;

use super::{Failure, Result, now, say};
use crate::cli::{Cli, Init};

/// (path in the mesh folder, text). Placeholders: @NAME@ @HTTP@ @ADT@ @LAB@ @TRAINING@.
const FILES: &[(&str, &str)] = &[
    ("mesh.toml", include_str!("../template/mesh.toml")),
    ("principals.toml", include_str!("../template/principals.toml")),
    ("agreements/dua-outcomes.toml", include_str!("../template/agreement.toml")),
    ("domains/ehr/domain.toml", include_str!("../template/ehr/domain.toml")),
    ("domains/ehr/products/patients/contract.yaml", include_str!("../template/ehr/patients/contract.yaml")),
    ("domains/ehr/products/patients/view.json", include_str!("../template/ehr/patients/view.json")),
    ("domains/ehr/products/encounters/contract.yaml", include_str!("../template/ehr/encounters/contract.yaml")),
    ("domains/ehr/products/encounters/view.json", include_str!("../template/ehr/encounters/view.json")),
    ("domains/laboratory/domain.toml", include_str!("../template/laboratory/domain.toml")),
    ("domains/laboratory/products/labs/contract.yaml", include_str!("../template/laboratory/labs/contract.yaml")),
    ("domains/laboratory/products/labs/view.json", include_str!("../template/laboratory/labs/view.json")),
    ("domains/research/domain.toml", include_str!("../template/research/domain.toml")),
];

/// Ports of the mesh; 0 lets the system choose.
#[derive(Debug, Clone, Copy)]
pub struct Ports {
    pub http: u16,
    pub adt: u16,
    pub lab: u16,
}

impl Ports {
    pub const ANY: Ports = Ports { http: 0, adt: 0, lab: 0 };

    pub fn from(port: u16) -> Self {
        Ports { http: port, adt: port.saturating_add(1), lab: port.saturating_add(2) }
    }
}

pub fn run(cli: &Cli, init: &Init) -> Result {
    write(&init.folder, &init.name, Ports::from(init.port))?;
    let shown = init.folder.display();
    if cli.json {
        say(&serde_json::json!({ "folder": init.folder, "files": FILES.len() }).to_string());
    } else {
        say(&format!(
            "wrote a mesh with three domains to {shown}\nnext: ward check -C {shown}, then ward serve -C {shown}"
        ));
    }
    Ok(())
}

/// Writes the folder; refuses one that holds a mesh already.
pub fn write(folder: &Path, name: &str, ports: Ports) -> Result {
    if folder.join("mesh.toml").exists() {
        return Err(Failure::said(format!("{} holds a mesh already: choose another folder", folder.display())));
    }
    // The training of the example's people ends a year from now.
    let training = now().plus_ms(365 * 86_400_000).to_string();
    for (path, text) in FILES {
        let text = text
            .replace("@NAME@", name)
            .replace("@HTTP@", &ports.http.to_string())
            .replace("@ADT@", &ports.adt.to_string())
            .replace("@LAB@", &ports.lab.to_string())
            .replace("@TRAINING@", &training[..10]);
        put(&folder.join(path), text.as_bytes())?;
    }
    for (file, text) in policy::starter() {
        put(&folder.join(file), text.as_bytes())?;
    }
    put(&folder.join("policies/ward.cedarschema"), policy::schema_text().as_bytes())?;
    let key = folder.join("keys/machine.key");
    std::fs::create_dir_all(folder.join("keys"))?;
    FileRootKeys::create_machine_key(&key, &SystemEntropy).map_err(|error| Failure::said(error.to_string()))
}

fn put(path: &Path, bytes: &[u8]) -> Result {
    use std::io::Write;
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    Ok(())
}
