//! Chains of messages whose end is known: stays with everything that is taken back, merges and their inverse, results from
//! preliminary to withdrawn, lists, late news. Each message says when it happened, so that a chain ends in the same state
//! in whatever order it is delivered, unless it says that its order must be kept.

use base::Timestamp;

use crate::Door;
use crate::hl7::ts;
use crate::random::Random;

/// Messages about one matter, and what must be so once all have come.
#[derive(Debug, Clone)]
pub struct Chain {
    /// What it is an example of: `A01 A03 A13`.
    pub name: String,
    pub messages: Vec<Message>,
    pub facts: Vec<Fact>,
    /// Its messages mean something only one after the other.
    pub in_order: bool,
    /// Units that must be set aside as critical.
    pub critical: usize,
}

/// One message of a chain.
#[derive(Debug, Clone)]
pub struct Message {
    pub door: Door,
    pub bytes: Vec<u8>,
}

/// Whom a fact is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Of {
    /// The one that carries this number.
    Number(String),
    /// The one with this code of the patient with this number.
    Coded { patient: String, code: &'static str },
}

/// What an element of a resource must say at the end; `None`: nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fact {
    pub door: Door,
    pub rtype: &'static str,
    pub of: Of,
    /// `period.end`, `link.0.type`.
    pub path: &'static str,
    pub says: Option<String>,
}

/// Stays, by their events, and the status they end in.
const STAYS: &[(&[&str], &str)] = &[
    (&["A01", "A03"], "finished"),
    (&["A01", "A11"], "cancelled"),
    (&["A01", "A11", "A01"], "in-progress"),
    (&["A04", "A11"], "cancelled"),
    (&["A01", "A02", "A12"], "in-progress"),
    (&["A01", "A03", "A13"], "in-progress"),
    (&["A01", "A03", "A13", "A03"], "finished"),
    (&["A05", "A38"], "cancelled"),
    (&["A05", "A01"], "in-progress"),
    (&["A14", "A27"], "cancelled"),
    (&["A01", "A16", "A25"], "in-progress"),
    (&["A01", "A15", "A26", "A02"], "in-progress"),
    (&["A01", "A21"], "onleave"),
    (&["A01", "A21", "A22"], "in-progress"),
    (&["A01", "A21", "A52"], "in-progress"),
    (&["A01", "A21", "A22", "A53"], "onleave"),
    (&["A01", "A09", "A33"], "in-progress"),
    (&["A04", "A10", "A32", "A03"], "finished"),
    (&["A01", "A54", "A55"], "in-progress"),
    (&["A01", "A61", "A62"], "in-progress"),
    (&["A04", "A06"], "in-progress"),
    (&["A01", "A07"], "in-progress"),
    (&["A01", "A08", "A03"], "finished"),
    (&["A01", "A23"], "entered-in-error"),
];

const MINUTE_MS: i64 = 60_000;

/// As many chains; one seed gives the same. `name` keeps the numbers of one set apart from those of another.
pub fn chains(seed: u64, name: &str, count: usize, today: Timestamp) -> Vec<Chain> {
    let mut writer =
        Writer { random: Random::new(seed), name, n: 0, sent: 0, day: today.plus_ms(-10 * 24 * 60 * MINUTE_MS) };
    (0..count).map(|n| writer.chain(n)).collect()
}

struct Writer<'a> {
    random: Random,
    name: &'a str,
    n: usize,
    sent: usize,
    day: Timestamp,
}

