//! Two users of one agent: neither can read, find or disturb what is the other's.

use std::fs::{self, File, Permissions};
use std::io::IoSliceMut;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use larder_protocol::memory::Mapping;
use larder_protocol::message::{PutItem, Refusal, Reply, Request, Staged};
use larder_protocol::socket;
use nix::errno::Errno;
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;

use crate::harness::{Agent, Setup, may_become_others};
use crate::raw::Raw;
use crate::raw_calls::steal_descriptor;
use crate::roles::{Actor, Part, STRANGER, VICTIM};
use crate::session::Session;

const SECRET: &[u8; 32] = b"only the keeper may see this one";

/// Puts a secret, says where it is, and checks it whenever told to.
pub(crate) fn keeper(part: &Part) {
    let mut session = Session::open(&part.socket);
    let namespace = session.namespace("private");
    let secret = SECRET.repeat(2000);
    session.put(namespace, "secret", &secret).expect("there is room");
    let block = session.get(namespace, "secret").expect("just put");
    let (mut raw, greeting) = Raw::greeted(&part.socket);
    let id = greeting.find(&mut raw, namespace, "secret");
    part.say("READY", format!("{namespace} {} {}", id.segment(), std::process::id()));
    while part.hear().is_some() {
        assert!(block.verify() && block.as_slice() == secret);
        let again = session.get(namespace, "secret").expect("nobody else may delete it");
        assert!(again.as_slice() == secret);
        let names = session.raw.ask(Request::ListNamespaces { after: String::new() });
        assert!(matches!(&names, Reply::Names { names, .. } if names == &["private"]), "{names:?}");
        part.say("WHOLE", "");
    }
}

/// Tries everything against the keeper and the agent.
pub(crate) fn stranger(part: &Part) {
    let numbers: Vec<u64> = part.argument.split(' ').map(|text| text.parse().expect("a number")).collect();
    let [namespace, segment, keeper, agent] = numbers[..] else { panic!("four numbers: {:?}", part.argument) };
    let segment = u32::try_from(segment).expect("a segment");
    let pid = |number: u64| Pid::from_raw(i32::try_from(number).expect("a process id"));
    messages(part, namespace, segment);
    for target in [pid(keeper), pid(agent)] {
        processes(target);
    }
    part.say("READY", "");
    part.stay();
}

fn messages(part: &Part, namespace: u64, segment: u32) {
    let mut session = Session::open(&part.socket);
    session.namespace("own");
    assert!(matches!(session.raw.refused(Request::ShowNamespace { name: "private".into() }), Refusal::NoNamespace(_)));
    let names = session.raw.ask(Request::ListNamespaces { after: String::new() });
    assert!(matches!(&names, Reply::Names { names, .. } if names == &["own"]), "{names:?}");
    let own = session.namespace("private");
    assert_ne!(own, namespace);
    let key = || "secret".to_owned();
    let item = || PutItem { key: key(), staged: Staged { offset: 0, len: 0 } };
    for namespace in [namespace, namespace + 1, namespace.wrapping_sub(1)] {
        if namespace == own || namespace == own - 1 {
            continue;
        }
        let requests = [
            Request::Get { namespace, key: key() },
            Request::Wait { namespace, key: key() },
            Request::Delete { namespace, key: key() },
            Request::Put { namespace, item: item() },
            Request::PutBegin { namespace, key: key(), len: 10 },
            Request::Create { namespace, key: key(), len: 10 },
            Request::List { namespace, prefix: String::new(), children: false, cursor: 0 },
        ];
        for request in requests {
            let shown = format!("{request:?}");
            assert_eq!(session.raw.refused(request), Refusal::Cleared { namespace: 0 }, "{shown}");
        }
    }
    assert_eq!(session.get(own, "secret").expect_err("it is another's"), Refusal::NotFound);
    assert!(matches!(session.raw.ask(Request::Clear { name: "private".into() }), Reply::Count(0)));
    assert!(matches!(session.raw.ask(Request::RemoveNamespace { name: "private".into() }), Reply::Count(0)));
    assert_eq!(session.raw.refused(Request::Segment { segment }), Refusal::NotFound);
    let stat = session.stat();
    assert_eq!((stat.tenant.uid, stat.tenant.blocks, stat.tenant.segments), (STRANGER, 0, 0));
    assert!(matches!(session.raw.ask(Request::Pins), Reply::Pins(holders) if holders.is_empty()));
    assert!(matches!(session.raw.refused(Request::Resize { capacity: 1 << 30 }), Refusal::Denied(_)));
    // Everything that this user is lent, looked through for what is not its own.
    let own = session.namespace("own");
    session.put_and_check(own, "mine", 3, 200_000);
    let mut segments = 0;
    for segment in 0..64 {
        let answered = session.raw.call(Request::Segment { segment });
        if let Reply::Segment { len } = answered.reply {
            session.raw.received(1);
            let len = usize::try_from(len).expect("fits");
            let mapping = Mapping::read_only(&answered.descriptors[0], len).expect("readable");
            let mut bytes = vec![0; len];
            mapping.copy_out(0, &mut bytes);
            assert!(!bytes.windows(SECRET.len()).any(|window| window == SECRET), "segment {segment}");
            segments += 1;
        }
    }
    assert!(segments > 0, "this user has a segment of its own");
}

