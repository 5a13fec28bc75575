//! The tables as a plan: read once at the start, checked against R4's definitions, ready to be executed without a look
//! at their text.
//!
//! `maps/guide` is written by `cargo xtask gen v2` from the v2-to-FHIR guide, `maps/ours` by hand in the same form:
//! `=MAP` begins a map; then, separated by tabs, `field, v2 type, condition, element, type map, vocabulary, constant`.
//! In messages `+GROUP` opens a group and `-` closes it, `SEG` is a segment, ` *` says that it repeats, and
//! `>condition, resource#number, map, references` what becomes of it. Rows of ours take the place of all that the guide
//! has for the same field.

mod condition;
mod place;
mod structure;

use std::collections::{BTreeMap, HashMap};
use std::sync::LazyLock;

use fhir::json::Value;

pub use condition::{Condition, Scene};
pub use place::Place;
pub use structure::{Home, Link, Structure, Target, Task};

use super::tables::Convert;
use super::vocabulary::Vocabulary;

/// Where a row comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    Guide,
    Ours,
}

/// A segment's map into one resource.
pub struct SegmentMap {
    pub segment: &'static str,
    /// `*` for the map of what no other map took.
    pub rtype: &'static str,
    /// By field.
    pub rows: Vec<Row>,
    pub items: Vec<Item>,
    pub origin: Origin,
}

pub struct Row {
    /// 0 is the segment itself.
    pub field: usize,
    pub condition: Option<Condition>,
    pub action: Action,
    /// For the account: `Encounter.class`.
    pub target: String,
}

pub enum Action {
    /// Not mapped on purpose, for this reason.
    Kept(&'static str),
    /// Read by the part of the program that knows more than the field.
    Hook,
    Set {
        path: &'static str,
        by: Convert,
        only_default: bool,
    },
    Item {
        item: usize,
        steps: Vec<Place>,
        inner: Vec<InnerStep>,
        by: Convert,
    },
}

/// A step within an item: a member, and where it is a list the place in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InnerStep {
    pub name: &'static str,
    pub at: Option<usize>,
}

/// An item of a repeating element: the rows that make it.
pub struct Item {
    pub path: &'static str,
    /// The name its items go by, in `Element.id`: the field, where one makes it.
    pub label: String,
    pub fields: Vec<usize>,
    pub rows: Vec<usize>,
    /// One for all segments of the resource: what several say is put together.
    pub shared: bool,
    /// Elements without which R4 has no such item.
    pub required: Vec<&'static str>,
}

impl SegmentMap {
    pub fn rows_of(&self, field: usize) -> impl Iterator<Item = &Row> {
        let from = self.rows.partition_point(|row| row.field < field);
        self.rows[from..].iter().take_while(move |row| row.field == field)
    }
}

pub struct Plan {
    pub segments: HashMap<&'static str, SegmentMap>,
    pub messages: BTreeMap<&'static str, Structure>,
    /// What becomes of a segment where its message says nothing.
    pub defaults: HashMap<&'static str, Vec<Task>>,
    /// What could not be read, by place. Empty, or the tables are broken: a test says so.
    pub faults: Vec<String>,
}

/// The plan of this program.
pub fn plan() -> &'static Plan {
    static PLAN: LazyLock<Plan> = LazyLock::new(|| {
        Plan::read(
            [include_str!("../../../maps/guide/segments.txt"), include_str!("../../../maps/ours/segments.txt")],
            [include_str!("../../../maps/guide/messages.txt"), include_str!("../../../maps/ours/messages.txt")],
        )
    });
    &PLAN
}

/// The vocabulary of this name; an empty one where there is none.
pub fn vocabulary(name: &str) -> &'static Vocabulary {
    static NONE: LazyLock<Vocabulary> = LazyLock::new(Vocabulary::default);
    vocabularies().get(&plain(name)).unwrap_or(&NONE)
}

/// Whether the tables have a vocabulary of this name, be it empty.
pub fn knows(name: &str) -> bool {
    vocabularies().contains_key(&plain(name))
}