impl Writer<'_> {
    fn chain(&mut self, n: usize) -> Chain {
        self.n = n;
        match n % 6 {
            0 | 1 => self.stay(STAYS[(n / 6 * 2 + n % 6) % STAYS.len()]),
            2 => self.merge(n / 6 % 3),
            3 => self.result(n / 6 % 4),
            4 if (n / 6).is_multiple_of(2) => self.news(),
            4 => self.allergies(),
            _ if (n / 6).is_multiple_of(3) => self.moved(),
            _ => self.held((n / 6).is_multiple_of(2)),
        }
    }

    fn number(&self, kind: &str) -> String {
        format!("{kind}{}{:05}", self.name, self.n)
    }

    fn at(&self, step: usize) -> Timestamp {
        self.day.plus_ms((self.n as i64 * 7 + step as i64 * 60) * MINUTE_MS)
    }

    fn pid(&self, number: &str, family: &str, account: &str) -> String {
        format!("PID|1||{number}^^^GENHOSP^MR||{family}^Chain^^^^^L||19700301|F||||||||||{account}")
    }

    fn pv1(&self, class: &str, place: &str, step: usize, discharged: Option<usize>) -> String {
        let mut fields = vec![String::new(); 45];
        fields[0] = "1".into();
        fields[1] = class.into();
        fields[2] = format!("{place}^1^A^GENHOSP");
        fields[18] = format!("{}^^^GENHOSP^VN", self.number("V"));
        fields[43] = ts(self.at(step));
        fields[44] = discharged.map(|step| ts(self.at(step))).unwrap_or_default();
        format!("PV1|{}", fields.join("|"))
    }

    /// A message of the registration desk about what happened at this step.
    fn adt(&mut self, trigger: &str, step: usize, segments: &[String]) -> Message {
        let at = ts(self.at(step));
        self.message(Door::Adt, "ADT", trigger, step, format!("EVN|{trigger}|{at}\r{}", segments.join("\r")))
    }

    fn message(&mut self, door: Door, code: &str, trigger: &str, step: usize, body: String) -> Message {
        self.sent += 1;
        // A sender that counts to fifty and begins again.
        let control = format!("{}{:02}", self.name, self.sent % 50);
        let application = if door == Door::Lab { "LABSYS|LABCO" } else { "REGSYS|GENHOSP" };
        let at = ts(self.at(step));
        let head = format!("MSH|^~\\&|{application}|WARD|MESH|{at}-0500||{code}^{trigger}|{control}|P|2.5.1|||AL|NE");
        Message { door, bytes: format!("{head}\r{body}\r").into_bytes() }
    }

    fn fact(&self, rtype: &'static str, of: &str, path: &'static str, says: Option<&str>) -> Fact {
        Fact { door: Door::Adt, rtype, of: Of::Number(of.to_owned()), path, says: says.map(str::to_owned) }
    }

    fn stay(&mut self, (events, status): (&[&str], &'static str)) -> Chain {
        let (mrn, visit) = (self.number("M"), self.number("V"));
        let mut class = "I";
        let mut place = "W1".to_owned();
        let mut ended = None;
        let mut messages = Vec::new();
        for (step, trigger) in events.iter().enumerate() {
            match *trigger {
                "A04" | "A07" => class = "O",
                "A06" => class = "I",
                "A02" => place = "W2".to_owned(),
                "A12" => place = "W1".to_owned(),
                "A03" => ended = Some(step),
                "A13" => ended = None,
                _ => {}
            }
            let segments = [self.pid(&mrn, "STAY", ""), self.pv1(class, &place, 0, ended)];
            messages.push(self.adt(trigger, step, &segments));
        }
        let end = ended.map(|step| iso(self.at(step)));
        let display = format!("{place}, room 1, bed A, GENHOSP");
        let facts = vec![
            self.fact("Encounter", &visit, "status", Some(status)),
            self.fact("Encounter", &visit, "class.code", Some(if class == "I" { "IMP" } else { "AMB" })),
            self.fact("Encounter", &visit, "period.end", end.as_deref()),
            self.fact("Encounter", &visit, "location.0.location.display", Some(&display)),
            self.fact("Encounter", &visit, "location.1", None),
            self.fact("Patient", &mrn, "name.0.family", Some("STAY")),
        ];
        Chain { name: events.join(" "), messages, facts, in_order: false, critical: 0 }
    }

    /// Merged; merged and parted again; and merged once more.
    fn merge(&mut self, turns: usize) -> Chain {
        let (old, new) = (self.number("L"), self.number("M"));
        let mut messages = vec![
            self.adt("A28", 0, &[self.pid(&old, "LOSER", "")]),
            self.adt("A28", 1, &[self.pid(&new, "WINNER", "")]),
        ];
        for turn in 0..=turns {
            let step = 2 + turn;
            messages.push(if turn.is_multiple_of(2) {
                self.adt("A40", step, &[self.pid(&new, "WINNER", ""), format!("MRG|{old}^^^GENHOSP^MR")])
            } else {
                let other = self.pid(&old, "LOSER", "").replacen("PID|1", "PID|2", 1);
                self.adt("A37", step, &[self.pid(&new, "WINNER", ""), other])
            });
        }
        let merged = turns.is_multiple_of(2);
        let facts = vec![
            self.fact("Patient", &old, "active", merged.then_some("false")),
            self.fact("Patient", &old, "link.0.type", merged.then_some("replaced-by")),
            self.fact("Patient", &old, "link.1", None),
            self.fact("Patient", &old, "name.0.family", Some("LOSER")),
            self.fact("Patient", &new, "active", None),
            self.fact("Patient", &new, "link.0.type", merged.then_some("replaces")),
            self.fact("Patient", &new, "link.1", None),
            self.fact("Patient", &new, "name.0.family", Some("WINNER")),
        ];
        Chain { name: format!("merge {turns}"), messages, facts, in_order: false, critical: 0 }
    }

    /// Preliminary, final, corrected, withdrawn: so far as `upto` says.
    fn result(&mut self, upto: usize) -> Chain {
        let (mrn, filler) = (self.number("M"), self.number("F"));
        let mut messages = Vec::new();
        let mut last = ("", String::new());
        for (step, (sent, status)) in
            [("P", "preliminary"), ("F", "final"), ("C", "corrected"), ("W", "entered-in-error")]
                .into_iter()
                .enumerate()
        {
            if step > upto {
                break;
            }
            let value = if sent == "W" { String::new() } else { (100 + self.random.below(200)).to_string() };
            messages.push(self.oru(
                &mrn,
                &filler,
                step,
                &format!("OBX|1|NM|2345-7^Glucose^LN||{value}|mg/dL|70-99||||{sent}"),
            ));
            last = (status, if value.is_empty() { last.1 } else { value });
        }
        let of = || Of::Coded { patient: mrn.clone(), code: "2345-7" };
        let fact = |path, says: &str| Fact {
            door: Door::Lab,
            rtype: "Observation",
            of: of(),
            path,
            says: Some(says.to_owned()),
        };
        let mut facts = vec![fact("status", last.0)];
        if last.0 != "entered-in-error" {
            facts.push(fact("valueQuantity.value", &last.1));
            facts.push(fact("valueQuantity.code", "mg/dL"));
        }
        Chain { name: format!("result {upto}"), messages, facts, in_order: false, critical: 0 }
    }

    fn oru(&mut self, mrn: &str, filler: &str, step: usize, obx: &str) -> Message {
        let (drawn, sent) = (ts(self.at(0)), ts(self.at(step)));
        let body = format!(
            "{}\rORC|RE|P{filler}|{filler}^LAB\rOBR|1|P{filler}|{filler}^LAB|24323-8^Panel^LN|||{drawn}|||||||||||||||{sent}||LAB|F\r{obx}",
            self.pid(mrn, "RESULT", "")
        );
        self.message(Door::Lab, "ORU", "R01", step, body)
    }

    /// Results that cannot be used and must be seen all the same, and one beside them that can.
    fn held(&mut self, is_high: bool) -> Chain {
        let (mrn, filler) = (self.number("M"), self.number("F"));
        let flag = if is_high { "HH" } else { "LL" };
        let obx = format!(
            "OBX|1|NM|2345-7^Glucose^LN||4x0|mg/dL|70-99|{flag}|||F\rOBX|2|NM|2823-3^Potassium^LN||7.1|mmol/L|3.5-5.1|HH|||F\r\
             OBX|3|ST|777-3^Platelets^LN||clumped||||||F"
        );
        let messages = vec![self.oru(&mrn, &filler, 0, &obx)];
        let fact = |code, path, says: Option<&str>| Fact {
            door: Door::Lab,
            rtype: "Observation",
            of: Of::Coded { patient: mrn.clone(), code },
            path,
            says: says.map(str::to_owned),
        };
        let facts = vec![
            fact("2823-3", "valueQuantity.value", Some("7.1")),
            fact("2823-3", "interpretation.0.coding.0.code", Some("HH")),
            fact("777-3", "valueString", Some("clumped")),
        ];
        Chain { name: format!("held {flag}"), messages, facts, in_order: false, critical: 1 }
    }

    /// News about a person, element by element, of which the newest counts.
    fn news(&mut self) -> Chain {
        let mrn = self.number("M");
        let mut messages = Vec::new();
        let (mut family, mut city) = ("OLD".to_owned(), "Oldtown".to_owned());
        messages.push(self.person("A28", 0, &mrn, &family, &city, "19700301"));
        for step in 1..5 {
            let (name, place, born) = match self.random.below(3) {
                0 => (format!("N{step}"), String::new(), ""),
                1 => (String::new(), format!("C{step}"), ""),
                _ => (String::new(), String::new(), "\"\""),
            };
            messages.push(self.person("A31", step, &mrn, &name, &place, born));
            family = if name.is_empty() { family } else { name };
            city = if place.is_empty() { city } else { place };
        }
        let removed = messages.iter().any(|m| m.bytes.windows(4).any(|w| w == b"|\"\"|"));
        let facts = vec![
            self.fact("Patient", &mrn, "name.0.family", Some(&family)),
            self.fact("Patient", &mrn, "address.0.city", Some(&city)),
            self.fact("Patient", &mrn, "birthDate", (!removed).then_some("1970-03-01")),
            self.fact("Patient", &mrn, "name.1", None),
        ];
        Chain { name: "news".to_owned(), messages, facts, in_order: false, critical: 0 }
    }

    fn person(&mut self, trigger: &str, step: usize, mrn: &str, family: &str, city: &str, born: &str) -> Message {
        let name = if family.is_empty() { String::new() } else { format!("{family}^Chain^^^^^L") };
        let address = if city.is_empty() { String::new() } else { format!("1 High St^^{city}^ST^12345^USA^H") };
        let pid = format!("PID|1||{mrn}^^^GENHOSP^MR||{name}||{born}|F|||{address}");
        self.adt(trigger, step, &[pid])
    }

    /// Lists of allergies, of which the newest counts.
    fn allergies(&mut self) -> Chain {
        const ALL: [&str; 4] = ["PEN", "NUT", "EGG", "CAT"];
        let mrn = self.number("M");
        let (mut messages, mut named, mut last) = (Vec::new(), [false; 4], [false; 4]);
        for step in 0..4 {
            last = std::array::from_fn(|_| self.random.chance(0.5));
            let mut segments = vec![self.pid(&mrn, "LIST", "")];
            for (code, _) in ALL.iter().zip(last).filter(|(_, is)| *is) {
                segments.push(format!("AL1|{}|DA|{code}^{code}^L", segments.len()));
            }
            if segments.len() == 1 {
                segments.push("AL1|1||\"\"".to_owned());
            }
            named = std::array::from_fn(|n| named[n] || last[n]);
            messages.push(self.adt("A31", step, &segments));
        }
        let facts = (0..4).filter(|n| named[*n]).map(|n| Fact {
            door: Door::Adt,
            rtype: "AllergyIntolerance",
            of: Of::Coded { patient: mrn.clone(), code: ALL[n] },
            path: "clinicalStatus.coding.0.code",
            says: Some(if last[n] { "active" } else { "inactive" }.to_owned()),
        });
        Chain { name: "allergies".to_owned(), messages, facts: facts.collect(), in_order: false, critical: 0 }
    }

    /// An account filed under the wrong patient.
    fn moved(&mut self) -> Chain {
        let (wrong, right, visit) = (self.number("M"), self.number("R"), self.number("V"));
        let account = format!("{}^^^GENHOSP^AN", self.number("A"));
        let (there, here) = (self.pid(&right, "RIGHT", &account), self.pid(&wrong, "WRONG", &account));
        let stay = self.pv1("I", "W1", 0, None);
        let messages = vec![
            self.adt("A28", 0, &[self.pid(&right, "RIGHT", "")]),
            self.adt("A01", 1, &[here, stay.clone(), "DG1|1||J18.9^Pneumonia^I10||20261101|A".to_owned()]),
            self.adt("A44", 2, &[there.clone(), format!("MRG|{wrong}^^^GENHOSP^MR||{account}")]),
            self.adt("A03", 3, &[there, self.pv1("I", "W1", 0, Some(3))]),
        ];
        let diagnosis = Of::Coded { patient: right, code: "J18.9" };
        let facts = vec![
            self.fact("Encounter", &visit, "status", Some("finished")),
            Fact {
                door: Door::Adt,
                rtype: "Condition",
                of: diagnosis,
                path: "code.coding.0.code",
                says: Some("J18.9".to_owned()),
            },
        ];
        Chain { name: "moved account".to_owned(), messages, facts, in_order: true, critical: 0 }
    }
}

