//! Names, streets and places to draw from. Common words of several languages; no list of real persons.

pub const FAMILY: &[&str] = &[
    "Abara",
    "Alvarez",
    "Andersson",
    "Bauer",
    "Beaumont",
    "Castillo",
    "Chen",
    "Costa",
    "Dubois",
    "Eriksen",
    "Farouk",
    "Ferrari",
    "García",
    "Haddad",
    "Hoffmann",
    "Ivanova",
    "Jensen",
    "Johnson",
    "Kamau",
    "Kowalski",
    "Larsen",
    "Lindqvist",
    "Martin",
    "Meyer",
    "Müller",
    "Nakamura",
    "Ngata",
    "Novák",
    "O'Brien",
    "Okafor",
    "Osei",
    "Pereira",
    "Petrov",
    "Quispe",
    "Rossi",
    "Sato",
    "Schäfer",
    "Silva",
    "Singh",
    "Smith",
    "Tanaka",
    "Thompson",
    "Torres",
    "Van der Berg",
    "Walker",
    "Weiß",
    "Williams",
    "Yılmaz",
    "Young",
    "Zhang",
];

pub const GIVEN_F: &[&str] = &[
    "Amara", "Anna", "Beatriz", "Chloé", "Dalia", "Elif", "Emma", "Fatima", "Grace", "Hana", "Ingrid", "Joan", "Karla",
    "Leila", "Maria", "Mei", "Nadia", "Olga", "Priya", "Rosa", "Sofía", "Tamara", "Ursula", "Wanjiru", "Zoë",
];

pub const GIVEN_M: &[&str] = &[
    "Ahmed", "André", "Benjamin", "Carlos", "David", "Emeka", "Felix", "Giorgio", "Haruto", "Ivan", "Jakob", "José",
    "Kwame", "Lars", "Marco", "Noah", "Omar", "Pavel", "Quentin", "Rafael", "Samuel", "Tomás", "Viktor", "William",
    "Yusuf",
];

pub const STREETS: &[&str] =
    &["Maple", "Mill", "Station", "Harbour", "Orchard", "Church", "Bridge", "Park", "Hill", "River"];

/// City, state, ZIP. The last two lie in sparse three-digit areas of the census.
pub const PLACES: &[(&str, &str, &str)] = &[
    ("Boston", "MA", "02118"),
    ("Worcester", "MA", "01608"),
    ("Springfield", "MA", "01103"),
    ("Cambridge", "MA", "02139"),
    ("Lowell", "MA", "01852"),
    ("Quincy", "MA", "02169"),
    ("Island Pond", "VT", "05901"),
    ("Plainville", "NH", "03601"),
];

pub const WARDS: &[(&str, &str)] =
    &[("2N", "Internal medicine"), ("3W", "Surgery"), ("4E", "Cardiology"), ("ICU", "Intensive care")];

/// Practitioner: number, family, given. `dr-lee` and `dr-amari` of the demo are the first two.
pub const PHYSICIANS: &[(&str, &str, &str)] =
    &[("1001", "Lee", "Jordan"), ("1002", "Amari", "Selma"), ("1003", "Fischer", "Ruth"), ("1004", "Okonkwo", "David")];
