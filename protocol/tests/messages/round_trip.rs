//! Whatever is written is read back, and arbitrary bytes are at worst refused.

use larder_protocol::key::check_key;
use larder_protocol::message::{
    Answer, Envelope, PutItem, PutOutcome, Refusal, Reply, Request, Staged, decode_reply, decode_request, encode_reply,
    encode_request,
};
use larder_protocol::namespace::{Durability, Eviction, NamespaceInfo, NamespaceOptions, Validate};
use larder_protocol::stat::PinHolder;
use proptest::prelude::*;

fn key() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z]{1,3}(/[a-zé漢 .]{1,8}x){0,3}", "\\PC{1,200}"]
        .prop_filter("a legal key", |key| check_key(key).is_ok())
}

fn staged() -> impl Strategy<Value = Staged> {
    any::<(u64, u64)>().prop_map(|(offset, len)| Staged { offset, len })
}

fn item() -> impl Strategy<Value = PutItem> {
    (key(), staged()).prop_map(|(key, staged)| PutItem { key, staged })
}

fn options() -> impl Strategy<Value = NamespaceOptions> {
    let durability =
        prop::sample::select(vec![None, Some(Durability::Through), Some(Durability::Scratch), Some(Durability::Back)]);
    (any::<(bool, bool, Option<u64>, Option<u64>)>(), durability).prop_map(
        |((keep, overwrite, quota_bytes, ttl_ms), durability)| NamespaceOptions {
            eviction: if keep { Eviction::Keep } else { Eviction::Evict },
            overwrite,
            quota_bytes,
            ttl_ms,
            durability,
            validate: [Validate::Namespace, Validate::Always, Validate::Never]
                [usize::from(keep) + usize::from(overwrite)],
        },
    )
}

fn request() -> impl Strategy<Value = Request> {
    let namespace = any::<u64>();
    let with_key = (namespace, key(), any::<u64>(), 0..4_u8).prop_map(|(namespace, key, len, kind)| match kind {
        0 => Request::Get { namespace, key },
        1 => Request::Wait { namespace, key },
        2 => Request::PutBegin { namespace, key, len },
        _ => Request::Create { namespace, key, len },
    });
    prop_oneof![
        with_key,
        (namespace, item()).prop_map(|(namespace, item)| Request::Put { namespace, item }),
        (namespace, prop::collection::vec(item(), 0..40))
            .prop_map(|(namespace, items)| Request::PutMany { namespace, items }),
        (any::<u64>(), staged()).prop_map(|(put, staged)| Request::PutChunk { put, staged }),
        (key(), prop::option::of(options())).prop_map(|(name, options)| Request::OpenNamespace { name, options }),
        (namespace, "\\PC{0,40}", any::<bool>(), any::<u64>())
            .prop_map(|(namespace, prefix, children, cursor)| Request::List { namespace, prefix, children, cursor }),
        any::<u64>().prop_map(|capacity| Request::Resize { capacity }),
        Just(Request::Stat),
    ]
}

fn refusal() -> impl Strategy<Value = Refusal> {
    prop_oneof![
        Just(Refusal::NotFound),
        "\\PC{0,60}".prop_map(Refusal::Denied),
        any::<[u64; 5]>().prop_map(|[needed, quota, used, pinned, kept]| Refusal::NoSpace {
            needed,
            quota,
            used,
            pinned,
            kept
        }),
        any::<(u64, u64)>().prop_map(|(held, offered)| Refusal::Exists { held, offered }),
    ]
}

fn reply() -> impl Strategy<Value = Reply> {
    let outcome =
        prop_oneof![Just(PutOutcome::Stored), Just(PutOutcome::AlreadyHeld), Just(PutOutcome::Replaced)].boxed();
    let info = (key(), any::<[u64; 3]>(), options()).prop_map(|(name, [namespace, blocks, bytes], options)| {
        NamespaceInfo { name, namespace, options, blocks, bytes }
    });
    let holder = any::<(i32, u32, bool, u64, u64)>().prop_map(|(pid, uid, orphan, slots, bytes)| PinHolder {
        pid,
        uid,
        orphan,
        slots,
        bytes,
    });
    prop_oneof![
        (prop::collection::vec("\\PC{0,40}", 0..60), any::<u64>())
            .prop_map(|(names, cursor)| Reply::Names { names, cursor }),
        info.prop_map(Reply::Namespace),
        outcome.clone().prop_map(Reply::Put),
        prop::collection::vec(prop::result::maybe_err(outcome, refusal()), 0..60).prop_map(Reply::PutMany),
        prop::collection::vec(holder, 0..60).prop_map(Reply::Pins),
        refusal().prop_map(Reply::Refused),
        any::<(u64, u64)>().prop_map(|(len, offset)| Reply::WriterMemory { len, offset }),
    ]
}

proptest! {
    #[test]
    fn a_request_is_read_as_it_was_written(id: u64, timeout_ms: u64, request in request()) {
        // Names of namespaces are shorter than keys; the one over the limit is refused, and rightly.
        if let Request::OpenNamespace { name, .. } = &request {
            prop_assume!(name.len() <= 255);
        }
        let envelope = Envelope { id, timeout_ms, request };
        prop_assert_eq!(decode_request(&encode_request(&envelope)), Ok(envelope));
    }

    #[test]
    fn a_reply_is_read_as_it_was_written(id: u64, reply in reply()) {
        let answer = Answer { id, reply };
        prop_assert_eq!(decode_reply(&encode_reply(&answer)), Ok(answer));
    }

    /// Arbitrary bytes rarely form a message; small numbers in the places of kinds and lengths form some.
    #[test]
    fn arbitrary_bytes_are_refused_or_are_a_message(
        bytes in prop::collection::vec(prop_oneof![3 => Just(0_u8), 2 => 0..40_u8, 1 => any::<u8>()], 0..120),
    ) {
        if let Ok(envelope) = decode_request(&bytes) {
            prop_assert_eq!(encode_request(&envelope), bytes.clone());
        }
        if let Ok(answer) = decode_reply(&bytes) {
            prop_assert_eq!(encode_reply(&answer), bytes);
        }
    }
}
