//! The people of the hospital and their stays.

use base::Timestamp;

use crate::Options;
use crate::names::{FAMILY, GIVEN_F, GIVEN_M, PHYSICIANS, PLACES, STREETS, WARDS};
use crate::random::Random;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sex {
    Female,
    Male,
}

impl Sex {
    /// HL7 table 0001.
    pub fn hl7(self) -> &'static str {
        match self {
            Sex::Female => "F",
            Sex::Male => "M",
        }
    }

    /// FHIR administrative gender.
    pub fn fhir(self) -> &'static str {
        match self {
            Sex::Female => "female",
            Sex::Male => "male",
        }
    }
}

#[derive(Debug, Clone)]
pub struct Patient {
    /// The hospital's medical record number.
    pub mrn: String,
    /// A second number of the same person at the laboratory, sent as a repetition.
    pub lab_number: String,
    pub ssn: String,
    pub family: String,
    pub given: String,
    pub sex: Sex,
    /// YYYYMMDD
    pub born: String,
    pub street: String,
    pub city: String,
    pub state: String,
    pub zip: String,
    pub phone: String,
    pub email: String,
    pub encounters: Vec<Encounter>,
}

#[derive(Debug, Clone)]
pub struct Encounter {
    pub visit: String,
    pub ward: &'static str,
    pub physician: (&'static str, &'static str, &'static str),
    pub admitted: Timestamp,
    pub discharged: Option<Timestamp>,
    /// The admission was a mistake and was cancelled.
    pub cancelled: bool,
    pub inpatient: bool,
}

const DAY_MS: i64 = 86_400_000;

pub fn generate(options: &Options, random: &mut Random) -> (Vec<Patient>, Vec<String>) {
    let mut sentinels = Vec::new();
    let patients = (0..options.patients).map(|n| patient(n, options, random, &mut sentinels)).collect();
    (patients, sentinels)
}

fn patient(n: usize, options: &Options, random: &mut Random, sentinels: &mut Vec<String>) -> Patient {
    let sex = if random.chance(0.5) { Sex::Female } else { Sex::Male };
    let given = match sex {
        Sex::Female => *random.pick(GIVEN_F),
        Sex::Male => *random.pick(GIVEN_M),
    };
    let (city, state, zip) = *random.pick(PLACES);
    let age_days = random.between(30, 95 * 365);
    let born_day = options.today.ms().div_euclid(DAY_MS) - age_days;
    let (year, month, day) = base::time::civil_from_days(born_day);
    let mut patient = Patient {
        mrn: format!("M{:07}", 1_000_000 + n * 7 + random.below(7)),
        lab_number: format!("L{:06}", 100_000 + n),
        ssn: format!("9{}-{}-{}", random.digits(2), random.digits(2), random.digits(4)),
        family: (*random.pick(FAMILY)).to_owned(),
        given: given.to_owned(),
        sex,
        born: format!("{year:04}{month:02}{day:02}"),
        street: format!("{} {} Street", random.between(1, 240), random.pick(STREETS)),
        city: city.to_owned(),
        state: state.to_owned(),
        zip: zip.to_owned(),
        phone: format!("617555{}", random.digits(4)),
        email: String::new(),
        encounters: Vec::new(),
    };
    patient.email = format!("{}.{n}@example.org", patient.given.to_lowercase());
    if options.sentinels {
        plant(&mut patient, n, random, sentinels);
    }
    patient.encounters = stays(n, options, random);
    patient
}

/// Replaces each identifying field by a string that occurs nowhere else.
fn plant(patient: &mut Patient, n: usize, random: &mut Random, sentinels: &mut Vec<String>) {
    let mut fresh = |prefix: &str| {
        let sentinel = format!("{prefix}{}{n:04}", random.letters(12));
        sentinels.push(sentinel.clone());
        sentinel
    };
    patient.family = fresh("FAM");
    patient.given = fresh("GIV");
    patient.mrn = fresh("MRN");
    patient.lab_number = fresh("LAB");
    patient.ssn = fresh("SSN");
    patient.street = fresh("STR");
    patient.city = fresh("CIT");
    patient.phone = fresh("TEL");
    patient.email = format!("{}@example.org", fresh("EML"));
}

fn stays(n: usize, options: &Options, random: &mut Random) -> Vec<Encounter> {
    let count = 1 + random.below(2);
    let mut at = options.today.ms() - random.between(20, 300) * DAY_MS;
    (0..count)
        .map(|k| {
            let inpatient = random.chance(0.7);
            let admitted = Timestamp(at + random.between(6 * 60, 20 * 60) * 60_000);
            let length = if inpatient { random.between(1, 9) * DAY_MS } else { random.between(1, 5) * 3_600_000 };
            let ended = admitted.plus_ms(length);
            at = ended.ms() + random.between(5, 20) * DAY_MS;
            let cancelled = random.chance(0.04);
            let discharged = (!cancelled && ended < options.today && random.chance(0.85)).then_some(ended);
            Encounter {
                visit: format!("V{:06}-{k}", 200_000 + n),
                ward: random.pick(WARDS).0,
                physician: *random.pick(PHYSICIANS),
                admitted,
                discharged,
                cancelled,
                inpatient,
            }
        })
        .collect()
}
