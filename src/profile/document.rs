//! Reading tables of a TOML text so that every fault of a file is found in one go.
//!
//! Keeps one rule: a key that is not asked for is a fault. Does not know what keys mean.

use std::cell::RefCell;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::fault::{Faults, nearest};
use super::level::{Level, Levels};

/// A value together with its place in the text.
#[derive(Clone, Debug)]
pub struct Placed<T> {
    pub value: T,
    pub span: Range<usize>,
    /// `key = value` as typed, on one line.
    pub text: String,
}

/// The text of one file and the faults found in it so far.
#[derive(Debug)]
pub struct Document<'a> {
    pub text: &'a str,
    pub faults: RefCell<Faults<'a>>,
    /// The syntax has faults: what could be read is there, and what is missing may only be unreadable.
    pub is_broken: bool,
}

/// One table of a document.
#[derive(Clone, Copy, Debug)]
pub struct Table<'d, 'a> {
    document: &'d Document<'a>,
    /// How faults call it, e.g. `[scope]`; empty for the top.
    title: &'static str,
    entries: &'d DeTable<'a>,
}

impl<'a> Document<'a> {
    /// Reads `text`; faults of the syntax are in `faults` then.
    #[must_use]
    pub fn parse(text: &'a str, mut faults: Faults<'a>) -> (Self, DeTable<'a>) {
        let (table, errors) = DeTable::parse_recoverable(text);
        for error in errors {
            faults.add(&error.span().unwrap_or(0..0), error.message().replace('\n', ", "), "see https://toml.io for the syntax");
        }
        let is_broken = !faults.is_empty();
        (Self { text, faults: RefCell::new(faults), is_broken }, table.into_inner())
    }

    pub fn fault(&self, span: &Range<usize>, what: impl Into<String>, hint: impl Into<String>) {
        self.faults.borrow_mut().add(span, what, hint);
    }

    /// The document's top table; `known` are all keys that it may hold.
    #[must_use]
    pub fn top<'d>(&'d self, entries: &'d DeTable<'a>, known: &[&str]) -> Table<'d, 'a> {
        Table::open(self, "", entries, known)
    }

    fn wrong_kind(&self, value: &Spanned<DeValue<'_>>, wanted: &str) {
        let found = match value.get_ref() {
            DeValue::String(_) => "a text",
            DeValue::Integer(_) => "a whole number",
            DeValue::Float(_) => "a number",
            DeValue::Boolean(_) => "true or false",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        self.fault(&value.span(), format!("this is {found}"), format!("write {wanted}"));
    }
}

impl<'d, 'a> Table<'d, 'a> {
    fn open(document: &'d Document<'a>, title: &'static str, entries: &'d DeTable<'a>, known: &[&str]) -> Self {
        for key in entries.keys().filter(|key| !known.contains(&&**key.get_ref())) {
            let place = if title.is_empty() { String::new() } else { format!(" in {title}") };
            let hint = nearest(key.get_ref(), known.iter().copied())
                .map_or_else(|| format!("keys here are {}", known.join(", ")), |near| format!("did you mean `{near}`?"));
            document.fault(&key.span(), format!("unknown key `{}`{place}", key.get_ref()), hint);
        }
        Self { document, title, entries }
    }

