//! Credentials in files. Nothing in here prints one: not in an error, not for debugging.

use std::fmt;
use std::fs::{File, Metadata, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use nix::fcntl::OFlag;
use nix::unistd::geteuid;
use object_store::CredentialProvider;
use object_store::aws::AwsCredential;
use object_store::azure::{AzureAccessKey, AzureCredential, split_sas};
use tokio::sync::Mutex;
use tracing::{info, warn};

/// A larger file is a mistake.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// How often the file is looked at, while requests are made.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long a file system may take to answer before the old credentials are used.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);

/// Permissions of others than the owner.
const OTHERS: u32 = 0o077;

/// What was read, and what tells whether it is still that.
pub(crate) struct Contents {
    pub(crate) text: String,
    stamp: Stamp,
}

/// Tells one state of a file from the next.
type Stamp = (u64, u64, i64, i64);

/// Reads a file that only its owner may read, the agent's user or root.
pub(crate) fn read(path: &Path) -> Result<Contents, String> {
    let shown = path.display();
    let cannot = |error: std::io::Error| format!("the credentials in {shown} cannot be read: {error}");
    let (file, found) = open(path).map_err(cannot)?;
    if !found.is_file() {
        return Err(format!("{shown} is not a file; name the file with the credentials"));
    }
    if found.mode() & OTHERS != 0 {
        return Err(format!("others than its owner may read or change {shown}; run chmod 600 {shown}"));
    }
    if found.uid() != 0 && found.uid() != geteuid().as_raw() {
        return Err(format!("{shown} belongs to user {}; give it to the agent's user or to root", found.uid()));
    }
    let mut text = String::new();
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(cannot)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("{shown} is larger than {FILE_BYTES_MAX} bytes; name the file with the credentials"));
    }
    Ok(Contents { text, stamp: stamp_of(&found) })
}

fn open(path: &Path) -> std::io::Result<(File, Metadata)> {
    // Without O_NONBLOCK a pipe in its place would be waited for.
    let file = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path)?;
    let found = file.metadata()?;
    Ok((file, found))
}

fn stamp_of(found: &Metadata) -> Stamp {
    (found.ino(), found.len(), found.mtime(), found.mtime_nsec())
}

/// Reads credentials of some kind from the text of a file. The error repeats nothing of it.
type Parse<C> = Arc<dyn Fn(&str) -> Result<C, String> + Send + Sync>;

/// Credentials in a file, read again when it changes.
pub(crate) struct FileCredentials<C> {
    path: PathBuf,
    parse: Parse<C>,
    present: Mutex<Present<C>>,
}

struct Present<C> {
    stamp: Stamp,
    looked: Instant,
    credential: Arc<C>,
}

impl<C> FileCredentials<C> {
    /// Reads the file for the first time.
    pub(crate) fn open(
        path: &Path,
        parse: impl Fn(&str) -> Result<C, String> + Send + Sync + 'static,
    ) -> Result<FileCredentials<C>, String> {
        let parse: Parse<C> = Arc::new(parse);
        let (stamp, credential) = load(path, &parse)?;
        let present = Present { stamp, looked: Instant::now(), credential: Arc::new(credential) };
        Ok(FileCredentials { path: path.to_owned(), parse, present: Mutex::new(present) })
    }
}

fn load<C>(path: &Path, parse: &Parse<C>) -> Result<(Stamp, C), String> {
    let Contents { text, stamp } = read(path)?;
    let credential = parse(&text).map_err(|why| format!("{} {why}", path.display()))?;
    Ok((stamp, credential))
}

/// The credentials of a file that is another than before. `None` when it is the same.
fn load_if_changed<C>(path: &Path, old: Stamp, parse: &Parse<C>) -> Result<Option<(Stamp, C)>, String> {
    let found = std::fs::metadata(path).map_err(|error| format!("{} is gone: {error}", path.display()))?;
    if stamp_of(&found) == old { Ok(None) } else { load(path, parse).map(Some) }
}

impl<C> fmt::Debug for FileCredentials<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileCredentials").field("path", &self.path).finish_non_exhaustive()
    }
}

