//! Attributes of Python objects, lists and sets, read from outside.
//!
//! Where an instance keeps its attributes is in Include/cpython/dictobject.h, `Include/internal/pycore_dict.h` and
//! `Include/internal/pycore_object.h` of each version. What is read is checked by the types of what is found; a process that
//! changes it meanwhile can at worst make it come to nothing, or to something that is not there any more.

use super::frames::{BASIC_SIZE, Codes, OB_TYPE, SIZE, proper};

/// `PyListObject.ob_item`; a tuple's items are there themselves.
const ITEMS: u64 = 24;
/// In a `PyTypeObject` (Include/cpython/object.h).
const NAME: u64 = 24;
const FLAGS: u64 = 168;
const BASE: u64 = 256;
const DICT: u64 = 264;
const DICT_OFFSET: u64 = 288;
/// `Py_TPFLAGS_INLINE_VALUES` (3.13) and `Py_TPFLAGS_MANAGED_DICT` (3.11).
const INLINE_VALUES: u64 = 1 << 2;
const MANAGED_DICT: u64 = 1 << 4;
/// `PyDictObject.ma_keys` and `ma_values`.
const KEYS: u64 = 32;
const VALUES: u64 = 40;
/// `PySetObject.mask` and `table`, whose entries are an object and its hash (Include/cpython/setobject.h).
const MASK: u64 = 32;
const TABLE: u64 = 40;
/// `PyCellObject.ob_ref` (Include/cpython/cellobject.h).
const CELL: u64 = 16;
/// `PyFunctionObject.func_globals`, behind the code before 3.10 (Include/cpython/funcobject.h).
const GLOBALS: u64 = 16;
const GLOBALS_3_9: u64 = 24;
/// `PyModuleObject.md_dict` (`Include/internal/pycore_moduleobject.h`).
const MODULE_DICT: u64 = 16;
/// Words of an `lru_cache_object` (`Modules/_functoolsmodule.c`) among which its dictionary is.
const CACHE_WORDS: usize = 24;
/// How many classes up an attribute is looked for.
const BASES_MAX: usize = 16;
/// `PyLongObject.ob_digit`.
const DIGITS: u64 = 24;
/// Where a managed dictionary is, before the object.
const MANAGED: u64 = 24;
/// Most items of one object that are looked at.
const ITEMS_MAX: usize = 4096;
/// Longest name of a type.
const TYPE_NAME_MAX: usize = 32;

/// Entries of a dictionary: how many, where, of how many words each, and which of those is the key, before the value.
struct Entries {
    count: usize,
    start: u64,
    words: usize,
    key: usize,
}

impl Codes {
    fn type_of(&self, object: u64) -> Option<u64> {
        proper(self.memory().word(proper(object)? + OB_TYPE)?)
    }

    /// Whether an object's type has this name (`tp_name`).
    fn is_a(&self, object: u64, name: &str) -> bool {
        let found = self.type_of(object).and_then(|kind| self.memory().word(kind + NAME)).and_then(proper);
        let mut bytes = [0; TYPE_NAME_MAX];
        let (Some(at), Some(bytes)) = (found, bytes.get_mut(..=name.len())) else { return false };
        self.memory().read(at, bytes) && bytes.strip_prefix(name.as_bytes()) == Some(&[0])
    }

    /// An attribute of an instance: what is in its `__dict__`.
    pub(super) fn attribute(&self, object: u64, name: &str) -> Option<u64> {
        let memory = self.memory();
        let kind = self.type_of(object)?;
        let flags = memory.word(kind + FLAGS)?;
        if self.minor() < 11 || flags & MANAGED_DICT == 0 {
            let offset = memory.word(kind + DICT_OFFSET)?;
            let dict = Some(offset).filter(|offset| (1..1 << 20).contains(offset))?;
            return self.in_dict(memory.word(object + dict)?, name);
        }
        let managed = memory.word(object.checked_sub(MANAGED)?)?;
        let values = match self.minor() {
            11 => memory.word(object.checked_sub(MANAGED + 8)?)?,
            // The lowest bit tells values, of which it is the address less one, from a dictionary.
            12 if managed & 1 == 1 => managed.checked_add(1)?,
            12 => 0,
            _ if flags & INLINE_VALUES != 0 => object.checked_add(memory.word(kind + BASIC_SIZE)?)?,
            _ => 0,
        };
        if managed != 0 && managed & 1 == 0 {
            return self.in_dict(managed, name);
        }
        let keys = memory.word(kind.checked_add(self.cached_keys(kind)?)?)?;
        let (index, _) = self.entry(keys, name)?;
        Some(values).filter(|values| *values != 0).and_then(|values| self.value(values, index))
    }

