//! What a store knows of a namespace: a short text beside its blocks.

use std::fmt::Write;

use larder_protocol::namespace::{Durability, Eviction, NamespaceOptions, Validate};
use serde::Deserialize;

/// Version of the text. A namespace of another version is refused: its options cannot be guessed.
const VERSION: u32 = 1;

/// A namespace as its store has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) name: String,
    /// Which of the folders beside has the blocks: a clear begins another.
    pub(crate) incarnation: u128,
    pub(crate) options: NamespaceOptions,
}

/// The text, as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    version: u32,
    name: String,
    incarnation: String,
    durability: String,
    eviction: String,
    validate: String,
    overwrite: bool,
    quota_bytes: Option<u64>,
    ttl_ms: Option<u64>,
}

impl Record {
    /// A namespace that begins now.
    pub(crate) fn new(name: &str, options: NamespaceOptions) -> Result<Record, getrandom::Error> {
        let (high, low) = (getrandom::u64()?, getrandom::u64()?);
        Ok(Record { name: name.to_owned(), incarnation: u128::from(high) << 64 | u128::from(low), options })
    }

    /// The text.
    pub(crate) fn to_text(&self) -> String {
        let NamespaceOptions { eviction, overwrite, quota_bytes, ttl_ms, durability, validate } = &self.options;
        let validate = match validate {
            Validate::Namespace => "namespace",
            Validate::Always => "always",
            Validate::Never => "never",
        };
        // A namespace without a store has no record.
        let durability = if *durability == Some(Durability::Back) { "back" } else { "through" };
        let eviction = match eviction {
            Eviction::Evict => "evict",
            Eviction::Keep => "keep",
        };
        // Quoted by the library: a name may hold quotes.
        let name = toml::Value::String(self.name.clone());
        let mut text = format!(
            "version = {VERSION}\nname = {name}\nincarnation = \"{:032x}\"\ndurability = \"{durability}\"\neviction = \"{eviction}\"\nvalidate = \"{validate}\"\noverwrite = {overwrite}\n",
            self.incarnation
        );
        for (name, value) in [("quota_bytes", quota_bytes), ("ttl_ms", ttl_ms)] {
            if let Some(value) = value {
                let _ = writeln!(text, "{name} = {value}");
            }
        }
        text
    }

    /// Reads a text. The error says what is wrong with it.
    pub(crate) fn from_text(text: &str) -> Result<Record, String> {
        let text: Text = toml::from_str(text).map_err(|error| error.message().to_owned())?;
        if text.version != VERSION {
            return Err(format!("it is of version {}, this release reads version {VERSION}", text.version));
        }
        let incarnation = Some(text.incarnation.as_str())
            .filter(|digits| digits.len() == 32)
            .and_then(|digits| u128::from_str_radix(digits, 16).ok())
            .ok_or("its incarnation is not 32 hexadecimal digits")?;
        let eviction = match text.eviction.as_str() {
            "evict" => Eviction::Evict,
            "keep" => Eviction::Keep,
            other => return Err(format!("its eviction is {other:?}, not evict or keep")),
        };
        let durability = match text.durability.as_str() {
            "through" => Durability::Through,
            "back" => Durability::Back,
            other => return Err(format!("its durability is {other:?}, not through or back")),
        };
        let validate = match text.validate.as_str() {
            "namespace" => Validate::Namespace,
            "always" => Validate::Always,
            "never" => Validate::Never,
            other => return Err(format!("its validate is {other:?}, not namespace, always or never")),
        };
        let options = NamespaceOptions {
            eviction,
            overwrite: text.overwrite,
            quota_bytes: text.quota_bytes,
            ttl_ms: text.ttl_ms,
            durability: Some(durability),
            validate,
        };
        Ok(Record { name: text.name, incarnation, options })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written() {
        for (eviction, overwrite, quota_bytes, ttl_ms, durability) in [
            (Eviction::Evict, false, None, None, Durability::Through),
            (Eviction::Keep, true, Some(1 << 40), Some(1), Durability::Back),
            (Eviction::Evict, true, Some(1), Some(i64::MAX as u64), Durability::Through),
        ] {
            let durability = Some(durability);
            let validate = if overwrite { Validate::Always } else { Validate::Namespace };
            let options = NamespaceOptions { eviction, overwrite, quota_bytes, ttl_ms, durability, validate };
            let record = Record::new("a/\"b\" 'c'", options).unwrap();
            assert_eq!(Record::from_text(&record.to_text()), Ok(record));
        }
    }

    #[test]
    fn what_cannot_be_read_is_told() {
        let good = Record::new("a", NamespaceOptions::default()).unwrap().to_text();
        for (from, to, why) in [
            ("version = 1", "version = 2", "version 2"),
            ("evict\"", "lose\"", "eviction"),
            ("through\"", "scratch\"", "durability"),
            ("incarnation = \"", "incarnation = \"0", "32 hexadecimal"),
            ("namespace\"", "sometimes\"", "validate"),
            ("overwrite", "overwrites", "unknown field"),
        ] {
            let error = Record::from_text(&good.replacen(from, to, 1)).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }
}
