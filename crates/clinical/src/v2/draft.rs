//! What one message says about one resource, and how that changes the resource (v2.8.2 §2.10.4): not valued is
//! unchanged, `""` removes, a repeating field replaces what the same field said before.
//!
//! To know "what the same field said before", items of repeating elements carry an element id (R4 §2.24.0.2, `Element.id`)
//! that names their field and repetition: `PID-3.1`. Items without one came from elsewhere and are left alone.

use std::collections::{HashMap, HashSet};

use base::Timestamp;
use fhir::json::{Object, Value};

use super::Key;

/// Placeholder of references between units of one message; the refiner puts the ids in by [`Draft::apply`].
const UNIT_REFERENCE: &str = "urn:wardmesh:unit:";

/// Whether a message may create the resource, change it, or both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    CreateOrUpdate,
    /// A PID in a result makes the patient known; it changes nothing about a known one.
    CreateOnly,
}

/// What is said about an element.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    Set(Value),
    /// Unless it says one of these now: what a late or doubled event must not undo.
    SetUnless(Value, &'static [&'static str]),
    /// Only where the resource says nothing yet.
    Default(Value),
    /// The items of a repeating element that the field (`PID-3`) says now, in place of those it said before.
    Items {
        field: String,
        values: Vec<Value>,
    },
    /// Adds items that are not there yet, and takes none away: results of a report, links of a merge.
    Add(Vec<Value>),
    /// Takes items away by their content.
    Take(Vec<Value>),
    /// Adds this link to the one that goes on; the resource is not in use any more (`active` false).
    EndInto(Value),
    /// Takes this item away; where it was there, the resource is in use again (`active` false goes).
    Restore(Value),
    /// Removes what the field said before.
    RemoveItems {
        field: String,
    },
    Remove,
}

/// An element, by its path below the resource (`period.end`), and its change.
#[derive(Debug, Clone, PartialEq)]
pub struct Field {
    pub path: &'static str,
    pub change: Change,
}

#[derive(Debug, Clone)]
pub struct Draft {
    pub rtype: &'static str,
    pub policy: Policy,
    pub fields: Vec<Field>,
    /// When what it says was so. An element that something later said keeps that.
    pub clock: Option<Timestamp>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// The resource that this one is about was set aside.
    #[error("what this belongs to could not be used: it waits for that")]
    ParentMissing,
    /// An earlier state of a result came after a later one.
    #[error("an earlier state of this result arrived after a later one: it is kept in the journal and changes nothing")]
    Stale,
}

/// Elements without which a resource is not valid; a message cannot remove them.
const REQUIRED: &[(&str, &str)] = &[
    ("Encounter", "status"),
    ("Encounter", "class"),
    ("Account", "status"),
    ("Appointment", "status"),
    ("DocumentReference", "status"),
    ("Immunization", "status"),
    ("Immunization", "vaccineCode"),
    ("MedicationRequest", "status"),
    ("MedicationRequest", "medicationCodeableConcept"),
    ("Procedure", "status"),
    ("ServiceRequest", "status"),
    ("Observation", "status"),
    ("Observation", "code"),
    ("DiagnosticReport", "status"),
    ("DiagnosticReport", "code"),
];

/// Choice elements (R4 §2.24.0.1): one type at a time.
const CHOICES: &[(&str, &str)] = &[
    ("AllergyIntolerance", "onset"),
    ("ChargeItem", "occurrence"),
    ("Condition", "abatement"),
    ("Condition", "onset"),
    ("Immunization", "occurrence"),
    ("MedicationAdministration", "effective"),
    ("MedicationAdministration", "medication"),
    ("MedicationDispense", "medication"),
    ("MedicationRequest", "medication"),
    ("Procedure", "performed"),
    ("ServiceRequest", "occurrence"),
    ("Patient", "deceased"),
    ("Patient", "multipleBirth"),
    ("Observation", "value"),
    ("Observation", "effective"),
    ("DiagnosticReport", "effective"),
];

