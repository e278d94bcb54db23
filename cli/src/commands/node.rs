//! Verbs about the agent and the node: ping, stat, pins, resize.

use std::time::Instant;

use anyhow::Result;
use larder::Client;
use larder_protocol::message::AgentInfo;
use larder_protocol::stat::{AgentStat, PinHolder, TenantStat};
use larder_protocol::units::{ByteSize, format_duration};
use serde_json::{Value, json};

use crate::output::{Align, Output, columns, count, counted};

pub(crate) fn ping(client: &Client, output: Output) -> Result<()> {
    let start = Instant::now();
    let agent = client.ping()?;
    let exchange = start.elapsed();
    output.result(
        || {
            let AgentInfo { release, pid, capacity, uid, .. } = &agent;
            format!(
                "larderd {release}, process {pid}, capacity {}, takes you for user {uid}; answered in {} us\n",
                ByteSize(*capacity),
                count(u64::try_from(exchange.as_micros()).unwrap_or(u64::MAX)),
            )
        },
        || {
            json!({
                "release": agent.release,
                "pid": agent.pid,
                "instance": agent.instance,
                "capacity_bytes": agent.capacity,
                "block_len_max_bytes": agent.block_len_max,
                "uid": agent.uid,
                "exchange_ns": u64::try_from(exchange.as_nanos()).unwrap_or(u64::MAX),
            })
        },
    )
}

pub(crate) fn stat(client: &Client, output: Output) -> Result<()> {
    let stat = client.stat()?;
    output.result(|| stat_text(&stat), || stat_json(&stat))
}

pub(crate) fn pins(client: &Client, output: Output) -> Result<()> {
    let holders = client.pins()?;
    output.result(|| pins_text(&holders), || json!({ "holders": holders.iter().map(pin_json).collect::<Vec<_>>() }))
}

pub(crate) fn resize(client: &Client, capacity: ByteSize, output: Output) -> Result<()> {
    client.resize(capacity.bytes())?;
    output.done(|| format!("capacity {capacity}"), || json!({ "capacity_bytes": capacity.bytes() }))
}

fn stat_text(stat: &AgentStat) -> String {
    let tenant = &stat.tenant;
    let bytes = |value: u64| ByteSize(value).to_string();
    let mut rows: Vec<Vec<String>> = Vec::new();
    let mut row = |name: &str, value: String, note: &str| rows.push(vec![name.to_owned(), value, note.to_owned()]);
    let uptime = std::time::Duration::from_secs(stat.uptime_s);
    row("Node", String::new(), "");
    row("  running for", format_duration(uptime), "");
    row("  capacity", bytes(stat.capacity_bytes), "");
    row("  shared memory", bytes(stat.memory_bytes), "all that exists, the next three included");
    row("    spare", bytes(stat.spare_bytes), "populated, waiting for use");
    row("    retired", bytes(stat.retired_bytes), "given up, still mapped by somebody");
    row("    index", bytes(stat.index_bytes), "");
    row("  agent's own heap", bytes(stat.heap_bytes), "");
    row("  sessions", count(stat.sessions), "");
    row("  orphans", count(stat.orphans), "ended sessions whose pins another process inherited");
    row("  descriptors", count(stat.descriptors), "");
    row("  store", count(stat.store_under_way), "calls under way");
    row(&format!("User {}", tenant.uid), String::new(), "");
    row("  quota", bytes(tenant.quota_bytes), "");
    row("  segments", bytes(tenant.segment_bytes), &format!("in {}", count(tenant.segments)));
    row("  blocks", count(tenant.blocks), &format!("the index has room for {}", count(tenant.index_capacity)));
    row("  payload", bytes(tenant.payload_bytes), "");
    row("  pinned", bytes(tenant.pinned_bytes), "at the last scan");
    row("  in limbo", count(tenant.limbo_blocks), "out of the index, waiting for their readers");
    row("Reads", String::new(), "");
    row("  hits, mapped", count(tenant.hits_mapped), &format!("without the agent, {}", bytes(tenant.hit_bytes)));
    row("  hits, by message", count(tenant.hits_asked), "");
    row("  misses", count(tenant.misses), "");
    let asked =
        tenant.asked_absent + tenant.asked_raced + tenant.asked_unmapped + tenant.asked_expired + tenant.asked_no_slot;
    row("  asked the agent", count(asked), "because");
    row("    absent", count(tenant.asked_absent), "the key was not in the table");
    row("    raced", count(tenant.asked_raced), "the entry kept changing");
    row("    unmapped", count(tenant.asked_unmapped), "a table or segment was not mapped yet");
    row("    expired", count(tenant.asked_expired), "the block's time was over");
    row("    no slot", count(tenant.asked_no_slot), "the reader kept too many blocks pinned");
    row("Writes", String::new(), "");
    row("  puts", count(tenant.puts), &bytes(tenant.put_bytes));
    row("  evictions", count(tenant.evictions), "");
    row("  expirations", count(tenant.expirations), "");
    row("Store", String::new(), "");
    row("  loads", count(tenant.loads), &bytes(tenant.load_bytes));
    row("  stored", count(tenant.stored), &bytes(tenant.stored_bytes));
    row("  not there yet", count(tenant.dirty_blocks), &format!("{} of memory", bytes(tenant.dirty_bytes)));
    row("  puts held back", count(tenant.put_waits), "until the store had taken earlier ones");
    row("  damaged", count(tenant.store_damaged), "objects that could not be read, and so misses");
    row("  failures", count(tenant.store_failures), "calls that failed");
    let disk = &stat.disk;
    row("Disk", String::new(), &format!("of {}", bytes(disk.capacity_bytes)));
    row("  blocks", count(disk.blocks), &bytes(disk.used_bytes));
    row("  loads", count(tenant.disk_loads), &bytes(tenant.disk_load_bytes));
    row("  kept", count(disk.writes), &format!("{}, {} not", bytes(disk.write_bytes), count(disk.not_admitted)));
    row("  evictions", count(disk.evictions), "");
    row("  damaged", count(disk.damaged), "files that were not what they should be");
    row("  failures", count(disk.failures), &format!("calls that failed; {} under way", count(disk.under_way)));
    row("Origins", String::new(), "");
    row("  fetches", count(tenant.fetches), &bytes(tenant.fetch_bytes));
    row("  of them copies", count(tenant.fetch_copies), "of what was here under another key");
    row("  failures", count(tenant.fetch_failures), "fetches that failed");
    columns(&[Align::Left, Align::Right, Align::Left], &rows)
}

