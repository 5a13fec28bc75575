//! Renderings of a read's audit record, one core each: what shipping and export cost beside reading the log.

use async_trait::async_trait;
use gate::AuditRecord;
use herald::{Event, Format, Place, Sets};

use super::Plan;
use super::figure::{Figure, Step, Worker, drive};
use crate::commands::{Result, progress};

/// Records of one step, so that the measuring costs nothing.
const STEP: u64 = 100;

struct Renderer {
    format: Format,
    record: AuditRecord,
    place: Place,
}

#[async_trait]
impl Worker for Renderer {
    async fn step(&mut self) -> Step {
        let mut bytes = 0;
        for index in 0..STEP {
            let event = Event { id: "0", index, record: &self.record, tokens: &[[7; 16]], sets: Sets::Digest };
            bytes += self.format.render(&event, &self.place).len() as u64;
        }
        Step::Done { units: STEP, bytes }
    }
}

/// `record` as a door leaves it.
pub async fn figures(record: &AuditRecord, plan: &Plan) -> Result<Vec<Figure>> {
    let place = Place {
        mesh: "hospital".into(),
        log: "hospital/audit".into(),
        base_url: "https://hospital.example:8443".into(),
        version: env!("CARGO_PKG_VERSION"),
    };
    let mut figures = Vec::new();
    for format in Format::ALL {
        let name = format!("audit rendering: {}, one task", format.code());
        progress(&name);
        let worker = Renderer { format, record: record.clone(), place: place.clone() };
        let load = drive(vec![worker], plan.time).await?;
        figures.push(Figure::of(name, &load, "records/s"));
    }
    Ok(figures)
}