impl Field {
    /// The part of an element this speaks of: the items of one field, or all of it; additions are always new.
    fn part(&self) -> Option<&str> {
        match &self.change {
            Change::Items { field, .. } | Change::RemoveItems { field } => Some(field),
            Change::Set(_) | Change::SetUnless(..) | Change::Default(_) | Change::Remove => Some(""),
            Change::Add(_) | Change::Take(_) | Change::EndInto(_) | Change::Restore(_) => None,
        }
    }

    /// Whether the resource says something where this speaks.
    fn stands_in(&self, resource: &Object) -> bool {
        let mut steps = self.path.split('.');
        let mut at = steps.next().and_then(|step| resource.get(step));
        for step in steps {
            at = at.and_then(|value| value.get(step));
        }
        match (at, self.part()) {
            (Some(Value::Array(list)), Some(part)) if !part.is_empty() => list.iter().any(|item| {
                let id = item.get("id").and_then(Value::as_str);
                id.and_then(|id| id.strip_prefix(part)).is_some_and(|rest| rest.starts_with('.'))
            }),
            (Some(value), _) => !is_empty(value),
            (None, _) => false,
        }
    }

    fn replaces(&self, earlier: &Field) -> bool {
        let only_default = matches!(self.change, Change::Default(_));
        self.path == earlier.path && self.part().is_some() && self.part() == earlier.part() && !only_default
    }
}

impl Draft {
    pub fn new(rtype: &'static str, policy: Policy) -> Self {
        Draft { rtype, policy, fields: Vec::new(), clock: None }
    }

    pub fn push(&mut self, path: &'static str, change: Change) {
        self.fields.push(Field { path, change });
    }

    pub fn set(&mut self, path: &'static str, value: impl Into<Value>) {
        self.push(path, Change::Set(value.into()));
    }

    /// What a later part of the same message says of the same resource: it has the last word on what both speak of.
    pub fn follow(&mut self, later: Draft) {
        self.fields.retain(|field| !later.fields.iter().any(|said| said.replaces(field)));
        self.fields.extend(later.fields);
    }

    /// Units that this draft refers to.
    pub fn refers_to(&self) -> Vec<u32> {
        let mut units = Vec::new();
        for field in &self.fields {
            match &field.change {
                Change::Set(value)
                | Change::SetUnless(value, _)
                | Change::Default(value)
                | Change::EndInto(value)
                | Change::Restore(value) => units_of(value, &mut units),
                Change::Items { values, .. } | Change::Add(values) | Change::Take(values) => {
                    values.iter().for_each(|v| units_of(v, &mut units))
                }
                Change::Remove | Change::RemoveItems { .. } => {}
            }
        }
        units.sort_unstable();
        units.dedup();
        units
    }

    /// The next version of the resource, `None` where the message changes nothing. `resolve` gives the reference
    /// (`Patient/abc`) of another unit, or `None` if that unit was set aside.
    pub fn apply(
        &self,
        key: &Key,
        current: Option<&Value>,
        resolve: &dyn Fn(u32) -> Option<String>,
    ) -> Result<Option<Value>, ApplyError> {
        if current.is_some() && self.policy == Policy::CreateOnly {
            return Ok(None);
        }
        let mut resource = match current {
            Some(Value::Object(object)) => object.clone(),
            _ => Object::from_iter([("resourceType", Value::from(self.rtype))]),
        };
        let mut stamps = Stamps::read(&resource, current.is_some());
        let is_stale = current.is_some_and(|current| self.is_stale(current, &stamps));
        if is_stale && self.rtype != "DiagnosticReport" {
            return Err(ApplyError::Stale);
        }
        for field in &self.fields {
            // An overtaken report still has results that the later one did not have.
            if is_stale && !matches!(field.change, Change::Add(_)) {
                continue;
            }
            if !self.is_stamped() {
                self.apply_field(&mut resource, field, resolve)?;
            } else if field.path == "link" {
                self.apply_links(&mut resource, field, &mut stamps, resolve);
            } else if !is_held(&resource, field) && stamps.admits(self.rtype, field, self.clock, &resource) {
                self.apply_field(&mut resource, field, resolve)?;
            }
        }
        if let Key::Within { unit, natural } = key {
            let parent = resolve(*unit).ok_or(ApplyError::ParentMissing)?;
            let identifier = fhir::json!({
                "use": "secondary", "system": (Key::WITHIN_SYSTEM), "value": (Key::within(&parent, natural))
            });
            add(slot(&mut resource, "identifier"), vec![identifier]);
        }
        prune(&mut resource);
        if current.and_then(Value::as_object) == Some(&resource) {
            if is_stale {
                return Err(ApplyError::Stale);
            }
            if !(self.is_stamped() && stamps.decided) {
                return Ok(None);
            }
        }
        if let (true, false, Some(clock)) = (is_result(self.rtype), is_stale, self.clock) {
            stamps = Stamps { base: seconds(clock), ..Stamps::default() };
        }
        if self.clock.is_some() {
            stamps.write(&mut resource);
        }
        Ok(Some(Value::Object(resource)))
    }

