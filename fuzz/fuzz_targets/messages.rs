//! Arbitrary bytes as a socket message: decoding must not panic and must not allocate what a length in them claims.
//! Whatever decodes is a message like any other, so encoding it again must give bytes that decode to an equal one.
#![no_main]

use larder_protocol::message::{decode_reply, decode_request, encode_reply, encode_request};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(request) = decode_request(bytes) {
        let again = decode_request(&encode_request(&request)).expect("a request that was just encoded decodes");
        assert_eq!(again, request);
    }
    if let Ok(reply) = decode_reply(bytes) {
        let again = decode_reply(&encode_reply(&reply)).expect("a reply that was just encoded decodes");
        assert_eq!(again, reply);
    }
});
