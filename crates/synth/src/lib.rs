//! A deterministic synthetic hospital that feeds every door.