    /// Links are made and taken back one by one, each with its clock: a merge that comes after what took it back stays taken
    /// back.
    fn apply_links(
        &self,
        resource: &mut Object,
        field: &Field,
        stamps: &mut Stamps,
        resolve: &dyn Fn(u32) -> Option<String>,
    ) {
        let values: Vec<Value> = match &field.change {
            Change::Add(values) | Change::Take(values) => values.iter().filter_map(|v| resolved(v, resolve)).collect(),
            Change::EndInto(value) | Change::Restore(value) => resolved(value, resolve).into_iter().collect(),
            _ => return,
        };
        let removes = matches!(field.change, Change::Take(_) | Change::Restore(_));
        for value in values {
            let text = |path: &[&str]| value.path(path).and_then(Value::as_str).unwrap_or_default().to_owned();
            let part = format!("link#{}:{}", text(&["type"]), text(&["other", "reference"]));
            let said = content(&value);
            let stands = resource.get("link").map(Value::items).unwrap_or_default().iter().any(|l| content(l) == said);
            if !stamps.admits_part(part, self.clock, stands, removes, true) {
                continue;
            }
            match &field.change {
                Change::Add(_) => add(slot(resource, "link"), vec![value]),
                Change::EndInto(_) => {
                    add(slot(resource, "link"), vec![value]);
                    resource.insert("active", false);
                }
                _ => items(slot(resource, "link")).retain(|item| content(item) != said),
            }
            if stands && matches!(field.change, Change::Restore(_)) {
                resource.remove("active");
            }
        }
    }

    /// Results are ordered as a whole, by their status and then by time; what is said of others is ordered element by
    /// element, by its time.
    fn is_stamped(&self) -> bool {
        self.clock.is_some() && !is_result(self.rtype) && self.rtype != "Specimen"
    }

    /// Keeps to what the source may change: elements such as `Patient` or `Encounter.location`. The rest is only said
    /// where nothing is said yet. An empty list is everything.
    pub fn keep_to(&mut self, authority: &[String]) {
        if authority.is_empty() {
            return;
        }
        let rtype = self.rtype;
        let may = |path: &str| {
            authority.iter().any(|element| match element.split_once('.') {
                None => element == rtype,
                Some((of, own)) => {
                    of == rtype && path.strip_prefix(own).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
                }
            })
        };
        self.fields.retain_mut(|field| {
            if may(field.path) {
                return true;
            }
            match &mut field.change {
                Change::Set(value) | Change::SetUnless(value, _) => {
                    field.change = Change::Default(std::mem::take(value));
                    true
                }
                Change::Items { values, .. } => {
                    field.change = Change::Default(Value::Array(std::mem::take(values)));
                    true
                }
                Change::Default(_) | Change::Add(_) => true,
                Change::Take(_)
                | Change::EndInto(_)
                | Change::Restore(_)
                | Change::RemoveItems { .. }
                | Change::Remove => false,
            }
        });
    }

