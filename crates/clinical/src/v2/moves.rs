//! What a message moves to another patient: MRG names whose it was, PID whose it is (v2.8.2 §3.3.43 to §3.3.45). What
//! that does to the records is the refiner's matter (`refine::moves`).

use hl7v2::Segment;

use super::Fate;
use super::build::{Builder, Refusal, place_of, unit_number};
use super::convert::fault;
use super::events::{self, MoveOf};

type Number = (String, String);

/// A move that the message reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    /// As [`super::Unit::n`], of the MRG segment; no unit has it.
    pub n: u32,
    pub place: String,
    pub what: MoveOf,
    /// The numbers of what moves.
    pub numbers: Vec<Number>,
    /// Numbers of the patient it was with; empty where the message does not tell them.
    pub from: Vec<Number>,
    /// [`super::Unit::n`] of the patient it goes to.
    pub to: u32,
}

impl<'m> Builder<'m> {
    /// Takes note of what an MRG segment moves.
    pub(super) fn moving(&mut self, mrg: Segment<'m>, fates: &mut [Option<Fate>]) {
        let Some(what) = events::moves(&self.event.code, &self.event.trigger) else { return };
        let near = |id| self.near(mrg, id);
        let target = near("PID").and_then(|pid| {
            let is = |unit: &&super::build::Making<'m>| {
                unit.rtype == "Patient" && unit.segments.first().is_some_and(|s| s.index() == pid.index())
            };
            Some((pid, self.units.iter().find(is)?.n))
        });
        let Some((pid, to)) = target else {
            return self.untold(mrg, 0, "move-without-target", "a move without a usable PID before it", fates);
        };
        let own = self.person_numbers(pid, &[3, 2]);
        let named = self.person_numbers(mrg, &[1, 4]);
        let others: Vec<Number> = named.iter().filter(|number| !own.contains(number)).cloned().collect();
        let stay = |segment, field, kind| self.stay_number(segment, field, kind);
        let (numbers, from, field) = match what {
            MoveOf::Numbers => {
                let both: Vec<Number> = named.iter().filter(|number| own.contains(number)).cloned().collect();
                match both.is_empty() {
                    // The numbers themselves are given up for those of PID.
                    true => (others.clone(), others, 1),
                    false if others.is_empty() => {
                        let text = "a move from a record to itself: MRG-1 names no number that PID-3 does not";
                        return self.untold(mrg, 1, "move-without-source", text, fates);
                    }
                    false => (both, others, 1),
                }
            }
            MoveOf::Account => {
                let both = [stay(mrg, 3, "AN"), stay(pid, 18, "AN")];
                (both.into_iter().flatten().collect(), others, 3)
            }
            MoveOf::Visit => {
                let pv1 = near("PV1");
                let both = [
                    stay(mrg, 5, "VN"),
                    stay(mrg, 6, ""),
                    pv1.and_then(|pv1| stay(pv1, 19, "VN")),
                    pv1.and_then(|pv1| stay(pv1, 50, "")),
                ];
                (both.into_iter().flatten().collect(), others, 5)
            }
        };
        if numbers.is_empty() {
            return self.untold(mrg, field, "move-of-nothing", "a move that does not say what moves", fates);
        }
        let told: &[(usize, &str)] = match what {
            MoveOf::Numbers => &[(1, "Patient.identifier"), (4, "Patient.identifier")],
            MoveOf::Account => &[(1, "Account.subject"), (3, "Account.identifier")],
            MoveOf::Visit => &[
                (1, "Encounter.subject"),
                (3, "Encounter.identifier"),
                (5, "Encounter.identifier"),
                (6, "Encounter.identifier"),
            ],
        };
        for (field, target) in told {
            if fates.len() > *field && !mrg.field(*field).is_absent() {
                fates[*field] = Some(Fate::Mapped((*target).to_owned()));
            }
        }
        self.moves.push(Move { n: unit_number(mrg), place: place_of(mrg), what, numbers, from, to });
    }

    fn untold(
        &mut self,
        mrg: Segment<'m>,
        field: usize,
        code: &'static str,
        text: &'static str,
        fates: &mut [Option<Fate>],
    ) {
        self.refuse(mrg, Refusal::SetAside(field, fault(code, text), false), fates);
    }
}
