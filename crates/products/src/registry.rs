//! The products of a mesh folder, checked.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use base::DomainName;
use fhir::view::View;

use crate::check::{Sources, check};
use crate::diagnostic::Diagnostic;
use crate::sql::{ProductColumn, TableName, VisibleTable};

/// Largest contract or view that is read.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// A product whose contract and view agree.
#[derive(Debug, Clone)]
pub struct Product {
    pub table: TableName,
    pub title: String,
    pub version: String,
    /// As the contract says: `draft`, `active`, `deprecated`, ...
    pub status: String,
    pub description: Option<String>,
    pub owner: String,
    pub steward: Option<String>,
    pub retention: Option<String>,
    pub columns: Vec<ProductColumn>,
    /// Hex SHA-256 of contract and view.
    pub definition: String,
    pub view: Arc<View>,
}

impl Product {
    /// The product as `information_schema` shows it.
    pub fn visible(&self) -> VisibleTable {
        VisibleTable { name: self.table.clone(), description: self.description.clone(), columns: self.columns.clone() }
    }
}

/// Every product that may be built. One with errors is not here.
#[derive(Debug, Clone, Default)]
pub struct Registry {
    products: BTreeMap<TableName, Arc<Product>>,
}

impl Registry {
    /// Reads `domains/*/products/*` below a mesh folder. What is wrong is in the diagnostics, sorted by file.
    pub fn load(mesh: &Path) -> (Registry, Vec<Diagnostic>) {
        let (mut registry, mut found) = (Registry::default(), Vec::new());
        for (domain, name, _) in folders(mesh, "domains") {
            let products = format!("domains/{name}/products");
            for (product, folder, _) in folders(mesh, &products) {
                let file = format!("{products}/{folder}/contract.yaml");
                let (Ok(domain), Ok(_)) = (&domain, &product) else {
                    found.push(
                        Diagnostic::error(&file, None, "the folder's name cannot be a table's name")
                            .help("use 1 to 32 of a-z 0-9 - _, beginning with a letter"),
                    );
                    continue;
                };
                let (product, diagnostics) = load_one(mesh, domain, &folder);
                found.extend(diagnostics);
                if let Some(product) = product {
                    registry.products.insert(product.table.clone(), Arc::new(product));
                }
            }
        }
        found.sort_by(|a, b| (&a.file, a.line).cmp(&(&b.file, b.line)));
        (registry, found)
    }

    /// Of these products, for tests and tools.
    pub fn of(products: impl IntoIterator<Item = Product>) -> Registry {
        Registry { products: products.into_iter().map(|p| (p.table.clone(), Arc::new(p))).collect() }
    }

    pub fn get(&self, table: &TableName) -> Option<&Arc<Product>> {
        self.products.get(table)
    }

    /// In the order of their names.
    pub fn products(&self) -> impl Iterator<Item = &Arc<Product>> {
        self.products.values()
    }
}

type Folder = (Result<DomainName, base::InvalidId>, String, std::path::PathBuf);

/// Folders below `mesh/under`, sorted. Table names obey the rule of domain names.
fn folders(mesh: &Path, under: &str) -> Vec<Folder> {
    let Ok(entries) = std::fs::read_dir(mesh.join(under)) else { return Vec::new() };
    let mut all: Vec<Folder> = entries
        .filter_map(Result::ok)
        .filter(|entry| entry.path().is_dir())
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok().filter(|name| !name.starts_with('.'))?;
            Some((DomainName::parse(&name), name, entry.path()))
        })
        .collect();
    all.sort_by(|a, b| a.1.cmp(&b.1));
    all
}

fn load_one(mesh: &Path, domain: &DomainName, folder: &str) -> (Option<Product>, Vec<Diagnostic>) {
    let base = format!("domains/{domain}/products/{folder}");
    let (contract_file, view_file) = (format!("{base}/contract.yaml"), format!("{base}/view.json"));
    match (read(mesh, &contract_file), read(mesh, &view_file)) {
        (Ok(contract_text), Ok(view_text)) => check(&Sources {
            domain,
            folder,
            contract_file: &contract_file,
            contract_text: &contract_text,
            view_file: &view_file,
            view_text: &view_text,
        }),
        (contract, view) => (None, [contract.err(), view.err()].into_iter().flatten().collect()),
    }
}

fn read(mesh: &Path, file: &str) -> Result<String, Diagnostic> {
    let path = mesh.join(file);
    let why = "a product is a folder with contract.yaml and view.json";
    match std::fs::metadata(&path) {
        Ok(metadata) if metadata.len() > FILE_BYTES_MAX => {
            return Err(Diagnostic::error(file, None, "the file is larger than 1 MiB").because(why));
        }
        Err(_) => return Err(Diagnostic::error(file, None, "the file is missing").because(why).help("write it")),
        Ok(_) => {}
    }
    std::fs::read_to_string(&path).map_err(|error| {
        Diagnostic::error(file, None, "the file cannot be read")
            .because(error.kind().to_string())
            .help("save it as UTF-8")
    })
}

/// Hex SHA-256 over texts and their lengths.
pub(crate) fn hash(texts: &[&str]) -> String {
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    for text in texts {
        context.update(&(text.len() as u64).to_be_bytes());
        context.update(text.as_bytes());
    }
    base::hex::encode(context.finish().as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::tests::{CONTRACT, VIEW};

    #[test]
    fn reads_a_mesh_folder() {
        let mesh = tempfile::tempdir().unwrap();
        for (folder, files) in [
            ("domains/ehr/products/patients", vec![("contract.yaml", CONTRACT), ("view.json", VIEW)]),
            ("domains/ehr/products/broken", vec![("contract.yaml", CONTRACT), ("view.json", VIEW)]),
            ("domains/ehr/products/empty", vec![]),
            ("domains/ehr/products/Bad Name", vec![]),
        ] {
            std::fs::create_dir_all(mesh.path().join(folder)).unwrap();
            for (file, text) in files {
                std::fs::write(mesh.path().join(folder).join(file), text).unwrap();
            }
        }
        let (registry, found) = Registry::load(mesh.path());
        let names: Vec<String> = registry.products().map(|p| p.table.to_string()).collect();
        assert_eq!(names, ["ehr.patients"]);
        let whats: Vec<&str> = found.iter().map(|d| d.what.as_str()).collect();
        assert_eq!(
            whats,
            [
                "the folder's name cannot be a table's name",
                "the schema object is not named like the product's folder",
                "the file is missing",
                "the file is missing",
            ]
        );
        let (none, nothing) = Registry::load(Path::new("/nonexistent"));
        assert!(none.products().next().is_none() && nothing.is_empty());
    }
}