    fn apply_field(
        &self,
        resource: &mut Object,
        field: &Field,
        resolve: &dyn Fn(u32) -> Option<String>,
    ) -> Result<(), ApplyError> {
        match &field.change {
            Change::Set(value) => {
                let value = resolved(value, resolve).ok_or(ApplyError::ParentMissing)?;
                self.clear_choice(resource, field.path);
                *slot(resource, field.path) = value;
            }
            Change::SetUnless(value, unless) => {
                let place = slot(resource, field.path);
                if !place.as_str().is_some_and(|now| unless.contains(&now)) {
                    *place = value.clone();
                }
            }
            Change::Default(value) => {
                let value = resolved(value, resolve).ok_or(ApplyError::ParentMissing)?;
                let place = slot(resource, field.path);
                if is_empty(place) {
                    *place = value;
                }
            }
            Change::Items { field: name, values } => {
                let values = values.iter().filter_map(|v| resolved(v, resolve)).collect();
                replace_items(slot(resource, field.path), name, values);
            }
            Change::RemoveItems { field: name } => replace_items(slot(resource, field.path), name, Vec::new()),
            Change::Add(values) => {
                add(slot(resource, field.path), values.iter().filter_map(|v| resolved(v, resolve)).collect());
            }
            Change::Take(values) => {
                let gone: HashSet<String> =
                    values.iter().filter_map(|v| resolved(v, resolve)).map(|v| content(&v)).collect();
                items(slot(resource, field.path)).retain(|item| !gone.contains(&content(item)));
            }
            Change::EndInto(value) => {
                let value = resolved(value, resolve).ok_or(ApplyError::ParentMissing)?;
                add(slot(resource, field.path), vec![value]);
                resource.insert("active", false);
            }
            Change::Restore(value) => {
                let Some(gone) = resolved(value, resolve).map(|v| content(&v)) else { return Ok(()) };
                let list = items(slot(resource, field.path));
                let before = list.len();
                list.retain(|item| content(item) != gone);
                if list.len() < before {
                    resource.remove("active");
                }
            }
            // Who was merged into another stays out of use until the merge is undone.
            Change::Remove if field.path == "active" && is_replaced(resource) => {}
            Change::Remove if REQUIRED.contains(&(self.rtype, field.path)) => {}
            Change::Remove => {
                self.clear_choice(resource, field.path);
                *slot(resource, field.path) = Value::Null;
            }
        }
        Ok(())
    }

    /// Takes the other types of a choice away: `deceasedBoolean` when `deceasedDateTime` is said.
    fn clear_choice(&self, resource: &mut Object, path: &str) {
        let Some((_, stem)) = CHOICES.iter().find(|(rtype, stem)| {
            *rtype == self.rtype && path.strip_prefix(stem).is_some_and(|rest| rest.starts_with(char::is_uppercase))
        }) else {
            return;
        };
        let top = path.split('.').next().unwrap_or(path);
        resource.retain(|name, _| {
            let name = name.strip_prefix('_').unwrap_or(name);
            name == top || !name.strip_prefix(stem).is_some_and(|rest| rest.starts_with(char::is_uppercase))
        });
    }

    /// Results do not go back from final to preliminary, nor among equals to what was said before: such a message was
    /// overtaken.
    fn is_stale(&self, current: &Value, stamps: &Stamps) -> bool {
        if !is_result(self.rtype) {
            return false;
        }
        let rank = |status: Option<&str>| match status {
            Some("registered") => 0,
            Some("preliminary" | "partial") => 1,
            Some("final" | "amended" | "corrected" | "appended" | "cancelled" | "entered-in-error") => 2,
            _ => -1,
        };
        let said = self.fields.iter().rev().find_map(|f| match &f.change {
            Change::Set(value) | Change::SetUnless(value, _) if f.path == "status" => value.as_str(),
            _ => None,
        });
        let (next, before) = (rank(said), rank(current.get("status").and_then(Value::as_str)));
        let is_older = self.clock.is_some_and(|clock| seconds(clock) < stamps.base);
        (next >= 0 && next < before) || (next <= before && is_older)
    }
}

