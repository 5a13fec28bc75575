//! The FHIRPath R4 test suite, from the shared data beside the checkout. Skipped, and said so, where that is not there.
//! Prints how many cases of each group pass and names each that does not.
#![allow(clippy::print_stdout, reason = "the counts are what a reader of the test wants")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use base::Timestamp;
use fhir::definitions::{Type, type_named};
use fhir::json::{Number, Object, ParseLimits, Value, parse};
use fhir::path::{Context, Item, R4, compile};

/// Cases that pass; may only grow.
const PASSING_MIN: usize = 912;

/// Cases where the suite and the specification differ; we follow the specification.
const SPECIFICATION_FIRST: [(&str, &str); 3] = [
    ("testPlusDate19", "adding 0.1 's' is adding 100 ms: decimals are ignored above seconds only (FHIRPath 6.7)"),
    ("HighBoundaryDateTimeMillisecond1", "the last moment of the hour 08 is 08:59:59.999, not 08:00:59.999"),
    ("HighBoundaryDateTimeMillisecond3", "the last moment of the hour 08 is 08:59:59.999, not 08:00:59.999"),
];

/// A folder of the shared test data, by `WARD_SHARED_DATA` or beside the checkout.
fn shared(folder: &str) -> Option<PathBuf> {
    let set = std::env::var_os("WARD_SHARED_DATA").map(PathBuf::from);
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().map(|a| a.join("shared/data"));
    set.into_iter().chain(beside).map(|d| d.join(folder)).find(|d| d.is_dir())
}

/// An element of the suite's XML.
#[derive(Default, Debug)]
struct Element {
    name: String,
    attributes: BTreeMap<String, String>,
    children: Vec<Element>,
    text: String,
}

impl Element {
    fn children<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Element> {
        self.children.iter().filter(move |c| c.name == name)
    }

    fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.get(name).map(String::as_str)
    }
}

fn unescape(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        let end = at + rest[at..].find(';').unwrap();
        out.push(match &rest[at + 1..end] {
            "lt" => '<',
            "gt" => '>',
            "amp" => '&',
            "quot" => '"',
            "apos" => '\'',
            code => {
                let code = code.strip_prefix('#').unwrap();
                let number = code.strip_prefix('x').map_or_else(|| code.parse(), |hex| u32::from_str_radix(hex, 16));
                char::from_u32(number.unwrap()).unwrap()
            }
        });
        rest = &rest[end + 1..];
    }
    out + rest
}

/// As much of XML as the suite uses.
fn read_xml(text: &str) -> Element {
    let mut stack = vec![Element::default()];
    let mut rest = text;
    while let Some(at) = rest.find('<') {
        stack.last_mut().unwrap().text.push_str(&unescape(&rest[..at]));
        rest = &rest[at..];
        let skip = |rest: &'_ str, end: &str| rest.find(end).unwrap() + end.len();
        if rest.starts_with("<!--") {
            rest = &rest[skip(rest, "-->")..];
        } else if let Some(body) = rest.strip_prefix("<![CDATA[") {
            let end = body.find("]]>").unwrap();
            stack.last_mut().unwrap().text.push_str(&body[..end]);
            rest = &body[end + 3..];
        } else if rest.starts_with("<?") || rest.starts_with("<!") {
            rest = &rest[skip(rest, ">")..];
        } else if rest.starts_with("</") {
            rest = &rest[skip(rest, ">")..];
            let done = stack.pop().unwrap();
            stack.last_mut().unwrap().children.push(done);
        } else {
            let end = tag_end(rest);
            let (element, closed) = read_tag(&rest[1..end]);
            rest = &rest[end + 1..];
            match closed {
                true => stack.last_mut().unwrap().children.push(element),
                false => stack.push(element),
            }
        }
    }
    stack.pop().unwrap()
}

/// Where the tag ends: the first `>` outside quotes.
fn tag_end(text: &str) -> usize {
    let mut quote = None;
    for (at, c) in text.char_indices() {
        match (c, quote) {
            ('"' | '\'', None) => quote = Some(c),
            (c, Some(q)) if c == q => quote = None,
            ('>', None) => return at,
            _ => {}
        }
    }
    panic!("a tag without end")
}

