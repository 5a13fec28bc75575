//! One message of every family that a hospital sends: each event of ADT, and orders, results, medications, immunizations,
//! documents, appointments, bills, referrals, problems. About people of their own, so that the rest of the hospital stays
//! as it is; all of it can be used.

use base::Timestamp;

use crate::Door;
use crate::hl7::ts;

/// A message, with its type: `ADT^A01`.
#[derive(Debug, Clone)]
pub struct Sample {
    pub door: Door,
    pub kind: String,
    pub bytes: Vec<u8>,
}

/// Events of ADT about one visit.
const VISITS: &[&str] = &[
    "A01", "A02", "A03", "A04", "A05", "A06", "A07", "A08", "A09", "A10", "A11", "A12", "A13", "A14", "A15", "A16",
    "A21", "A22", "A23", "A25", "A26", "A27", "A32", "A33", "A38", "A52", "A53", "A54", "A55", "A61", "A62",
];
const PERSONS: &[&str] = &["A28", "A29", "A31"];
/// Of two patients.
const PAIRS: &[&str] = &["A17", "A24", "A37"];
/// With an MRG segment, and whether a visit stands in it.
const MERGES: &[(&str, bool)] = &[
    ("A18", true),
    ("A30", false),
    ("A34", false),
    ("A35", false),
    ("A36", false),
    ("A39", false),
    ("A40", false),
    ("A41", false),
    ("A42", true),
    ("A43", false),
    ("A44", false),
    ("A45", true),
    ("A46", false),
    ("A47", false),
    ("A48", false),
    ("A49", false),
    ("A50", true),
    ("A51", true),
];

