//! What the cache lends to sessions, and what of it comes back: slot pages, staging, tables and segments.

use std::io;
use std::os::fd::OwnedFd;

use larder_protocol::layout::stripe;
use larder_protocol::memory::Memfd;
use larder_protocol::message::Refusal;

use super::memory::Prepared;
use super::tenant::Tenant;
use super::{Cache, Retired};

/// Slots of all sessions of a tenant. Each look at what is pinned reads them all, while everybody waits.
const SLOTS_MAX: usize = 1 << 20;
/// Slot pages that ended sessions of a tenant may leave mapped in other processes.
const ORPHANS_MAX: usize = 1024;

impl Cache {
    /// Begins a session with its first slot page. The page is on the tenant's list before its descriptor is sent.
    pub(crate) fn begin_session(
        &mut self,
        uid: u32,
        session: u64,
        pid: i32,
        page: Prepared,
        memory: u64,
        sessions_max: usize,
    ) -> Result<SessionStart, Refusal> {
        let bytes = page.memfd.len() as u64;
        let failed = |error: io::Error| Refusal::Failed(format!("descriptors of a new session: {error}"));
        let slots = page.memfd.description(true).map_err(failed)?;
        // Sessions that have ended count too, while the kernel cannot say whether their process still reads.
        let too_many = |tenant: &Tenant| tenant.sessions + tenant.pins.orphans() >= sessions_max + ORPHANS_MAX;
        if too_many(self.tenant(uid)?) {
            self.drop_orphans(uid);
        }
        let tenant = self.known(uid);
        if too_many(tenant) {
            return Err(Refusal::TooMany(format!(
                "{ORPHANS_MAX} slot pages of ended sessions are still mapped by processes of this user; end some of those"
            )));
        }
        let control = tenant.control.description(false).map_err(failed)?;
        if !self.make_budget(uid, bytes) && !self.budget.charge_over(bytes) {
            return Err(self.no_space(uid, bytes));
        }
        let tenant = self.known(uid);
        tenant.pins.add(session, memory, pid, page);
        tenant.session_bytes += bytes;
        tenant.sessions += 1;
        Ok(SessionStart { control, slots })
    }

    /// Adds a slot page to a session.
    pub(crate) fn add_slots(
        &mut self,
        uid: u32,
        session: u64,
        pid: i32,
        page: Prepared,
        memory: u64,
    ) -> Result<OwnedFd, Refusal> {
        let bytes = page.memfd.len() as u64;
        let most = self.settings.session_slots_max;
        let have = self.known(uid).pins.slots(session);
        if have + page.memfd.len() / stripe::BYTES * stripe::SLOTS_LEN > most {
            return Err(Refusal::TooMany(format!(
                "all {have} slots of this session are in use and {most} is the most it may have; release blocks, or raise max_slots_per_session"
            )));
        }
        let all = self.known(uid).pins.all_slots();
        if all >= SLOTS_MAX.max(most) {
            return Err(Refusal::TooMany(format!(
                "the sessions of user {uid} have {all} slots, which is the most they may have together; end some of those"
            )));
        }
        let descriptor = page.memfd.description(true).map_err(|error| Refusal::Failed(error.to_string()))?;
        if !self.make_budget(uid, bytes) {
            return Err(self.no_space(uid, bytes));
        }
        let tenant = self.known(uid);
        tenant.pins.add(session, memory, pid, page);
        tenant.session_bytes += bytes;
        Ok(descriptor)
    }

    /// Seals a slot page that its client has mapped; from then on its pins count.
    pub(crate) fn seal_slots(&mut self, uid: u32, session: u64, memory: u64) -> Result<bool, Refusal> {
        let platform = self.settings.material.platform;
        let tenant = self.known(uid);
        let Some(memfd) = tenant.pins.memfd(session, memory) else {
            return Ok(false);
        };
        if !tenant.pins.is_sealed(session, memory) {
            seal_for_client(memfd, &platform)?;
            tenant.pins.sealed(session, memory);
        }
        Ok(true)
    }