/// Every way from one process into another.
fn processes(target: Pid) {
    for name in ["fd", "map_files"] {
        let listed = fs::read_dir(format!("/proc/{target}/{name}")).map(Iterator::count);
        assert!(listed.is_err(), "/proc/{target}/{name} can be listed");
    }
    for name in ["mem", "maps", "environ"] {
        let mut byte = [0_u8];
        let read = File::open(format!("/proc/{target}/{name}")).and_then(|file| {
            use std::os::unix::fs::FileExt;
            file.read_at(&mut byte, 4096)
        });
        assert!(!matches!(read, Ok(1..)), "/proc/{target}/{name} can be read");
    }
    for number in 0..40 {
        let path = format!("/proc/{target}/fd/{number}");
        assert!(File::open(&path).is_err(), "{path} can be opened");
        assert!(File::options().write(true).open(&path).is_err(), "{path} can be opened for writing");
        let stolen = steal_descriptor(target, number);
        assert!(stolen.is_err(), "descriptor {number} of {target} can be taken");
    }
    let mut bytes = [0_u8; 8];
    let remote = RemoteIoVec { base: 0x1000, len: bytes.len() };
    let read = process_vm_readv(target, &mut [IoSliceMut::new(&mut bytes)], &[remote]);
    assert_eq!(read, Err(Errno::EPERM), "memory of {target} can be asked for");
}

#[test]
fn two_users_of_one_agent() {
    if !may_become_others() {
        return;
    }
    let agent = Agent::start();
    let mut baseline = agent.baseline();
    let mut keeper = Actor::start_as(Some(VICTIM), "keeper", agent.socket(), "");
    let ready = keeper.expect("READY");
    let mut stranger = Actor::start_as(Some(STRANGER), "stranger", agent.socket(), &format!("{ready} {}", agent.pid()));
    stranger.expect("READY");
    keeper.tell("check");
    keeper.expect("WHOLE");
    stranger.finish();
    keeper.finish();
    baseline.allow_others(4);
    baseline.holds();
}

/// The agent's own user is another client to it, and must not get at its memory either.
#[test]
fn the_agents_own_user_cannot_look_into_it() {
    if !may_become_others() {
        return;
    }
    let agent = Agent::with(&Setup { uid: Some(VICTIM), ..Setup::default() });
    let mut keeper = Actor::start_as(Some(VICTIM), "keeper", agent.socket(), "");
    keeper.expect("READY");
    let mut intruder = Actor::start_as(Some(VICTIM), "intruder", agent.socket(), &agent.pid().to_string());
    intruder.expect("READY");
    keeper.tell("check");
    keeper.expect("WHOLE");
    intruder.finish();
    keeper.finish();
    assert!(agent.is_alive());
}

