//! The verbs of `larder ns`.

use std::time::Duration;

use anyhow::Result;
use larder_protocol::namespace::{Durability, Eviction, NamespaceInfo, NamespaceOptions, Validate};
use larder_protocol::units::{ByteSize, format_duration};
use serde_json::{Value, json};

use super::{connect, namespace_name};
use crate::args::{DurabilityArg, EvictionArg, Global, Limit, NsCommand, NsOptions, ValidateArg};
use crate::exit::Usage;
use crate::output::{Align, Output, columns, count};

pub(crate) fn run(command: NsCommand, global: &Global, output: Output) -> Result<()> {
    match command {
        NsCommand::Create { namespace, options } => {
            let name = namespace_name(&namespace)?;
            let options = apply(&options, NamespaceOptions::default())?;
            let client = connect(global)?;
            client.create_namespace(&name, &options)?;
            let info = client.namespace_info(&name)?;
            output.done(|| format!("{name}: created"), || info_json(&info))
        }
        NsCommand::Set { namespace, options } => {
            let name = namespace_name(&namespace)?;
            let client = connect(global)?;
            if options.eviction.is_none()
                && options.overwrite.is_none()
                && options.quota.is_none()
                && options.ttl.is_none()
                && options.durability.is_none()
            {
                let why = "`ns set` needs something to set: --eviction, --overwrite, --quota or --ttl";
                return Err(Usage(why.to_owned()).into());
            }
            let present = client.namespace_info(&name)?.options;
            client.set_namespace(&name, &apply(&options, present)?)?;
            let info = client.namespace_info(&name)?;
            output.done(|| format!("{name}: changed"), || info_json(&info))
        }
        NsCommand::Ls => {
            let client = connect(global)?;
            let infos = client.namespaces()?;
            output.result(
                || infos.iter().map(|info| format!("{}\n", info.name)).collect(),
                || json!({ "namespaces": infos.iter().map(info_json).collect::<Vec<_>>() }),
            )
        }
        NsCommand::Show { namespace } => {
            let name = namespace_name(&namespace)?;
            let info = connect(global)?.namespace_info(&name)?;
            output.result(|| info_text(&info), || info_json(&info))
        }
        NsCommand::Rm { namespace } => {
            let name = namespace_name(&namespace)?;
            connect(global)?.remove_namespace(&name)?;
            output.done(|| format!("{name}: removed"), || json!({ "name": name }))
        }
    }
}

/// `options` with what was given in place of what was there.
fn apply(given: &NsOptions, mut options: NamespaceOptions) -> Result<NamespaceOptions> {
    match given.durability {
        None => {}
        Some(DurabilityArg::Through) => options.durability = Some(Durability::Through),
        Some(DurabilityArg::Back) => options.durability = Some(Durability::Back),
        Some(DurabilityArg::Scratch) => options.durability = Some(Durability::Scratch),
    }
    match given.eviction {
        None => {}
        Some(EvictionArg::Evict) => options.eviction = Eviction::Evict,
        Some(EvictionArg::Keep) => options.eviction = Eviction::Keep,
    }
    match given.validate {
        None => {}
        Some(ValidateArg::Namespace) => options.validate = Validate::Namespace,
        Some(ValidateArg::Always) => options.validate = Validate::Always,
        Some(ValidateArg::Never) => options.validate = Validate::Never,
    }
    if let Some(overwrite) = given.overwrite {
        options.overwrite = overwrite;
    }
    match given.quota {
        None => {}
        Some(Limit::None) => options.quota_bytes = None,
        Some(Limit::Of(quota)) => options.quota_bytes = Some(quota.bytes()),
    }
    match given.ttl {
        None => {}
        Some(Limit::None) => options.ttl_ms = None,
        Some(Limit::Of(ttl)) => options.ttl_ms = Some(milliseconds(ttl)?),
    }
    Ok(options)
}

fn milliseconds(ttl: Duration) -> Result<u64> {
    match u64::try_from(ttl.as_millis()) {
        Ok(0) => Err(Usage("--ttl must be at least 1ms".to_owned()).into()),
        Ok(ttl_ms) => Ok(ttl_ms),
        Err(_) => Err(Usage(format!("--ttl {} is too long", format_duration(ttl))).into()),
    }
}

fn eviction(options: &NamespaceOptions) -> &'static str {
    match options.eviction {
        Eviction::Evict => "evict",
        Eviction::Keep => "keep",
    }
}

fn validate(options: &NamespaceOptions) -> &'static str {
    match options.validate {
        Validate::Namespace => "namespace",
        Validate::Always => "always",
        Validate::Never => "never",
    }
}

fn durability(options: &NamespaceOptions) -> &'static str {
    match options.durability {
        Some(Durability::Through) => "through",
        Some(Durability::Back) => "back",
        Some(Durability::Scratch) | None => "scratch",
    }
}

fn info_text(info: &NamespaceInfo) -> String {
    let options = &info.options;
    let none = || "none".to_owned();
    let rows = [
        ("name", info.name.clone()),
        ("blocks", count(info.blocks)),
        ("payload", ByteSize(info.bytes).to_string()),
        ("durability", durability(options).to_owned()),
        ("eviction", eviction(options).to_owned()),
        ("validate", validate(options).to_owned()),
        ("overwrite", options.overwrite.to_string()),
        ("quota", options.quota_bytes.map_or_else(none, |bytes| ByteSize(bytes).to_string())),
        ("ttl", options.ttl_ms.map_or_else(none, |ttl_ms| format_duration(Duration::from_millis(ttl_ms)))),
    ]
    .map(|(name, value)| vec![name.to_owned(), value]);
    columns(&[Align::Left, Align::Left], &rows)
}

fn info_json(info: &NamespaceInfo) -> Value {
    json!({
        "name": info.name,
        "blocks": info.blocks,
        "bytes": info.bytes,
        "durability": durability(&info.options),
        "eviction": eviction(&info.options),
        "validate": validate(&info.options),
        "overwrite": info.options.overwrite,
        "quota_bytes": info.options.quota_bytes,
        "ttl_ms": info.options.ttl_ms,
    })
}
