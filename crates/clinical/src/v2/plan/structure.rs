//! Messages: their groups and segments, what becomes of each, and how a message is laid over its structure. Senders
//! leave out groups, repeat what does not repeat and mix the order; a segment is put where it fits best.

use std::collections::{BTreeMap, HashMap};

use super::{Condition, Origin, Plan};

/// A structure of table 0354.
pub struct Structure {
    pub name: &'static str,
    pub origin: Origin,
    pub places: Vec<Place>,
    /// The first is the message itself.
    pub groups: Vec<Group>,
    /// The group within which a resource of this name stays the same.
    pub homes: HashMap<&'static str, Home>,
}

pub struct Group {
    pub name: &'static str,
    pub parent: usize,
    pub many: bool,
}

/// A segment of a structure.
pub struct Place {
    pub segment: &'static str,
    pub group: usize,
    pub many: bool,
    pub tasks: Vec<Task>,
    pub origin: Origin,
}

/// Something that a segment becomes.
pub struct Task {
    pub condition: Option<Condition>,
    pub target: Target,
    pub map: &'static str,
    pub links: Vec<Link>,
}

/// The resource that a task makes or says more of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// `Observation#2`: (name, type).
    Named(&'static str, &'static str),
    /// `?Specimen`: the latest of this type.
    Latest(&'static str),
    /// `@`: whatever stands before.
    Before,
}

/// `DiagnosticReport#1.result=Observation#2`.
pub struct Link {
    pub from: Target,
    pub path: &'static str,
    pub to: Target,
}

/// Until when a name means the same resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Home {
    /// The group begins anew.
    Group(usize),
    /// Each segment at this place makes another.
    Place(usize),
}

impl Structure {
    /// The groups that a place lies in, the innermost first.
    pub fn chain(&self, place: usize) -> impl Iterator<Item = usize> + '_ {
        let mut next = Some(self.places[place].group);
        std::iter::from_fn(move || {
            let group = next?;
            next = (group != 0).then(|| self.groups[group].parent);
            Some(group)
        })
    }

    /// Where a segment belongs after `at`, and the outermost group that begins anew with it.
    pub fn next(&self, at: Option<usize>, segment: &str) -> Option<(usize, Option<usize>)> {
        // Out of order: said of the message as it stands.
        self.next_in_order(at, segment).or_else(|| self.first(segment).map(|place| (place, self.outermost(place, at))))
    }

    /// The same, where the structure lets the segment stand after `at`.
    pub fn next_in_order(&self, at: Option<usize>, segment: &str) -> Option<(usize, Option<usize>)> {
        let Some(at) = at else {
            return self.first(segment).map(|place| (place, self.outermost(place, None)));
        };
        if self.places[at].segment == segment && self.places[at].many {
            return Some((at, None));
        }
        for group in self.chain(at) {
            if let Some(place) = self.found(at + 1, group, segment) {
                return Some((place, self.outermost(place, Some(at))));
            }
            if self.groups[group].many
                && let Some(place) = self.found(0, group, segment).filter(|p| *p <= at)
            {
                // MRG speaks of the PID before it, wherever a sender puts it: it begins nothing.
                return Some((place, (segment != "MRG").then_some(group)));
            }
        }
        None
    }

    /// The first place of a segment in the whole message.
    pub fn first(&self, segment: &str) -> Option<usize> {
        self.found(0, 0, segment)
    }

    fn found(&self, from: usize, group: usize, segment: &str) -> Option<usize> {
        (from..self.places.len()).find(|p| self.places[*p].segment == segment && self.chain(*p).any(|g| g == group))
    }

    /// The outermost group of a place that the place before was not in.
    fn outermost(&self, place: usize, before: Option<usize>) -> Option<usize> {
        let known: Vec<usize> = before.map_or_else(Vec::new, |at| self.chain(at).collect());
        self.chain(place).filter(|g| *g != 0 && !known.contains(g)).last()
    }

    /// Whether `group` is `outer` or lies in it.
    pub fn within(&self, group: usize, outer: usize) -> bool {
        let mut at = group;
        loop {
            if at == outer {
                return true;
            }
            if at == 0 {
                return false;
            }
            at = self.groups[at].parent;
        }
    }

    fn settle_homes(&mut self) {
        let mut spoken: BTreeMap<&'static str, Vec<usize>> = BTreeMap::new();
        for (at, place) in self.places.iter().enumerate() {
            for task in &place.tasks {
                if let Target::Named(name, _) = task.target {
                    spoken.entry(name).or_default().push(at);
                }
            }
        }
        for (name, mut places) in spoken {
            places.dedup();
            let first = places[0];
            let alone = places.iter().all(|p| *p == first);
            let home = if alone && self.places[first].many {
                Home::Place(first)
            } else {
                let common = self.chain(first).find(|g| places.iter().all(|p| self.chain(*p).any(|other| other == *g)));
                Home::Group(common.unwrap_or(0))
            };
            self.homes.insert(name, home);
        }
    }
}

