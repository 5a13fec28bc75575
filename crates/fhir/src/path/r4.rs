//! The R4 definitions as the engine asks for them.

use crate::definitions::{Kind, type_named};

use super::types::{ElementType, TypeInfo};

/// Types and elements of FHIR R4 (4.0.1).
#[derive(Debug, Clone, Copy, Default)]
pub struct R4;

impl TypeInfo for R4 {
    fn element_type(&self, parent: &str, element: &str) -> Option<ElementType> {
        let parent = type_named(parent)?;
        match parent.property(element) {
            Some(found) if found.element.choice => None,
            Some(found) => Some(ElementType::One(found.kind.name)),
            None => parent.element(element).filter(|e| e.choice).map(|_| ElementType::Choice),
        }
    }

    fn base_type(&self, name: &str) -> Option<&'static str> {
        type_named(name)?.base
    }

    fn is_type(&self, name: &str) -> bool {
        type_named(name).is_some()
    }

    fn is_complete(&self, name: &str) -> bool {
        type_named(name).is_some_and(|t| t.kind != Kind::AbstractResource)
    }
}
