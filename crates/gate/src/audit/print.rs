//! Reports on paper, safe to hand to the patient: an accounting of disclosures, and who saw the patient. Plain text or
//! one HTML page without anything from elsewhere.
//!
//! Never in them: other patients, internal ids, network addresses, the text of queries; the patient's own name is left
//! for the privacy office to fill in.

use std::fmt::Write;

use base::Purpose;

use crate::audit::disclosure::{Accounting, Recipients, day, recipient_of, what_words};
use crate::audit::index::rows::Found;
use crate::audit::record::{AuditRecord, Outcome};

/// How a report comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Paper {
    Text,
    Html,
}

/// A report before it is on paper: headings, sentences, tables.
struct Sheet {
    title: &'static str,
    parts: Vec<Part>,
}

enum Part {
    Sentence(String),
    Heading(&'static str),
    /// Head, then rows of as many cells.
    Table(Vec<&'static str>, Vec<Vec<String>>),
}

const BLANK: &str = "Name: ______________________   Date of birth: ____________   Record number: ____________";

/// On every report, whether anything is left out or not: otherwise it would tell.
const AGENCIES: &str = "A health oversight agency or a law enforcement official can ask that what was disclosed to it is \
                        left out for a time (45 CFR 164.528(a)(2)).";

impl Sheet {
    fn on(&self, paper: Paper) -> String {
        match paper {
            Paper::Text => self.text(),
            Paper::Html => self.html(),
        }
    }

    fn text(&self) -> String {
        let mut out = format!("{}\n{}\n", self.title, "=".repeat(self.title.chars().count()));
        for part in &self.parts {
            let _ = match part {
                Part::Sentence(text) => write!(out, "\n{text}\n"),
                Part::Heading(text) => write!(out, "\n{text}\n{}\n", "-".repeat(text.chars().count())),
                Part::Table(head, rows) => rows.iter().try_for_each(|row| {
                    out.push('\n');
                    head.iter().zip(row).try_for_each(|(name, cell)| writeln!(out, "  {name:<12} {cell}"))
                }),
            };
        }
        out
    }

    fn html(&self) -> String {
        let mut out = format!(
            "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{0}</title><style>body{{font:11pt serif;\
             margin:2cm}}table{{border-collapse:collapse;width:100%}}td,th{{border:1px solid #999;padding:3px 6px;\
             text-align:left;vertical-align:top}}</style></head><body>\n<h1>{0}</h1>\n",
            escape(self.title)
        );
        for part in &self.parts {
            let _ = match part {
                Part::Sentence(text) => writeln!(out, "<p>{}</p>", escape(text)),
                Part::Heading(text) => writeln!(out, "<h2>{}</h2>", escape(text)),
                Part::Table(head, rows) => {
                    let cells = |tag: &str, cells: &[String]| {
                        cells.iter().map(|cell| format!("<{tag}>{}</{tag}>", escape(cell))).collect::<String>()
                    };
                    let head: Vec<String> = head.iter().map(|name| (*name).to_owned()).collect();
                    let rows = rows.iter().map(|row| format!("<tr>{}</tr>\n", cells("td", row))).collect::<String>();
                    writeln!(out, "<table>\n<tr>{}</tr>\n{rows}</table>", cells("th", &head))
                }
            };
        }
        out.push_str("</body></html>\n");
        out
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Control characters do not get onto paper.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn recipient_words(recipient: &crate::Recipient) -> String {
    let more = [&recipient.address, &recipient.phone].into_iter().flatten();
    clean(&std::iter::once(&recipient.name).chain(more).map(String::as_str).collect::<Vec<_>>().join(", "))
}

/// The accounting as it is handed to the patient.
pub fn accounting(accounting: &Accounting, paper: Paper) -> String {
    let mut parts = vec![
        Part::Sentence(BLANK.to_owned()),
        Part::Sentence(format!(
            "Disclosures of your health information from {} to {}, as 45 CFR 164.528 asks for.",
            accounting.from, accounting.to
        )),
    ];
    if accounting.missing > 0 {
        let missing = accounting.missing;
        parts.push(Part::Sentence(format!(
            "NOT COMPLETE: {missing} records could not be looked at. The privacy office makes this accounting again."
        )));
    }
    parts.push(Part::Heading("Disclosures"));
    if accounting.disclosures.is_empty() {
        parts.push(Part::Sentence("None that has to be listed.".to_owned()));
    } else {
        let rows = accounting.disclosures.iter().map(|line| {
            let date = match line.times {
                1 => line.first.clone(),
                times => format!("{} (first), {times} times until {} (last)", line.first, line.last),
            };
            let mut recipient = recipient_words(&line.recipient);
            if let Some(destination) = &line.destination {
                let _ = write!(recipient, "; sent to {}", clean(destination));
            }
            vec![date, recipient, clean(&line.what), line.purpose.to_owned()]
        });
        parts.push(Part::Table(vec!["Date", "To", "What", "Why"], rows.collect()));
    }
    if !accounting.research.is_empty() {
        parts.push(Part::Heading("Research on fifty or more people"));
        parts.push(Part::Sentence(
            "Your health information may or may not have been disclosed for the following research. If it is likely that \
             it was, the privacy office helps you on request to get in touch with the sponsor and the researcher."
                .to_owned(),
        ));
        let rows = accounting.research.iter().map(|line| {
            let study = &line.study;
            let period = format!("{} to {} (last)", line.first, line.last);
            let researcher = recipient_words(&line.researcher);
            vec![
                clean(&study.name),
                clean(&study.description),
                clean(&study.data),
                period,
                clean(&study.sponsor),
                researcher,
            ]
        });
        let head = vec!["Protocol", "Purpose", "What", "When", "Sponsor", "Researcher"];
        parts.push(Part::Table(head, rows.collect()));
    }
    parts.push(Part::Heading("Not listed"));
    let words: Vec<&str> = crate::Exclusion::ALL.iter().map(|reason| reason.words()).collect();
    parts.push(Part::Sentence(format!("The law does not ask for disclosures {}.", words.join("; "))));
    parts.push(Part::Sentence(AGENCIES.to_owned()));
    Sheet { title: "Accounting of Disclosures", parts }.on(paper)
}

fn purpose_words(purpose: Option<Purpose>) -> &'static str {
    match purpose {
        Some(Purpose::Treatment) => "treatment",
        Some(Purpose::EmergencyTreatment) => "emergency treatment",
        Some(Purpose::Payment) => "payment",
        Some(Purpose::Operations) => "running the hospital",
        Some(Purpose::Research) => "research",
        Some(Purpose::PublicHealth) => "public health",
        Some(Purpose::PatientRequest) => "at your request",
        Some(Purpose::Compliance) => "checking that rules are kept",
        Some(Purpose::SystemAdministration) => "running the system",
        None => "not stated",
    }
}

fn outcome_words(record: &AuditRecord) -> &'static str {
    match (record.outcome, record.emergency) {
        (Outcome::Served, false) => "seen",
        (Outcome::Served, true) => "seen in an emergency",
        (Outcome::Granted, _) => "emergency access was given",
        (Outcome::Refused, _) => "refused: nothing was seen",
        (Outcome::NotFound, _) => "nothing was found",
        (Outcome::Failed, _) => "failed: nothing was seen",
    }
}

/// Who saw the patient, as it is handed to the patient.
pub(crate) fn who_saw(found: &[Found], missing: u64, more: bool, names: &dyn Recipients, paper: Paper) -> String {
    let mut parts = vec![
        Part::Sentence(BLANK.to_owned()),
        Part::Sentence(
            "Every access to your records that this system has recorded, also by those who treat you. Of an access to \
             many records at once it is said that yours were among them; some of these may be too many, none is missing."
                .to_owned(),
        ),
    ];
    if missing > 0 || more {
        parts.push(Part::Sentence("NOT COMPLETE: ask for a shorter period, or again later.".to_owned()));
    }
    let rows = found.iter().map(|found| {
        let record = &found.record;
        let time: String = record.at.to_string().chars().skip(11).take(5).collect();
        let mut who = recipient_words(&recipient_of(names, record));
        if record.on_behalf.is_some() {
            who.push_str(", on behalf of another");
        }
        let when = format!("{} {time} UTC", day(record.at));
        vec![
            when,
            who,
            clean(&what_words(record)),
            purpose_words(record.purpose).to_owned(),
            outcome_words(record).to_owned(),
        ]
    });
    parts.push(Part::Sentence(AGENCIES.to_owned()));
    let rows: Vec<_> = rows.collect();
    parts.push(match rows.is_empty() {
        true => Part::Sentence("None.".to_owned()),
        false => Part::Table(vec!["When", "Who", "What", "Why", "Outcome"], rows),
    });
    Sheet { title: "Who Saw Your Records", parts }.on(paper)
}