pub fn read(texts: [&'static str; 2], plan: &mut Plan) {
    for (text, origin) in texts.into_iter().zip([Origin::Guide, Origin::Ours]) {
        let fragments = fragments(text);
        let mut same: Vec<(&'static str, &'static str)> = Vec::new();
        let mut reader: Option<Reader> = None;
        for line in text.lines() {
            if let Some(title) = line.strip_prefix('=') {
                finish(reader.take(), plan);
                match title.split_once(" ~") {
                    Some((name, other)) => same.push((name, other)),
                    None => reader = Some(Reader::new(title, origin)),
                }
            } else if line.starts_with(':') {
                finish(reader.take(), plan);
            } else if let Some(reader) = &mut reader {
                reader.line(line, &fragments, plan);
            }
        }
        finish(reader.take(), plan);
        for (name, other) in same {
            match plan.messages.get(other).map(Structure::copy) {
                Some(copy) => drop(plan.messages.insert(name, Structure { name, origin, ..copy })),
                None => plan.faults.push(format!("{name} is to be as {other}, which is not there")),
            }
        }
    }
}

fn finish(reader: Option<Reader>, plan: &mut Plan) {
    let Some(mut reader) = reader else { return };
    if reader.structure.name == "*" {
        plan.defaults = reader.structure.places.into_iter().map(|p| (p.segment, p.tasks)).collect();
        return;
    }
    reader.structure.settle_homes();
    plan.messages.insert(reader.structure.name, reader.structure);
}

impl Structure {
    fn copy(&self) -> Structure {
        let task = |t: &Task| Task {
            condition: t.condition.clone(),
            target: t.target,
            map: t.map,
            links: t.links.iter().map(|l| Link { from: l.from, path: l.path, to: l.to }).collect(),
        };
        let place = |p: &Place| Place {
            segment: p.segment,
            group: p.group,
            many: p.many,
            tasks: p.tasks.iter().map(task).collect(),
            origin: p.origin,
        };
        let group = |g: &Group| Group { name: g.name, parent: g.parent, many: g.many };
        Structure {
            name: self.name,
            origin: self.origin,
            places: self.places.iter().map(place).collect(),
            groups: self.groups.iter().map(group).collect(),
            homes: self.homes.clone(),
        }
    }
}

/// `:name` and its lines.
fn fragments(text: &'static str) -> HashMap<&'static str, Vec<&'static str>> {
    let mut all: HashMap<&'static str, Vec<&'static str>> = HashMap::new();
    let mut name = None;
    for line in text.lines() {
        if let Some(title) = line.strip_prefix(':') {
            name = Some(title);
        } else if line.starts_with('=') {
            name = None;
        } else if let Some(name) = name {
            all.entry(name).or_default().push(line);
        }
    }
    all
}

struct Reader {
    structure: Structure,
    open: Vec<usize>,
}

impl Reader {
    fn new(name: &'static str, origin: Origin) -> Self {
        let groups = vec![Group { name, parent: 0, many: false }];
        let structure = Structure { name, origin, places: Vec::new(), groups, homes: HashMap::new() };
        Reader { structure, open: vec![0] }
    }

    fn line(&mut self, line: &'static str, fragments: &HashMap<&'static str, Vec<&'static str>>, plan: &mut Plan) {
        if line.is_empty() || line.starts_with('#') {
            return;
        }
        if let Some(name) = line.strip_prefix('!') {
            match fragments.get(name) {
                Some(lines) => lines.iter().for_each(|line| self.line(line, fragments, plan)),
                None => plan.faults.push(format!("{}: no fragment {name}", self.structure.name)),
            }
        } else if line == "-" {
            // The guide closes a group too often here and there.
            if self.open.len() > 1 {
                self.open.pop();
            }
        } else if let Some(group) = line.strip_prefix('+') {
            let (name, many) = repeats(group);
            let parent = self.open.last().copied().unwrap_or(0);
            self.structure.groups.push(Group { name, parent, many });
            self.open.push(self.structure.groups.len() - 1);
        } else if let Some(task) = line.strip_prefix('>') {
            match read_task(task, plan) {
                Ok(task) => {
                    if let Some(place) = self.structure.places.last_mut() {
                        place.tasks.push(task);
                    }
                }
                Err(fault) => plan.faults.push(format!("{}: {fault} in `{task}`", self.structure.name)),
            }
        } else {
            let (segment, many) = repeats(line);
            let group = self.open.last().copied().unwrap_or(0);
            let origin = self.structure.origin;
            self.structure.places.push(Place { segment, group, many, tasks: Vec::new(), origin });
        }
    }
}

fn repeats(text: &'static str) -> (&'static str, bool) {
    match text.strip_suffix(" *") {
        Some(name) => (name.trim(), true),
        None => (text.trim(), false),
    }
}

fn read_task(text: &'static str, plan: &Plan) -> Result<Task, String> {
    let mut cells = text.split('\t').map(str::trim);
    let mut cell = || cells.next().unwrap_or_default();
    let (condition, target, map, links) = (cell(), cell(), cell(), cell());
    let condition = match condition {
        "" => None,
        text => Some(Condition::parse(text)?),
    };
    if !map.ends_with("[@]") && !plan.segments.contains_key(map) && !map.starts_with("MRG[") {
        return Err(format!("no map {map}"));
    }
    let links = links.split(';').filter(|l| !l.is_empty()).map(read_link).collect::<Result<_, _>>()?;
    Ok(Task { condition, target: target_of(target)?, map, links })
}

fn read_link(text: &'static str) -> Result<Link, String> {
    let wrong = || format!("no reference: `{text}`");
    let (left, to) = text.split_once('=').ok_or_else(wrong)?;
    let (from, path) = left.split_once('.').ok_or_else(wrong)?;
    Ok(Link { from: target_of(from)?, path, to: target_of(to)? })
}

fn target_of(text: &'static str) -> Result<Target, String> {
    if text == "@" {
        return Ok(Target::Before);
    }
    if let Some(rtype) = text.strip_prefix('?') {
        return Ok(Target::Latest(rtype));
    }
    let rtype = text.split('#').next().unwrap_or(text);
    match fhir::definitions::resource_type(rtype) {
        Some(_) => Ok(Target::Named(text, rtype)),
        None => Err(format!("no resource type in `{text}`")),
    }
}
