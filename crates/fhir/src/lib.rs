//! FHIR R4: JSON with exact decimals, structure, search parameters, FHIRPath, views.