fn is_result(rtype: &str) -> bool {
    matches!(rtype, "Observation" | "DiagnosticReport")
}

/// Whether the element says something now that this change must not undo.
fn is_held(resource: &Object, field: &Field) -> bool {
    let Change::SetUnless(_, unless) = &field.change else { return false };
    resource.get(field.path).and_then(Value::as_str).is_some_and(|now| unless.contains(&now))
}

fn seconds(clock: Timestamp) -> i64 {
    clock.0.div_euclid(1000)
}

/// When each element was last said, by the clocks of the events: kept with the resource, so that an event that comes late
/// changes what is older than it and nothing else. One time for the whole, and those that differ.
struct Stamps {
    base: i64,
    others: Vec<(String, i64)>,
    /// The clock of what an event decides moved: kept even where the event found everything so already.
    decided: bool,
}

impl Default for Stamps {
    fn default() -> Self {
        Stamps { base: i64::MIN, others: Vec::new(), decided: false }
    }
}

/// What events decide and take back: a late one must be told from the newest even if that changed nothing.
const DECIDED: &[(&str, &str)] = &[("Encounter", "status"), ("Encounter", "period.end")];

/// The extension of `meta` that holds them: `1767225600 status=1767312000`, in seconds.
const STAMPS: &str = "urn:wardmesh:stamps";

impl Stamps {
    fn read(resource: &Object, exists: bool) -> Stamps {
        let text = resource.get("meta").and_then(|meta| meta.get("extension")).and_then(|list| {
            let own = |e: &&Value| e.get("url").and_then(Value::as_str) == Some(STAMPS);
            list.items().iter().find(own)?.get("valueString")?.as_str()
        });
        let mut words = text.unwrap_or_default().split(' ');
        let base = words.next().and_then(|n| n.parse().ok());
        let others =
            words.filter_map(|w| w.rsplit_once('=')).filter_map(|(k, t)| Some((k.to_owned(), t.parse().ok()?)));
        // What somebody wrote by the API has no stamps of ours: it stands from when it was written.
        let written = || {
            let at = resource.get("meta").and_then(|m| m.get("lastUpdated")).and_then(Value::as_str)?;
            Some(fhir::time::parse(at)?.from_ms.div_euclid(1000))
        };
        let base = base.or_else(|| if exists { written() } else { None }).unwrap_or(i64::MIN);
        Stamps { base, others: others.collect(), decided: false }
    }

    /// Whether what was said then is not older than what stands; then it is what stands. Where nothing stands and nothing
    /// was taken away since, what comes late is still news.
    fn admits(&mut self, rtype: &str, field: &Field, clock: Option<Timestamp>, resource: &Object) -> bool {
        let part = match field.part() {
            None => return true,
            Some(_) if matches!(field.change, Change::Default(_)) => return true,
            Some("") => field.path.to_owned(),
            Some(part) => format!("{}#{part}", field.path),
        };
        let removes = matches!(field.change, Change::Remove | Change::RemoveItems { .. });
        let decides = DECIDED.contains(&(rtype, field.path));
        self.admits_part(part, clock, field.stands_in(resource), removes, decides)
    }