/// Whether any message of the tables has this segment.
pub fn knows_segment(id: &str) -> bool {
    let plan = plan();
    plan.defaults.contains_key(id) || plan.messages.values().any(|message| message.first(id).is_some())
}

fn vocabularies() -> &'static HashMap<String, Vocabulary> {
    static CODES: LazyLock<HashMap<String, Vocabulary>> = LazyLock::new(|| {
        let mut all = HashMap::new();
        for text in [include_str!("../../../maps/guide/codes.txt"), include_str!("../../../maps/ours/codes.txt")] {
            read_codes(text, &mut all);
        }
        all
    });
    &CODES
}

/// `Yes/NoIndicator` and `YesNoIndicator` are one.
fn plain(name: &str) -> String {
    name.chars().filter(|c| c.is_alphanumeric() || matches!(c, '[' | ']')).flat_map(char::to_lowercase).collect()
}

fn read_codes(text: &'static str, all: &mut HashMap<String, Vocabulary>) {
    let mut name = String::new();
    for line in text.lines().filter(|l| !l.is_empty() && !l.starts_with('#')) {
        if let Some(header) = line.strip_prefix('=') {
            let (title, table) = header.split_once('\t').unwrap_or((header, ""));
            match title.strip_prefix('+') {
                Some(more) => name = plain(more),
                None => {
                    name = plain(title);
                    let table = table.strip_prefix("HL7").unwrap_or_default();
                    all.insert(name.clone(), Vocabulary::new(table));
                }
            }
            continue;
        }
        let mut cells = line.split('\t');
        let mut cell = || cells.next().unwrap_or_default();
        let (v2, code, display, system) = (cell(), cell(), cell(), cell());
        all.entry(name.clone()).or_default().add(v2, code, display, system);
    }
}

/// A line of a segment table.
struct Line {
    field: usize,
    v2_type: &'static str,
    condition: &'static str,
    element: &'static str,
    type_map: &'static str,
    vocabulary: &'static str,
    constant: &'static str,
    origin: Origin,
}

impl Plan {
    fn read(segments: [&'static str; 2], messages: [&'static str; 2]) -> Plan {
        let mut plan =
            Plan { segments: HashMap::new(), messages: BTreeMap::new(), defaults: HashMap::new(), faults: Vec::new() };
        let mut lines: BTreeMap<&'static str, Vec<Line>> = BTreeMap::new();
        for (text, origin) in segments.into_iter().zip([Origin::Guide, Origin::Ours]) {
            read_lines(text, origin, &mut lines);
        }
        for (name, mut lines) in lines {
            let own: Vec<usize> = lines.iter().filter(|l| l.origin == Origin::Ours).map(|l| l.field).collect();
            lines.retain(|line| line.origin == Origin::Ours || !own.contains(&line.field));
            let map = plan.segment_map(name, lines);
            plan.segments.insert(name, map);
        }
        structure::read(messages, &mut plan);
        plan
    }

    fn segment_map(&mut self, name: &'static str, mut lines: Vec<Line>) -> SegmentMap {
        let (segment, target) = name.split_once('[').unwrap_or((name, ""));
        let target = target.trim_end_matches(']');
        let rtype = target.split('-').next().unwrap_or(target);
        // Stable: rows of one field stay in the order of the table.
        lines.sort_by_key(|line| line.field);
        let origin = if lines.iter().any(|l| l.origin == Origin::Guide) { Origin::Guide } else { Origin::Ours };
        let mut map = SegmentMap { segment, rtype, rows: Vec::new(), items: Vec::new(), origin };
        let mut drafts: HashMap<(String, String), usize> = HashMap::new();
        for line in &lines {
            if line.element == "=left" {
                continue;
            }
            match self.row(&mut map, line, &mut drafts) {
                Ok(rows) => map.rows.extend(rows),
                Err(fault) => self.faults.push(format!("{name} {}: {fault}", line.field)),
            }
        }
        finish_items(&mut map);
        for item in map.items.iter().filter(|item| item.path.ends_with("extension")) {
            let named = item.rows.iter().any(|at| match &map.rows[*at].action {
                Action::Item { inner, by, .. } => match inner.as_slice() {
                    // Made as a whole by its converter.
                    [] => true,
                    [one] => one.name == "url" && by.is_constant(),
                    _ => false,
                },
                _ => false,
            });
            if !named {
                self.faults.push(format!("{name} {:?}: an extension without a name", item.fields));
            }
        }
        map
    }

