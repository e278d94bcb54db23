//! One message of every kind. The numbers in each are all different, so that no two fields can be confused.

use larder_protocol::layout::LAYOUT_MAGIC;
use larder_protocol::message::{
    AgentInfo, Answer, Envelope, PrefetchItem, PutItem, PutOutcome, Refusal, Reply, Request, Staged, VERSION, Welcome,
};
use larder_protocol::namespace::{Durability, Eviction, NamespaceInfo, NamespaceOptions, Validate};
use larder_protocol::origin::OriginKeys;
use larder_protocol::stat::{AgentStat, DiskStat, PinHolder, TenantStat};

fn item(key: &str, offset: u64) -> PutItem {
    PutItem { key: key.into(), staged: Staged { offset, len: offset + 1 } }
}

fn options() -> NamespaceOptions {
    NamespaceOptions {
        eviction: Eviction::Keep,
        overwrite: true,
        quota_bytes: Some(0x51),
        ttl_ms: None,
        durability: None,
        validate: Validate::Never,
    }
}

pub(crate) fn requests() -> Vec<(&'static str, Envelope)> {
    let (namespace, key, name) = (0x11, "a/b".to_string(), "job/7".to_string());
    vec![
        ("hello", Request::Hello { layout: LAYOUT_MAGIC, version: VERSION }),
        ("mapped", Request::Mapped { memory: 0x21 }),
        ("received", Request::Received { count: 0x22 }),
        ("more-slots", Request::MoreSlots),
        ("staging", Request::Staging),
        ("table", Request::Table),
        ("segment", Request::Segment { segment: 0x23 }),
        ("ping", Request::Ping),
        ("open-namespace", Request::OpenNamespace { name: name.clone(), options: Some(options()) }),
        ("open-namespace-as-it-is", Request::OpenNamespace { name: name.clone(), options: None }),
        ("set-namespace", Request::SetNamespace { name: name.clone(), options: options() }),
        ("show-namespace", Request::ShowNamespace { name: name.clone() }),
        ("list-namespaces", Request::ListNamespaces { after: String::new() }),
        ("remove-namespace", Request::RemoveNamespace { name: name.clone() }),
        ("get", Request::Get { namespace, key: key.clone() }),
        ("wait", Request::Wait { namespace, key: key.clone() }),
        ("put", Request::Put { namespace, item: item("k", 0x31) }),
        ("put-many", Request::PutMany { namespace, items: vec![item("k", 0x31), item("é", 0x41)] }),
        ("put-begin", Request::PutBegin { namespace, key: key.clone(), len: 0x24 }),
        ("put-chunk", Request::PutChunk { put: 0x25, staged: Staged { offset: 0x26, len: 0x27 } }),
        ("put-end", Request::PutEnd { put: 0x25 }),
        ("abandon", Request::Abandon { put: 0x25 }),
        ("create", Request::Create { namespace, key: key.clone(), len: 0x28 }),
        ("commit", Request::Commit { writer: 0x29 }),
        ("delete", Request::Delete { namespace, key: key.clone() }),
        ("list", Request::List { namespace, prefix: "a".into(), children: true, cursor: 0x2a }),
        ("fetch", Request::Fetch { namespace, key: key.clone(), url: "http://a/b".into() }),
        (
            "credential",
            Request::Credential {
                prefix: "s3://a/".into(),
                keys: OriginKeys::S3 {
                    key_id: "i".into(),
                    secret_key: "s".into(),
                    token: None,
                    region: Some("r".into()),
                    endpoint: None,
                },
            },
        ),
        ("file-follows", Request::FileFollows),
        ("fetch-file", Request::FetchFile { namespace, key: key.clone(), path: "/a/b".into() }),
        ("open-object", Request::OpenObject { namespace, key: key.clone(), url: "http://a/b".into() }),
        ("open-object-file", Request::OpenObjectFile { namespace, key: key.clone(), path: "/a/b".into() }),
        ("chunk", Request::Chunk { namespace, key: key.clone(), version: 0x2c, index: 0x2d }),
        (
            "prefetch-chunks",
            Request::PrefetchChunks { namespace, key: key.clone(), version: 0x2c, index: 0x2d, count: 0x2f },
        ),
        (
            "prefetch",
            Request::Prefetch {
                namespace,
                items: vec![
                    PrefetchItem { key: "k".into(), url: None },
                    PrefetchItem { key: "l".into(), url: Some("s3://a/b".into()) },
                ],
            },
        ),
        ("clear", Request::Clear { name }),
        ("sync", Request::Sync { namespace }),
        ("stat", Request::Stat),
        ("pins", Request::Pins),
        ("resize", Request::Resize { capacity: 0x2b }),
        ("ring", Request::Ring),
        ("doorbell", Request::Doorbell),
    ]
    .into_iter()
    .map(|(name, request)| (name, Envelope { id: 0x0102_0304_0506_0708, timeout_ms: 0x0a0b, request }))
    .collect()
}

fn agent() -> AgentInfo {
    AgentInfo { release: "0.1.0".into(), instance: 0x61, pid: 0x62, capacity: 0x63, block_len_max: 0x64, uid: 0x65 }
}

