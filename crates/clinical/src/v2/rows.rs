//! Executes the rows of a segment's map into a draft: conditions, repetitions, items of repeating elements, and the fate
//! of each field.

use fhir::json::{Object, Value};
use hl7v2::{Element, Segment};

use super::Fate;
use super::build::{Builder, place_of, unit_number};
use super::convert::Said;
use super::draft::{Change, Draft};
use super::plan::{Action, InnerStep, Item, Row, SegmentMap};
use super::tables::{self, Convert};

impl<'m> Builder<'m> {
    /// Runs a map over a segment, into a unit. `rest`: only for fields that no other map took.
    pub(super) fn rows(
        &mut self,
        segment: Segment<'m>,
        map: &'static SegmentMap,
        unit: usize,
        fates: &mut [Option<Fate>],
        rest: bool,
    ) {
        let taken: Vec<bool> = fates.iter().map(|f| rest && !matches!(f, None | Some(Fate::Unmapped))).collect();
        let wanted = |field: usize| !taken.get(field).copied().unwrap_or(false);
        let mut items: Vec<usize> = Vec::new();
        for row in map.rows.iter().take_while(|row| row.field == 0) {
            self.row_of_segment(segment, map, row, unit, &mut items);
        }
        for (n, place) in fates.iter_mut().enumerate().skip(1) {
            let field = segment.field(n);
            if field.is_absent() || !wanted(n) {
                continue;
            }
            for row in map.rows_of(n) {
                let fate = self.row(segment, field, row, unit, &mut items, rest);
                settle(place, fate);
            }
        }
        for item in items {
            self.item(segment, map, &map.items[item], unit, fates);
        }
    }

    /// A row of the segment itself: a constant.
    fn row_of_segment(
        &mut self,
        segment: Segment<'m>,
        map: &'static SegmentMap,
        row: &'static Row,
        unit: usize,
        items: &mut Vec<usize>,
    ) {
        if row.condition.as_ref().is_some_and(|c| !c.holds(&self.scene(segment, segment.field(1), 0))) {
            return;
        }
        match &row.action {
            Action::Set { path, by: Convert::Constant(value), only_default } => {
                let change = if *only_default { Change::Default(value.clone()) } else { Change::Set(value.clone()) };
                self.units[unit].draft.push(path, change);
            }
            // An item of constants alone.
            Action::Item { item, .. } if map.items[*item].fields.is_empty() && !items.contains(item) => {
                items.push(*item);
            }
            _ => {}
        }
    }

    /// One row over one field. Items are gathered for later, since several rows make one.
    fn row(
        &mut self,
        segment: Segment<'m>,
        field: Element<'m>,
        row: &'static Row,
        unit: usize,
        items: &mut Vec<usize>,
        rest: bool,
    ) -> Option<Fate> {
        let first = field.repetition(1);
        if row.condition.as_ref().is_some_and(|c| !c.holds(&self.scene(segment, first, row.field))) {
            // Other repetitions of an item may meet it.
            let Action::Item { item, .. } = &row.action else { return None };
            if !items.contains(item) {
                items.push(*item);
            }
            return None;
        }
        match &row.action {
            Action::Kept(reason) => Some(Fate::Kept(reason)),
            Action::Hook => Some(Fate::Mapped(row.target.clone())),
            Action::Item { item, .. } => {
                if !items.contains(item) {
                    items.push(*item);
                }
                None
            }
            Action::Set { path, by, only_default } => {
                let target = Fate::Mapped(self.shown(row, unit, rest));
                if field.is_null() {
                    self.units[unit].draft.push(path, Change::Remove);
                    return Some(target);
                }
                let element = if by.takes_whole_field() { field } else { first };
                match self.said(segment, element, row.field, by) {
                    Said::Value(value) if *only_default => {
                        self.units[unit].draft.push(path, Change::Default(value));
                    }
                    Said::Value(value) => self.units[unit].draft.push(path, Change::Set(value)),
                    Said::Remove => self.units[unit].draft.push(path, Change::Remove),
                    Said::Nothing => return Some(Fate::Unmapped),
                }
                if by.is_constant() { None } else { Some(target) }
            }
        }
    }

    fn shown(&self, row: &Row, unit: usize, rest: bool) -> String {
        if rest { format!("{}{}", self.units[unit].rtype, row.target) } else { row.target.clone() }
    }