    fn admits_part(
        &mut self,
        part: String,
        clock: Option<Timestamp>,
        stands: bool,
        removes: bool,
        decides: bool,
    ) -> bool {
        let Some(now) = clock.map(seconds) else { return true };
        if self.base == i64::MIN {
            self.base = now;
        }
        let at = self.others.iter().position(|(key, _)| *key == part);
        let before = at.map_or(self.base, |at| self.others[at].1);
        if now < before && (at.is_some() || stands) {
            return false;
        }
        self.decided |= decides && now > before;
        // What was taken away leaves its time behind, so that nothing older puts it back; once even where there was nothing
        // to take, since what it takes may come yet.
        self.decided |= removes && at.is_none() && !stands;
        match at {
            Some(at) if now == self.base && !removes => drop(self.others.remove(at)),
            Some(at) => self.others[at].1 = now,
            None if now != self.base || removes => self.others.push((part, now)),
            None => {}
        }
        true
    }

    fn write(&self, resource: &mut Object) {
        if self.base == i64::MIN {
            return;
        }
        let mut text = self.base.to_string();
        for (key, at) in &self.others {
            text.push_str(&format!(" {key}={at}"));
        }
        let own = fhir::json!({"url": STAMPS, "valueString": text});
        let list = items(slot(resource, "meta.extension"));
        list.retain(|e| e.get("url").and_then(Value::as_str) != Some(STAMPS));
        list.push(own);
    }
}

/// Leads references to units that are one with another to that other.
pub fn redirect(field: &mut Field, same: &HashMap<u32, u32>) {
    match &mut field.change {
        Change::Set(value)
        | Change::SetUnless(value, _)
        | Change::Default(value)
        | Change::EndInto(value)
        | Change::Restore(value) => redirect_value(value, same),
        Change::Items { values, .. } | Change::Add(values) | Change::Take(values) => {
            values.iter_mut().for_each(|v| redirect_value(v, same));
        }
        Change::Remove | Change::RemoveItems { .. } => {}
    }
}

fn redirect_value(value: &mut Value, same: &HashMap<u32, u32>) {
    match value {
        Value::Object(object) => {
            if let Some(first) = unit_of(object).and_then(|unit| same.get(&unit)) {
                object.insert("reference", format!("{UNIT_REFERENCE}{first}"));
            }
            object.iter_mut().for_each(|(_, v)| redirect_value(v, same));
        }
        Value::Array(list) => list.iter_mut().for_each(|v| redirect_value(v, same)),
        _ => {}
    }
}

/// A reference to another unit of the same message.
pub fn resource_reference(unit: u32) -> Value {
    fhir::json!({"reference": (format!("{UNIT_REFERENCE}{unit}"))})
}

fn unit_of(object: &Object) -> Option<u32> {
    object.get("reference")?.as_str()?.strip_prefix(UNIT_REFERENCE)?.parse().ok()
}

fn units_of(value: &Value, out: &mut Vec<u32>) {
    match value {
        Value::Object(object) => {
            out.extend(unit_of(object));
            object.values().for_each(|v| units_of(v, out));
        }
        Value::Array(items) => items.iter().for_each(|v| units_of(v, out)),
        _ => {}
    }
}

/// The value with real references; `None` when it refers to a unit that is not there.
fn resolved(value: &Value, resolve: &dyn Fn(u32) -> Option<String>) -> Option<Value> {
    Some(match value {
        Value::Object(object) => {
            let unit = unit_of(object);
            let mut out = Object::new();
            for (name, member) in object {
                let value = match unit {
                    Some(unit) if name == "reference" => Value::from(resolve(unit)?),
                    _ => resolved(member, resolve)?,
                };
                out.push(name, value);
            }
            Value::Object(out)
        }
        Value::Array(items) => Value::Array(items.iter().filter_map(|v| resolved(v, resolve)).collect()),
        plain => plain.clone(),
    })
}

fn is_replaced(resource: &Object) -> bool {
    let links = resource.get("link").map(Value::items).unwrap_or_default();
    links.iter().any(|link| link.get("type").and_then(Value::as_str) == Some("replaced-by"))
}

