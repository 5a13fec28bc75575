//! The hospital's HL7 v2 traffic: ADT chains and laboratory results, with repeats, nulls, escapes, Z-segments, several
//! character sets, and dirt at the asked rates.

use base::Timestamp;

use crate::people::{Encounter, Patient};
use crate::random::Random;
use crate::truth::{Expected, SetAsideKind, Truth, TruthObservation};
use crate::{Door, Item, Options};

const MINUTE_MS: i64 = 60_000;

/// LOINC code, name, UCUM unit, low, high, decimals. Codes as they travel in messages.
const TESTS: &[(&str, &str, &str, f64, f64, usize)] = &[
    ("2345-7", "Glucose", "mg/dL", 70.0, 99.0, 0),
    ("2951-2", "Sodium", "mmol/L", 136.0, 145.0, 0),
    ("2823-3", "Potassium", "mmol/L", 3.5, 5.1, 1),
    ("2160-0", "Creatinine", "mg/dL", 0.6, 1.3, 2),
    ("718-7", "Hemoglobin", "g/dL", 12.0, 17.5, 1),
    ("6690-2", "Leukocytes", "10*3/uL", 4.5, 11.0, 1),
    ("777-3", "Platelets", "10*3/uL", 150.0, 450.0, 0),
];

/// Timestamp as HL7 v2 writes it, to the second, in the hospital's zone (UTC-05:00).
pub fn ts(at: Timestamp) -> String {
    let local = Timestamp(at.ms() - 5 * 3_600_000).to_string();
    local.chars().filter(char::is_ascii_digit).take(14).collect()
}

struct Writer<'a> {
    options: &'a Options,
    random: &'a mut Random,
    items: Vec<(Timestamp, Item)>,
    truth: &'a mut Truth,
    sent: usize,
    fillers: usize,
    /// Used so far, on the ADT feed and on the laboratory's.
    control_ids: [Vec<String>; 2],
}

pub fn feed(options: &Options, patients: &[Patient], random: &mut Random, feed: &mut Vec<Item>, truth: &mut Truth) {
    let mut writer =
        Writer { options, random, items: Vec::new(), truth, sent: 0, fillers: 0, control_ids: Default::default() };
    for patient in patients {
        for (k, encounter) in patient.encounters.iter().enumerate() {
            writer.stay(patient, encounter, k == 0);
        }
    }
    writer.items.sort_by_key(|(at, _)| *at);
    feed.extend(writer.items.into_iter().map(|(_, item)| item));
}

/// ER7 text with the five delimiters escaped (v2.8.2 §2.7).
fn esc(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '|' => out.push_str("\\F\\"),
            '^' => out.push_str("\\S\\"),
            '&' => out.push_str("\\T\\"),
            '~' => out.push_str("\\R\\"),
            '\\' => out.push_str("\\E\\"),
            c => out.push(c),
        }
    }
    out
}

