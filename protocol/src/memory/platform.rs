//! What this kernel can do. Found out by trying, once, at the start of the agent; each feature can be switched off for a
//! test, so that the fallback runs on a kernel that would not need it.

use std::io;

use super::{HugePages, Mapping, Memfd, Others, Seals};

/// A kernel feature that Larder uses when it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feature {
    /// `F_SEAL_FUTURE_WRITE`, Linux 5.1.
    FutureWriteSeal,
    /// `MADV_POPULATE_WRITE`, Linux 5.14.
    PopulateWrite,
    /// `MFD_NOEXEC_SEAL`, Linux 6.3.
    NoexecSeal,
    /// Write leases on memfds as a probe for other openers.
    LeaseProbe,
    /// `pidfd_open`, Linux 5.3.
    Pidfd,
    /// Robust futexes that outlive the agent, by which clients see its death.
    RobustFutex,
}

impl Feature {
    /// All of them, with the names that the test switch and the log use.
    pub const ALL: [(Feature, &str); 6] = [
        (Feature::FutureWriteSeal, "future-write-seal"),
        (Feature::PopulateWrite, "populate-write"),
        (Feature::NoexecSeal, "noexec-seal"),
        (Feature::LeaseProbe, "lease-probe"),
        (Feature::Pidfd, "pidfd"),
        (Feature::RobustFutex, "robust-futex"),
    ];

    /// The feature called `name`.
    pub fn from_name(name: &str) -> Option<Feature> {
        Self::ALL.iter().find(|(_, n)| *n == name).map(|(feature, _)| *feature)
    }
}

/// The features that are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Platform {
    /// See [`Feature::FutureWriteSeal`].
    pub future_write_seal: bool,
    /// See [`Feature::PopulateWrite`].
    pub populate_write: bool,
    /// See [`Feature::NoexecSeal`].
    pub noexec_seal: bool,
    /// See [`Feature::LeaseProbe`].
    pub lease_probe: bool,
    /// See [`Feature::Pidfd`].
    pub pidfd: bool,
    /// See [`Feature::RobustFutex`].
    pub robust_futex: bool,
}

impl Platform {
    /// Tries each feature, except those in `without`, which count as absent.
    pub fn detect(without: &[Feature]) -> io::Result<Platform> {
        let allowed = |feature| !without.contains(&feature);
        let none = Platform {
            future_write_seal: false,
            populate_write: false,
            noexec_seal: false,
            lease_probe: false,
            pidfd: false,
            robust_futex: allowed(Feature::RobustFutex),
        };
        let make = |platform: &Platform| Memfd::create(c"larder-probe", 4096, HugePages::Off, platform);
        let probe = make(&none)?;
        let map = Mapping::read_write(&probe, 4096)?;
        let populate_write = map.populate(0, 4096).is_ok();
        let noexec_seal = make(&Platform { noexec_seal: true, ..none }).is_ok();
        // The description must be the only other one for the probe to be worth anything, so ask with and without.
        let with_lease = Platform { lease_probe: true, ..none };
        let alone = probe.others(&with_lease) == Others::None;
        let other = probe.description(false)?;
        let seen = probe.others(&with_lease) == Others::Some;
        drop(other);
        let future_write_seal = probe.seal(Seals::Final, &Platform { future_write_seal: true, ..none }).is_ok();
        Ok(Platform {
            future_write_seal: future_write_seal && allowed(Feature::FutureWriteSeal),
            populate_write: populate_write && allowed(Feature::PopulateWrite),
            noexec_seal: noexec_seal && allowed(Feature::NoexecSeal),
            lease_probe: alone && seen && allowed(Feature::LeaseProbe),
            pidfd: crate::socket::pidfd_of_self().is_ok() && allowed(Feature::Pidfd),
            ..none
        })
    }

    /// Names of the features that are missing.
    pub fn missing(&self) -> Vec<&'static str> {
        let have = |feature| match feature {
            Feature::FutureWriteSeal => self.future_write_seal,
            Feature::PopulateWrite => self.populate_write,
            Feature::NoexecSeal => self.noexec_seal,
            Feature::LeaseProbe => self.lease_probe,
            Feature::Pidfd => self.pidfd,
            Feature::RobustFutex => self.robust_futex,
        };
        Feature::ALL.iter().filter(|(feature, _)| !have(*feature)).map(|(_, name)| *name).collect()
    }
}
