//! Every door: MLLP, FHIR, SQL over HTTP, the admin API.