impl Writer<'_> {
    fn stay(&mut self, patient: &Patient, encounter: &Encounter, first: bool) {
        let admitted = encounter.admitted;
        let wrong_date = first && self.random.chance(self.options.dirt.wrong_date);
        if wrong_date {
            self.truth.wrong_dates += 1;
            // A later stay sends the right one.
            if patient.encounters.len() == 1
                && let Some(truth) = self.truth.patients.get_mut(&patient.mrn)
            {
                truth.born = None;
            }
        }
        let born = if wrong_date { format!("{}1345", &patient.born[..4]) } else { patient.born.clone() };
        let trigger = if encounter.inpatient { "A01" } else { "A04" };
        self.adt(trigger, patient, encounter, admitted, &born, &patient.phone);
        let mut status = "in-progress";
        if self.random.chance(0.5) {
            // A null e-mail removes what was there; the address comes again as a snapshot.
            self.adt("A08", patient, encounter, admitted.plus_ms(40 * MINUTE_MS), &born, &patient.phone);
        }
        if encounter.cancelled {
            self.adt("A11", patient, encounter, admitted.plus_ms(90 * MINUTE_MS), &born, &patient.phone);
            status = "cancelled";
        } else {
            self.labs(patient, encounter);
            if let Some(discharged) = encounter.discharged {
                self.adt("A03", patient, encounter, discharged, &born, &patient.phone);
                status = "finished";
            }
        }
        self.truth.encounters.insert(encounter.visit.clone(), status);
    }

    fn adt(&mut self, trigger: &str, patient: &Patient, encounter: &Encounter, at: Timestamp, born: &str, phone: &str) {
        let structure = match trigger {
            "A04" | "A08" => "ADT_A01",
            "A11" => "ADT_A09",
            "A03" => "ADT_A03",
            _ => "ADT_A01",
        };
        let mut segments =
            vec![format!("EVN|{trigger}|{}", ts(at)), self.pid(patient, born, phone), self.pv1(encounter)];
        if trigger == "A01" && self.random.chance(0.3) {
            segments.push(format!("NK1|1|{}^{}|SPO^Spouse^HL70063|||{}", esc(&patient.family), "Alex", phone));
        }
        if self.random.chance(0.2) {
            segments.push(format!("ZPI|1|{}|local\\T\\billing|A", encounter.ward));
        }
        self.send(Door::Adt, "ADT", trigger, structure, at, segments, Expected::Accepted);
    }

    fn pid(&mut self, p: &Patient, born: &str, phone: &str) -> String {
        let email =
            if self.random.chance(0.1) { "\"\"".to_owned() } else { format!("^NET^Internet^{}", esc(&p.email)) };
        format!(
            "PID|1||{}^^^GENHOSP^MR~{}^^^LABCO^PI~{}^^^SSA^SS||{}^{}^^^^^L||{born}|{}|||{}^^{}^{}^{}^USA^H||{}^PRN^PH~{email}|||M",
            esc(&p.mrn),
            esc(&p.lab_number),
            p.ssn,
            esc(&p.family),
            esc(&p.given),
            p.sex.hl7(),
            esc(&p.street),
            esc(&p.city),
            p.state,
            p.zip,
            esc(phone),
        )
    }

    fn pv1(&self, e: &Encounter) -> String {
        let class = if e.inpatient { "I" } else { "O" };
        let (number, family, given) = e.physician;
        let mut fields = vec![String::new(); 45];
        fields[0] = "1".into();
        fields[1] = class.into();
        fields[2] = format!("{}^{}^A^GENHOSP", e.ward, 100 + e.visit.len());
        fields[6] = format!("{number}^{family}^{given}^^^Dr^^^GENHOSP^L^^^NPI");
        fields[18] = format!("{}^^^GENHOSP^VN", e.visit);
        fields[43] = ts(e.admitted);
        if let Some(discharged) = e.discharged {
            fields[44] = ts(discharged);
        }
        format!("PV1|{}", fields.join("|"))
    }

    fn labs(&mut self, patient: &Patient, encounter: &Encounter) {
        for panel in 0..1 + self.random.below(2) {
            self.fillers += 1;
            let filler = format!("F{:07}", 3_000_000 + self.fillers);
            let drawn = encounter.admitted.plus_ms((60 + panel as i64 * 600) * MINUTE_MS);
            let tests: Vec<usize> = {
                let start = self.random.below(TESTS.len());
                (0..3).map(|k| (start + k) % TESTS.len()).collect()
            };
            let values: Vec<f64> = tests.iter().map(|t| self.value(TESTS[*t])).collect();
            if self.random.chance(0.3) {
                self.oru(patient, encounter, &filler, drawn, drawn.plus_ms(20 * MINUTE_MS), &tests, &values, "P");
            }
            self.oru(patient, encounter, &filler, drawn, drawn.plus_ms(60 * MINUTE_MS), &tests, &values, "F");
            if self.random.chance(0.08) {
                let corrected: Vec<f64> = tests.iter().map(|t| self.value(TESTS[*t])).collect();
                self.oru(patient, encounter, &filler, drawn, drawn.plus_ms(180 * MINUTE_MS), &tests, &corrected, "C");
            }
        }
    }

    /// Mostly normal, sometimes abnormal, now and then critical.
    fn value(&mut self, test: (&str, &str, &str, f64, f64, usize)) -> f64 {
        let (.., low, high, _) = test;
        let share = self.random.between(0, 1000) as f64 / 1000.0;
        let normal = low + (high - low) * share;
        if self.random.chance(0.05) {
            high * 2.2
        } else if self.random.chance(0.2) {
            high * 1.15
        } else {
            normal
        }
    }

    #[allow(clippy::too_many_arguments)] // One message's facts.
    fn oru(
        &mut self,
        patient: &Patient,
        encounter: &Encounter,
        filler: &str,
        drawn: Timestamp,
        at: Timestamp,
        tests: &[usize],
        values: &[f64],
        status: &str,
    ) {
        let (number, family, given) = encounter.physician;
        let mut segments = vec![
            self.pid(patient, &patient.born, &patient.phone),
            self.pv1(encounter),
            format!("ORC|RE|P{filler}|{filler}^LAB|||||||||{number}^{family}^{given}"),
            format!(
                "OBR|1|P{filler}|{filler}^LAB|24323-8^Comprehensive metabolic panel^LN|||{}|||||||||{number}^{family}^{given}||||||{}||LAB|{status}",
                ts(drawn),
                ts(at)
            ),
        ];
        let mut broken = 0;
        for (n, (test, value)) in tests.iter().zip(values).enumerate() {
            let (code, name, unit, low, high, decimals) = TESTS[*test];
            let shown = format!("{value:.decimals$}");
            let flag = if *value > high * 2.0 {
                "HH"
            } else if *value > high {
                "H"
            } else {
                "N"
            };
            let is_broken = status == "F" && self.random.chance(self.options.dirt.broken_result);
            let unknown = self.random.chance(self.options.dirt.unknown_code);
            let coded = if is_broken {
                // A result that does not say what was measured.
                String::new()
            } else if unknown {
                self.truth.unknown_codes += 1;
                format!("{code}^{}^LN^LX{test}^{name} (house code)^99LAB", esc(name))
            } else {
                format!("{code}^{}^LN", esc(name))
            };
            segments.push(format!(
                "OBX|{}|NM|{coded}||{shown}|{unit}|{low}-{high}|{flag}|||{status}|||{}",
                n + 1,
                ts(drawn)
            ));
            if is_broken {
                broken += 1;
                *self.truth.set_aside.entry(SetAsideKind::BrokenResult).or_default() += 1;
                continue;
            }
            let key = (filler.to_owned(), code.to_owned());
            if flag == "HH" && status == "F" {
                self.truth.critical.push(key.clone());
            }
            let status = match status {
                "P" => "preliminary",
                "C" => "corrected",
                _ => "final",
            };
            self.truth.observations.insert(
                key,
                TruthObservation { filler: filler.into(), code: code.into(), value: shown, unit: unit.into(), status },
            );
        }
        segments.push("NTE|1|L|Sample arrived at 4 \\T\\ 8 degrees".to_owned());
        let expected = if broken > 0 { Expected::PartlySetAside(broken) } else { Expected::Accepted };
        self.send(Door::Lab, "ORU", "R01", "ORU_R01", at, segments, expected);
    }

    #[allow(clippy::too_many_arguments)] // One message's head.
    fn send(
        &mut self,
        door: Door,
        code: &str,
        trigger: &str,
        structure: &str,
        at: Timestamp,
        segments: Vec<String>,
        expected: Expected,
    ) {
        self.sent += 1;
        let used = &mut self.control_ids[usize::from(door == Door::Lab)];
        let control_id = if !used.is_empty() && self.random.chance(self.options.dirt.reused_control_id) {
            self.truth.reused_control_ids += 1;
            self.random.pick(used).clone()
        } else {
            format!("{code}{:08}", self.sent)
        };
        used.push(control_id.clone());
        let (application, facility) = match door {
            Door::Lab => ("LABSYS", "LABCO"),
            _ => ("REGSYS", "GENHOSP"),
        };
        let body = segments.join("\r");
        let (charset, latin1) = if !body.is_ascii() && self.random.chance(0.3) && encodes_latin1(&body) {
            ("8859/1", true)
        } else {
            ("UNICODE UTF-8", false)
        };
        let message = |mode: &str, id: &str| {
            let text = format!(
                "MSH|^~\\&|{application}|{facility}|WARD|MESH|{}-0500||{code}^{trigger}^{structure}|{id}|{mode}|2.5.1|||AL|NE||{charset}\r{body}\r",
                ts(at)
            );
            if latin1 { encoding_rs::mem::encode_latin1_lossy(&text).into_owned() } else { text.into_bytes() }
        };
        let bytes = message("P", &control_id);
        self.items.push((at, Item { door, control_id: control_id.clone(), bytes: bytes.clone(), expected }));
        if self.random.chance(self.options.dirt.resent) {
            self.truth.resent += 1;
            let item = Item { door, control_id: control_id.clone(), bytes, expected: Expected::Resent };
            self.items.push((at.plus_ms(MINUTE_MS), item));
        }
        if self.random.chance(self.options.dirt.test_message) {
            self.truth.test_messages += 1;
            let id = format!("TST{:08}", self.sent);
            let bytes = message("T", &id);
            self.items.push((at, Item { door, control_id: id, bytes, expected: Expected::Refused }));
        }
    }
}

/// `encode_latin1_lossy` may be called only on text of U+0000 to U+00FF.
fn encodes_latin1(text: &str) -> bool {
    text.chars().all(|c| u32::from(c) <= 0xFF)
}
