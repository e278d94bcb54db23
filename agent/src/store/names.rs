//! What the objects of a store are called, and what a name says.
//!
//! A key's components become components of the name, readable where they are made of plain characters. Names are never
//! decoded leniently: what reads as a key is exactly what that key is named. `docs/store-format.md` has the rules.

use std::fmt::Write;

use larder_protocol::key::{check_key, check_namespace};
use xxhash_rust::xxh3::xxh3_128;

#[cfg(test)]
mod tests;

/// First component of every name; another format of names would have another.
const ROOT: &str = "larder-1";
/// Where a namespace's record lies, behind the namespace's prefix.
const OPTIONS: &str = "options";
/// Begins a component that is a hash. No escaped component begins so, since `~` itself is escaped.
const HASHED: &str = "%~";
/// Hexadecimal digits of a hash.
const HASH_DIGITS: usize = 32;
/// Longest component, its suffix included, that is written out and not hashed.
const COMPONENT_BYTES_MAX: usize = 200;

/// How one kind of path is written.
struct Form {
    /// Ends the last component. No other component ends so: a directory is never also an object.
    suffix: &'static str,
    /// Longest escaped path, without the suffix, that is written out component by component.
    path_bytes_max: usize,
    /// Whether a decoded component is legal.
    is_legal: fn(&str) -> bool,
}

const KEY: Form = Form { suffix: ".block", path_bytes_max: 600, is_legal: |key| check_key(key).is_ok() };
const NAMESPACE: Form = Form { suffix: ".ns", path_bytes_max: 230, is_legal: |name| check_namespace(name).is_ok() };

// The longest name that a backend must take: root, the largest uid, a namespace, an incarnation, a key.
const _: () = assert!(
    "larder-1/u4294967295/".len()
        + NAMESPACE.path_bytes_max
        + NAMESPACE.suffix.len()
        + 1
        + HASH_DIGITS
        + 1
        + KEY.path_bytes_max
        + KEY.suffix.len()
        <= 900
);

/// What a name tells of the path it was made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Named {
    /// All of it.
    Key(String),
    /// Part of it is a hash. The object itself says what it is; it is under its right name if making the name again
    /// gives the same one.
    Hashed,
}

/// The prefix of all names of a user.
pub(crate) fn tenant(uid: u32) -> String {
    format!("{ROOT}/u{uid}/")
}

/// The prefix of all names of a namespace. `name` must be legal.
pub(crate) fn namespace(uid: u32, name: &str) -> String {
    format!("{}{}/", tenant(uid), NAMESPACE.name(name))
}

/// The name of a namespace's record.
pub(crate) fn options(uid: u32, name: &str) -> String {
    format!("{}{OPTIONS}", namespace(uid, name))
}

/// The prefix of the blocks of one incarnation of a namespace.
pub(crate) fn incarnation(uid: u32, name: &str, incarnation: u128) -> String {
    format!("{}{incarnation:032x}/", namespace(uid, name))
}

/// The name of a block. `key` must be legal.
pub(crate) fn block(incarnation_prefix: &str, key: &str) -> String {
    format!("{incarnation_prefix}{}", KEY.name(key))
}

/// The name of what was fetched from an origin, on the disk of a node; no store has such a name.
pub(crate) fn origin(uid: u32, origin: u128) -> String {
    // `~` is plain in no name, so that no namespace is called so.
    format!("{}~origin.ns/{origin:032x}/o.block", tenant(uid))
}

/// The prefix of the incarnation that a block lies in. `None` when it is not the name of a block.
pub(crate) fn incarnation_of(name: &str) -> Option<&str> {
    let mut end = 0;
    let mut is_next = false;
    name.strip_suffix(KEY.suffix)?;
    for component in name.split_inclusive('/') {
        end += component.len();
        let component = component.strip_suffix('/')?;
        if is_next {
            return is_hash(component).then_some(&name[..end]);
        }
        is_next = component.ends_with(NAMESPACE.suffix);
    }
    None
}

/// What the name of a block tells of its key. `None` when it is not the name of a block of this incarnation.
pub(crate) fn key_of(incarnation_prefix: &str, name: &str) -> Option<Named> {
    KEY.read(name.strip_prefix(incarnation_prefix)?)
}

/// The name of the record below a prefix. `None` when the prefix is no namespace's.
pub(crate) fn options_below(prefix: &str) -> Option<String> {
    let name = prefix.strip_suffix('/')?;
    name.ends_with(NAMESPACE.suffix).then(|| format!("{name}/{OPTIONS}"))
}

/// What the name of a namespace's record tells of the namespace. `None` when it is not the name of a record of this user.
pub(crate) fn namespace_of(tenant_prefix: &str, options_name: &str) -> Option<Named> {
    let name = options_name.strip_prefix(tenant_prefix)?.strip_suffix(OPTIONS)?.strip_suffix('/')?;
    NAMESPACE.read(name)
}

