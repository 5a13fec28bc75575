//! End-to-end tests. Everything is in `tests/suite`: one binary, a harness that starts nodes, one file per law.
