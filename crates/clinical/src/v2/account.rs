//! The account of what a message became, and of what the tables cover: for people at the interface desk. Holds no value
//! of a message but in [`preview`].

use std::collections::{BTreeMap, HashMap};

use fhir::json::Value;

use super::plan::{Origin, plan};
use super::{Fate, Key, Mapped};

/// Where what becomes of a segment comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Covered {
    /// Rows of the guide, with ours where they are better.
    Guide,
    /// Rows of ours alone.
    Ours,
    /// Kept as it came, counted.
    Raw,
}

impl Covered {
    pub fn word(self) -> &'static str {
        match self {
            Covered::Guide => "guide",
            Covered::Ours => "override",
            Covered::Raw => "raw",
        }
    }
}

/// Message, segment, and where its map comes from; of several places the best.
pub fn coverage() -> Vec<(&'static str, &'static str, Covered)> {
    let plan = plan();
    let mut all: BTreeMap<(&'static str, &'static str), Covered> = BTreeMap::new();
    for structure in plan.messages.values() {
        for place in &structure.places {
            let tasks = match place.tasks.is_empty() {
                true => plan.defaults.get(place.segment).map_or(&[][..], Vec::as_slice),
                false => &place.tasks,
            };
            let of = |map: &str| match plan.segments.get(map) {
                Some(map) if map.origin == Origin::Guide && structure.origin == Origin::Guide => Covered::Guide,
                _ => Covered::Ours,
            };
            let covered = match place.segment {
                "MSH" | "EVN" => Covered::Ours,
                _ => tasks.iter().map(|task| of(task.map)).min().unwrap_or(Covered::Raw),
            };
            let known = all.entry((structure.name, place.segment)).or_insert(covered);
            *known = (*known).min(covered);
        }
    }
    all.into_iter().map(|((message, segment), covered)| (message, segment, covered)).collect()
}

/// [`coverage`] as a table in Markdown: a line for each message.
pub fn coverage_table() -> String {
    let mut lines: BTreeMap<&str, BTreeMap<Covered, Vec<&str>>> = BTreeMap::new();
    for (message, segment, covered) in coverage() {
        lines.entry(message).or_default().entry(covered).or_default().push(segment);
    }
    let mut out = String::from("| message | guide | override | raw |\n|---|---|---|---|\n");
    for (message, by) in lines {
        let cell = |covered| by.get(&covered).map_or(String::new(), |segments| segments.join(" "));
        out.push_str(&format!(
            "| {message} | {} | {} | {} |\n",
            cell(Covered::Guide),
            cell(Covered::Ours),
            cell(Covered::Raw)
        ));
    }
    out
}

/// How many valued fields were mapped, kept on purpose, and not mapped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    pub mapped: u64,
    pub kept: u64,
    pub unmapped: u64,
}

impl Totals {
    pub fn add(&mut self, fate: &Fate) {
        match fate {
            Fate::Mapped(_) => self.mapped += 1,
            Fate::Kept(_) => self.kept += 1,
            Fate::Unmapped => self.unmapped += 1,
        }
    }
}

impl Mapped {
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        self.fates.iter().for_each(|fate| totals.add(&fate.fate));
        totals
    }
}

/// The resources that a message alone would make in an empty silver, by names such as `Patient/u8`. What could not be
/// made there is left out.
pub fn preview(mapped: &Mapped) -> Vec<(String, Value)> {
    let name = |n: u32, rtype: &str| format!("{rtype}/u{n}");
    let mut names: HashMap<u32, String> =
        mapped.units.iter().map(|unit| (unit.n, name(unit.n, unit.draft.rtype))).collect();
    let mut made: Vec<(String, Value)> = Vec::with_capacity(mapped.units.len());
    for unit in mapped.apply_order().into_iter().map(|at| &mapped.units[at]) {
        if let Key::Within { unit: parent, .. } = &unit.key
            && !names.contains_key(parent)
        {
            names.remove(&unit.n);
            continue;
        }
        match unit.draft.apply(&unit.key, None, &|n| names.get(&n).cloned()) {
            Ok(Some(resource)) => made.push((names[&unit.n].clone(), resource)),
            _ => drop(names.remove(&unit.n)),
        }
    }
    made
}