#[async_trait]
impl<C: Send + Sync + 'static> CredentialProvider for FileCredentials<C> {
    type Credential = C;

    async fn get_credential(&self) -> object_store::Result<Arc<C>> {
        let mut present = self.present.lock().await;
        if present.looked.elapsed() >= LOOK_EVERY {
            let (path, parse, old) = (self.path.clone(), Arc::clone(&self.parse), present.stamp);
            let loading = tokio::task::spawn_blocking(move || load_if_changed(&path, old, &parse));
            match tokio::time::timeout(LOOK_TIMEOUT, loading).await {
                Ok(Ok(Ok(None))) => {}
                Ok(Ok(Ok(Some((stamp, credential))))) => {
                    info!(file = %self.path.display(), "other credentials for the store");
                    present.stamp = stamp;
                    present.credential = Arc::new(credential);
                }
                // It may be in the middle of being written; what was read before may still be good.
                Ok(Ok(Err(why))) => warn!(why, "the credentials for the store stay as they were"),
                Ok(Err(_)) | Err(_) => warn!(file = %self.path.display(), "no look at the credentials for the store"),
            }
            present.looked = Instant::now();
        }
        Ok(Arc::clone(&present.credential))
    }
}

/// A profile of a file as the tools of AWS write it.
pub(crate) fn s3(text: &str, profile: &str) -> Result<AwsCredential, String> {
    let mut is_ours = false;
    let mut was_ours = false;
    let (mut key_id, mut secret_key, mut token) = (None, None, None);
    for line in text.lines() {
        if let Some(section) = line.trim().strip_prefix('[') {
            let name = section.split(']').next().unwrap_or_default().trim();
            is_ours = name.strip_prefix("profile ").map_or(name, str::trim) == profile;
            was_ours |= is_ours;
            continue;
        }
        let Some((key, value)) = setting(line).filter(|_| is_ours) else { continue };
        let into = match key {
            "aws_access_key_id" => &mut key_id,
            "aws_secret_access_key" => &mut secret_key,
            "aws_session_token" => &mut token,
            _ => continue,
        };
        *into = Some(value.to_owned());
    }
    match (key_id, secret_key) {
        (Some(key_id), Some(secret_key)) => Ok(AwsCredential { key_id, secret_key, token }),
        _ if !was_ours => Err(format!("has no profile [{profile}]; name one that is there with profile")),
        _ => Err(format!("has no aws_access_key_id and aws_secret_access_key in [{profile}]; add them")),
    }
}

/// One line with an account's key, or with a shared access signature.
pub(crate) fn azure(text: &str) -> Result<AzureCredential, String> {
    const FORM: &str = "must have one line, account_key = KEY or sas_token = TOKEN";
    let mut found = None;
    for line in text.lines() {
        if line.trim().is_empty() || line.trim_start().starts_with('#') {
            continue;
        }
        let credential = match setting(line) {
            Some(("account_key", key)) => {
                let key = AzureAccessKey::try_new(key);
                AzureCredential::AccessKey(key.map_err(|_| "has an account_key that is not base64; copy it again")?)
            }
            Some(("sas_token", token)) => {
                let pairs = split_sas(token);
                AzureCredential::SASToken(pairs.map_err(|_| "has a sas_token that is none; copy it again")?)
            }
            _ => return Err(FORM.to_owned()),
        };
        if found.replace(credential).is_some() {
            return Err(FORM.to_owned());
        }
    }
    found.ok_or_else(|| FORM.to_owned())
}