/// The longest prefix under which the blocks of all keys that begin with `key_prefix` lie, except those whose key is too
/// long to be written out: they lie under [`hashed`], which whoever lists a group must list as well. The two are either
/// one inside the other, or have nothing in common.
///
/// Names are not in the order of their keys.
pub(crate) fn group(incarnation_prefix: &str, key_prefix: &str) -> String {
    let Some((directories, _)) = key_prefix.rsplit_once('/') else {
        return incarnation_prefix.to_owned();
    };
    let mut name = incarnation_prefix.to_owned();
    let mut path_bytes = 0;
    // No key has an empty component, so nothing can lie deeper than the first; a name must not have one either.
    for component in directories.split('/').take_while(|component| !component.is_empty()) {
        let escaped = escape(component, false);
        path_bytes += escaped.len() + 1;
        push_component(&mut name, component, &escaped, "");
        name.push('/');
    }
    // At least one more byte follows in every such key.
    if path_bytes + 1 > KEY.path_bytes_max { hashed(incarnation_prefix) } else { name }
}

/// The prefix of the blocks whose whole key is hashed, so that a group of long keys costs one more listing and not one of
/// the whole incarnation.
pub(crate) fn hashed(incarnation_prefix: &str) -> String {
    format!("{incarnation_prefix}{HASHED}/")
}

impl Form {
    fn name(&self, path: &str) -> String {
        let mut name = String::with_capacity(path.len() + self.suffix.len());
        let mut path_bytes = 0;
        let mut components = path.split('/').peekable();
        while let Some(component) = components.next() {
            let is_last = components.peek().is_none();
            let escaped = escape(component, is_last);
            path_bytes += escaped.len() + usize::from(!is_last);
            push_component(&mut name, component, &escaped, if is_last { self.suffix } else { "" });
            if !is_last {
                name.push('/');
            }
        }
        if path_bytes > self.path_bytes_max {
            return format!("{HASHED}/{:032x}{}", xxh3_128(path.as_bytes()), self.suffix);
        }
        name
    }

    fn read(&self, name: &str) -> Option<Named> {
        let escaped_path = name.strip_suffix(self.suffix)?;
        if let Some(digits) = escaped_path.strip_prefix(HASHED).and_then(|rest| rest.strip_prefix('/')) {
            return is_hash(digits).then_some(Named::Hashed);
        }
        // What is hashed was longer than it looks, so this bound holds for it as well.
        if escaped_path.len() > self.path_bytes_max {
            return None;
        }
        let mut path = Vec::new();
        let mut is_hashed = false;
        let mut components = escaped_path.split('/').peekable();
        while let Some(escaped) = components.next() {
            let is_last = components.peek().is_none();
            if let Some(digits) = escaped.strip_prefix(HASHED) {
                is_hashed = true;
                if !is_hash(digits) {
                    return None;
                }
                continue;
            }
            let component = unescape(escaped)?;
            let suffix_bytes = if is_last { self.suffix.len() } else { 0 };
            let is_canonical = escape(&component, is_last) == escaped
                && escaped.len() + suffix_bytes <= COMPONENT_BYTES_MAX
                && !component.contains('/')
                && (self.is_legal)(&component);
            if !is_canonical {
                return None;
            }
            path.push(component);
        }
        // Each component is legal, and a path within the bound is not too long for the rules either.
        Some(if is_hashed { Named::Hashed } else { Named::Key(path.join("/")) })
    }
}

fn push_component(name: &mut String, component: &str, escaped: &str, suffix: &str) {
    if escaped.len() + suffix.len() > COMPONENT_BYTES_MAX {
        push_formatted(name, format_args!("{HASHED}{:032x}{suffix}", xxh3_128(component.as_bytes())));
    } else {
        name.push_str(escaped);
        name.push_str(suffix);
    }
}

fn push_formatted(name: &mut String, arguments: std::fmt::Arguments<'_>) {
    name.write_fmt(arguments).expect("a string takes whatever is written to it");
}

/// Escapes one component of a path.
fn escape(component: &str, is_last: bool) -> String {
    let bytes = component.as_bytes();
    let ends_like_an_object = !is_last && [KEY, NAMESPACE].iter().any(|form| bytes.ends_with(form.suffix.as_bytes()));
    let mut escaped = String::with_capacity(bytes.len());
    for (at, &byte) in bytes.iter().enumerate() {
        let is_misleading = (at == 0 && byte == b'.') || (at + 1 == bytes.len() && ends_like_an_object);
        if is_plain(byte) && !is_misleading {
            escaped.push(char::from(byte));
        } else {
            push_formatted(&mut escaped, format_args!("%{byte:02X}"));
        }
    }
    escaped
}

/// What stands in a name for itself.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_.=+,@".contains(&byte)
}

/// Takes the escapes out. Whether each was needed is left to the caller.
fn unescape(escaped: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(escaped.len());
    let mut rest = escaped.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let high = char::from(rest.next()?).to_digit(16)?;
            let low = char::from(rest.next()?).to_digit(16)?;
            bytes.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

fn is_hash(digits: &str) -> bool {
    digits.len() == HASH_DIGITS && digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
}