    /// By the converter; what it cannot use becomes a problem.
    fn said(&mut self, segment: Segment<'m>, element: Element<'m>, field: usize, by: &Convert) -> Said {
        match tables::convert(&self.context, segment, element, by) {
            Ok(said) => said,
            Err(fault) => {
                self.tag(unit_number(segment), format!("{}-{field}", place_of(segment)), fault.code, fault.text);
                Said::Nothing
            }
        }
    }

    /// An item: for each repetition of its field one, or one of several fields together.
    fn item(
        &mut self,
        segment: Segment<'m>,
        map: &'static SegmentMap,
        item: &'static Item,
        unit: usize,
        fates: &mut [Option<Fate>],
    ) {
        let rest = map.rtype == "*";
        let (mut values, mut removed) = (Vec::new(), false);
        match item.fields.as_slice() {
            [field] => {
                let element = segment.field(*field);
                removed = element.is_null();
                let whole = item
                    .rows
                    .iter()
                    .any(|at| matches!(&map.rows[*at].action, Action::Item { by, .. } if by.takes_whole_field()));
                let repetitions: Vec<Element<'m>> =
                    if whole { vec![element] } else { element.repetitions().filter(|r| !r.is_absent()).collect() };
                for repetition in repetitions {
                    let said = self.one(segment, map, item, &|_| Some(repetition), &mut removed, unit, fates, rest);
                    values.extend(said);
                }
            }
            _ => {
                let element = |field: usize| Some(segment.field(field)).filter(|f| f.is_value());
                values.extend(self.one(segment, map, item, &element, &mut removed, unit, fates, rest));
            }
        }
        let field = item.label.clone();
        let draft = &mut self.units[unit].draft;
        if !values.is_empty() {
            push_items(draft, item.path, field, values, item.shared);
        } else if removed {
            draft.push(item.path, Change::RemoveItems { field });
        }
        if removed {
            for at in &item.rows {
                let row = &map.rows[*at];
                if let Some(fate) = fates.get_mut(row.field) {
                    settle(fate, Some(Fate::Mapped(row.target.clone())));
                }
            }
        }
    }

    /// The rows of an item over one repetition, or over the fields. Nothing where only constants spoke.
    #[allow(clippy::too_many_arguments)] // What one item needs; they have no group of their own.
    fn one(
        &mut self,
        segment: Segment<'m>,
        map: &'static SegmentMap,
        item: &'static Item,
        element: &dyn Fn(usize) -> Option<Element<'m>>,
        removed: &mut bool,
        unit: usize,
        fates: &mut [Option<Fate>],
        rest: bool,
    ) -> Option<Value> {
        let (mut value, mut spoke) = (Value::Null, item.fields.is_empty());
        let mut constants: Vec<(&[InnerStep], Value, usize)> = Vec::new();
        let mut told: Vec<(usize, Fate)> = Vec::new();
        for at in &item.rows {
            let row = &map.rows[*at];
            let Action::Item { inner, by, .. } = &row.action else { continue };
            let own = if row.field == 0 { Some(segment.field(1)) } else { element(row.field) };
            let Some(own) = own else { continue };
            if row.condition.as_ref().is_some_and(|c| !c.holds(&self.scene(segment, own, row.field))) {
                continue;
            }
            if let Convert::Constant(constant) = by {
                constants.push((inner, constant.clone(), row.field));
                continue;
            }
            let repeats = inner.last().is_some_and(|step| step.at.is_some()) && item.fields.len() > 1;
            let parts: Vec<Element<'m>> = match (by.takes_whole_field(), repeats) {
                (true, _) => vec![own],
                (false, true) => own.repetitions().collect(),
                (false, false) => vec![own.repetition(1)],
            };
            let mut found = false;
            for (n, part) in parts.into_iter().enumerate() {
                match self.said(segment, part, row.field, by) {
                    Said::Value(said) => {
                        put(&mut value, inner, n, said);
                        found = true;
                    }
                    Said::Remove => *removed = true,
                    Said::Nothing => {}
                }
            }
            spoke |= found;
            let fate = if found { Fate::Mapped(self.shown(row, unit, rest)) } else { Fate::Unmapped };
            told.push((row.field, fate));
        }
        // A field whose rows are constants alone speaks by being there: DG1-21, a status.
        let alone = |field: usize| {
            item.rows.iter().all(|at| {
                let row = &map.rows[*at];
                row.field != field || matches!(&row.action, Action::Item { by, .. } if by.is_constant())
            })
        };
        // An extension of a name alone says nothing.
        let is_extension = item.path.ends_with("extension");
        for (inner, constant, field) in constants {
            if field != 0 && !is_extension && alone(field) {
                spoke = true;
                told.push((field, Fate::Mapped(format!("{}.{}", map.rtype, item.path))));
            }
            put(&mut value, inner, 0, constant);
        }
        let whole = value.as_object().is_none_or(|o| item.required.iter().all(|name| o.contains_key(name)));
        let made = spoke && whole && !value.is_null();
        for (field, fate) in told {
            if let Some(place) = fates.get_mut(field) {
                settle(place, Some(if made { fate } else { Fate::Unmapped }));
            }
        }
        made.then_some(value)
    }
}

