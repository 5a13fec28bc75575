//! Why data is used, and in which role.

use serde::{Deserialize, Serialize};

macro_rules! coded {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $code:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum $name { $($(#[$vdoc])* #[serde(rename = $code)] $variant),+ }

        impl $name {
            pub const ALL: &'static [$name] = &[$($name::$variant),+];

            pub fn code(self) -> &'static str {
                match self { $($name::$variant => $code),+ }
            }

            pub fn parse(code: &str) -> Option<Self> {
                match code { $($code => Some($name::$variant),)+ _ => None }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.code())
            }
        }
    };
}
pub(crate) use coded;

coded!(
    /// HL7 v3 ActReason codes, value set PurposeOfUse.
    Purpose {
        Treatment = "TREAT",
        /// Emergency treatment: break-glass.
        EmergencyTreatment = "ETREAT",
        Payment = "HPAYMT",
        Operations = "HOPERAT",
        Research = "HRESCH",
        PublicHealth = "PUBHLTH",
        /// The patient's own request.
        PatientRequest = "PATRQT",
        /// Compliance, audit, accounting of disclosures.
        Compliance = "HCOMPL",
        /// Running the system, which sees no PHI.
        SystemAdministration = "HSYSADMIN",
    }
);

coded!(
    /// Roles known from the start (DESIGN §7). An administrator runs the system and sees no PHI.
    Role {
        Physician = "physician",
        Nurse = "nurse",
        CareTeamApp = "care-team-app",
        LabTechnician = "lab-technician",
        Radiologist = "radiologist",
        Pharmacist = "pharmacist",
        RegistrationClerk = "registration-clerk",
        DataEngineer = "data-engineer",
        Analyst = "analyst",
        Researcher = "researcher",
        PrivacyOfficer = "privacy-officer",
        Auditor = "auditor",
        Administrator = "administrator",
        /// A sender that may only put data in: an interface engine, a device gateway.
        Feed = "feed",
        /// The node's own workers: refine, build, ship.
        Node = "node",
        /// A route of a domain: sends on what policy lets it.
        Route = "route",
    }
);
