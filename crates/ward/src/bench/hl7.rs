//! HL7 v2 over MLLP: what is acknowledged (durable in the journal) in a burst, and what reaches silver.
//!
//! Senders wait for each acknowledgement before the next message, as MLLP senders do.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use base::DomainName;
use synth::{Dirt, Door, Hospital, Options};

use super::figure::{Figure, Load, Step, Worker, drive};
use super::mesh::TestMesh;
use super::{Plan, failed};
use crate::commands::{Result, progress};
use crate::wire::{MllpClient, ack_code};

/// Messages of one burst at most, per second of the plan: what comes in must be refined before the next begins.
const MESSAGES_PER_SECOND_MAX: usize = 4_000;
/// Refining is waited for this many times the length of a burst.
const WAIT_FACTOR: u32 = 20;

/// An ADT and ORU mix in the order a hospital sends it, each control id used once.
struct Traffic {
    messages: Vec<Vec<u8>>,
    next: AtomicUsize,
}

impl Traffic {
    fn new(messages: usize) -> Traffic {
        // A patient is good for six messages or more.
        let options = Options { seed: 7, patients: messages / 6 + 1, dirt: Dirt::NONE, ..Options::default() };
        let feed = Hospital::generate(&options).feed;
        let messages = feed.into_iter().filter(|item| item.door != Door::Bedside).map(|item| item.bytes).collect();
        Traffic { messages, next: AtomicUsize::new(0) }
    }

    fn take(&self, upto: usize) -> Option<&[u8]> {
        let at = self.next.fetch_add(1, Ordering::Relaxed);
        if at >= upto {
            self.next.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        self.messages.get(at).map(Vec::as_slice)
    }

    fn taken(&self) -> usize {
        self.next.load(Ordering::Relaxed).min(self.messages.len())
    }
}

struct Sender {
    connection: MllpClient,
    traffic: Arc<Traffic>,
    upto: usize,
}

#[async_trait]
impl Worker for Sender {
    async fn step(&mut self) -> Step {
        let Some(message) = self.traffic.take(self.upto) else { return Step::End };
        match self.connection.send(message).await {
            Ok(ack) => match ack_code(&ack).as_str() {
                "AA" | "CA" => Step::Done { units: 1, bytes: 0 },
                code => Step::Failed(format!("answered {code}")),
            },
            Err(error) => Step::Failed(error.to_string()),
        }
    }
}

pub async fn figures(mesh: &TestMesh, plan: &Plan) -> Result<Vec<Figure>> {
    let each = MESSAGES_PER_SECOND_MAX * usize::try_from(plan.time.as_secs()).unwrap_or(1);
    progress("generating HL7 v2 messages");
    let traffic = Arc::new(Traffic::new(4 * each));
    let bytes = traffic.messages.iter().map(Vec::len).sum::<usize>() / traffic.messages.len().max(1);
    let one: &[(&str, &str)] = &[("adt-main", "ehr")];
    let two: &[(&str, &str)] = &[("adt-main", "ehr"), ("lab-main", "laboratory")];
    let mut figures = Vec::new();
    for (connections, doors) in [(1, one), (8, one), (64, one), (64, two)] {
        let named = match doors.len() {
            1 => format!("{connections} connections"),
            _ => format!("{connections} connections, two domains"),
        };
        progress(&format!("HL7 v2 over MLLP: {named}"));
        let (begun, before) = (Instant::now(), traffic.taken());
        let mut senders = Vec::new();
        for n in 0..connections {
            let (source, _) = doors[n % doors.len()];
            let connection = MllpClient::connect(mesh.mllp(source)?).await?;
            senders.push(Sender { connection, traffic: traffic.clone(), upto: before + each });
        }
        let load = drive(senders, plan.time).await?;
        let refined = wait_until_refined(mesh, doors, plan.time * WAIT_FACTOR, &load, begun).await?;
        let goal = match (connections, doors.len()) {
            (64, 1) => "5,000/s, p99 ≤ 20 ms; sustained 1,000/s",
            _ => "",
        };
        figures.push(
            Figure::of(format!("HL7 v2 in, acknowledged: {named}"), &load, "messages/s")
                .under(format!("{bytes} B a message, refining beside it"))
                .goal(goal),
        );
        figures.push(refined.named(&named));
    }
    Ok(figures)
}

struct Refined {
    per_second: f64,
    conditions: String,
}

impl Refined {
    fn named(self, named: &str) -> Figure {
        Figure::new(format!("HL7 v2 sustained into silver: {named}"), self.per_second, "messages/s")
            .under(self.conditions)
            .goal("1,000/s")
    }
}

/// From the first message until the last is refined.
async fn wait_until_refined(
    mesh: &TestMesh,
    doors: &[(&str, &str)],
    longest: Duration,
    load: &Load,
    begun: Instant,
) -> Result<Refined> {
    let mut behind = 0;
    let until = tokio::time::Instant::now() + longest;
    for (_, domain) in doors {
        let domain = DomainName::parse(domain).map_err(failed)?;
        let Some(parts) = mesh.doors.domains.get(&domain) else { continue };
        let size = parts.intake.journal().log().size();
        let mut applied = mesh.doors.silver.applied(&domain);
        let waited =
            tokio::time::timeout_at(until, applied.wait_for(|applied| *applied >= size)).await.map(|r| r.is_ok());
        if waited != Ok(true) {
            behind += size.saturating_sub(*applied.borrow());
        }
    }
    let took = begun.elapsed();
    let refined = load.units.saturating_sub(behind);
    let mut conditions = format!("{} messages, all refined after {:.1} s", load.units, took.as_secs_f64());
    if behind > 0 {
        conditions = format!("{refined} of {} messages after {:.1} s", load.units, took.as_secs_f64());
    }
    Ok(Refined { per_second: refined as f64 / took.as_secs_f64(), conditions })
}