/// The other families: door, type, what follows PID; `@` is the time, `#` the visit, `%` a number of its own.
const OTHERS: &[(Door, &str, &str)] = &[
    (
        Door::Lab,
        "ORM^O01",
        "#\rORC|NW|P%|||||^^^@||@|||1001^Lee^Jordan\rOBR|1|P%||24323-8^Comprehensive metabolic panel^LN|||@|||||||||1001^Lee^Jordan\r\
         NTE|1|P|Fasting since midnight",
    ),
    (
        Door::Lab,
        "OML^O21",
        "#\rORC|NW|P%|F%^LAB||||||@|||1001^Lee^Jordan\rOBR|1|P%|F%^LAB|58410-2^CBC panel^LN|||@\rSPM|1|S%^LAB||BLD^Blood^HL70487|||||||||||||@",
    ),
    (
        Door::Lab,
        "OMG^O19",
        "#\rORC|NW|P%|F%^RAD||||||@|||1001^Lee^Jordan\rOBR|1|P%|F%^RAD|36643-5^Chest X-ray^LN|||@|||||||||1001^Lee^Jordan",
    ),
    (
        Door::Lab,
        "ORU^R01",
        "#\rORC|RE|P%|F%^LAB\rOBR|1|P%|F%^LAB|24323-8^Comprehensive metabolic panel^LN|||@|||||||||||||||@||LAB|F\r\
         OBX|1|NM|2345-7^Glucose^LN||92|mg/dL|70-99|N|||F|||@\rOBX|2|SN|5792-7^Glucose in urine^LN||>^1000|mg/dL||H|||F|||@\r\
         OBX|3|CWE|5778-6^Color^LN||YEL^Yellow^L||||||F|||@",
    ),
    (
        Door::Lab,
        "OUL^R22",
        "#\rSPM|1|S%^LAB||UR^Urine^HL70487|||||||||||||@\rOBR|1|P%|F%^LAB|24356-8^Urinalysis^LN|||@|||||||||||||||@||LAB|F\r\
         OBX|1|NM|2756-5^pH of urine^LN||6.0|[pH]|5.0-8.0|N|||F|||@",
    ),
    (
        Door::Adt,
        "RDE^O11",
        "#\rORC|NW|P%|||||||@|||1001^Lee^Jordan\r\
         RXE|^^^@|313782^Acetaminophen 325 MG Oral Tablet^RXNORM|650||mg^milligram^UCUM|TAB^Tablet^L||||20|TAB^Tablet^L\r\
         TQ1|1|||Q6H|||@\rRXR|PO^Oral^HL70162",
    ),
    (
        Door::Adt,
        "RDS^O13",
        "#\rORC|RE|P%|F%^PHARM\rRXE|^^^@|313782^Acetaminophen 325 MG Oral Tablet^RXNORM|650||mg^milligram^UCUM\r\
         RXD|1|313782^Acetaminophen 325 MG Oral Tablet^RXNORM|@|20|TAB^Tablet^L||RX%\rRXR|PO^Oral^HL70162",
    ),
    (
        Door::Adt,
        "RAS^O17",
        "#\rORC|RE|P%|F%^PHARM\rRXA|0|1|@|@|313782^Acetaminophen 325 MG Oral Tablet^RXNORM|650|mg^milligram^UCUM||||||||||||||CP\r\
         RXR|PO^Oral^HL70162",
    ),
    (
        Door::Adt,
        "VXU^V04",
        "#\rORC|RE||I%^MESH\rRXA|0|1|@||140^Influenza, seasonal, preservative free^CVX|0.5|mL^mL^UCUM||00^New record^NIP001||||||LOT%||PMC^Sanofi^MVX|||CP|A\r\
         RXR|C28161^Intramuscular^NCIT|LA^Left arm^HL70163",
    ),
    (
        Door::Adt,
        "MDM^T02",
        "#\rTXA|1|DS^Discharge summary^HL70270|TX|@|1001^Lee^Jordan|||||||D%^MESH|||||LA||AV\rOBX|1|TX|18842-5^Discharge summary^LN||Went home well.||||||F",
    ),
    (
        Door::Adt,
        "SIU^S12",
        "#\rRGS|1|A\rAIS|1|A|CHECK^Check-up^L|@|||30|min\rAIP|1|A|1001^Lee^Jordan|ATT^Attending^L||@|||30|min",
    ),
    (
        Door::Adt,
        "DFT^P03",
        "#\rFT1|1|T%|B1|@|@|CG|99213^Office visit^C4||||1|||||||||J18.9^Pneumonia^I10|1001^Lee^Jordan",
    ),
    (
        Door::Adt,
        "BAR^P01",
        "#\rDG1|1||J18.9^Pneumonia, unspecified^I10||@|A\rPR1|1||5A1935Z^Ventilation^I10P||@\r\
         GT1|1|G%^^^GENHOSP^GU|Tour^Ann||1 Mill Street^^Boston^MA^02118^USA^H||||||SPO^Spouse^HL70063\r\
         IN1|1|HMO^Health plan^L|C1^^^PAYER^NIIP|Payer|||||||||@|||||18^Self^HL70344||||||||||||||||||POL%",
    ),
    (Door::Adt, "REF^I12", "\rPRD|RP^Referring provider^HL70286|Lee^Jordan\r#\rDG1|1||I10^Hypertension^I10||@|W"),
    (Door::Adt, "PPR^PC1", "#\rPRB|AD|@|38341003^Hypertension^SCT|PB%^MESH"),
];

/// All of them, at a time.
pub fn families(at: Timestamp) -> Vec<Sample> {
    let mut writer = Writer { n: 0, at, samples: Vec::new() };
    for trigger in VISITS {
        let (pid, pv1) = (writer.pid(1, "T1"), writer.pv1("A"));
        writer.adt(trigger, &format!("{pid}\r{pv1}"));
    }
    for trigger in PERSONS {
        let pid = writer.pid(1, "T2");
        writer.adt(trigger, &pid);
    }
    for trigger in PAIRS {
        let (one, first) = (writer.pid(1, "T3"), writer.pv1("A"));
        let (two, second) = (writer.pid(2, "T4"), writer.pv1("B"));
        let visits = *trigger == "A17";
        let beds = |pv1: &str| if visits { format!("\r{pv1}") } else { String::new() };
        writer.adt(trigger, &format!("{one}{}\r{two}{}", beds(&first), beds(&second)));
    }
    for (trigger, visit) in MERGES {
        let n = writer.n + 1;
        let account = |kind: &str| format!("TA{kind}{n}^^^GENHOSP^AN");
        let pid = format!("{}|||||||||||||{}", writer.pid(1, &format!("TW{n}")), account("W"));
        let mrg = format!("MRG|TL{n}^^^GENHOSP^MR||{}||TVL{n}^^^GENHOSP^VN", account("L"));
        let pv1 = writer.pv1("A");
        let after = if *visit { format!("\r{pv1}") } else { String::new() };
        writer.adt(trigger, &format!("{pid}\r{mrg}{after}"));
    }
    let allergic = writer.pid(1, "T5");
    writer.adt("A60", &format!("{allergic}\rIAM|1|DA|70618^Penicillin^RXNORM|SV|Hives|A|AL1^MESH"));
    for (door, kind, rest) in OTHERS {
        writer.other(*door, kind, rest);
    }
    writer.samples
}

