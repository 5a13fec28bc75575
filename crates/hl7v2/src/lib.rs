//! HL7 v2 in ER7: parsing, paths, escapes, character sets, acknowledgements.