fn read_tag(text: &str) -> (Element, bool) {
    let closed = text.ends_with('/');
    let text = text.trim_end_matches('/');
    let (name, mut rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    let mut element = Element { name: name.to_owned(), ..Element::default() };
    while let Some((key, after)) = rest.split_once('=') {
        let after = after.trim_start();
        let quote = after.chars().next().unwrap();
        let (value, tail) = after[1..].split_once(quote).unwrap();
        element.attributes.insert(key.trim().to_owned(), unescape(value));
        rest = tail;
    }
    (element, closed)
}

/// An item as the suite writes it.
fn shown(item: &Item<'_>) -> String {
    match item {
        Item::Date(_) | Item::DateTime(_) => format!("@{}", item_text(item)),
        Item::Time(_) => format!("@T{}", item_text(item)),
        Item::Element(_) => match item.system() {
            Some(Item::Element(_)) | None => "(complex)".to_owned(),
            Some(system) => shown(&system),
        },
        _ => item_text(item),
    }
}

fn item_text(item: &Item<'_>) -> String {
    match item {
        Item::Boolean(b) => b.to_string(),
        Item::Integer(i) => i.to_string(),
        Item::Decimal(d) => d.to_string(),
        Item::String(text) => text.to_string(),
        Item::Date(d) | Item::DateTime(d) => d.to_string(),
        Item::Time(t) => t.to_string(),
        Item::Quantity(q) => q.to_string(),
        _ => "(none)".to_owned(),
    }
}

/// The text is the same, and for numbers the number.
fn fits(item: &Item<'_>, expected: &Element) -> bool {
    let text = shown(item);
    let type_fits = matches!(
        (expected.attribute("type"), item.system()),
        (Some("boolean"), Some(Item::Boolean(_)))
            | (Some("integer"), Some(Item::Integer(_)))
            | (Some("decimal"), Some(Item::Decimal(_) | Item::Integer(_)))
            | (Some("Quantity"), Some(Item::Quantity(_)))
            | (Some("date" | "dateTime"), Some(Item::Date(_) | Item::DateTime(_)))
            | (Some("string" | "code" | "id"), Some(Item::String(_)))
            | (None, _)
    );
    let number = |text: &str| text.parse::<f64>().ok();
    let numeric = matches!(item, Item::Decimal(_) | Item::Integer(_)) && number(&text) == number(&expected.text);
    type_fits && (text == expected.text || numeric)
}

fn run(case: &Element, input: &Value) -> Result<(), String> {
    let expression = case.children("expression").next().unwrap();
    let wanted: Vec<&Element> = case.children("output").collect();
    let strict = case.attribute("mode") == Some("strict");
    let invalid = expression.attribute("invalid").or(case.attribute("invalid")).is_some();
    let compiled = compile(expression.text.trim()).map_err(|e| e.to_string());
    let context = Context { now: Some(Timestamp(1_700_000_000_123)), ..Context::new() };
    let resource_type = input.get("resourceType").and_then(Value::as_str);
    let result = compiled.as_ref().map_err(Clone::clone).and_then(|expr| {
        match expr.check(resource_type, &R4).first().filter(|_| strict) {
            Some(found) => Err(found.to_string()),
            None => expr.eval(input, &context).map_err(|e| e.to_string()),
        }
    });
    if invalid {
        return result.err().map(drop).ok_or_else(|| "an error was expected".to_owned());
    }
    let mut items = result?;
    if case.attribute("predicate") == Some("true") {
        items = vec![Item::Boolean(!items.is_empty())];
    }
    let mut open: Vec<&Item<'_>> = items.iter().collect();
    let unordered = case.attribute("ordered") == Some("false");
    for expected in &wanted {
        let at = if unordered { open.iter().position(|i| fits(i, expected)) } else { Some(0) };
        match at.filter(|at| open.get(*at).is_some_and(|i| fits(i, expected))) {
            Some(at) => drop(open.remove(at)),
            None => {
                let got: Vec<String> = items.iter().map(shown).collect();
                return Err(format!(
                    "gives {got:?}, expected {:?}",
                    wanted.iter().map(|w| &w.text).collect::<Vec<_>>()
                ));
            }
        }
    }
    match open.is_empty() {
        true => Ok(()),
        false => Err(format!("gives {:?} beyond what is expected", open.iter().map(|i| shown(i)).collect::<Vec<_>>())),
    }
}

/// The case's input: as JSON, or from the XML where that is what there is.
fn input(folder: &Path, case: &Element) -> Option<Value> {
    let path = folder.join("examples").join(case.attribute("inputfile").unwrap_or("patient-example.xml"));
    if let Ok(text) = std::fs::read_to_string(&path) {
        let document = read_xml(&text);
        let root = &document.children[0];
        let mut object = to_object(root, type_named(&root.name).unwrap());
        object.insert("resourceType", root.name.as_str());
        return Some(Value::Object(object));
    }
    let bytes = std::fs::read(path.with_extension("json")).ok()?;
    Some(parse(&bytes, &ParseLimits::default()).unwrap())
}

/// The JSON form of an XML element (R4 §2.1.0); narrative is left out.
fn to_object(xml: &Element, of: &Type) -> Object {
    let mut object = Object::new();
    for name in ["id", "url"] {
        if let Some(value) = xml.attribute(name) {
            object.insert(name, value);
        }
    }
    for child in xml.children.iter().filter(|c| c.name != "div") {
        let property = of.property(&child.name).unwrap();
        let kind = type_named(property.kind.name).unwrap();
        let value = match child.attribute("value") {
            Some(text) => primitive(text, kind.name),
            None if kind.is_primitive() => Value::Null,
            None => Value::Object(to_object(child, kind)),
        };
        let mut put = |name: String, value: Value| match object.get_mut(&name) {
            Some(Value::Array(items)) => items.push(value),
            _ if property.element.many => drop(object.insert(name, vec![value])),
            _ => drop(object.insert(name, value)),
        };
        if kind.is_primitive() {
            let sibling = to_object(child, type_named("Element").unwrap());
            if !sibling.is_empty() {
                put(format!("_{}", child.name), Value::Object(sibling));
            }
        }
        put(child.name.clone(), value);
    }
    object
}

fn primitive(text: &str, kind: &str) -> Value {
    match kind {
        "boolean" => Value::Bool(text == "true"),
        "decimal" | "integer" | "positiveInt" | "unsignedInt" => Value::Number(Number::parse(text).unwrap()),
        _ => Value::from(text),
    }
}

#[test]
fn fhirpath_r4_suite() {
    let Some(folder) = shared("fhirpath") else {
        println!("skipped: shared/data/fhirpath is not there");
        return;
    };
    let suite = read_xml(&std::fs::read_to_string(folder.join("tests-fhir-r4.xml")).unwrap());
    let (mut passed, mut total, mut absent, mut failures) = (0, 0, 0, Vec::new());
    for group in suite.children("tests").flat_map(|t| t.children("group")) {
        let name = group.attribute("name").unwrap_or_default();
        let (mut here, mut of) = (0, 0);
        for case in group.children("test") {
            let Some(resource) = input(&folder, case) else {
                absent += 1;
                continue;
            };
            of += 1;
            match run(case, &resource) {
                Ok(()) => here += 1,
                Err(why) => {
                    let case = case.attribute("name").unwrap_or_default();
                    let known = SPECIFICATION_FIRST.iter().find(|(n, _)| *n == case);
                    failures.push(format!("{name}/{case}: {}", known.map_or(why, |(_, reason)| (*reason).to_owned())));
                }
            }
        }
        println!("{name}: {here} of {of}");
        (passed, total) = (passed + here, total + of);
    }
    println!("{passed} of {total} pass; {absent} have no input here. Those that do not:\n{}", failures.join("\n"));
    assert!(passed >= PASSING_MIN, "{passed} of {total} pass, {PASSING_MIN} did before");
}
