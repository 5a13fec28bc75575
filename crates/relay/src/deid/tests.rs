//! What stays and what goes; and over the sample messages: no identifying value survives anywhere.

use std::path::{Path, PathBuf};

use base::Limits;
use hl7v2::{Element, Message};

use super::*;

fn deidentifier(text: &str) -> Deidentifier {
    #[derive(Deserialize)]
    struct Declared {
        deidentify: Deidentify,
    }
    let declared: Declared = toml::from_str(text).unwrap();
    // Any keyed function will do here.
    let keyed = |text: &str| {
        let mut bytes = [7_u8; 32];
        for (n, byte) in text.bytes().enumerate() {
            bytes[n % 32] = bytes[n % 32].rotate_left(3) ^ byte;
            bytes[(n + 7) % 32] = bytes[(n + 7) % 32].wrapping_mul(31).wrapping_add(byte);
        }
        bytes
    };
    Deidentifier::new(declared.deidentify, Arc::new(keyed))
}

/// 2026-11-28.
const NOW: Timestamp = Timestamp(1_795_824_000_000);

fn applied(declared: &str, text: &str) -> Result<String, Left> {
    let message = hl7v2::parse(text.as_bytes(), &Limits::default()).unwrap();
    let made = deidentifier(declared).apply(&message, &message, &[Ordinal(7)], NOW)?;
    Ok(String::from_utf8(made).unwrap())
}

const MESSAGE: &str = "MSH|^~\\&|LAB|GENHOSP|REG|MESH|20240305101500-0500||ORU^R01^ORU_R01|MSG20240305|P|2.5.1\r\
    PID|1||M1234567^^^GENHOSP^MR~999-12-3456^^^USSSA^SS||Everyman^Adam^A||19500412|M||2106-3^White^HL70005|12 Elm Street^^Boston^MA^02118^USA^H^^Suffolk||617-555-0100|||M|||999123456\r\
    PV1|1|I|2N^101^A^GENHOSP||||1001^Lee^Jordan||||||||||||V77777^^^GENHOSP^VN\r\
    OBR|1|P1|F55555^LAB|2345-7^Glucose^LN|||20240304||||||Mr. Everyman is anxious\r\
    OBX|1|NM|2345-7^Glucose^LN||95|mg/dL|70-105|N|||F|||20240304\r\
    OBX|2|TX|N^Note^L||Everyman called\r\
    OBX|3|ST|R^Result^L||Not detected||||||F\r\
    OBX|4|ST|R^Result^L||seen by Adam||||||F\r\
    OBX|5|CWE|C^For Everyman^L||A^Adam's type^L^^^^^^as told by Adam||||||F\r\
    OBX|6|NM|30525-0^Age^LN||93|a|||||F\r\
    NTE|1||Everyman\r\
    ZPI|1|Everyman|gold\r";

#[test]
fn safe_harbor_keeps_the_findings_and_nothing_of_the_person() {
    let made = applied("deidentify = \"safe-harbor\"", MESSAGE).unwrap();
    for gone in [
        "Everyman", "Adam", "M1234567", "999", "0412", "Elm", "Boston", "02118", "617", "1001", "Lee", "V77777",
        "0305", "0304", "NTE", "ZPI", "|93|", "Suffolk", "anxious",
    ] {
        assert!(!made.contains(gone), "{gone}: {made}");
    }
    for kept in [
        "MSH|^~\\&|LAB|GENHOSP|REG|MESH|2024||ORU^R01^ORU_R01|",
        "|P|2.5.1\r",
        "|1950|M||2106-3^White^HL70005|^^^MA^021^USA^H|",
        "^^^^^^S|",
        "|95|mg/dL|70-105|N|||F|||2024\r",
        "|Not detected|",
        "OBX|5|CWE|C^^L||A^^L|",
        "2N^^^GENHOSP",
    ] {
        assert!(made.contains(kept), "{kept}: {made}");
    }
    assert_eq!(made.matches("OBX|").count(), 3, "{made}");
    // Equal numbers stay equal, and are others under another key.
    let again = applied("deidentify = \"safe-harbor\"", MESSAGE).unwrap();
    assert_eq!(made, again);
    // Who is over 89 has no year of birth.
    let old = MESSAGE.replace("|19500412|", "|19300412|");
    assert!(applied("deidentify = \"safe-harbor\"", &old).unwrap().contains("^^^^^^S|||M|"));
}

#[test]
fn shifted_dates_keep_their_distance() {
    let made = applied("deidentify = \"shifted-dates\"", MESSAGE).unwrap();
    let read = hl7v2::parse(made.as_bytes(), &Limits::default()).unwrap();
    let day = |path: &str| {
        let text = read.get(path).unwrap().into_owned();
        let at = hl7v2::time::DateTime::parse(&text).unwrap();
        (base::time::days_from_civil(at.year, at.month, at.day), text.get(8..).unwrap_or_default().to_owned())
    };
    let (sent, rest) = day("MSH-7");
    assert_eq!(sent - day("OBR-7").0, 1);
    assert_eq!(rest, "101500-0500");
    assert_ne!(sent, base::time::days_from_civil(2024, 3, 5));
    assert_eq!(
        sent - day("PID-7").0,
        base::time::days_from_civil(2024, 3, 5) - base::time::days_from_civil(1950, 4, 12)
    );
}

