//! End-to-end tests: the laws, with real clients, on a node in process and as a process.
