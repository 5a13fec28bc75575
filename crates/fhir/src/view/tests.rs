//! What the suite of the specification does not ask: clear errors, warnings, where columns come from, agreement of the
//! fast way with the evaluator, bounds.

use proptest::prelude::*;

use crate::json;
use crate::json::Value;

use super::{Cell, ColumnKind, View};

fn view(select: Value) -> View {
    View::parse(&json!({"resource": "Patient", "select": (select)})).expect("a view")
}

fn patient() -> Value {
    json!({
        "resourceType": "Patient", "id": "p1", "active": true, "birthDate": "1974-12-25", "multipleBirthInteger": 2,
        "name": [
            {"use": "official", "family": "SENTINEL", "given": [null, "Ann", "Lee"], "_given": [{"id": "x"}, null, null]},
            {"family": "Other", "given": ["Bea"]}
        ],
        "telecom": [{"system": "phone", "value": "1", "rank": 1}, {"system": "email", "value": "2", "rank": 2}]
    })
}

#[test]
fn mistakes_name_their_place_and_the_way_out() {
    let column = |column: Value| json!({"resource": "Patient", "select": [{"column": [(column)]}]});
    for (definition, place, text) in [
        (json!([]), "ViewDefinition", "object"),
        (json!({"select": []}), "resource", "missing"),
        (json!({"resource": "Pateint", "select": []}), "resource", "no resource `Pateint`"),
        (json!({"resource": "HumanName", "select": []}), "resource", "no resource `HumanName`"),
        (json!({"resource": "Resource", "select": []}), "resource", "no resource `Resource`"),
        (column(json!({"name": "a", "path": "birthDate < today()"})), "select[0].column[0].path", "`today()`"),
        (json!({"resource": "Patient"}), "select", "no column"),
        (json!({"resource": "Patient", "wheres": []}), "ViewDefinition", "`wheres`"),
        (json!({"resource": "Patient", "select": {}}), "select", "list"),
        (json!({"resource": "Patient", "select": [{"forEech": "name"}]}), "select[0]", "`forEech`"),
        (json!({"resource": "Patient", "select": [{"forEach": "a", "repeat": ["b"]}]}), "select[0]", "exclude"),
        (json!({"resource": "Patient", "select": [{"repeat": []}]}), "select[0].repeat", "at least one"),
        (json!({"resource": "Patient", "where": [{"path": "a =", "x": 1}]}), "where[0]", "`x`"),
        (json!({"resource": "Patient", "where": [{"path": "a ="}]}), "where[0].path", "ends too early"),
        (column(json!({"name": "a b", "path": "id"})), "select[0].column[0].name", "letters"),
        (column(json!({"name": "a"})), "select[0].column[0].path", "FHIRPath"),
        (column(json!({"name": "a", "path": "name", "type": "HumanName"})), "select[0].column[0].type", "primitive"),
        (
            column(json!({"name": "a", "path": "deceasedBoolean"})),
            "select[0].column[0].path",
            "deceased.ofType(boolean)",
        ),
        (column(json!({"name": "a", "path": "%nope"})), "select[0].column[0].path", "`%nope`"),
        (
            json!({"resource": "Patient", "constant": [{"name": "c", "valueDate": "soon"}]}),
            "constant[0].valueDate",
            "does not fit",
        ),
        (
            json!({"resource": "Patient", "select": [{"column": [{"name": "a", "path": "id"}, {"name": "A", "path": "id"}]}]}),
            "select[0].column[1].name",
            "twice",
        ),
    ] {
        let error = View::parse(&definition).unwrap_err();
        assert_eq!(error.place, place, "{error}");
        assert!(error.text.contains(text), "{error}");
    }
}

#[test]
fn a_misspelt_element_is_a_warning() {
    let view = view(json!([{"forEach": "name", "column": [{"name": "a", "path": "famly"}]}]));
    assert_eq!(view.warnings().len(), 1);
    assert_eq!(view.warnings()[0].place, "select[0].column[0].path");
    assert!(view.warnings()[0].text.contains("`famly` is not an element of HumanName"));
}