/// The place of `a.b.c`, made where it is missing.
fn slot<'o>(object: &'o mut Object, path: &str) -> &'o mut Value {
    let (name, rest) = match path.split_once('.') {
        Some((name, rest)) => (name, Some(rest)),
        None => (path, None),
    };
    if !object.contains_key(name) {
        object.push(name, Value::Null);
    }
    let missing = "the member was put in above";
    let place = object.get_mut(name).expect(missing);
    match rest {
        None => place,
        Some(rest) => {
            if place.as_object().is_none() {
                *place = Value::Object(Object::new());
            }
            slot(place.as_object_mut().expect("made an object above"), rest)
        }
    }
}

fn items(place: &mut Value) -> &mut Vec<Value> {
    if place.as_array().is_none() {
        *place = Value::Array(Vec::new());
    }
    place.as_array_mut().expect("made an array above")
}

/// Puts the field's items where its earlier ones stood. An item that came from elsewhere with the same content is
/// taken over.
fn replace_items(place: &mut Value, field: &str, mut values: Vec<Value>) {
    let list = items(place);
    for (n, value) in values.iter_mut().enumerate() {
        if let Some(object) = value.as_object_mut() {
            let mut with_id = Object::new();
            with_id.push("id", Value::from(format!("{field}.{}", n + 1)));
            for (name, member) in object.iter() {
                with_id.push(name, member.clone());
            }
            *object = with_id;
        }
    }
    let owned = |item: &Value| {
        item.get("id").and_then(Value::as_str).and_then(|id| id.strip_prefix(field)).is_some_and(|r| r.starts_with('.'))
    };
    let at = list.iter().take_while(|item| !owned(item)).count();
    let said: HashSet<String> = values.iter().map(content).collect();
    let mut before = 0;
    let mut n = 0;
    list.retain(|item| {
        let keep = !owned(item) && (item.get("id").is_some() || !said.contains(&content(item)));
        if keep && n < at {
            before += 1;
        }
        n += 1;
        keep
    });
    list.splice(before..before, values);
}

/// Adds items to a list of a resource, those that are not there yet.
pub fn add_items(resource: &mut Value, path: &str, values: Vec<Value>) {
    if let Some(object) = resource.as_object_mut() {
        add(slot(object, path), values);
    }
}

fn add(place: &mut Value, values: Vec<Value>) {
    let list = items(place);
    let mut known: HashSet<String> = list.iter().map(content).collect();
    list.extend(values.into_iter().filter(|value| known.insert(content(value))));
}

/// The content of an item, without its element id.
fn content(value: &Value) -> String {
    match value {
        Value::Object(object) if object.contains_key("id") => {
            let mut bare = object.clone();
            bare.remove("id");
            fhir::json::to_string(&Value::Object(bare))
        }
        other => fhir::json::to_string(other),
    }
}

/// FHIR has no null, no empty object and no empty array (R4 §2.6.2).
fn prune(object: &mut Object) {
    object.retain(|_, value| {
        prune_value(value);
        !is_empty(value)
    });
}

