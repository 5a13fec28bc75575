//! QAK, QPD, PID and DSC of the answer to a question (v2.8.2 §5.5).

use fhir::json::Value;
use hl7v2::Message;

use super::er7::{Segment, repetitions, text};
use super::patient;
use super::types::{Assigners, cx, is_internal, list, str_at};
use crate::query::Verdict;

/// What follows MSH, MSA and ERR.
pub fn query_answer(message: &Message<'_>, status: &str, verdict: &Verdict) -> String {
    let qpd = message.segment("QPD");
    let echoed = |n: usize| qpd.map(|qpd| text(&qpd.field(n).text())).unwrap_or_default();
    let mut qak = Segment::new("QAK");
    qak.set(1, echoed(2)).set(2, status).set(3, query_name(message));
    let mut out = String::new();
    if let Verdict::Found { all, here, left, .. } = verdict {
        qak.set(4, all.to_string()).set(5, here.to_string()).set(6, left.to_string());
    }
    out.push_str(&qak.written());
    // The question stands in the answer as it was put (§5.4.1).
    if let Some(qpd) = qpd {
        out.push_str(&same(message, qpd));
    }
    if let Verdict::Found { segments, pointer, .. } = verdict {
        out.push_str(segments);
        if let Some(pointer) = pointer {
            let mut dsc = Segment::new("DSC");
            dsc.set(1, text(pointer)).set(2, "I");
            out.push_str(&dsc.written());
        }
    }
    out
}

fn query_name(message: &Message<'_>) -> String {
    let Some(qpd) = message.segment("QPD") else { return String::new() };
    let parts = [1, 2, 3].map(|n| qpd.field(1).component(n).value().map(|part| text(&part)).unwrap_or_default());
    super::er7::components(parts)
}

/// A segment in the recommended delimiters.
fn same(message: &Message<'_>, segment: hl7v2::Segment<'_>) -> String {
    if *message.delimiters() == hl7v2::Delimiters::default() {
        return format!("{}\r", segment.raw());
    }
    let mut out = segment.id().to_owned();
    for (_, field) in segment.fields() {
        let parts = field.repetitions().map(|repetition| {
            let components = repetition
                .components()
                .map(|component| component.subcomponents().map(|sub| text(&sub.text())).collect::<Vec<_>>().join("&"));
            components.collect::<Vec<_>>().join("^")
        });
        out.push('|');
        out.push_str(&parts.collect::<Vec<_>>().join("~"));
    }
    out.push('\r');
    out
}

/// A patient as an answer to QBP^Q22 tells it: PID and PD1; numbers of the domains that are wanted, or all.
pub fn demographics(body: &Value, domains: &[String], domain: &str, assigners: &Assigners) -> String {
    let told = narrowed(body, domains);
    let mut out = patient::pid(&told, domain, assigners).written();
    if let Some(pd1) = patient::pd1(&told, assigners) {
        out.push_str(&pd1.written());
    }
    out
}

/// The numbers of a patient in the domains that are wanted, as an answer to QBP^Q23 tells them, without the one that was
/// asked about. Nothing where there is none.
pub fn identifiers(body: &Value, domains: &[String], asked: (&str, &str), assigners: &Assigners) -> Option<String> {
    let told = narrowed(body, domains);
    let is_asked = |number: &&Value| (str_at(number, &["system"]), str_at(number, &["value"])) == asked;
    let numbers = list(&told, "identifier").iter().filter(|number| !is_internal(number) && !is_asked(number));
    let numbers = repetitions(numbers.map(|number| cx(number, assigners)));
    if numbers.is_empty() {
        return None;
    }
    let mut pid = Segment::new("PID");
    // The name is required and not asked for: table 0200, S.
    pid.set(3, numbers).set(5, "^^^^^^S");
    Some(pid.written())
}

fn narrowed(body: &Value, domains: &[String]) -> Value {
    let mut told = body.clone();
    if !domains.is_empty()
        && let Some(numbers) = told.get_mut("identifier").and_then(Value::as_array_mut)
    {
        numbers.retain(|number| domains.iter().any(|system| system == str_at(number, &["system"])));
    }
    told
}
