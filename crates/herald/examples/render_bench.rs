//! What a rendering costs, beside reading the log: records a second and bytes a record of each format on one core, of a
//! read of one patient and of a query about forty.
//!
//! `cargo run --release -p herald --example render_bench -- [SECONDS]`; 3 for each figure by default.

#![allow(clippy::print_stdout)]

use std::time::{Duration, Instant};

use base::{DomainName, Layer, PrincipalId, Purpose, Timestamp};
use gate::{AuditRecord, Outcome};
use herald::{Event, Format, Place, Sets};

/// Between two looks at the clock.
const STEP: u64 = 100;

/// As a door leaves it.
fn record(patients: u32) -> Result<AuditRecord, Box<dyn std::error::Error>> {
    let (who, domain) = (PrincipalId::parse("dr-lee")?, DomainName::parse("ehr")?);
    let layer = if patients > 1 { Layer::Gold } else { Layer::Silver };
    let mut record = AuditRecord::new(Timestamp(1_790_000_000_000), who, domain, layer, Outcome::Served);
    (record.decision, record.policy_version, record.rows) = (0x1234_5678_9abc, 77, u64::from(patients));
    let (door, action, what) =
        if patients > 1 { ("sql-http", "query", "sql") } else { ("fhir", "read", "read Patient") };
    (record.door, record.action, record.what) = (door.into(), action.into(), what.into());
    record.kinds = vec!["Patient".into()];
    record.policies = vec!["care-in-own-domain".into()];
    record.purpose = Some(Purpose::Treatment);
    (record.token, record.trace, record.query_hash) = (Some([1; 16]), Some([2; 16]), Some([3; 16]));
    record.from = Some("10.1.2.3".parse()?);
    record.patients.extend(1..=patients);
    Ok(record)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let seconds = std::env::args().nth(1).map_or(Ok(3.0), |text| text.parse())?;
    let time = Duration::from_secs_f64(seconds);
    let place = Place {
        mesh: "hospital".into(),
        log: "hospital/audit".into(),
        base_url: "https://hospital.example:8443".into(),
        version: env!("CARGO_PKG_VERSION"),
    };
    for (name, patients) in [("a read of one patient", 1), ("a query about forty", 40)] {
        let record = record(patients)?;
        let tokens = if patients == 1 { vec![[7; 16]] } else { Vec::new() };
        for format in Format::ALL {
            let (begun, mut records, mut bytes) = (Instant::now(), 0, 0);
            while begun.elapsed() < time {
                for index in records..records + STEP {
                    let id = format!("00000000000000000000000000000000-{index}");
                    let event = Event { id: &id, index, record: &record, tokens: &tokens, sets: Sets::Digest };
                    bytes += format.render(&event, &place).len() as u64;
                }
                records += STEP;
            }
            let rate = records as f64 / begun.elapsed().as_secs_f64();
            println!("{name}, {}: {rate:.0} records/s, {} bytes each", format.code(), bytes / records);
        }
    }
    Ok(())
}