/// `key = value`, unless the line is a comment or empty.
pub(crate) fn setting(line: &str) -> Option<(&str, &str)> {
    let line = line.trim();
    if line.starts_with(['#', ';']) {
        return None;
    }
    let (key, value) = line.split_once('=')?;
    Some((key.trim(), value.trim())).filter(|(_, value)| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const FILE: &str = "# c\n[other]\naws_access_key_id = O\n[default]\naws_access_key_id = I\n; c\n\
                        aws_secret_access_key=S=/+\n[profile long]\naws_access_key_id=L\naws_secret_access_key=M\n\
                        aws_session_token = T\nregion = x\n";

    fn file(text: &str, mode: u32) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        std::fs::set_permissions(file.path(), PermissionsExt::from_mode(mode)).unwrap();
        file
    }

    #[test]
    fn a_profile_is_found_by_its_name() {
        let of = |id: &str, secret: &str, token: Option<&str>| AwsCredential {
            key_id: id.into(),
            secret_key: secret.into(),
            token: token.map(str::to_owned),
        };
        assert_eq!(s3(FILE, "default"), Ok(of("I", "S=/+", None)));
        assert_eq!(s3(FILE, "long"), Ok(of("L", "M", Some("T"))));
        assert!(s3(FILE, "other").unwrap_err().contains("has no aws_access_key_id and"));
        assert!(s3(FILE, "none").unwrap_err().contains("has no profile [none]"));
        assert!(s3("aws_access_key_id=I\naws_secret_access_key=S", "default").is_err());
    }

    #[test]
    fn a_file_for_azure_has_one_of_two_lines() {
        let key = azure("# c\n\naccount_key = c2VjcmV0\n").unwrap();
        assert_eq!(key, AzureCredential::AccessKey(AzureAccessKey::try_new("c2VjcmV0").unwrap()));
        let token = azure("sas_token = ?sv=1&sig=a%2Bb%3D").unwrap();
        let pairs = [("sv", "1"), ("sig", "a+b=")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(token, AzureCredential::SASToken(pairs.to_vec()));
        for bad in [
            "",
            "account_key = geheim!",
            "sas_token = geheim",
            "key = geheim",
            "geheim",
            "account_key = c2VjcmV0\nsas_token = sv=1",
        ] {
            let why = azure(bad).unwrap_err();
            assert!(!why.contains("geheim"), "{why}");
        }
    }

    #[test]
    fn a_file_that_others_may_read_is_refused() {
        for mode in [0o640, 0o604, 0o660, 0o601] {
            let open = file(FILE, mode);
            let why = FileCredentials::open(open.path(), |text| s3(text, "default")).unwrap_err();
            assert!(why.contains("chmod 600"), "{why}");
        }
        let directory = tempfile::tempdir().unwrap();
        assert!(read(directory.path()).is_err_and(|why| why.contains("is not a file")));
        assert!(read(&directory.path().join("none")).is_err_and(|why| why.contains("cannot be read")));
        let large = file(&"x".repeat(2 << 20), 0o600);
        assert!(read(large.path()).is_err_and(|why| why.contains("larger than")));
        assert!(read(file(FILE, 0o400).path()).is_ok_and(|contents| contents.text == FILE));
    }

    #[tokio::test]
    async fn a_file_is_read_again_when_it_changes_and_a_bad_one_is_not_taken() {
        let file = file(FILE, 0o600);
        let provider = FileCredentials::open(file.path(), |text| s3(text, "default")).unwrap();
        let shown = format!("{provider:?}");
        assert!(shown.contains("path") && !shown.contains("S=/+"), "{shown}");
        let present = async || {
            provider.present.lock().await.looked = Instant::now().checked_sub(2 * LOOK_EVERY).unwrap();
            provider.get_credential().await.unwrap().key_id.clone()
        };
        assert_eq!(present().await, "I");
        std::fs::write(file.path(), FILE.replace("= I", "= another")).unwrap();
        assert_eq!(present().await, "another");
        for bad in ["", "[default]\n", "[other]\naws_access_key_id = O\n"] {
            std::fs::write(file.path(), bad).unwrap();
            assert_eq!(present().await, "another");
        }
        std::fs::write(file.path(), FILE).unwrap();
        std::fs::set_permissions(file.path(), PermissionsExt::from_mode(0o644)).unwrap();
        assert_eq!(present().await, "another", "one that others may read");
        std::fs::remove_file(file.path()).unwrap();
        assert_eq!(present().await, "another");
        std::fs::write(file.path(), FILE).unwrap();
        std::fs::set_permissions(file.path(), PermissionsExt::from_mode(0o600)).unwrap();
        assert_eq!(present().await, "I");
    }
}