/// A later fate counts where it says more.
fn settle(place: &mut Option<Fate>, fate: Option<Fate>) {
    match (&place, &fate) {
        (_, None) | (Some(Fate::Mapped(_)), _) | (Some(Fate::Kept(_)), Some(Fate::Unmapped)) => {}
        _ => *place = fate,
    }
}

/// Puts a value at its way within an item; `n` moves it on in the last list.
fn put(root: &mut Value, way: &[InnerStep], n: usize, value: Value) {
    let mut place = root;
    for (depth, step) in way.iter().enumerate() {
        if place.as_object().is_none() {
            *place = Value::Object(Object::new());
        }
        let Value::Object(object) = place else { return };
        if !object.contains_key(step.name) {
            object.push(step.name, Value::Null);
        }
        let Some(member) = object.get_mut(step.name) else { return };
        place = match step.at {
            None => member,
            Some(at) => {
                let at = at + if depth + 1 == way.len() { n } else { 0 };
                if member.as_array().is_none() {
                    *member = Value::Array(Vec::new());
                }
                let Some(list) = member.as_array_mut() else { return };
                while list.len() <= at {
                    list.push(Value::Null);
                }
                &mut list[at]
            }
        };
    }
    match (&mut *place, value) {
        // A whole value where members were put already: both count.
        (Value::Object(there), Value::Object(more)) => {
            for (name, member) in more.iter() {
                there.insert(name, member.clone());
            }
        }
        (place, value) => *place = value,
    }
}

/// Items of a field: more of them where the same field of an earlier segment spoke already, or together with those where
/// one item is for all segments.
pub(super) fn push_items(draft: &mut Draft, path: &'static str, field: String, values: Vec<Value>, shared: bool) {
    let there = draft.fields.iter_mut().find_map(|f| match &mut f.change {
        Change::Items { field: name, values } if f.path == path && *name == field => Some(values),
        _ => None,
    });
    match there {
        Some(there) if shared => {
            for (old, new) in there.iter_mut().zip(values) {
                join(old, new);
            }
        }
        Some(there) => there.extend(values),
        None => draft.push(path, Change::Items { field, values }),
    }
}

const DOSE_CHOICES: &[(&str, &str)] = &[
    ("doseQuantity", "doseRange"),
    ("doseRange", "doseQuantity"),
    ("rateQuantity", "rateRatio"),
    ("rateRatio", "rateQuantity"),
];

/// What is new goes into what is there, member by member.
fn join(old: &mut Value, new: Value) {
    match (&mut *old, new) {
        (Value::Object(there), Value::Object(more)) => {
            for (name, member) in more.iter() {
                // One type of a choice at a time: the later segment says it more exactly.
                for (one, other) in DOSE_CHOICES {
                    if name == *one {
                        there.remove(other);
                    }
                }
                match there.get_mut(name) {
                    Some(place) => join(place, member.clone()),
                    None => drop(there.insert(name, member.clone())),
                }
            }
        }
        (Value::Array(there), Value::Array(more)) if there.len() == 1 && more.len() == 1 => {
            for (place, member) in there.iter_mut().zip(more) {
                join(place, member);
            }
        }
        (Value::Array(there), Value::Array(more)) => there.extend(more),
        (place, new) => *place = new,
    }
}

/// One more item of a list that grows.
pub(super) fn append(draft: &mut Draft, path: &'static str, item: Value) {
    let there = draft.fields.iter_mut().rev().find_map(|f| match &mut f.change {
        Change::Add(values) if f.path == path => Some(values),
        _ => None,
    });
    match there {
        Some(values) => values.push(item),
        None => draft.push(path, Change::Add(vec![item])),
    }
}