    fn row(
        &mut self,
        map: &mut SegmentMap,
        line: &Line,
        drafts: &mut HashMap<(String, String), usize>,
    ) -> Result<Vec<Row>, String> {
        let condition = match line.condition {
            "" => None,
            text => Some(Condition::parse(text)?),
        };
        let row = |action, target| Row { field: line.field, condition: condition.clone(), action, target };
        match line.element {
            "=kept" => return Ok(vec![row(Action::Kept(kept(line.constant)), String::new())]),
            "=hook" => return Ok(vec![row(Action::Hook, format!("{}.{}", map.rtype, line.constant))]),
            _ => {}
        }
        if let Some(kind) = line.element.strip_prefix('+') {
            return self.extension(map, line, kind, &row, drafts);
        }
        let (element, only_default) = match line.element.strip_suffix("=default") {
            Some(element) => (element, true),
            None => (line.element, false),
        };
        if element.starts_with('_') {
            let by = Convert::named(line.v2_type, line.type_map, line.vocabulary, line.constant, "Extension")?;
            let target = format!("{}.{element}", map.rtype);
            return Ok(vec![row(Action::Set { path: line.element, by, only_default }, target)]);
        }
        let place = Place::parse(map.rtype, element)?;
        let by = Convert::named(line.v2_type, line.type_map, line.vocabulary, line.constant, place.leaf)?;
        let target = format!("{}.{}", map.rtype, shown(&place));
        let action = if place.many {
            let item = item_of(map, line.field, &place, drafts);
            Action::Item { item, steps: vec![place], inner: Vec::new(), by }
        } else {
            Action::Set { path: Box::leak(place.path.into_boxed_str()), by, only_default }
        };
        Ok(vec![row(action, target)])
    }

    /// `+CodeableConcept`: an extension of ours that holds the field.
    fn extension(
        &mut self,
        map: &mut SegmentMap,
        line: &Line,
        kind: &str,
        row: &dyn Fn(Action, String) -> Row,
        drafts: &mut HashMap<(String, String), usize>,
    ) -> Result<Vec<Row>, String> {
        let rtype = if map.rtype == "*" { "Patient" } else { map.rtype };
        let value = Place::parse(rtype, &format!("extension[+].value{kind}"))?;
        let url = Place::parse(rtype, "extension[+].url")?;
        let by = Convert::named(line.v2_type, line.type_map, line.vocabulary, line.constant, value.leaf)?;
        let name = format!("{}{}-{}", Convert::EXTENSION, map.segment, line.field);
        let target = format!("{}.extension", if map.rtype == "*" { "" } else { map.rtype });
        let item = item_of(map, line.field, &value, drafts);
        let constant = Convert::Constant(Value::from(name));
        Ok(vec![
            row(Action::Item { item, steps: vec![value], inner: Vec::new(), by }, target.clone()),
            row(Action::Item { item, steps: vec![url], inner: Vec::new(), by: constant }, target),
        ])
    }
}

