#![allow(missing_docs)]
pub mod discover;
pub mod fact;
pub mod probe;
pub mod python;
