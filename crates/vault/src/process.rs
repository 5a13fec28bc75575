//! Keeps keys out of what the operating system writes down about a process.
//!
//! What exists: no core dumps (limit 0) and, on Linux, not dumpable, which also closes `/proc/PID/mem` and `ptrace` to
//! other processes of the same user. What does not yet: key pages locked against swapping (`mlock`); until then run
//! with encrypted swap or none. Nothing here defends against root on the live machine.

/// What [`harden`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hardening {
    /// The limit on core files is 0, and cannot be raised again without privilege.
    pub no_core_files: bool,
    /// The process is marked not dumpable (Linux `PR_SET_DUMPABLE`).
    pub not_dumpable: bool,
}

/// Call once, first thing in `main`. Never fails: what could not be done is told, for `ward check` to print.
pub fn harden() -> Hardening {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    Hardening { no_core_files: setrlimit(Resource::Core, none).is_ok(), not_dumpable: not_dumpable() }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn not_dumpable() -> bool {
    use rustix::process::{DumpableBehavior, set_dumpable_behavior};
    set_dumpable_behavior(DumpableBehavior::NotDumpable).is_ok()
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn not_dumpable() -> bool {
    false
}

#[cfg(test)]
mod tests {
    #[test]
    fn leaves_no_core_files() {
        assert!(super::harden().no_core_files);
        assert_eq!(rustix::process::getrlimit(rustix::process::Resource::Core).current, Some(0));
    }
}