#[test]
fn columns_tell_the_element_they_derive_from() {
    for (each, path, source, kind) in [
        (None, "id", Some("Patient.id"), ColumnKind::String),
        (None, "Patient.birthDate", Some("Patient.birthDate"), ColumnKind::Date),
        (None, "name.first().family", Some("Patient.name.family"), ColumnKind::String),
        (None, "name.where(use = 'official').given.first()", Some("Patient.name.given"), ColumnKind::String),
        (Some("contact.telecom"), "value", Some("Patient.contact.telecom.value"), ColumnKind::String),
        (Some("name.given"), "$this", Some("Patient.name.given"), ColumnKind::String),
        (None, "multipleBirth.ofType(integer)", Some("Patient.multipleBirthInteger"), ColumnKind::Integer),
        (None, "name.given.join(' ')", Some("Patient.name.given"), ColumnKind::String),
        (None, "getResourceKey()", Some("Patient.id"), ColumnKind::String),
        (
            None,
            "managingOrganization.getReferenceKey()",
            Some("Patient.managingOrganization.reference"),
            ColumnKind::String,
        ),
        (None, "extension('u').value.ofType(code)", Some("Patient.extension.valueCode"), ColumnKind::String),
        (None, "name[0].family & name[0].given[0]", None, ColumnKind::String),
        (None, "name.exists()", None, ColumnKind::String),
        (None, "%rowIndex", None, ColumnKind::Integer),
        (None, "'x'", None, ColumnKind::String),
    ] {
        let mut select = json!({"column": [{"name": "a", "path": (path)}]});
        if let (Some(each), Some(object)) = (each, select.as_object_mut()) {
            object.insert("forEach", each);
        }
        let view = view(json!([(select)]));
        assert_eq!(view.columns()[0].source_path.as_deref(), source, "{path}");
        assert_eq!(view.columns()[0].kind, kind, "{path}");
    }
    let branch = |path: &str| json!({"column": [{"name": "a", "path": (path)}]});
    let union = view(json!([{"unionAll": [(branch("id")), (branch("gender"))]}]));
    assert_eq!(union.columns()[0].source_path, None);
}

/// `p.where(true)` takes the evaluator, `p` alone does not.
#[test]
fn the_fast_way_agrees_with_the_evaluator() {
    for path in [
        "id",
        "Patient.id",
        "name.family",
        "name.given",
        "name.given.first()",
        "name.given[0]",
        "name.given[1]",
        "name[1].given[0]",
        "name.first().given",
        "name[7].given",
        "telecom.rank",
        "multipleBirth.ofType(integer)",
        "multipleBirth.ofType(string)",
        "active",
        "name.given.first().first()",
        "$this.name.family",
    ] {
        let plain = json!([{"column": [{"name": "a", "path": (path), "collection": true}]}]);
        let general = json!([{"column": [{"name": "a", "path": (format!("{path}.where(true)")), "collection": true}]}]);
        let (plain, general) = (view(plain), view(general));
        assert_eq!(plain.rows(&patient()).unwrap(), general.rows(&patient()).unwrap_or_default(), "{path}");
        let each = |path: &str| {
            let rank = json!({"forEach": (path), "column": [{"name": "i", "path": "%rowIndex"}, {"name": "a", "path": "$this", "type": "string"}]});
            view(json!([(rank)])).rows(&patient())
        };
        assert_eq!(each(path), each(&format!("{path}.where(true)")), "{path}");
    }
}

#[test]
fn cells_keep_exact_values() {
    let observation = json::parse(
        br#"{"resourceType": "Observation", "valueQuantity": {"value": 1.50}, "effectiveDateTime": "2015-02",
             "component": [{"valueInteger": 3}, {"valueInteger": 4}]}"#,
        &json::ParseLimits::default(),
    )
    .unwrap();
    let definition = json!({"resource": "Observation", "select": [{"column": [
        {"name": "value", "path": "value.ofType(Quantity).value", "type": "decimal"},
        {"name": "twice", "path": "value.ofType(Quantity).value * 2", "type": "decimal"},
        {"name": "at", "path": "effective.ofType(dateTime)", "type": "dateTime"},
        {"name": "parts", "path": "component.value.ofType(integer)", "type": "integer", "collection": true},
        {"name": "none", "path": "issued", "type": "instant"}
    ]}]});
    let text = |t: &str| Cell::Text(t.to_owned());
    let decimal = |t: &str| Cell::Decimal(t.to_owned());
    let list = Cell::List(vec![Cell::Int(3), Cell::Int(4)]);
    let expected = vec![vec![decimal("1.50"), decimal("3.00"), text("2015-02"), list, Cell::Null]];
    assert_eq!(View::parse(&definition).unwrap().rows(&observation).unwrap(), expected);
}