fn kept(reason: &'static str) -> &'static str {
    if reason == "counter" { "a counter within the message" } else { reason }
}

fn shown(place: &Place) -> String {
    let inner = place.inner.iter().map(|step| step.name);
    std::iter::once(place.path.as_str()).chain(inner).collect::<Vec<_>>().join(".")
}

fn read_lines(text: &'static str, origin: Origin, maps: &mut BTreeMap<&'static str, Vec<Line>>) {
    let mut name = "";
    for line in text.lines().filter(|l| !l.is_empty() && !l.starts_with('#')) {
        if let Some(title) = line.strip_prefix('=') {
            name = title;
            maps.entry(name).or_default();
            continue;
        }
        let mut cells = line.split('\t').map(str::trim);
        let mut cell = || cells.next().unwrap_or_default();
        let field = cell().parse().unwrap_or(0);
        let (v2_type, condition, element, type_map) = (cell(), cell(), cell(), cell());
        let (vocabulary, constant) = (cell(), cell());
        maps.entry(name).or_default().push(Line {
            field,
            v2_type,
            condition,
            element,
            type_map,
            vocabulary,
            constant,
            origin,
        });
    }
}

/// Lists whose numbering in the guide tells fields apart, not items that several fields make together.
const BY_FIELD: &[&str] = &["extension", "identifier", "telecom", "name", "address", "requester.extension"];

/// Lists that several segments fill together: one item for all of them.
const SHARED: &[&str] = &["dosageInstruction"];

/// The item that a place belongs to: by label, or by field.
fn item_of(map: &mut SegmentMap, field: usize, place: &Place, drafts: &mut HashMap<(String, String), usize>) -> usize {
    let shared = SHARED.contains(&place.path.as_str());
    let across = place.label.starts_with('@') || shared;
    let own = !across && (BY_FIELD.contains(&place.path.as_str()) || place.label.is_empty() && place.inner.is_empty());
    let label = match own || matches!(place.label.as_str(), "+" | "*") {
        true => format!("{}#{field}", place.label),
        false => place.label.clone(),
    };
    *drafts.entry((place.path.clone(), label)).or_insert_with(|| {
        map.items.push(Item {
            path: Box::leak(place.path.clone().into_boxed_str()),
            label: String::new(),
            fields: Vec::new(),
            rows: Vec::new(),
            shared,
            required: if shared { Vec::new() } else { required(map.rtype, &place.path) },
        });
        map.items.len() - 1
    })
}

/// The required elements of what repeats at a path. A reaction's manifestation is put in where it is not told.
fn required(rtype: &str, path: &str) -> Vec<&'static str> {
    let mut kind = fhir::definitions::type_named(if rtype == "*" { "Patient" } else { rtype });
    for step in path.split('.') {
        kind = kind.and_then(|k| k.property(step)).map(|p| p.kind.definition());
    }
    let elements = kind.map_or(&[][..], |kind| kind.elements.as_slice());
    elements.iter().filter(|e| e.required && !e.choice && e.name != "manifestation").map(|e| e.name).collect()
}

/// Gives items their rows, fields and names, and inner lists their places.
fn finish_items(map: &mut SegmentMap) {
    let mut labels: HashMap<(usize, String), Vec<String>> = HashMap::new();
    for at in 0..map.rows.len() {
        let field = map.rows[at].field;
        let Action::Item { item, steps, inner, .. } = &mut map.rows[at].action else { continue };
        let this = &mut map.items[*item];
        this.rows.push(at);
        if field != 0 && !this.fields.contains(&field) {
            this.fields.push(field);
        }
        let mut way = String::new();
        for step in &steps[0].inner {
            way.push('.');
            way.push_str(step.name);
            let place = step.label.as_ref().map(|label| {
                let known = labels.entry((*item, way.clone())).or_default();
                known.iter().position(|l| l == label).unwrap_or_else(|| {
                    known.push(label.clone());
                    known.len() - 1
                })
            });
            if let Some(n) = place {
                way.push_str(&n.to_string());
            }
            inner.push(InnerStep { name: step.name, at: place });
        }
    }
    let mut taken: HashMap<String, usize> = HashMap::new();
    for item in &mut map.items {
        let last = item.path.rsplit('.').next().unwrap_or(item.path);
        let name = match (item.shared, item.fields.as_slice()) {
            (true, _) => last.to_owned(),
            (false, [field]) => format!("{}-{field}", map.segment),
            (false, _) => format!("{}-{last}", map.segment),
        };
        let times = taken.entry(format!("{}/{name}", item.path)).or_default();
        *times += 1;
        item.label = if *times == 1 { name } else { format!("{name}-{times}") };
    }
}