struct Writer {
    n: usize,
    at: Timestamp,
    samples: Vec<Sample>,
}

impl Writer {
    fn pid(&self, set: usize, number: &str) -> String {
        format!(
            "PID|{set}||{number}^^^GENHOSP^MR||Tour^{number}^^^^^L||19700203|F|||1 Mill Street^^Boston^MA^02118^USA^H"
        )
    }

    fn pv1(&self, kind: &str) -> String {
        let mut fields = vec![String::new(); 44];
        fields[0] = "1".into();
        fields[1] = "I".into();
        fields[2] = "6T^601^A^GENHOSP".into();
        fields[6] = "1001^Lee^Jordan".into();
        fields[18] = format!("TV{kind}{}^^^GENHOSP^VN", self.n + 1);
        fields[43] = ts(self.at);
        format!("PV1|{}", fields.join("|"))
    }

    fn adt(&mut self, trigger: &str, segments: &str) {
        let at = ts(self.at);
        self.send(Door::Adt, &format!("ADT^{trigger}"), &format!("EVN|{trigger}|{at}\r{segments}"));
    }

    fn other(&mut self, door: Door, kind: &str, rest: &str) {
        let (at, n) = (ts(self.at), format!("T{}", self.n + 1));
        let rest = rest.replace('@', &at).replace('%', &n).replace('#', &self.pv1("A"));
        let pid = self.pid(1, "T1");
        let body = match kind {
            // The schedule comes before the patient, the referral before the people.
            "SIU^S12" => {
                format!("SCH|AP{n}^MESH|AF{n}^MESH|||||CHECK^Check-up^L|ROUTINE|30|min|^^30^{at}\r{pid}\r{rest}")
            }
            "REF^I12" => {
                let (people, visit) = rest.split_once("\rPV1").unwrap_or((&rest, ""));
                format!(
                    "RF1|P^Pending^HL70283|R^Routine^HL70280|MED^Medical care^HL70281|||RF{n}^MESH|{at}{people}\r{pid}\rPV1{visit}"
                )
            }
            "OUL^R22" | "VXU^V04" | "RDE^O11" => format!("{pid}\r{rest}"),
            _ if kind.starts_with("MDM") || kind.starts_with("DFT") || kind.starts_with("BAR") => {
                format!("EVN||{at}\r{pid}\r{rest}")
            }
            _ => format!("{pid}\r{rest}"),
        };
        self.send(door, kind, &body);
    }

    fn send(&mut self, door: Door, kind: &str, body: &str) {
        self.n += 1;
        let application = if door == Door::Lab { "LABSYS|LABCO" } else { "REGSYS|GENHOSP" };
        let (at, n) = (ts(self.at), self.n);
        let text = format!("MSH|^~\\&|{application}|WARD|MESH|{at}-0500||{kind}|TOUR{n:04}|P|2.5.1|||AL|NE\r{body}\r");
        self.samples.push(Sample { door, kind: kind.to_owned(), bytes: text.into_bytes() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_family_is_there_and_no_number_is_left_open() {
        let all = families(Timestamp(1_793_491_200_000));
        assert_eq!(all.iter().filter(|s| s.kind.starts_with("ADT")).count(), 56);
        let families: std::collections::BTreeSet<&str> = all.iter().filter_map(|s| s.kind.get(..3)).collect();
        assert_eq!(families.len(), 16, "{families:?}");
        for sample in &all {
            assert!(!sample.bytes.contains(&b'%') && !sample.bytes.contains(&b'@'), "{}", sample.kind);
        }
    }
}