#[test]
fn what_does_not_fit_a_column_is_an_error_without_data() {
    for (path, kind, text) in [
        ("name.family", "string", "more"),
        ("name.first()", "string", "complex"),
        ("name.first().family", "integer", "a text"),
        ("telecom.first().rank", "boolean", "a number"),
        ("birthDate > 1", "boolean", "cannot be compared"),
    ] {
        let view = view(json!([{"column": [{"name": "a", "path": (path), "type": (kind)}]}]));
        let error = view.rows(&patient()).unwrap_err();
        assert_eq!(error.place, "select[0].column[0].path");
        assert!(error.text.contains(text) && !error.to_string().contains("SENTINEL"), "{error}");
    }
}

#[test]
fn rows_are_bounded() {
    let ranks: Value = (0..60).map(|i| json!({"rank": (i)})).collect();
    let patient = json!({"resourceType": "Patient", "telecom": (ranks)});
    let each = |name: &str| json!({"forEach": "telecom", "column": [{"name": (name), "path": "rank"}]});
    let view = view(json!([(each("a")), (each("b")), (each("c"))]));
    assert!(view.rows(&patient).unwrap_err().text.contains("too many rows"));
    // As many selects as are allowed, inside each other and side by side.
    let column = json!({"column": [{"name": "a", "path": "id"}]});
    let nested =
        |depth: usize| (1..depth).fold(column.clone(), |inner, _| json!({"select": [(inner)], "forEach": "$this"}));
    let side_by_side = |count: usize| {
        let selects = (0..count).map(|i| json!({"column": [{"name": (format!("c{i}")), "path": "id"}]}));
        json!({"resource": "Patient", "select": (selects.collect::<Value>())})
    };
    for definition in [json!({"resource": "Patient", "select": [(nested(200))]}), side_by_side(200)] {
        assert_eq!(View::parse(&definition).unwrap().rows(&patient).unwrap().len(), 1);
    }
    assert!(View::parse(&side_by_side(201)).unwrap_err().text.contains("too many selects"));
}

#[test]
fn debug_shows_no_data() {
    let view = view(json!([{"column": [{"name": "a", "path": "name.first().family"}]}]));
    assert!(!format!("{:?} {:?}", view, view.rows(&patient()).unwrap()).contains("SENTINEL"));
}

/// Definitions of the right words in any place.
fn any_definition() -> impl Strategy<Value = Value> {
    let words = ["Patient", "name", "id", "given", "%c", "$this", "string", "a", "b", "name.where(use = %c)", "@@", ""];
    let leaf = prop_oneof![
        prop::sample::select(words.to_vec()).prop_map(Value::from),
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
    ];
    let keys = [
        "resource",
        "select",
        "column",
        "where",
        "constant",
        "forEach",
        "forEachOrNull",
        "repeat",
        "unionAll",
        "name",
        "path",
        "type",
        "collection",
        "valueString",
        "valueInteger",
    ];
    leaf.prop_recursive(6, 60, 4, move |inner| {
        let object = prop::collection::vec((prop::sample::select(keys.to_vec()), inner.clone()), 0..5);
        prop_oneof![
            prop::collection::vec(inner, 0..3).prop_map(Value::Array),
            object.prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn any_definition_reads_or_is_refused(select in any_definition(), filter in any_definition(), constant in any_definition()) {
        let definition = json!({"resource": "Patient", "select": [(&select)], "where": [(filter)], "constant": [(constant)]});
        for definition in [definition, json!({"resource": "Patient", "select": [(&select)]}), select] {
            if let Ok(view) = View::parse(&definition) {
                let _ = view.rows(&patient());
            }
        }
    }
}
