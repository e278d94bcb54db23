//! The vectored hit: many look-ups that share one fence and overlap their cache misses.

use super::stripe::Stripe;
use super::{Lookup, PinnedBlock, Reader, fetch_block};
use crate::index::{Entry, Found};
use crate::key;
use crate::layout::{control, stripe as stripe_layout, table as table_layout};
use crate::prefetch::prefetch;
use crate::slot::{self, Pinned};
use crate::sync::Ordering;
use crate::touch;
use crate::words::Words;

/// Look-ups that are under way together.
const GROUP: usize = 64;

impl Reader {
    /// Looks up and pins many keys: hash all, prefetch all, pin all, one fence, look again at all.
    ///
    /// `found` is called once for each key, in order. A key whose answer is not a hit is to be asked for alone with
    /// [`Reader::get`].
    pub fn get_many<'k>(
        &self,
        namespace: u64,
        keys: impl IntoIterator<Item = &'k [u8]>,
        mut found: impl FnMut(Lookup),
    ) {
        let mut keys = keys.into_iter().peekable();
        let mut group: Vec<(&[u8], [u64; 2])> = Vec::with_capacity(GROUP);
        while keys.peek().is_some() {
            group.clear();
            group.extend(keys.by_ref().take(GROUP).map(|key| (key, key::hash(self.seed, namespace, key))));
            self.get_group(namespace, &group, &mut found);
        }
    }

    fn get_group(&self, namespace: u64, group: &[(&[u8], [u64; 2])], found: &mut impl FnMut(Lookup)) {
        if self.is_over() {
            return group.iter().for_each(|_| found(self.over().unwrap_or(Lookup::AskAgent)));
        }
        let stripe = self.last_stripe().filter(|stripe| stripe.free_slots() >= group.len());
        let Some(stripe) = stripe.or_else(|| self.find_stripe(group.len())) else {
            return group.iter().for_each(|_| found(Lookup::NeedSlots));
        };
        // SAFETY: both functions above return stripes that this thread owns; no other reference from `local` exists.
        let local = unsafe { stripe.local() };
        let epoch = self.control.load(control::EPOCH, Ordering::Acquire);
        if epoch != local.epoch && !self.refresh(local, epoch) {
            return group.iter().for_each(|_| found(Lookup::NeedTable));
        }
        let Some(table) = local.table.clone() else {
            return group.iter().for_each(|_| found(Lookup::NeedTable));
        };
        let entries_at = table.words().address().wrapping_add(table_layout::ENTRIES);
        for (_, hash) in group {
            prefetch(entries_at.wrapping_add(table.home(*hash) * table_layout::ENTRY_WORDS));
        }
        let mut claims: [Option<Claim>; GROUP] = [None; GROUP];
        for (claim, (_, hash)) in claims.iter_mut().zip(group) {
            let Found::Entry(place, entry) = table.find(*hash) else {
                continue;
            };
            fetch_block(local.segment(entry.block.segment(), &self.segments), &entry);
            let Some(slot) = stripe.take_slot(local) else { break };
            slot::claim(stripe.words(), slot, entry.block);
            *claim = Some(Claim { slot, place, entry });
        }
        // One fence for all: orders every claim before every second look.
        slot::after_claims();
        for (claim, (key, _)) in claims.iter().zip(group) {
            let Some(Claim { slot, place, entry }) = *claim else {
                touch::count(stripe.words(), stripe_layout::ASKED_ABSENT, 1);
                found(Lookup::AskAgent);
                continue;
            };
            match slot::confirm(&*table, &self.control, epoch, stripe.words(), slot, place, entry) {
                Pinned::Yes(entry) => match self.accept(stripe, local, slot, &entry, namespace, key) {
                    Ok(place) => found(Lookup::Hit(PinnedBlock::new(stripe, slot, place))),
                    Err(unfit) => found(unfit.into()),
                },
                _ => {
                    release(stripe, slot);
                    found(Lookup::AskAgent);
                }
            }
        }
    }
}

#[derive(Clone, Copy)]
struct Claim {
    slot: usize,
    place: usize,
    entry: Entry,
}

#[cold]
fn release(stripe: &Stripe, slot: usize) {
    stripe.release(slot);
    touch::count(stripe.words(), stripe_layout::ASKED_RACED, 1);
}