    /// How faults call this table.
    #[must_use]
    pub fn title(&self) -> &'static str {
        self.title
    }

    /// The place of `key`, for faults that speak of the key itself.
    #[must_use]
    pub fn key_span(&self, key: &str) -> Option<Range<usize>> {
        self.entries.keys().find(|own| own.get_ref() == key).map(Spanned::span)
    }

    fn value(&self, key: &str) -> Option<&'d Spanned<DeValue<'a>>> {
        self.entries.iter().find(|(own, _)| own.get_ref() == key).map(|(_, value)| value)
    }

    fn placed<T>(&self, key: &str, value: &Spanned<DeValue<'_>>, inner: T) -> Placed<T> {
        let typed = self.document.text.get(value.span()).unwrap_or("");
        let typed = typed.split_whitespace().collect::<Vec<_>>().join(" ");
        Placed { value: inner, span: value.span(), text: format!("{key} = {typed}") }
    }

    #[must_use]
    pub fn string(&self, key: &str) -> Option<Placed<String>> {
        let value = self.value(key)?;
        match value.get_ref() {
            DeValue::String(text) => Some(self.placed(key, value, text.to_string())),
            _ => {
                self.document.wrong_kind(value, "a text in quotes");
                None
            }
        }
    }

    #[must_use]
    pub fn boolean(&self, key: &str) -> Option<Placed<bool>> {
        let value = self.value(key)?;
        match value.get_ref() {
            DeValue::Boolean(on) => Some(self.placed(key, value, *on)),
            _ => {
                self.document.wrong_kind(value, "true or false");
                None
            }
        }
    }

    /// A whole number within `range`.
    #[must_use]
    pub fn number(&self, key: &str, range: std::ops::RangeInclusive<u32>) -> Option<Placed<u32>> {
        let value = self.value(key)?;
        let number = match value.get_ref() {
            DeValue::Integer(number) => u32::from_str_radix(number.as_str(), number.radix()).ok(),
            _ => None,
        };
        match number.filter(|number| range.contains(number)) {
            Some(number) => Some(self.placed(key, value, number)),
            None => {
                let what = format!("`{key}` is no number from {} to {}", range.start(), range.end());
                self.document.fault(&value.span(), what, format!("write {key} = {}", range.start()));
                None
            }
        }
    }

    /// A list of texts.
    #[must_use]
    pub fn strings(&self, key: &str) -> Option<Placed<Vec<Placed<String>>>> {
        let value = self.value(key)?;
        let DeValue::Array(items) = value.get_ref() else {
            self.document.wrong_kind(value, "a list of texts in brackets");
            return None;
        };
        Some(self.placed(key, value, self.texts(items)))
    }

    fn texts(&self, items: &DeArray<'a>) -> Vec<Placed<String>> {
        let mut texts = Vec::with_capacity(items.len());
        for item in items {
            match item.get_ref() {
                DeValue::String(text) => {
                    texts.push(Placed { value: text.to_string(), span: item.span(), text: text.trim().to_owned() });
                }
                _ => self.document.wrong_kind(item, "a text in quotes"),
            }
        }
        texts
    }

    /// `true`, `false` or a list of levels.
    #[must_use]
    pub fn levels(&self, key: &str) -> Option<Placed<Levels>> {
        let value = self.value(key)?;
        match value.get_ref() {
            DeValue::Boolean(true) => Some(self.placed(key, value, Levels::ALL)),
            DeValue::Boolean(false) => Some(self.placed(key, value, Levels::NONE)),
            DeValue::Array(items) => {
                let mut levels = Levels::NONE;
                for text in self.texts(items) {
                    if let Some(level) = self.document.level(&text) {
                        *levels.at_mut(level) = true;
                    }
                }
                Some(self.placed(key, value, levels))
            }
            _ => {
                self.document.wrong_kind(value, "true, false or a list of levels such as [\"dynamic\", \"secure\"]");
                None
            }
        }
    }

    /// A table below this one; `known` are all keys that it may hold.
    #[must_use]
    pub fn table(&self, key: &str, title: &'static str, known: &[&str]) -> Option<Self> {
        let value = self.value(key)?;
        match value.get_ref() {
            DeValue::Table(entries) => Some(Self::open(self.document, title, entries, known)),
            _ => {
                self.document.wrong_kind(value, "a table");
                None
            }
        }
    }

    /// A table below this one if `key` holds one; no fault if it holds something else.
    #[must_use]
    pub fn table_if_any(&self, key: &str, title: &'static str, known: &[&str]) -> Option<Self> {
        matches!(self.value(key)?.get_ref(), DeValue::Table(_)).then(|| self.table(key, title, known)).flatten()
    }

    /// An array of tables with the place of each.
    #[must_use]
    pub fn tables(&self, key: &str, title: &'static str, known: &[&str]) -> Vec<(Range<usize>, Self)> {
        let Some(value) = self.value(key) else { return Vec::new() };
        let DeValue::Array(items) = value.get_ref() else {
            self.document.wrong_kind(value, "tables in double brackets");
            return Vec::new();
        };
        let mut tables = Vec::with_capacity(items.len());
        for item in items {
            match item.get_ref() {
                DeValue::Table(entries) => tables.push((item.span(), Self::open(self.document, title, entries, known))),
                _ => self.document.wrong_kind(item, "a table"),
            }
        }
        tables
    }

    /// The keys of this table as typed.
    pub fn keys(&self) -> impl Iterator<Item = &'d str> {
        self.entries.keys().map(|key| &**key.get_ref())
    }
}

impl Document<'_> {
    /// Reads a level, or reports that there is none of that name.
    pub fn level(&self, text: &Placed<String>) -> Option<Level> {
        match text.value.parse() {
            Ok(level) => Some(level),
            Err(_) => {
                self.fault(
                    &text.span,
                    format!("`{}` is no security level", text.value),
                    "levels are dynamic, secure and fortress",
                );
                None
            }
        }
    }
}
