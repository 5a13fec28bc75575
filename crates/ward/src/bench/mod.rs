//! `ward bench`: figures with their conditions, beside the goals they are measured against.
//!
//! One process holds one fresh mesh (everything sealed, policy and audit on, disk sync on) and its clients, which talk to
//! it over real sockets on loopback, so a figure is what is left after the clients took their share of the cores.
//! One file per family of figures; how they are driven and shown is in `figure`, the mesh in `mesh`.

mod audit;
mod fhir;
mod figure;
mod hl7;
mod mesh;
mod parse;
mod read;
mod render;
mod seal;
mod sql;

use std::path::PathBuf;
use std::time::Duration;

use crate::cli::{Bench, Cli, Figures};
use crate::commands::{Failure, Result, progress, say};

use figure::{Figure, Machine};
use mesh::TestMesh;

/// What the figures have in common.
struct Plan {
    time: Duration,
    bundles: Option<PathBuf>,
    /// Real messages and resources, where they are.
    shared: Option<PathBuf>,
}

pub async fn run(cli: &Cli, bench: &Bench) -> Result {
    let folder = mesh::Folder::begin_anew(&bench.folder)?;
    let machine = Machine::look_at(folder.path())?;
    for warning in machine.warnings() {
        progress(&warning);
    }
    let shared = bench.data.clone().or_else(shared_data);
    let bundles = bench.bundles.clone().or_else(|| Some(shared.as_ref()?.join("synthea-r4")).filter(|p| p.is_dir()));
    let plan = Plan { time: Duration::from_secs(bench.seconds.max(1)), bundles, shared };
    let wanted = |what: Figures| matches!(bench.what, Figures::All) || bench.what == what;
    let mut figures = Vec::new();
    if wanted(Figures::Parse) {
        figures.extend(parse::figures(&plan)?);
    }
    if wanted(Figures::Seal) {
        figures.extend(seal::figures(&plan).await?);
    }
    if !matches!(bench.what, Figures::Parse | Figures::Seal) {
        let mesh = TestMesh::start(folder.path()).await?;
        let result = on_mesh(&mesh, &plan, wanted, &mut figures).await;
        mesh.stop().await;
        result?;
    }
    if cli.json {
        say(&serde_json::json!({ "conditions": machine, "figures": figures }).to_string());
    } else {
        say(&machine.to_string());
        say(&figure::table(&figures));
    }
    Ok(())
}

/// The order matters: memory and bytes at rest are looked at before messages follow; what is read is what was imported.
async fn on_mesh(mesh: &TestMesh, plan: &Plan, wanted: impl Fn(Figures) -> bool, figures: &mut Vec<Figure>) -> Result {
    let reads = [Figures::Read, Figures::Search, Figures::Query].into_iter().any(&wanted);
    if wanted(Figures::Fhir) || reads {
        let imported = fhir::figures(mesh, plan, wanted(Figures::Fhir)).await?;
        figures.extend(imported);
    }
    if wanted(Figures::Read) {
        figures.extend(read::by_id(mesh, plan).await?);
    }
    if wanted(Figures::Search) {
        figures.extend(read::searches(mesh, plan).await?);
    }
    if wanted(Figures::Query) {
        figures.extend(sql::figures(mesh, plan).await?);
    }
    if wanted(Figures::Audit) {
        figures.extend(audit::figures(mesh, plan).await?);
    }
    if wanted(Figures::Hl7) {
        figures.extend(hl7::figures(mesh, plan).await?);
    }
    Ok(())
}

/// A folder `shared/data` beside the working folder or above it, as the tests look for it.
fn shared_data() -> Option<PathBuf> {
    let here = std::env::current_dir().ok()?;
    here.ancestors().map(|folder| folder.join("shared/data")).find(|path| path.is_dir())
}

/// A failure that a client of the bench met.
fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::said(error.to_string())
}