    /// An attribute of the class of an instance, or of the first of those that it is derived from.
    pub(super) fn class_attribute(&self, object: u64, name: &str) -> Option<u64> {
        let base = |kind: &u64| self.memory().word(kind + BASE).and_then(proper).filter(|base| *base != 0);
        let kinds = std::iter::successors(self.type_of(object), base).take(BASES_MAX);
        kinds.filter_map(|kind| self.memory().word(kind + DICT)).find_map(|dict| self.in_dict(dict, name))
    }

    /// What a function's module knows under a name.
    pub(super) fn global(&self, function: u64, name: &str) -> Option<u64> {
        if !self.is_a(function, "function") {
            return None;
        }
        let globals = if self.minor() < 10 { GLOBALS_3_9 } else { GLOBALS };
        self.in_dict(self.memory().word(function + globals)?, name)
    }

    /// An attribute of a module; `None` where it is none.
    pub(super) fn module_attribute(&self, object: u64, name: &str) -> Option<u64> {
        let dict = self.is_a(object, "module").then(|| self.memory().word(object + MODULE_DICT))?;
        self.in_dict(dict?, name)
    }

    /// What is in the dictionaries of a `functools.lru_cache`: the results, and attributes of the function.
    pub(super) fn cached(&self, object: u64) -> Vec<u64> {
        if !self.is_a(object, "functools._lru_cache_wrapper") {
            return Vec::new();
        }
        let words = self.memory().words(object, CACHE_WORDS).into_iter();
        words.filter_map(|word| self.values(word)).flatten().collect()
    }

    /// Offset of `PyHeapTypeObject.ht_cached_keys`, by what follows it.
    fn cached_keys(&self, kind: u64) -> Option<u64> {
        // The size of a type object is that of `type`, whose type it is itself.
        let mut meta = kind;
        for _ in 0..8 {
            let next = self.type_of(meta)?;
            if next == meta {
                let behind = match self.minor() {
                    11 => 32,
                    12 => 40,
                    13 => 48,
                    _ => 56,
                };
                return self.memory().word(meta + BASIC_SIZE)?.checked_sub(behind);
            }
            meta = next;
        }
        None
    }

    /// The values of a dictionary, in their order; `None` where it is none.
    pub(super) fn values(&self, dict: u64) -> Option<Vec<u64>> {
        let memory = self.memory();
        // Only those of instances keep their values apart.
        if !self.is_a(dict, "dict") || memory.word(dict + VALUES)? != 0 {
            return None;
        }
        let entries = self.entries(memory.word(dict + KEYS)?)?;
        let found = self.read_entries(&entries).into_iter();
        Some(found.map(|(_, value)| value).filter(|value| *value != 0).collect())
    }

    fn in_dict(&self, dict: u64, name: &str) -> Option<u64> {
        if dict == 0 || !self.is_a(dict, "dict") {
            return None;
        }
        let keys = self.memory().word(dict + KEYS)?;
        let values = self.memory().word(dict + VALUES)?;
        let (index, value) = self.entry(keys, name)?;
        if values == 0 { Some(value).filter(|value| *value != 0) } else { self.value(values, index) }
    }

    /// A value in `PyDictValues`; since 3.13 four bytes are before them, and four to align.
    fn value(&self, values: u64, index: u64) -> Option<u64> {
        let start = if self.minor() >= 13 { 8 } else { 0 };
        self.memory().word(proper(values)? + start + index * 8).filter(|value| *value != 0)
    }

