//! What an operation is given: by the URL, or in a Parameters resource (R4 §3.2.0.1). Reads forms, never meanings.

use axum::http::StatusCode;
use fhir::json::{ParseLimits, Value};

use crate::doors::Doors;
use crate::fhir::FhirError;

/// Values of one call.
const ARGUMENTS_MAX: usize = 1_000;

enum Argument {
    /// Of a primitive type, as text.
    Text(String),
    /// Of any other data type.
    Value(Value),
    Resource(Value),
}

/// The parameters of a call, in their order.
pub struct Arguments(Vec<(String, Argument)>);

fn bad(text: impl Into<String>) -> FhirError {
    FhirError::new(StatusCode::BAD_REQUEST, "invalid", text)
}

impl Arguments {
    pub fn of_pairs(pairs: Vec<(String, String)>) -> Arguments {
        Arguments(pairs.into_iter().map(|(name, value)| (name, Argument::Text(value))).collect())
    }

    /// A body that is no Parameters is the parameter `resource` (R4 §3.2.0.1: "if there is exactly one input parameter of
    /// type Resource").
    pub fn of_post(doors: &Doors, query: Option<&str>, body: &[u8]) -> Result<Arguments, FhirError> {
        let mut all = Arguments::of_pairs(fhir::search::decode_query(query.unwrap_or_default()));
        if body.is_empty() {
            return Ok(all);
        }
        let value = fhir::json::parse(body, &ParseLimits::from(&*doors.limits))?;
        match value.get("resourceType").and_then(Value::as_str) {
            Some("Parameters") => all.0.extend(of_parameters(&value)?),
            Some(_) => all.0.push(("resource".to_owned(), Argument::Resource(value))),
            None => return Err(bad("the body must be a Parameters resource, or the resource that is meant")),
        }
        if all.0.len() > ARGUMENTS_MAX {
            return Err(bad(format!("at most {ARGUMENTS_MAX} parameters are taken")));
        }
        Ok(all)
    }

    /// As the criteria of a search, for operations that are one.
    pub fn pairs(self) -> Result<Vec<(String, String)>, FhirError> {
        let pair = |(name, argument)| match argument {
            Argument::Text(text) => Ok((name, text)),
            Argument::Value(_) | Argument::Resource(_) => {
                Err(bad("this operation takes parameters of primitive types only"))
            }
        };
        self.0.into_iter().map(pair).collect()
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }

    pub fn text(&self, name: &str) -> Option<&str> {
        self.texts(name).first().copied()
    }

    pub fn texts(&self, name: &str) -> Vec<&str> {
        let named = self.0.iter().filter(|(known, _)| known == name);
        named
            .filter_map(|(_, argument)| match argument {
                Argument::Text(text) => Some(text.as_str()),
                _ => None,
            })
            .collect()
    }

    /// `None` where it is not given; an error where it is neither true nor false.
    pub fn truth(&self, name: &str) -> Result<Option<bool>, FhirError> {
        match self.text(name) {
            None => Ok(None),
            Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(_) => Err(bad(format!("{name} must be true or false"))),
        }
    }

    pub fn number(&self, name: &str) -> Result<Option<usize>, FhirError> {
        let number = self.text(name).map(str::parse::<usize>).transpose();
        number.map_err(|_| bad(format!("{name} must be a whole number")))
    }

    pub fn value(&self, name: &str) -> Option<&Value> {
        self.0.iter().filter(|(known, _)| known == name).find_map(|(_, argument)| match argument {
            Argument::Value(value) => Some(value),
            _ => None,
        })
    }

    pub fn resource(&self, name: &str) -> Option<&Value> {
        self.0.iter().filter(|(known, _)| known == name).find_map(|(_, argument)| match argument {
            Argument::Resource(value) => Some(value),
            _ => None,
        })
    }
}

fn of_parameters(parameters: &Value) -> Result<Vec<(String, Argument)>, FhirError> {
    let mut all = Vec::new();
    for parameter in parameters.get("parameter").map(Value::items).unwrap_or_default() {
        let name = parameter.get("name").and_then(Value::as_str);
        let name = name.ok_or_else(|| bad("each parameter needs a name"))?.to_owned();
        if let Some(resource) = parameter.get("resource") {
            all.push((name, Argument::Resource(resource.clone())));
            continue;
        }
        let members = parameter.as_object().into_iter().flat_map(|object| object.iter());
        let value = members.into_iter().find(|(member, _)| member.starts_with("value")).map(|(_, value)| value);
        let argument = match value {
            Some(Value::String(text)) => Argument::Text(text.clone()),
            Some(Value::Number(number)) => Argument::Text(number.as_str().to_owned()),
            Some(Value::Bool(truth)) => Argument::Text(truth.to_string()),
            Some(value @ Value::Object(_)) => Argument::Value(value.clone()),
            _ => return Err(bad("each parameter needs one value or one resource")),
        };
        all.push((name, argument));
    }
    Ok(all)
}