/// Tries to get into the agent as the agent's own user.
pub(crate) fn intruder(part: &Part) {
    processes(Pid::from_raw(part.argument.parse().expect("a process id")));
    part.say("READY", "");
    part.stay();
}

/// Asks for another capacity, and says what came of it.
pub(crate) fn resizer(part: &Part) {
    if socket::connect_to(&part.socket).is_err() {
        part.say("ANSWER", "unreachable");
        return;
    }
    let mut raw = Raw::bare(&part.socket);
    let capacity = 128 << 20;
    match raw.ask(Request::Resize { capacity }) {
        Reply::Done => part.say("ANSWER", "done"),
        Reply::Refused(Refusal::Denied(_)) => part.say("ANSWER", "denied"),
        other => panic!("Resize was answered by {other:?}"),
    }
}

#[track_caller]
fn resize_as(uid: Option<u32>, agent: &Agent) -> String {
    let mut actor = Actor::start_as(uid, "resizer", agent.socket(), "");
    let answer = actor.expect("ANSWER");
    actor.finish();
    answer
}

#[test]
fn an_agent_of_an_ordinary_user() {
    if !may_become_others() {
        return;
    }
    let agent = Agent::with(&Setup { uid: Some(VICTIM), ..Setup::default() });
    let about = |name: &str| fs::metadata(agent.socket().with_file_name(name)).expect("it is there");
    let (own, lock) = (about("larder.sock"), about("larder.sock.lock"));
    assert_eq!((own.uid(), lock.uid()), (VICTIM, VICTIM));
    // Its directory lets everybody pass, so everybody may ask, and learns that it is not theirs.
    assert_eq!(own.mode() & 0o777, 0o666);
    assert_eq!(lock.mode() & 0o777, 0o600, "whoever may open the lock may hold it");
    let directory = agent.socket().parent().expect("a directory");
    fs::set_permissions(directory, Permissions::from_mode(0o700)).expect("root may");
    assert_eq!(resize_as(Some(STRANGER), &agent), "unreachable");
    fs::set_permissions(directory, Permissions::from_mode(0o755)).expect("root may");
    assert_eq!(resize_as(Some(STRANGER), &agent), "denied");
    assert_eq!(resize_as(Some(VICTIM), &agent), "done");
    assert_eq!(resize_as(None, &agent), "done");
    let mut session = Session::open(agent.socket());
    let namespace = session.namespace("roots");
    session.put_and_check(namespace, "block", 1, 100_000);
    assert_eq!(session.stat().tenant.uid, 0);
    assert_eq!(session.stat().capacity_bytes, 128 << 20);
    assert!(agent.is_alive());
}

#[test]
fn the_system_agents_socket_and_lock() {
    let agent = Agent::start();
    let about = |name: &str| fs::metadata(agent.socket().with_file_name(name)).expect("it is there");
    assert_eq!(about("larder.sock").mode() & 0o777, 0o666, "the directory lets everybody pass");
    assert_eq!(about("larder.sock.lock").mode() & 0o777, 0o600, "whoever may open the lock may hold it");
    // In a directory that others may write, anybody could put a socket of their own.
    let open = crate::harness::open_directory();
    for mode in [0o777, 0o775, 0o1777] {
        fs::set_permissions(open.path(), Permissions::from_mode(mode)).expect("its mode is ours to set");
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_larderd"))
            .args(["--capacity", "64MiB", "--socket"])
            .arg(open.path().join("larder.sock"))
            .output()
            .expect("larderd was built with this test");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && text.contains("others could put a socket"), "mode {mode:o}: {text}");
    }
}