    /// Charges staging of a session to its tenant.
    pub(crate) fn charge_staging(&mut self, uid: u32, bytes: u64) -> Result<(), Refusal> {
        if !self.make_budget(uid, bytes) {
            return Err(self.no_space(uid, bytes));
        }
        self.known(uid).session_bytes += bytes;
        Ok(())
    }

    /// Gives back what was charged for memory of a session that was never made.
    pub(crate) fn refund_session(&mut self, uid: u32, bytes: u64) {
        self.known(uid).session_bytes -= bytes;
        self.budget.refund(bytes);
    }

    /// Takes memory back that a session was lent. It goes when its client has let go of it.
    pub(crate) fn take_back(&mut self, uid: u32, memfd: Memfd) {
        let tenant = self.known(uid);
        tenant.session_bytes -= memfd.len() as u64;
        tenant.retired_bytes += memfd.len() as u64;
        self.retired.push(Retired { uid, memfd });
        self.drop_retired();
    }

    /// A session has ended; see [`pins::Pins::end_session`].
    pub(crate) fn end_session(&mut self, uid: u32, session: u64, process_gone: bool) {
        let platform = self.settings.material.platform;
        let tenant = self.known(uid);
        tenant.sessions -= 1;
        let freed = tenant.pins.end_session(session, process_gone, &platform);
        tenant.session_bytes -= freed;
        tenant.sweep();
        self.budget.refund(freed);
    }

    /// A task begins that works for a tenant with a session, and may outlive that.
    pub(crate) fn begin_visit(&mut self, uid: u32) {
        self.known(uid).guests += 1;
    }

    /// Such tasks that are under way.
    pub(crate) fn visits(&mut self, uid: u32) -> usize {
        self.known(uid).guests
    }

    /// Such a task has ended.
    pub(crate) fn end_visit(&mut self, uid: u32) {
        self.known(uid).guests -= 1;
    }

    /// Drops slot pages of ended sessions that nobody has any more.
    pub(super) fn drop_orphans(&mut self, uid: u32) {
        let platform = self.settings.material.platform;
        let tenant = self.known(uid);
        let freed = tenant.pins.drop_orphans(&platform);
        tenant.session_bytes -= freed;
        self.budget.refund(freed);
    }

    /// The current table of a tenant, to be sent.
    pub(crate) fn table(&mut self, uid: u32) -> Result<(OwnedFd, u64), Refusal> {
        let (memfd, len) = self.known(uid).index.memory();
        memfd.description(false).map(|fd| (fd, len)).map_err(|error| Refusal::Failed(error.to_string()))
    }

    /// A segment of a tenant, to be sent.
    pub(crate) fn segment(&mut self, uid: u32, segment: u32) -> Result<(OwnedFd, u64), Refusal> {
        let segment = self.known(uid).segments.get(segment).ok_or(Refusal::NotFound)?;
        let descriptor = segment.memfd.description(false).map_err(|error| Refusal::Failed(error.to_string()))?;
        Ok((descriptor, segment.len()))
    }
}

/// Descriptors of a new session.
#[derive(Debug)]
pub(crate) struct SessionStart {
    pub(crate) control: OwnedFd,
    pub(crate) slots: OwnedFd,
}

/// Seals memory that a client has mapped for writing, and makes sure that it was not tampered with before.
pub(crate) fn seal_for_client(memfd: &Memfd, platform: &larder_protocol::memory::Platform) -> Result<(), Refusal> {
    use larder_protocol::memory::Seals;
    let bad = |what: String| Refusal::Denied(format!("the session's memory cannot be used: {what}"));
    memfd.seal(Seals::Final, platform).map_err(|error| bad(format!("it cannot be sealed: {error}")))?;
    if memfd.is_whole() { Ok(()) } else { Err(bad("its size was changed".into())) }
}