#[test]
fn a_limited_data_set_keeps_days_and_towns() {
    let made = applied("deidentify = \"limited-data-set\"", MESSAGE).unwrap();
    assert!(
        made.contains("^^Boston^MA^02118^USA") && made.contains("|19500412|") && made.contains("20240305101500-0500")
    );
    assert!(!made.contains("Everyman") && !made.contains("Elm") && !made.contains("M1234567") && !made.contains("617"));
}

#[test]
fn what_a_route_keeps_stays_unless_it_identifies() {
    let made = applied("deidentify = { profile = \"safe-harbor\", keep = [\"ZPI-3\"] }", MESSAGE).unwrap();
    assert!(made.contains("ZPI|||gold\r"), "{made}");
    let left = applied("deidentify = { profile = \"safe-harbor\", keep = [\"ZPI\"] }", MESSAGE).unwrap_err();
    assert_eq!(left.place, "ZPI[1]-2");
    assert!(!left.to_string().contains("Everyman"));
    for wrong in [
        "\"unsafe\"",
        "{ profile = \"safe-harbor\", keep = [\"MSH\"] }",
        "{ profile = \"safe-harbor\", keep = [\"Z-1\"] }",
        "{ keep = [\"ZPI\"] }",
    ] {
        #[derive(Deserialize)]
        struct Declared {
            #[allow(dead_code)]
            deidentify: Deidentify,
        }
        assert!(toml::from_str::<Declared>(&format!("deidentify = {wrong}")).is_err(), "{wrong}");
    }
}

#[test]
fn a_profile_meets_masks_that_show_no_less() {
    use gate::Profile as _;
    let mask = |class, method| Mask { class, method, policy: String::new(), reason: String::new() };
    let safe = deidentifier("deidentify = \"safe-harbor\"");
    let limited = deidentifier("deidentify = \"limited-data-set\"");
    for (class, method, by_safe, by_limited) in [
        (DataClass::Name, MaskMethod::Null, true, true),
        (DataClass::Identifier, MaskMethod::KeyedHash, true, true),
        (DataClass::Identifier, MaskMethod::Null, false, false),
        (DataClass::PostalCode, MaskMethod::Zip3, true, false),
        (DataClass::BirthDate, MaskMethod::YearOnly, true, false),
        (DataClass::BirthDate, MaskMethod::AgeBand, false, false),
        (DataClass::Date, MaskMethod::YearOnly, true, false),
        (DataClass::Clinical, MaskMethod::Null, false, false),
    ] {
        let mask = mask(class, method);
        assert_eq!((safe.meets(&mask), limited.meets(&mask)), (by_safe, by_limited), "{mask:?}");
    }
}

/// The fields that name a person or a number of theirs, by the standard's data types and apart from the table that is
/// tested: (segment, field, components; 0 is all).
const IDENTIFYING: &[(&str, usize, &[usize])] = &[
    ("PID", 2, &[1]),
    ("PID", 3, &[1]),
    ("PID", 4, &[1]),
    ("PID", 5, &[1, 2, 3]),
    ("PID", 6, &[1, 2, 3]),
    ("PID", 9, &[1, 2, 3]),
    ("PID", 11, &[1, 2, 3, 5]),
    ("PID", 13, &[0]),
    ("PID", 14, &[0]),
    ("PID", 18, &[1]),
    ("PID", 19, &[0]),
    ("PID", 20, &[1]),
    ("PID", 21, &[1]),
    ("PID", 40, &[0]),
    ("PID", 7, &[0]),
    ("PID", 29, &[0]),
    ("NK1", 2, &[1, 2, 3]),
    ("NK1", 4, &[1, 2, 3, 5]),
    ("NK1", 5, &[0]),
    ("NK1", 6, &[0]),
    ("NK1", 30, &[1, 2, 3]),
    ("NK1", 31, &[0]),
    ("NK1", 32, &[1, 2, 3, 5]),
    ("NK1", 33, &[1]),
    ("NK1", 37, &[0]),
    ("NK1", 16, &[0]),
    ("GT1", 2, &[1]),
    ("GT1", 3, &[1, 2, 3]),
    ("GT1", 4, &[1, 2, 3]),
    ("GT1", 5, &[1, 2, 3, 5]),
    ("GT1", 6, &[0]),
    ("GT1", 7, &[0]),
    ("GT1", 8, &[0]),
    ("GT1", 12, &[0]),
    ("IN1", 16, &[1, 2, 3]),
    ("IN1", 18, &[0]),
    ("IN1", 19, &[1, 2, 3, 5]),
    ("IN1", 36, &[1]),
    ("IN1", 49, &[1]),
    ("IN2", 2, &[0]),
    ("IN2", 6, &[0]),
    ("IN2", 61, &[1]),
    ("IN2", 63, &[0]),
    ("MRG", 1, &[1]),
    ("MRG", 3, &[1]),
    ("MRG", 7, &[1, 2, 3]),
    ("PV1", 19, &[1]),
    ("PV1", 50, &[1]),
    ("PV1", 44, &[0]),
    ("PV1", 45, &[0]),
    ("PV1", 7, &[1, 2, 3]),
    ("PV1", 8, &[1, 2, 3]),
    ("PV1", 9, &[1, 2, 3]),
    ("PV1", 17, &[1, 2, 3]),
    ("OBR", 16, &[1, 2, 3]),
    ("ORC", 12, &[1, 2, 3]),
    ("EVN", 2, &[0]),
    ("EVN", 5, &[1, 2, 3]),
    ("OBR", 7, &[0]),
    ("OBX", 14, &[0]),
    ("RXA", 3, &[0]),
    ("RXA", 10, &[1, 2, 3]),
    ("MSH", 7, &[0]),
    ("MSH", 10, &[0]),
    ("SCH", 12, &[1, 2, 3]),
    ("TXA", 9, &[1, 2, 3]),
    ("TXA", 12, &[1]),
    ("OBR", 2, &[1]),
    ("OBR", 3, &[1]),
    ("SPM", 18, &[0]),
];