fn stat_json(stat: &AgentStat) -> Value {
    let tenant = &stat.tenant;
    json!({
        "uptime_s": stat.uptime_s,
        "capacity_bytes": stat.capacity_bytes,
        "memory_bytes": stat.memory_bytes,
        "retired_bytes": stat.retired_bytes,
        "spare_bytes": stat.spare_bytes,
        "index_bytes": stat.index_bytes,
        "heap_bytes": stat.heap_bytes,
        "sessions": stat.sessions,
        "orphans": stat.orphans,
        "descriptors": stat.descriptors,
        "store_under_way": stat.store_under_way,
        "disk": {
            "capacity_bytes": stat.disk.capacity_bytes,
            "used_bytes": stat.disk.used_bytes,
            "blocks": stat.disk.blocks,
            "writes": stat.disk.writes,
            "write_bytes": stat.disk.write_bytes,
            "not_admitted": stat.disk.not_admitted,
            "evictions": stat.disk.evictions,
            "damaged": stat.disk.damaged,
            "failures": stat.disk.failures,
            "under_way": stat.disk.under_way,
        },
        "tenant": tenant_json(tenant),
    })
}

fn tenant_json(tenant: &TenantStat) -> Value {
    let mut fields = json!({
        "asked": {
            "absent": tenant.asked_absent,
            "raced": tenant.asked_raced,
            "unmapped": tenant.asked_unmapped,
            "expired": tenant.asked_expired,
            "no_slot": tenant.asked_no_slot,
        },
    });
    // One by one: so many are too many for the macro.
    for (name, value) in [
        ("uid", u64::from(tenant.uid)),
        ("quota_bytes", tenant.quota_bytes),
        ("segment_bytes", tenant.segment_bytes),
        ("segments", tenant.segments),
        ("blocks", tenant.blocks),
        ("payload_bytes", tenant.payload_bytes),
        ("index_capacity", tenant.index_capacity),
        ("limbo_blocks", tenant.limbo_blocks),
        ("pinned_bytes", tenant.pinned_bytes),
        ("hits_mapped", tenant.hits_mapped),
        ("hit_bytes", tenant.hit_bytes),
        ("hits_asked", tenant.hits_asked),
        ("misses", tenant.misses),
        ("puts", tenant.puts),
        ("put_bytes", tenant.put_bytes),
        ("evictions", tenant.evictions),
        ("expirations", tenant.expirations),
        ("loads", tenant.loads),
        ("load_bytes", tenant.load_bytes),
        ("stored", tenant.stored),
        ("stored_bytes", tenant.stored_bytes),
        ("store_damaged", tenant.store_damaged),
        ("store_failures", tenant.store_failures),
        ("dirty_blocks", tenant.dirty_blocks),
        ("dirty_bytes", tenant.dirty_bytes),
        ("put_waits", tenant.put_waits),
        ("disk_loads", tenant.disk_loads),
        ("disk_load_bytes", tenant.disk_load_bytes),
        ("fetches", tenant.fetches),
        ("fetch_bytes", tenant.fetch_bytes),
        ("fetch_copies", tenant.fetch_copies),
        ("fetch_failures", tenant.fetch_failures),
    ] {
        fields[name] = value.into();
    }
    fields
}

fn pins_text(holders: &[PinHolder]) -> String {
    if holders.is_empty() {
        return "no process has a block pinned\n".to_owned();
    }
    let head = ["PID", "UID", "BLOCKS", "BYTES", "PROCESS"].map(str::to_owned).to_vec();
    let rows = holders.iter().map(|holder| {
        let name = match (holder.orphan, process_name(holder.pid)) {
            (true, _) => "ended; another process has its pins".to_owned(),
            (false, Some(name)) => name,
            (false, None) => String::new(),
        };
        let bytes = ByteSize(holder.bytes).to_string();
        vec![holder.pid.to_string(), holder.uid.to_string(), count(holder.slots), bytes, name]
    });
    let rows: Vec<Vec<String>> = std::iter::once(head).chain(rows).collect();
    let pinned: u64 = holders.iter().map(|holder| holder.slots).sum();
    let align = [Align::Right, Align::Right, Align::Right, Align::Right, Align::Left];
    format!("{}{} pinned\n", columns(&align, &rows), counted(pinned, "block"))
}

fn pin_json(holder: &PinHolder) -> Value {
    json!({
        "pid": holder.pid,
        "uid": holder.uid,
        "orphan": holder.orphan,
        "blocks": holder.slots,
        "bytes": holder.bytes,
    })
}

/// What the process is called now, for people: it may have ended, and its number may be another's.
fn process_name(pid: i32) -> Option<String> {
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(name.trim_end().to_owned())
}
