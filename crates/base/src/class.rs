//! What kind of data an element or column is. Masks and de-identification are written against these classes.

use serde::{Deserialize, Serialize};

crate::purpose::coded!(
    /// Class of an element or column. The identifying ones follow 45 CFR 164.514(b)(2)(i).
    DataClass {
        /// Names of persons.
        Name = "name",
        /// Medical record, account, visit and other numbers that point to a person.
        Identifier = "identifier",
        /// Social security and other national numbers.
        NationalId = "national-id",
        /// Street, city: below state, but for ZIP codes.
        Address = "address",
        PostalCode = "postal-code",
        /// Telephone, e-mail, other contact points.
        Contact = "contact",
        BirthDate = "birth-date",
        /// Dates of service, death and other dates about a person.
        Date = "date",
        /// Text that a person wrote: may hold anything.
        FreeText = "free-text",
        /// Photographs, attachments, signal data.
        Binary = "binary",
        /// Sex, language, race, marital status.
        Demographic = "demographic",
        /// Codes, values, units, statuses: what was found and done.
        Clinical = "clinical",
        /// A random key that joins rows of one patient within a project.
        PseudonymousKey = "pseudonymous-key",
        /// A key of the system that says nothing about a person.
        TechnicalKey = "technical-key",
        /// Facts about organizations, practitioners at work, places.
        Organizational = "organizational",
    }
);

impl DataClass {
    /// Whether Safe Harbor names this class (a direct identifier, or may hold one).
    pub fn identifies(self) -> bool {
        use DataClass::*;
        matches!(
            self,
            Name | Identifier | NationalId | Address | PostalCode | Contact | BirthDate | Date | FreeText | Binary
        )
    }
}

/// Sensitivity of a record beyond ordinary PHI: a set of bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Sensitivity(pub u16);

impl Sensitivity {
    pub const NONE: Sensitivity = Sensitivity(0);
    /// Substance use disorder treatment, 42 CFR Part 2.
    pub const PART2: Sensitivity = Sensitivity(1);
    pub const MENTAL_HEALTH: Sensitivity = Sensitivity(1 << 1);
    pub const HIV: Sensitivity = Sensitivity(1 << 2);
    pub const REPRODUCTIVE: Sensitivity = Sensitivity(1 << 3);
    /// Marked restricted by the patient or the source (meta.security R or V).
    pub const RESTRICTED: Sensitivity = Sensitivity(1 << 4);

    pub fn with(self, other: Sensitivity) -> Sensitivity {
        Sensitivity(self.0 | other.0)
    }

    pub fn is_within(self, allowed: Sensitivity) -> bool {
        self.0 & !allowed.0 == 0
    }
}
