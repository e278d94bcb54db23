//! Puts a block, reads it in place, and says how long each took: `cargo run --example put_get -- [NAMESPACE]`.
#![expect(clippy::print_stdout, reason = "an example shows what it did")]

use std::env;
use std::time::Instant;

use larder::{Client, Error};

fn main() -> Result<(), Error> {
    let name = env::args().nth(1).unwrap_or_else(|| "example/put_get".to_owned());
    let cache = Client::connect()?.namespace(&name)?;

    let field = vec![7_u8; 16 << 20];
    let begun = Instant::now();
    let outcome = cache.put("fields/t2m", &field)?;
    println!("put of {} bytes: {outcome:?} in {:?}", field.len(), begun.elapsed());

    // The first get maps the block's memory; every later one is a look into that map.
    drop(cache.get("fields/t2m")?);
    let begun = Instant::now();
    let block = cache.get("fields/t2m")?;
    println!("get of {} bytes in {:?}, nothing copied", block.len(), begun.elapsed());
    println!("checksums: {}", if block.verify() { "right" } else { "wrong" });

    // Written in place and committed: no copy at all.
    let mut writer = cache.create("fields/ones", field.len())?;
    writer.as_mut_slice().fill(1);
    println!("commit: {:?}", writer.commit()?);
    println!("keys: {:?}", cache.list("fields/")?);
    Ok(())
}
