//! What a stack says: where a call was made, and which function handles something.

use crate::signal::Attribute;

/// What a stack says of where a call was made.
#[derive(Debug, PartialEq)]
pub(super) enum Site {
    /// By this function of the application.
    Here([Attribute; 3]),
    /// By none.
    Nowhere,
    /// It may be any.
    Unknown,
}

impl Site {
    pub(super) fn here(self) -> Option<[Attribute; 3]> {
        match self {
            Self::Here(place) => Some(place),
            Self::Nowhere | Self::Unknown => None,
        }
    }
}

/// A function that handles a unit of work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Handler {
    /// How certain that is.
    pub(super) rank: Rank,
    /// What lies outside of it is not known to be a loop.
    pub(super) is_open: bool,
    pub(super) name: String,
    pub(super) file: String,
    pub(super) line: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rank {
    /// It handles one after the other itself.
    Loop,
    /// It is the first of the application's own below what has received it.
    First,
    /// A framework calls its handlers so.
    Called,
}

impl Handler {
    pub(super) fn is_same(&self, other: &Self) -> bool {
        (&self.name, &self.file, self.line) == (&other.name, &other.file, other.line)
    }

    /// Whether there is one, and not several.
    pub(super) fn is_one(&self) -> bool {
        !self.name.is_empty()
    }

    pub(super) fn attributes(&self) -> [Attribute; 3] {
        attributes(&self.name, &self.file, self.line)
    }
}

/// As attributes: where that is.
pub(super) fn attributes(name: &str, file: &str, line: u32) -> [Attribute; 3] {
    [
        Attribute::new("code.function.name", name.to_owned()),
        Attribute::new("code.file.path", file.to_owned()),
        Attribute::new("code.line.number", i64::from(line)),
    ]
}