    /// Place of a key in `PyDictKeysObject`, and the value beside it.
    fn entry(&self, keys: u64, name: &str) -> Option<(u64, u64)> {
        let entries = self.read_entries(&self.entries(keys)?);
        let (index, (_, value)) = (0..).zip(entries).find(|(_, (key, _))| {
            let length = |key| self.memory().word(proper(key)? + SIZE);
            length(*key) == Some(name.len() as u64) && self.text(*key).is_some_and(|found| found == name)
        })?;
        Some((index, value))
    }

    /// Keys and values.
    fn read_entries(&self, entries: &Entries) -> Vec<(u64, u64)> {
        let Entries { count, start, words, key } = *entries;
        let read = self.memory().words(start, count * words);
        read.chunks_exact(words).filter_map(|entry| Some((*entry.get(key)?, *entry.get(key + 1)?))).collect()
    }

    /// Where the entries of a `PyDictKeysObject` are.
    fn entries(&self, keys: u64) -> Option<Entries> {
        let mut head = [0; 40];
        if !self.memory().read(keys, &mut head) {
            return None;
        }
        let word = |at: usize| head.get(at..)?.first_chunk().map(|word| u64::from_le_bytes(*word));
        let (count, start, general) = if self.minor() >= 11 {
            // `dk_log2_index_bytes`, `dk_kind`.
            (word(24)?, 32 + 1u64.checked_shl(u32::from(head[9]))?, head[10] == 0)
        } else {
            let size = word(8)?;
            let width = match size {
                0..=0xff => 1,
                0x100..=0xffff => 2,
                0x1_0000..=0xffff_ffff => 4,
                _ => 8,
            };
            (word(32)?, 40u64.checked_add(size.checked_mul(width)?)?, true)
        };
        let count = usize::try_from(count).ok()?.min(ITEMS_MAX);
        // With keys that are all `str` their hashes are left out.
        let (words, key) = if general { (3, 1) } else { (2, 0) };
        Some(Entries { count, start: keys.checked_add(start)?, words, key })
    }

    /// The items of a list; `None` where it is none.
    pub(super) fn list(&self, object: u64) -> Option<Vec<u64>> {
        if !self.is_a(object, "list") {
            return None;
        }
        let count = usize::try_from(self.memory().word(object + SIZE)?).ok()?;
        let items = self.memory().word(object + ITEMS)?;
        Some(self.memory().words(items, Some(count).filter(|count| *count <= ITEMS_MAX)?))
    }

    /// The strings in a set; nothing where it is none.
    pub(super) fn strings(&self, object: u64) -> Vec<String> {
        let entries = || {
            if !self.is_a(object, "set") && !self.is_a(object, "frozenset") {
                return None;
            }
            let size = usize::try_from(self.memory().word(object + MASK)?).ok()?.checked_add(1)?;
            let table = self.memory().word(object + TABLE)?;
            Some(self.memory().words(table, Some(size).filter(|size| *size <= ITEMS_MAX)? * 2))
        };
        let entries = entries().unwrap_or_default();
        let keys = entries.into_iter().step_by(2).filter(|key| *key != 0);
        let mut found: Vec<String> = keys.filter_map(|key| self.string(key)).collect();
        found.sort_unstable();
        found
    }

    /// Whether an object is `True`: an `int` whose first digit is 1 (Include/cpython/longintrepr.h).
    pub(super) fn is_true(&self, object: u64) -> bool {
        self.is_a(object, "bool")
            && self.memory().word(object + DIGITS).is_some_and(|digits| digits as u32 == 1)
    }

    /// What a cell holds, which a variable is (since 3.11) that functions within the function use, too; else the object
    /// itself.
    pub(super) fn behind_cell(&self, object: u64) -> Option<u64> {
        if self.is_a(object, "cell") { self.memory().word(object + CELL) } else { Some(object) }
    }

    /// A `str`; `None` where it is none.
    pub(super) fn string(&self, object: u64) -> Option<String> {
        (self.is_a(object, "str")).then(|| self.text(object))?
    }
}