/// What is looked for: words of names and addresses from three letters on, numbers and dates from five characters on.
fn identifying(message: &Message<'_>) -> Vec<String> {
    let mut words = Vec::new();
    for (id, field, components) in IDENTIFYING {
        let is_named = components.len() > 1;
        for segment in message.segments_named(id) {
            for repetition in segment.field(*field).repetitions() {
                let mut take = |element: Element<'_>| {
                    let text = element.value().unwrap_or_default().into_owned();
                    let found = text.split(|c: char| !c.is_alphanumeric()).map(str::to_uppercase);
                    words.extend(found.filter(|word| is_looked_for(word, is_named)));
                };
                match components {
                    [0] => take(repetition),
                    some => some.iter().for_each(|n| take(repetition.component(*n))),
                }
            }
        }
    }
    words
}

const COMMON: &[&str] = &[
    "STREET", "ROAD", "AVENUE", "AVE", "THE", "AND", "CITY", "USA", "WEST", "EAST", "NORTH", "SOUTH", "NEW", "PLACE",
    "TOWN", "APT", "UNKNOWN", "NONE",
];

fn is_looked_for(word: &str, is_named: bool) -> bool {
    if word.bytes().any(|b| b.is_ascii_digit()) {
        return word.len() >= 5;
    }
    is_named && word.chars().count() >= 3 && !COMMON.contains(&word)
}

fn samples() -> Option<PathBuf> {
    #[allow(clippy::disallowed_methods)]
    let named = std::env::var("WARD_SHARED_DATA").ok().map(PathBuf::from);
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().map(|folder| folder.join("shared/data"));
    named.into_iter().chain(beside).map(|folder| folder.join("hl7v2")).find(|folder| folder.is_dir())
}

#[test]
fn no_identifying_value_of_a_sample_survives_anywhere() {
    let Some(folder) = samples() else {
        #[allow(clippy::print_stderr)]
        {
            eprintln!("skipped: shared/data/hl7v2 is not here (WARD_SHARED_DATA may point to it)");
        }
        return;
    };
    let (mut files, mut looked_for, mut kept) = (0, 0, 0);
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        let Ok(message) = hl7v2::parse(&bytes, &Limits::default()) else { continue };
        for profile in ["safe-harbor", "shifted-dates"] {
            let declared = format!("deidentify = \"{profile}\"");
            let made = deidentifier(&declared)
                .apply(&message, &message, &[Ordinal(3)], NOW)
                .unwrap_or_else(|left| panic!("{}: {left}", path.display()));
            let read = hl7v2::parse(&made, &Limits::default()).unwrap();
            // The header says how to read the message, which is nobody's: MSH-2, 9, 11, 12, 15 to 18, 20.
            let mut left = String::new();
            for segment in read.segments() {
                for (n, field) in segment.fields() {
                    let is_head = segment.id() == "MSH" && matches!(n, 1 | 2 | 9 | 11 | 12 | 15..=18 | 20);
                    if !is_head {
                        left.push_str(&field.text().to_uppercase());
                        left.push('\r');
                    }
                }
            }
            let left: std::collections::HashSet<&str> = left.split(|c: char| !c.is_alphanumeric()).collect();
            for word in identifying(&message) {
                looked_for += 1;
                assert!(
                    !left.contains(word.as_str()),
                    "{} by {profile}: `{word}`\n{}",
                    path.display(),
                    String::from_utf8_lossy(&made)
                );
            }
            let observed =
                |message: &Message<'_>| message.segments_named("OBX").filter(|obx| obx.field(3).is_value()).count();
            kept += observed(&read);
            assert!(observed(&read) <= observed(&message));
        }
        files += 1;
    }
    assert!(files >= 70 && looked_for > 3_000 && kept > 50, "{files} files, {looked_for} words, {kept} results");
}