/// As FHIR says it, in the hospital's zone.
fn iso(at: Timestamp) -> String {
    let local = Timestamp(at.ms() - 5 * 60 * MINUTE_MS).to_string();
    format!("{}-05:00", &local[..19])
}

/// A delivery of all messages: every chain that keeps its order in it, the rest as chance has it; some come twice. The
/// numbers are those of chain and message.
pub fn delivery(seed: u64, chains: &[Chain]) -> Vec<(usize, usize)> {
    let mut random = Random::new(seed);
    let mut order: Vec<(usize, usize)> =
        chains.iter().enumerate().flat_map(|(c, chain)| (0..chain.messages.len()).map(move |m| (c, m))).collect();
    for at in (1..order.len()).rev() {
        order.swap(at, random.below(at + 1));
    }
    let mut next = vec![0; chains.len()];
    for (chain, message) in &mut order {
        if chains[*chain].in_order {
            *message = next[*chain];
            next[*chain] += 1;
        }
    }
    let mut twice = Vec::with_capacity(order.len() + order.len() / 20);
    for place in order {
        twice.push(place);
        if !chains[place.0].in_order && random.chance(0.05) {
            twice.push(place);
        }
    }
    twice
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_is_one_set_and_one_delivery() {
        let today = Timestamp(1_793_491_200_000);
        let (a, b) = (chains(1, "X", 60, today), chains(1, "X", 60, today));
        assert!(a.iter().zip(&b).all(|(x, y)| x.facts == y.facts && x.messages.len() == y.messages.len()));
        assert_eq!(delivery(5, &a), delivery(5, &b));
        assert_ne!(delivery(5, &a), delivery(6, &a));
        for (chain, own) in a.iter().enumerate().filter(|(_, own)| own.in_order) {
            let seen: Vec<usize> = delivery(5, &a).iter().filter(|(c, _)| *c == chain).map(|(_, m)| *m).collect();
            assert_eq!(seen, (0..own.messages.len()).collect::<Vec<_>>());
        }
        assert!(a.iter().all(|chain| !chain.facts.is_empty()));
    }
}
