//! Keeps keys out of what the operating system writes down about a process: no core dumps (limit 0), on Linux not
//! dumpable, which also closes `/proc/PID/mem` and `ptrace` to other processes of the same user, and memory locked
//! against swapping.
//!
//! All memory is locked, not the pages of keys alone: keys are on the heap, in the cipher library and on stacks, and
//! so are the patients' data they open. Nothing here defends against root on the live machine.

use std::fmt;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What [`harden`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hardening {
    /// The limit on core files is 0, and cannot be raised again without privilege.
    pub no_core_files: bool,
    /// The process is marked not dumpable (Linux `PR_SET_DUMPABLE`).
    pub not_dumpable: bool,
    pub memory: MemoryLock,
}

/// Whether memory can reach swap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryLock {
    /// What the process touches stays in memory (`mlockall`).
    Locked,
    /// The limit on locked memory is this and cannot be raised. Locking all the same would make a later allocation
    /// fail, so nothing is locked.
    LimitTooLow { bytes: u64 },
    /// The system refused, or knows no such thing.
    Refused,
}

impl MemoryLock {
    pub fn is_locked(self) -> bool {
        self == MemoryLock::Locked
    }
}

/// A sentence for whoever runs the node, with what to do.
impl fmt::Display for MemoryLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MemoryLock::Locked => f.write_str("memory is locked: no key reaches swap"),
            MemoryLock::LimitTooLow { bytes } => write!(
                f,
                "memory is not locked, so keys may reach swap: the limit on locked memory is {} KiB; set \
                 `LimitMEMLOCK=infinity` for the service or `ulimit -l unlimited`, or use encrypted swap or none",
                bytes >> 10
            ),
            MemoryLock::Refused => f.write_str(
                "memory is not locked, so keys may reach swap: the system refused; use encrypted swap or none",
            ),
        }
    }
}

/// Call once, first thing in `main`. Never fails: what could not be done is told.
pub fn harden() -> Hardening {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    Hardening {
        no_core_files: setrlimit(Resource::Core, none).is_ok(),
        not_dumpable: not_dumpable(),
        memory: lock_memory(),
    }
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

#[cfg(any(target_os = "linux", target_os = "android"))]
fn lock_memory() -> MemoryLock {
    use rustix::mm::{MlockAllFlags, mlockall};
    let hard = getrlimit(Resource::Memlock).maximum;
    // The hard limit can be lifted by whoever may (CAP_SYS_RESOURCE); the soft one up to the hard one by anybody.
    for maximum in [None, hard] {
        if setrlimit(Resource::Memlock, Rlimit { current: maximum, maximum }).is_ok() {
            break;
        }
    }
    if let Some(bytes) = getrlimit(Resource::Memlock).current {
        return MemoryLock::LimitTooLow { bytes };
    }
    // On fault: what is mapped and never touched takes no memory.
    match mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT) {
        Ok(()) => MemoryLock::Locked,
        Err(_) => MemoryLock::Refused,
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn lock_memory() -> MemoryLock {
    MemoryLock::Refused
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_no_core_files_and_says_whether_memory_is_locked() {
        let hardening = harden();
        assert!(hardening.no_core_files);
        assert_eq!(getrlimit(Resource::Core).current, Some(0));
        match hardening.memory {
            MemoryLock::Locked => assert_eq!(getrlimit(Resource::Memlock).current, None),
            MemoryLock::LimitTooLow { bytes } => assert_eq!(getrlimit(Resource::Memlock).current, Some(bytes)),
            MemoryLock::Refused => {}
        }
    }
}
