//! Ingest, refine, linkage: from a message at the door to FHIR in silver.
