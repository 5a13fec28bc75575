//! Cedar policies, their schema, and the obligations they carry.