fn prune_value(value: &mut Value) {
    match value {
        Value::Object(object) => prune(object),
        Value::Array(items) => {
            items.iter_mut().for_each(prune_value);
            items.retain(|item| !is_empty(item));
        }
        _ => {}
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(object) => object.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fhir::json;

    fn key() -> Key {
        Key::Identifiers(vec![])
    }

    fn draft(fields: Vec<(&'static str, Change)>) -> Draft {
        let mut draft = Draft::new("Patient", Policy::CreateOrUpdate);
        fields.into_iter().for_each(|(path, change)| draft.push(path, change));
        draft
    }

    fn apply(draft: &Draft, current: Option<&Value>) -> Option<Value> {
        draft.apply(&key(), current, &|n| (n != 99).then(|| format!("Patient/p{n}"))).unwrap()
    }

    #[test]
    fn not_valued_is_unchanged_and_null_removes() {
        let first = draft(vec![
            ("birthDate", Change::Set(json!("1924-10-10"))),
            ("gender", Change::Set(json!("male"))),
            (
                "identifier",
                Change::Items { field: "PID-3".into(), values: vec![json!({"value": "A"}), json!({"value": "B"})] },
            ),
            ("identifier", Change::Items { field: "PID-19".into(), values: vec![json!({"value": "S"})] }),
        ]);
        let one = apply(&first, None).unwrap();
        assert_eq!(apply(&first, Some(&one)), None, "said again, nothing changes");

        let second = draft(vec![
            ("gender", Change::Remove),
            ("identifier", Change::Items { field: "PID-3".into(), values: vec![json!({"value": "C"})] }),
        ]);
        let two = apply(&second, Some(&one)).unwrap();
        assert_eq!(
            two,
            json!({
                "resourceType": "Patient",
                "birthDate": "1924-10-10",
                "identifier": [{"id": "PID-3.1", "value": "C"}, {"id": "PID-19.1", "value": "S"}],
            })
        );
        let third = draft(vec![("identifier", Change::RemoveItems { field: "PID-19".into() })]);
        assert_eq!(apply(&third, Some(&two)).unwrap().get("identifier").unwrap().items().len(), 1);
    }

    #[test]
    fn a_choice_has_one_type_and_what_others_wrote_stays() {
        let current = json!({
            "resourceType": "Patient", "deceasedBoolean": true,
            "telecom": [{"value": "by the portal"}, {"value": "1"}],
        });
        let said = draft(vec![
            ("deceasedDateTime", Change::Set(json!("2020-01-01"))),
            ("telecom", Change::Items { field: "PID-13".into(), values: vec![json!({"value": "1"})] }),
            ("contact.name.family", Change::Default(json!("X"))),
        ]);
        let next = apply(&said, Some(&current)).unwrap();
        assert_eq!(next.get("deceasedBoolean"), None);
        assert_eq!(next.get("telecom"), Some(&json!([{"value": "by the portal"}, {"id": "PID-13.1", "value": "1"}])));
    }

    #[test]
    fn references_between_units_are_resolved_or_left_out() {
        let said = draft(vec![
            ("managingOrganization", Change::Set(resource_reference(3))),
            (
                "link",
                Change::Add(vec![
                    json!({"other": (resource_reference(4))}),
                    json!({"other": (resource_reference(99))}),
                ]),
            ),
        ]);
        assert_eq!(said.refers_to(), [3, 4, 99]);
        let next = apply(&said, None).unwrap();
        assert_eq!(next.path(&["managingOrganization", "reference"]), Some(&json!("Patient/p3")));
        assert_eq!(next.get("link").unwrap().items().len(), 1);
        let orphan = draft(vec![("managingOrganization", Change::Set(resource_reference(99)))]);
        assert_eq!(orphan.apply(&key(), None, &|_| None), Err(ApplyError::ParentMissing));
    }

    #[test]
    fn a_result_does_not_go_back() {
        let mut said = Draft::new("Observation", Policy::CreateOrUpdate);
        said.set("status", "preliminary");
        said.set("valueString", "early");
        let current = json!({"resourceType": "Observation", "status": "final", "valueString": "late"});
        assert_eq!(said.apply(&key(), Some(&current), &|_| None), Err(ApplyError::Stale));
        let mut corrected = Draft::new("Observation", Policy::CreateOrUpdate);
        corrected.set("status", "corrected");
        corrected.set("valueInteger", 4);
        let next = corrected.apply(&key(), Some(&current), &|_| None).unwrap().unwrap();
        assert_eq!(next.get("valueString"), None);
    }

    #[test]
    fn what_has_no_number_is_found_within_its_parent() {
        let mut said = Draft::new("Observation", Policy::CreateOnly);
        said.set("status", "final");
        let key = Key::Within { unit: 8, natural: "8867-4|".into() };
        let next = said.apply(&key, None, &|_| Some("DiagnosticReport/d1".into())).unwrap().unwrap();
        assert_eq!(next.path(&["identifier", "0", "value"]), Some(&json!("DiagnosticReport/d1#8867-4|")));
        assert_eq!(said.apply(&key, Some(&next), &|_| None), Ok(None));
    }
}