fn stat() -> AgentStat {
    AgentStat {
        uptime_s: 1,
        capacity_bytes: 2,
        memory_bytes: 3,
        retired_bytes: 4,
        spare_bytes: 5,
        index_bytes: 6,
        sessions: 7,
        orphans: 8,
        store_under_way: 39,
        disk: DiskStat {
            capacity_bytes: 46,
            used_bytes: 47,
            blocks: 48,
            writes: 49,
            write_bytes: 50,
            not_admitted: 51,
            evictions: 52,
            damaged: 53,
            failures: 54,
            under_way: 57,
        },
        descriptors: 9,
        heap_bytes: 10,
        tenant: TenantStat {
            uid: 11,
            quota_bytes: 12,
            segment_bytes: 13,
            segments: 14,
            blocks: 15,
            payload_bytes: 16,
            index_capacity: 17,
            limbo_blocks: 18,
            pinned_bytes: 19,
            hits_mapped: 20,
            hit_bytes: 21,
            hits_asked: 22,
            misses: 23,
            asked_absent: 24,
            asked_raced: 25,
            asked_unmapped: 26,
            asked_expired: 27,
            asked_no_slot: 28,
            puts: 29,
            put_bytes: 30,
            evictions: 31,
            expirations: 32,
            loads: 33,
            load_bytes: 34,
            stored: 35,
            stored_bytes: 36,
            store_damaged: 37,
            store_failures: 38,
            dirty_blocks: 39,
            dirty_bytes: 40,
            put_waits: 41,
            disk_loads: 55,
            disk_load_bytes: 56,
            fetches: 42,
            fetch_bytes: 43,
            fetch_copies: 44,
            fetch_failures: 45,
        },
    }
}

fn replies_alone() -> Vec<(&'static str, Reply)> {
    let info = NamespaceInfo {
        name: "job/7".into(),
        namespace: 0x11,
        options: NamespaceOptions {
            eviction: Eviction::Evict,
            overwrite: false,
            quota_bytes: None,
            ttl_ms: Some(0x52),
            durability: Some(Durability::Through),
            validate: Validate::Always,
        },
        blocks: 0x53,
        bytes: 0x54,
    };
    let welcome = Welcome { version: VERSION, agent: agent(), slots_memory: 0x71, stripes: 0x72, future_write: true };
    let holder = PinHolder { pid: 0x55, uid: 0x56, orphan: true, slots: 0x57, bytes: 0x58 };
    vec![
        ("welcome", Reply::Welcome(welcome)),
        ("done", Reply::Done),
        ("memory", Reply::Memory { memory: 0x21, len: 0x73 }),
        ("table", Reply::Table { len: 0x74 }),
        ("segment", Reply::Segment { len: 0x75 }),
        ("pong", Reply::Pong(agent())),
        ("namespace", Reply::Namespace(info)),
        ("names", Reply::Names { names: vec!["a".into(), "b/c".into()], cursor: 0x76 }),
        ("resident", Reply::Resident),
        ("put-stored", Reply::Put(PutOutcome::Stored)),
        ("put-already-held", Reply::Put(PutOutcome::AlreadyHeld)),
        ("put-replaced", Reply::Put(PutOutcome::Replaced)),
        ("put-not-kept", Reply::Put(PutOutcome::NotKept)),
        ("put-many", Reply::PutMany(vec![Ok(PutOutcome::Stored), Err(Refusal::Deadline)])),
        ("writer-memory", Reply::WriterMemory { len: 0x77, offset: 0x78 }),
        ("object", Reply::Object { len: 0x9a, version: 0x9b, chunk_len: 0x9c }),
        ("count", Reply::Count(0x79)),
        ("stat", Reply::Stat(Box::new(stat()))),
        ("pins", Reply::Pins(vec![holder, PinHolder::default()])),
        ("wake", Reply::Wake),
    ]
}

fn refusals() -> Vec<(&'static str, Refusal)> {
    vec![
        ("refused-not-found", Refusal::NotFound),
        ("refused-exists", Refusal::Exists { held: 0x81, offered: 0x82 }),
        ("refused-bad-key", Refusal::BadKey("no".into())),
        ("refused-invalid", Refusal::Invalid("no".into())),
        ("refused-too-large", Refusal::TooLarge { len: 0x83, limit: 0x84 }),
        ("refused-no-space", Refusal::NoSpace { needed: 0x85, quota: 0x86, used: 0x87, pinned: 0x88, kept: 0x89 }),
        ("refused-quota", Refusal::Quota { name: "q".into(), needed: 0x8a, used: 0x8b, quota: 0x8c }),
        ("refused-pinned", Refusal::Pinned { pinned: 0x8d, limit: 0x8e }),
        ("refused-denied", Refusal::Denied("no".into())),
        ("refused-cleared", Refusal::Cleared { namespace: 0x8f }),
        ("refused-no-namespace", Refusal::NoNamespace("no".into())),
        ("refused-deadline", Refusal::Deadline),
        ("refused-version", Refusal::Version { agent: 0x91, agent_layout: 0x92, client: 0x93, client_layout: 0x94 }),
        ("refused-too-many", Refusal::TooMany("no".into())),
        ("refused-store", Refusal::Store("no".into())),
        ("refused-origin", Refusal::Origin("no".into())),
        ("refused-changed", Refusal::Changed("a".into())),
        ("refused-failed", Refusal::Failed("no".into())),
    ]
}

pub(crate) fn replies() -> Vec<(&'static str, Answer)> {
    let refused = refusals().into_iter().map(|(name, refusal)| (name, Reply::Refused(refusal)));
    replies_alone()
        .into_iter()
        .chain(refused)
        .map(|(name, reply)| (name, Answer { id: 0x0102_0304_0506_0708, reply }))
        .collect()
}
