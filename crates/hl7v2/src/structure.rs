//! HL7 table 0354: the message structure that belongs to a type and trigger event (v2.8.2). Senders often write
//! another one in MSH-9.3; this is what the standard says.

/// The structure for a message code and trigger in a version, where the standard has one: (`ADT`, `A08`) is `ADT_A01`.
/// An unknown version is read as the newest.
pub fn structure_of(code: &str, trigger: &str, version: &str) -> Option<&'static str> {
    let changed = EARLIER.iter().find(|(of, at, upto, _)| *of == code && *at == trigger && before(version, upto));
    if let Some((.., name)) = changed {
        return Some(name);
    }
    STRUCTURES
        .iter()
        .find(|(of, triggers, _)| *of == code && triggers.split(' ').any(|t| t == trigger))
        .map(|(.., name)| *name)
}

/// Whether a version is older than another: `2.3.1` than `2.4`.
fn before(version: &str, than: &str) -> bool {
    let parts = |text: &str| text.split('.').filter_map(|n| n.parse::<u32>().ok()).collect::<Vec<_>>();
    let version = parts(version);
    !version.is_empty() && version < parts(than)
}

/// Code, trigger, the version in which the structure became another, and what it was.
const EARLIER: &[(&str, &str, &str, &str)] = &[
    ("ADT", "A05", "2.4", "ADT_A01"),
    ("ADT", "A14", "2.4", "ADT_A01"),
    ("ADT", "A28", "2.4", "ADT_A01"),
    ("ADT", "A31", "2.4", "ADT_A01"),
    ("ADT", "A44", "2.7", "ADT_A43"),
];

const STRUCTURES: &[(&str, &str, &str)] = &[
    ("ADT", "A01 A04 A08 A13", "ADT_A01"),
    ("ADT", "A02", "ADT_A02"),
    ("ADT", "A03", "ADT_A03"),
    ("ADT", "A05 A14 A28 A31", "ADT_A05"),
    ("ADT", "A06 A07", "ADT_A06"),
    ("ADT", "A09 A10 A11", "ADT_A09"),
    ("ADT", "A12", "ADT_A12"),
    ("ADT", "A15", "ADT_A15"),
    ("ADT", "A16", "ADT_A16"),
    ("ADT", "A17", "ADT_A17"),
    ("ADT", "A18", "ADT_A18"),
    ("ADT", "A20", "ADT_A20"),
    ("ADT", "A21 A22 A23 A25 A26 A27 A29 A32 A33", "ADT_A21"),
    ("ADT", "A24", "ADT_A24"),
    ("ADT", "A30 A34 A35 A36 A46 A47 A48 A49", "ADT_A30"),
    ("ADT", "A37", "ADT_A37"),
    ("ADT", "A38", "ADT_A38"),
    ("ADT", "A39 A40 A41 A42", "ADT_A39"),
    ("ADT", "A43", "ADT_A43"),
    ("ADT", "A44", "ADT_A44"),
    ("ADT", "A45", "ADT_A45"),
    ("ADT", "A50 A51", "ADT_A50"),
    ("ADT", "A52 A53", "ADT_A52"),
    ("ADT", "A54 A55", "ADT_A54"),
    ("ADT", "A60", "ADT_A60"),
    ("ADT", "A61 A62", "ADT_A61"),
    ("BAR", "P01", "BAR_P01"),
    ("BAR", "P02", "BAR_P02"),
    ("BAR", "P05", "BAR_P05"),
    ("BAR", "P06", "BAR_P06"),
    ("BAR", "P10", "BAR_P10"),
    ("BAR", "P12", "BAR_P12"),
    ("DFT", "P03", "DFT_P03"),
    ("DFT", "P11", "DFT_P11"),
    ("MDM", "T01 T03 T05 T07 T09 T11", "MDM_T01"),
    ("MDM", "T02 T04 T06 T08 T10", "MDM_T02"),
    ("OMG", "O19", "OMG_O19"),
    ("OML", "O21", "OML_O21"),
    ("OML", "O33", "OML_O33"),
    ("OML", "O35", "OML_O35"),
    ("ORM", "O01", "ORM_O01"),
    ("ORU", "R01", "ORU_R01"),
    ("ORU", "R30 R31 R32", "ORU_R30"),
    ("OUL", "R22", "OUL_R22"),
    ("OUL", "R23", "OUL_R23"),
    ("OUL", "R24", "OUL_R24"),
    ("PPR", "PC1 PC2 PC3", "PPR_PC1"),
    ("RAS", "O17", "RAS_O17"),
    ("RDE", "O11 O25", "RDE_O11"),
    ("RDS", "O13", "RDS_O13"),
    ("REF", "I12 I13 I14 I15", "REF_I12"),
    ("SIU", "S12 S13 S14 S15 S16 S17 S18 S19 S20 S21 S22 S23 S24 S26 S27", "SIU_S12"),
    ("VXU", "V04", "VXU_V04"),
];

#[cfg(test)]
mod tests {
    use super::structure_of;

    #[test]
    fn one_structure_serves_many_triggers() {
        assert_eq!(structure_of("ADT", "A08", "2.5.1"), Some("ADT_A01"));
        assert_eq!(structure_of("ADT", "A31", "2.8.2"), Some("ADT_A05"));
        assert_eq!(structure_of("ADT", "A31", "2.3.1"), Some("ADT_A01"));
        assert_eq!(structure_of("ADT", "A31", ""), Some("ADT_A05"));
        assert_eq!(structure_of("ADT", "A19", "2.5"), None);
        assert_eq!(structure_of("ORU", "R01", "2.3"), Some("ORU_R01"));
    }
}
