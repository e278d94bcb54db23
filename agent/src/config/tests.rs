use std::io::Write;
use std::path::Path;

use clap::{CommandFactory, Parser};
use proptest::prelude::*;
use tempfile::NamedTempFile;

use super::source::SCALAR_KEYS;
use super::*;

/// A machine that no test depends on being run on.
fn machine() -> Machine {
    Machine {
        mem_total_bytes: ByteSize::gib(16).bytes(),
        cpus: (0..8).collect(),
        numa_nodes: vec![0, 1],
        page_bytes: 4_096,
        euid: 1_000,
        huge_page_pool_bytes: ByteSize::gib(1).bytes(),
    }
}

/// What one test gives to a load.
#[derive(Default)]
struct Case<'a> {
    file: Option<&'a str>,
    variables: &'a [(&'a str, &'a str)],
    flags: &'a [&'a str],
}

impl Case<'_> {
    fn load_on(&self, machine: &Machine) -> Result<Config, Vec<String>> {
        let file = self.file.map(|text| {
            let mut file = NamedTempFile::new().expect("a temporary file can be made");
            file.write_all(text.as_bytes()).expect("a temporary file can be written");
            file
        });
        let path = file.as_ref().map_or_else(String::new, |file| file.path().display().to_string());
        let mut command = vec!["larderd"];
        command.extend(self.flags);
        if !path.is_empty() {
            command.extend(["--config", &path]);
        }
        let args = Args::try_parse_from(command).expect("the flags are well formed");
        let env = |name: &str| {
            let found = self.variables.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| OsString::from(value))
        };
        Config::load(args, &env, machine).map_err(|error| {
            let sentences = error.problems().iter().map(ToString::to_string);
            if path.is_empty() { sentences.collect() } else { sentences.map(|s| s.replace(&path, "FILE")).collect() }
        })
    }

    fn config(&self) -> Config {
        self.load_on(&machine()).unwrap_or_else(|problems| panic!("{problems:#?}"))
    }

    fn problems(&self) -> Vec<String> {
        self.load_on(&machine()).expect_err("there is something wrong")
    }
}

fn with_flags<'a>(flags: &'a [&'a str]) -> Case<'a> {
    Case { flags, ..Case::default() }
}

fn with_file(file: &str) -> Case<'_> {
    Case { file: Some(file), ..Case::default() }
}

fn source_of(config: &Config, key: &str) -> &'static str {
    let row = config.describe().into_iter().find(|(name, _, _)| name == key);
    row.unwrap_or_else(|| panic!("{key} is not described")).2
}

#[test]
fn the_least_configuration_is_a_capacity() {
    let config = with_flags(&["--capacity", "4GiB"]).config();
    assert_eq!(config.capacity, ByteSize::gib(4));
    assert_eq!(config.huge_pages, HugePages::Off);
    assert_eq!(config.numa, Numa::None);
    assert_eq!(config.cpus, Vec::<usize>::new());
    assert!(!config.spin && !config.check_config);
    assert_eq!(config.populate, Populate::Ahead);
    assert_eq!(config.segment_size, ByteSize::mib(256));
    assert_eq!(config.tenant_quota, ByteSize::gib(4));
    assert_eq!(config.pinned_quota, ByteSize::gib(2));
    assert_eq!((config.max_sessions_per_uid, config.max_slots_per_session), (256, 65_536));
    assert_eq!(config.staging, ByteSize::mib(8));
    assert_eq!(config.log, "info");
    assert_eq!(config.config, None);
    let sources: Vec<_> = config.describe().into_iter().filter(|row| row.2 != "default").collect();
    assert_eq!(sources, [("capacity".to_owned(), "4 GiB".to_owned(), "flag")]);
}

/// A possible value of each key that is not its default.
const SAMPLES: [(&str, &str); 18] = [
    ("capacity", "1GiB"),
    ("huge_pages", "hugetlb"),
    ("populate", "all"),
    ("segment_size", "64MiB"),
    ("staging", "1MiB"),
    ("numa", "interleave"),
    ("cpus", "0-3"),
    ("spin", "true"),
    ("tenant_quota", "512MiB"),
    ("pinned_quota", "64KiB"),
    ("max_sessions_per_uid", "7"),
    ("max_slots_per_session", "1024"),
    ("store", "file:///tmp/x"),
    ("store_timeout", "9"),
    ("disk", "/tmp/x/disk"),
    ("disk_capacity", "50%"),
    ("socket", "/tmp/x/larder.sock"),
    ("log", "debug"),
];

#[test]
fn every_key_is_known_to_the_file_the_environment_and_the_flags() {
    assert_eq!(SAMPLES.map(|(key, _)| key), SCALAR_KEYS);
    let file: String = SAMPLES.iter().map(|(key, value)| format!("{key} = \"{value}\"\n")).collect();
    let variables = SAMPLES.map(|(key, value)| (format!("LARDER_{}", key.to_uppercase()), value));
    let variables: Vec<_> = variables.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    let flags = SAMPLES.map(|(key, value)| format!("--{}={value}", key.replace('_', "-")));
    let flags: Vec<_> = flags.iter().map(String::as_str).collect();

    let from_file = with_file(&file).config();
    let from_environment = Case { variables: &variables, ..Case::default() }.config();
    let from_flags = with_flags(&flags).config();
    for (key, _) in SAMPLES {
        assert_eq!(source_of(&from_file, key), "file");
        assert_eq!(source_of(&from_environment, key), "environment");
        assert_eq!(source_of(&from_flags, key), "flag");
    }
    let values = |config: &Config| {
        let rows = config.describe().into_iter().filter(|(key, _, _)| key != "config");
        rows.map(|(key, value, _)| (key, value)).collect::<Vec<_>>()
    };
    assert_eq!(values(&from_file), values(&from_environment));
    assert_eq!(values(&from_file), values(&from_flags));
    assert_eq!(from_flags.huge_pages, HugePages::Hugetlb);
    assert_eq!(from_flags.socket, Path::new("/tmp/x/larder.sock"));
}

#[test]
fn flags_win_over_the_environment_and_the_environment_over_the_file() {
    let case = Case {
        file: Some("capacity = 1073741824\nstaging = \"2MiB\"\nlog = \"warn\"\nspin = true\n"),
        variables: &[("LARDER_CAPACITY", "2GiB"), ("LARDER_STAGING", "3MiB"), ("LARDER_LOG", "")],
        flags: &["--capacity", "3GiB", "--spin=false"],
    };
    let config = case.config();
    assert_eq!((config.capacity, source_of(&config, "capacity")), (ByteSize::gib(3), "flag"));
    assert_eq!((config.staging, source_of(&config, "staging")), (ByteSize::mib(3), "environment"));
    // A variable that is set to nothing is not set.
    assert_eq!((config.log.as_str(), source_of(&config, "log")), ("warn", "file"));
    assert_eq!((config.spin, source_of(&config, "spin")), (false, "flag"));
    assert_eq!(source_of(&config, "config"), "flag");
    assert!(with_flags(&["--capacity", "1GiB", "--spin"]).config().spin);
}

#[test]
fn the_environment_can_name_the_file() {
    let mut file = NamedTempFile::new().expect("a temporary file can be made");
    file.write_all(b"capacity = \"64MiB\"").expect("a temporary file can be written");
    let path = file.path().to_str().expect("temporary paths are text").to_owned();
    let config = Case { variables: &[("LARDER_CONFIG", &path)], ..Case::default() }.config();
    assert_eq!(config.capacity, ByteSize::mib(64));
    assert_eq!(source_of(&config, "config"), "environment");
}

#[test]
fn a_capacity_may_be_a_share_of_the_memory() {
    assert_eq!(with_flags(&["--capacity", "50%"]).config().capacity, ByteSize::gib(8));
    let refused = "a percentage is a whole number from 1% to 100%";
    for text in ["0%", "101%", "-5%", "1.5%", "%", "x%"] {
        let flag = format!("--capacity={text}");
        assert_eq!(with_flags(&[&flag]).problems(), [format!("--capacity {text}: {refused}")]);
    }
}

#[test]
fn a_disk_has_a_directory_and_a_capacity_or_neither() {
    let disk = |flags: &[&str]| {
        let all = [&["--capacity=1GiB"], flags].concat();
        let case = with_flags(&all);
        case.load_on(&machine()).map(|config| config.disk)
    };
    assert_eq!(disk(&[]), Ok(None));
    let size = DiskCapacity::Size(ByteSize::gib(500));
    assert_eq!(disk(&["--disk=/scratch/x", "--disk-capacity=500GiB"]), Ok(Some(("/scratch/x".into(), size))));
    let share = DiskCapacity::Percent(50);
    assert_eq!(disk(&["--disk=/scratch/x", "--disk-capacity=50%"]), Ok(Some(("/scratch/x".into(), share))));
    let problem = |flags: &[&str]| disk(flags).unwrap_err().join("; ");
    assert_eq!(
        problem(&["--disk=/scratch/x"]),
        "--disk /scratch/x needs a limit: say how much to use there with disk_capacity, such as 500GiB or 50%"
    );
    assert_eq!(
        problem(&["--disk-capacity=1GiB"]),
        "--disk-capacity 1GiB limits nothing: say where with disk, such as /scratch/larder, or leave it out"
    );
    for path in ["scratch", "/", "./x"] {
        assert!(problem(&[&format!("--disk={path}"), "--disk-capacity=1GiB"]).contains("give an absolute path"));
    }
    assert!(problem(&["--disk=/x", "--disk-capacity=31MiB"]).contains("out of range: give at least 32 MiB"));
    assert!(problem(&["--disk=/x", "--disk-capacity=0%"]).contains("from 1% to 100%"));
    assert!(problem(&["--disk=/x", "--disk-capacity=much"]).starts_with("--disk-capacity much"));
}

#[test]
fn segments_follow_the_capacity_in_whole_huge_pages() {
    let segment_size = |flags: &[&str]| with_flags(flags).config().segment_size;
    assert_eq!(segment_size(&["--capacity=32MiB"]), ByteSize::mib(2));
    assert_eq!(segment_size(&["--capacity=33MiB"]), ByteSize::mib(2));
    assert_eq!(segment_size(&["--capacity=1000MiB"]), ByteSize::mib(62));
    assert_eq!(segment_size(&["--capacity=15GiB"]), ByteSize::mib(256));
    assert_eq!(segment_size(&["--capacity=4GiB", "--segment-size=5MiB"]), ByteSize::mib(4));
    assert_eq!(segment_size(&["--capacity=4GiB", "--segment-size=1GiB"]), ByteSize::gib(1));
    assert_eq!(segment_size(&["--capacity=4GiB", "--segment-size=4MiB", "--huge-pages=thp"]), ByteSize::mib(4));
}

#[test]
fn staging_is_whole_pages() {
    let case = with_flags(&["--capacity=1GiB", "--staging=1048577"]);
    assert_eq!(case.config().staging, ByteSize::kib(1_028));
    let large_pages = Machine { page_bytes: 65_536, ..machine() };
    assert_eq!(case.load_on(&large_pages).map(|config| config.staging), Ok(ByteSize::kib(1_088)));
}

#[test]
fn each_problem_of_a_capacity_has_its_sentence() {
    assert_eq!(
        Case::default().problems(),
        ["no capacity is set: say how much memory to use with --capacity (such as 4GiB or 50%), LARDER_CAPACITY, or \
          capacity in the configuration file"]
    );
    assert_eq!(
        with_flags(&["--capacity=16MiB"]).problems(),
        ["--capacity 16MiB asks for 16 MiB: ask for at least 32 MiB"]
    );
    assert_eq!(
        Case { variables: &[("LARDER_CAPACITY", "64GiB")], ..Case::default() }.problems(),
        ["LARDER_CAPACITY=64GiB asks for 64 GiB, but the machine has 16 GiB, of which 256 MiB must be left to the \
          system: ask for at most 15.7 GiB"]
    );
    assert_eq!(
        with_file("\ncapacity = \"4 GB!\"").problems(),
        [
            "capacity = 4 GB! (line 2 of FILE): \"4 GB!\" is not a size: \"GB!\" is not a unit; write bytes (4096), or a \
          number and KiB, MiB, GiB, TiB, KB, MB, GB or TB"
        ]
    );
    let limit = ByteSize::mib(16 * 1_024 - 256);
    with_flags(&[&format!("--capacity={}", limit.bytes())]).config();
    with_flags(&[&format!("--capacity={}", limit.bytes() + 1)]).problems();
    with_flags(&[&format!("--capacity={}", CAPACITY_MIN.bytes())]).config();
    with_flags(&[&format!("--capacity={}", CAPACITY_MIN.bytes() - 1)]).problems();
}

#[test]
fn a_machine_too_small_for_any_capacity_is_said_to_be() {
    let small = Machine { mem_total_bytes: ByteSize::mib(200).bytes(), ..machine() };
    assert_eq!(
        with_flags(&["--capacity=64MiB"]).load_on(&small).expect_err("there is no room"),
        ["the machine has 200 MiB, too little for the least capacity of 32 MiB beside 256 MiB for the system: run \
          larderd on a machine with more memory"]
    );
}

#[test]
fn each_problem_of_pages_and_segments_has_its_sentence() {
    let problems = |flag: &str, other: &str| with_flags(&["--capacity=4GiB", flag, other]).problems();
    assert_eq!(
        problems("--huge-pages=hugetlb", "--spin"),
        ["--huge-pages hugetlb needs 2048 pages of 2 MiB for a capacity of 4 GiB, but the pool has 512: set \
          vm.nr_hugepages to 2048 or more, or choose thp or off"]
    );
    assert_eq!(
        problems("--huge-pages=thp", "--segment-size=5MiB"),
        ["--segment-size 5MiB is not a multiple of 2 MiB, which huge_pages thp needs: choose 4 MiB, or huge_pages off"]
    );
    for size in ["1MiB", "1025MiB"] {
        assert_eq!(
            problems(&format!("--segment-size={size}"), "--spin"),
            [format!("--segment-size {size} is out of range: give at least 2 MiB and at most 1 GiB")]
        );
    }
    assert_eq!(
        with_flags(&["--capacity=64MiB", "--segment-size=128MiB"]).problems(),
        ["--segment-size 128MiB is larger than the capacity of 64 MiB: give at most that, or raise the capacity"]
    );
    assert_eq!(
        with_file("capacity = \"1GiB\"\nhuge_pages = \"big\"\npopulate = \"some\"").problems(),
        [
            "huge_pages = big (line 2 of FILE): write off, thp or hugetlb",
            "populate = some (line 3 of FILE): write ahead or all"
        ]
    );
    for size in ["1023KiB", "257MiB"] {
        assert_eq!(
            problems(&format!("--staging={size}"), "--spin"),
            [format!("--staging {size} is out of range: give at least 1 MiB and at most 256 MiB")]
        );
    }
}

#[test]
fn each_problem_of_placement_has_its_sentence() {
    let problems = |flag: &str| with_flags(&["--capacity=4GiB", flag]).problems();
    assert_eq!(
        problems("--numa=2"),
        ["--numa 2: this machine has memory on nodes 0-1 alone: choose one of these, none or interleave"]
    );
    assert_eq!(
        problems("--numa=99999999999999999999999"),
        ["--numa 99999999999999999999999: this machine has memory on nodes 0-1 alone: choose one of these, none or \
          interleave"]
    );
    assert_eq!(problems("--numa=left"), ["--numa left: write none, interleave or the number of a node"]);
    assert_eq!(problems("--cpus=6-9"), ["--cpus 6-9: CPUs 8-9 are not for larderd to use here: choose from 0-7"]);
    assert_eq!(problems("--cpus=8"), ["--cpus 8: CPU 8 is not for larderd to use here: choose from 0-7"]);
    assert_eq!(problems("--cpus=3-1"), ["--cpus 3-1: the range 3-1 runs backwards: write 1-3"]);
    assert_eq!(problems("--spin=maybe"), ["--spin maybe: write true or false"]);
    assert_eq!(with_flags(&["--capacity=4GiB", "--numa=1"]).config().numa, Numa::Node(1));
    assert_eq!(with_file("capacity = \"4GiB\"\nnuma = 1\ncpus = 3").config().cpus, [3]);
}

#[test]
fn each_problem_of_a_limit_has_its_sentence() {
    let problems = |flag: &str| with_flags(&["--capacity=4GiB", flag]).problems();
    assert_eq!(
        problems("--tenant-quota=5GiB"),
        ["--tenant-quota 5GiB is larger than the capacity of 4 GiB: give at most that, or raise the capacity"]
    );
    assert_eq!(
        problems("--tenant-quota=1MiB"),
        ["--tenant-quota 1MiB is out of range: give at least 2 MiB and at most the capacity"]
    );
    assert_eq!(
        problems("--pinned-quota=0"),
        ["--pinned-quota 0 is out of range: give at least 1 B and at most the capacity"]
    );
    for text in ["0", "65537", "many", "-1", "4294967296"] {
        assert_eq!(
            problems(&format!("--max-sessions-per-uid={text}")),
            [format!("--max-sessions-per-uid {text}: write a whole number from 1 to 65536")]
        );
    }
    assert_eq!(
        problems("--max-slots-per-session=0"),
        ["--max-slots-per-session 0: write a whole number from 1 to 1048576"]
    );
    assert_eq!(problems("--log="), ["--log : write a value, or leave the key out"]);
}

#[test]
fn tenants_have_limits_of_their_own_or_the_defaults() {
    let config = with_file(
        "capacity = \"12GiB\"\ntenant_quota = \"4GiB\"\n[[tenant]]\nuid = 2000\nguaranteed = \"4GiB\"\n[[tenant]]\n\
         uid = 1000\nquota = \"8GiB\"\nguaranteed = \"8GiB\"\n",
    )
    .config();
    let (quota, guaranteed) = (ByteSize::gib(8), ByteSize::gib(8));
    assert_eq!(config.limits_of(1_000), TenantLimits { uid: 1_000, quota, guaranteed });
    let (quota, guaranteed) = (ByteSize::gib(4), ByteSize::gib(4));
    assert_eq!(config.limits_of(2_000), TenantLimits { uid: 2_000, quota, guaranteed });
    assert_eq!(config.limits_of(0), TenantLimits { uid: 0, quota, guaranteed: ByteSize(0) });
    let rows = config.describe().split_off(SCALAR_KEYS.len() + 1);
    assert_eq!(rows[0], ("tenant.1000".to_owned(), "quota 8 GiB, guaranteed 8 GiB".to_owned(), "file"));
    assert_eq!(rows.len(), 2);
}

#[test]
fn each_problem_of_a_tenant_has_its_sentence() {
    let problems = |tables: &str| with_file(&format!("capacity = \"4GiB\"\n{tables}")).problems();
    assert_eq!(
        problems("[[tenant]]\nquota = \"1GiB\""),
        ["line 2 of FILE: the table [[tenant]] has no uid: add the number of the user it is for"]
    );
    assert_eq!(
        problems("[[tenant]]\nuid = 1000\n[[tenant]]\nuid = 1000"),
        ["uid = 1000 (line 5 of FILE) has a table [[tenant]] already, at line 2: make one of the two"]
    );
    assert_eq!(
        problems("[[tenant]]\nuid = \"root\""),
        ["uid = root (line 3 of FILE): write a whole number from 0 to 4294967294"]
    );
    assert_eq!(
        problems("[[tenant]]\nuid = 1\nquota = \"5GiB\""),
        [
            "quota = 5GiB (line 4 of FILE) is larger than the capacity of 4 GiB: give at most that, or raise the capacity"
        ]
    );
    assert_eq!(
        problems("[[tenant]]\nuid = 1\nquota = \"1GiB\"\nguaranteed = \"2GiB\""),
        [
            "guaranteed = 2GiB (line 5 of FILE) is more than the quota of uid 1, 1 GiB: guarantee at most that, or raise \
          the quota"
        ]
    );
    assert_eq!(
        problems("[[tenant]]\nuid = 1\nguaranteed = \"3GiB\"\n[[tenant]]\nuid = 2\nguaranteed = \"2GiB\""),
        [
            "the tables [[tenant]] of FILE guarantee 5 GiB together, more than the capacity of 4 GiB: guarantee less, or \
          raise the capacity"
        ]
    );
    let not_tables = "tenant is no plain key: write a table [[tenant]] for each user";
    assert_eq!(problems("tenant = 3"), [format!("line 2 of FILE: {not_tables}")]);
    assert_eq!(problems("tenant = [{ uid = 1 },\n 3]"), [format!("line 3 of FILE: {not_tables}")]);
    assert_eq!(problems("[tenant]\nuid = 3"), [format!("line 2 of FILE: {not_tables}")]);
}

/// A possible value of each option of a store that is not its default.
const STORE_SAMPLES: [(&str, &str); 13] = [
    ("endpoint", "https://store.example:9000/"),
    ("region", "eu-1"),
    ("account", "climate"),
    ("allow_http", "true"),
    ("credentials_file", "/etc/larder/store"),
    ("profile", "larder"),
    ("concurrency", "7"),
    ("retries", "12"),
    ("retry_timeout", "90"),
    ("connect_timeout", "3"),
    ("read_timeout", "4"),
    ("write_timeout", "50"),
    ("requests_per_second", "100"),
];

#[test]
fn every_option_of_a_store_is_read_for_the_kinds_that_have_it() {
    let table: String = STORE_SAMPLES.iter().map(|(key, value)| format!("{key} = \"{value}\"\n")).collect();
    let all = STORE_SAMPLES.map(|(key, _)| key);
    let not_in_memory: Vec<_> =
        all.into_iter().filter(|key| !["concurrency", "requests_per_second"].contains(key)).collect();
    for (url, foreign) in [
        ("s3://bucket", &["account"][..]),
        ("gs://bucket/a", &["region", "account", "profile"]),
        ("az://container", &["region", "profile"]),
        ("file:///tmp/x", &all),
        ("memory://", &not_in_memory),
    ] {
        let file = format!("capacity = \"4GiB\"\nstore = \"{url}\"\n[store_options]\n");
        let kind = url.parse::<StoreUrl>().unwrap().kind();
        let refused: Vec<String> = (4..)
            .zip(STORE_SAMPLES)
            .filter(|(_, (key, _))| foreign.contains(key))
            .map(|(line, (key, value))| {
                format!(
                    "{key} = {value} (line {line} of FILE) means nothing for a store of the kind {kind}: take it out"
                )
            })
            .collect();
        assert_eq!(with_file(&(file.clone() + &table)).problems(), refused);
        let known: String = table
            .lines()
            .filter(|line| !foreign.iter().any(|key| line.starts_with(&format!("{key} ="))))
            .map(|line| format!("{line}\n"))
            .collect();
        let config = with_file(&(file.clone() + &known)).config();
        let rows: Vec<_> = config.describe().into_iter().filter(|row| row.0.starts_with("store_options.")).collect();
        assert_eq!(rows.len(), STORE_SAMPLES.len() - foreign.len());
        for (key, value) in STORE_SAMPLES.iter().filter(|(key, _)| !foreign.contains(key)) {
            let row = (format!("store_options.{key}"), value.trim_end_matches('/').to_owned(), "file");
            assert!(rows.contains(&row), "{row:?} in {rows:?}");
        }
        assert_eq!(with_file(&file).config().store_options, StoreOptions::default());
    }
}

#[test]
fn each_problem_of_a_store_s_options_has_its_sentence() {
    let problems =
        |lines: &str| with_file(&format!("capacity = \"4GiB\"\nstore = \"s3://bucket\"\n{lines}")).problems();
    assert_eq!(
        with_file("capacity = \"4GiB\"\n[store_options]\nretries = 1").problems(),
        ["line 2 of FILE: the table [store_options] is for a store, and none is set: set store, or take the table out"]
    );
    assert_eq!(
        problems("store_options = 3"),
        ["line 3 of FILE: store_options is no plain key: write a table [store_options]"]
    );
    assert_eq!(
        problems("[store_options]\nendpiont = \"https://a\""),
        ["line 4 of FILE: there is no key \"endpiont\": did you mean endpoint?"]
    );
    assert_eq!(
        problems("[store_options]\nendpoint = \"http://a:1\""),
        [
            "endpoint = http://a:1 (line 4 of FILE) sends blocks unencrypted, where others may read and change them: use \
          https, or allow it with allow_http = true"
        ]
    );
    assert_eq!(
        problems("[store_options]\nretry_timeout = 300\nconcurrency = 0\ncredentials_file = \"a\"\nregion = []"),
        [
            "line 7 of FILE: region takes no list, table or date: write one text, such as region = \"...\"",
            "credentials_file = a (line 6 of FILE): write an absolute path",
            "concurrency = 0 (line 5 of FILE): write a whole number from 1 to 256",
            "retry_timeout = 300 (line 4 of FILE): write a whole number from 1 to 280",
        ]
    );
    for endpoint in ["ftp://a", "https://", "https://a?b", "https:///x", "https://id:geheim@a"] {
        assert_eq!(
            problems(&format!("[store_options]\nendpoint = \"{endpoint}\"")),
            ["endpoint = ... (line 4 of FILE): write a URL such as https://host:port, without user, password, ? or #"]
        );
    }
    for url in ["s3://id:geheim@bucket", "az://container?sig=geheim"] {
        let said = with_flags(&["--capacity=4GiB", "--store", url]).problems();
        assert!(said.len() == 1 && said[0].starts_with("--store ...: the URL of a store takes no"), "{said:?}");
    }
    let config = with_file(
        "capacity = \"4GiB\"\nstore = \"s3://bucket\"\n[store_options]\nendpoint = \"http://a:1\"\nallow_http = true",
    );
    assert_eq!(config.config().store_options.endpoint.as_deref(), Some("http://a:1"));
}

#[test]
fn origins_are_tables_and_flags() {
    let file = "capacity = \"4GiB\"\n\
                [[origin]]\nprefix = \"https://data.example.org/set/\"\nusers = [7, \"8\"]\npublic = true\n\
                credentials_file = \"/etc/larder/token\"\nretries = 8\nproxy = \"http://proxy:3128/\"\n\
                [[origin]]\nprefix = \"s3://bucket/a/\"\nanonymous = true\nregion = \"eu-1\"\nusers = []\n";
    let flags = ["--allow-origin", "http://127.0.0.1:80/x/", "--allow-origin", "gs://open"];
    let config = Case { file: Some(file), flags: &flags, ..Case::default() }.config();
    let listed = &config.origins.listed;
    let options =
        StoreOptions { credentials_file: Some("/etc/larder/token".into()), retries: 8, ..StoreOptions::default() };
    let first = ListedOrigin {
        users: Some(vec![7, 8]),
        is_public: true,
        proxy: Some("http://proxy:3128".to_owned()),
        options,
        ..ListedOrigin::everybody("https://data.example.org/set/")
    };
    assert_eq!(listed[0], first);
    let region = StoreOptions { region: Some("eu-1".to_owned()), ..StoreOptions::default() };
    let second = ListedOrigin {
        users: Some(vec![]),
        is_anonymous: true,
        options: region,
        ..ListedOrigin::everybody("s3://bucket/a/")
    };
    assert_eq!(listed[1], second);
    for (origin, prefix) in listed[2..].iter().zip(["http://127.0.0.1:80/x/", "gs://open"]) {
        let flag = ListedOrigin { is_anonymous: true, is_of_flag: true, ..ListedOrigin::everybody(prefix) };
        assert_eq!(*origin, flag);
    }
    let rows: Vec<_> = config.describe().into_iter().filter(|row| row.0.starts_with("origin.")).collect();
    let row = |prefix: &str, value: &str, source| (format!("origin.{prefix}"), value.to_owned(), source);
    assert_eq!(
        rows,
        [
            row("https://data.example.org/set/", "uid 7, uid 8, public", "file"),
            row("s3://bucket/a/", "nobody", "file"),
            row("http://127.0.0.1:80/x/", "everybody", "flag"),
            row("gs://open", "everybody", "flag"),
        ]
    );
}

#[test]
fn each_problem_of_an_origin_has_its_sentence() {
    let problems = |table: &str| with_file(&format!("capacity = \"4GiB\"\n[[origin]]\n{table}")).problems();
    assert_eq!(
        with_file("capacity = \"4GiB\"\norigin = 3").problems(),
        ["line 2 of FILE: origin is no plain key: write a table [[origin]] for each prefix"]
    );
    assert_eq!(
        problems("public = true"),
        ["line 2 of FILE: the table [[origin]] has no prefix: add what its URLs begin with, such as prefix = \
          \"https://data.example.org/\""]
    );
    assert_eq!(
        problems("prefix = \"https://h/\"\nuser = [1]\nwrite_timeout = 3"),
        [
            "line 4 of FILE: there is no key \"user\": did you mean users?",
            "line 5 of FILE: there is no key \"write_timeout\": did you mean read_timeout?"
        ]
    );
    assert_eq!(
        problems("prefix = \"https://h/\"\nregion = \"a\"\nanonymous = true"),
        [
            "anonymous = true (line 5 of FILE) means nothing for an origin with the prefix https://h/: take it out",
            "region = a (line 4 of FILE) means nothing for an origin with the prefix https://h/: take it out"
        ]
    );
    assert_eq!(
        problems("prefix = \"s3://b/\"\naccount = \"a\"\nusers = [\"me\"]\nconcurrency = 0"),
        [
            "account = a (line 4 of FILE) means nothing for an origin with the prefix s3://b/: take it out",
            "concurrency = 0 (line 6 of FILE): write a whole number from 1 to 256",
            "users = me (line 5 of FILE): write a whole number from 0 to 4294967294"
        ]
    );
    assert_eq!(
        problems("prefix = \"s3://b/\"\ncredentials_file = \"/a\"\nanonymous = true"),
        ["credentials_file = /a (line 4 of FILE) contradicts anonymous = true: take one of the two out"]
    );
    assert_eq!(
        problems("prefix = \"http://h/\"\ncredentials_file = \"/a\""),
        [
            "prefix = http://h/ (line 3 of FILE) would send credentials unencrypted: use https, or allow it with allow_http = true"
        ]
    );
    assert_eq!(
        problems("prefix = \"s3://b/\"\nendpoint = \"http://a:1\""),
        [
            "endpoint = http://a:1 (line 4 of FILE) sends blocks unencrypted, where others may read and change them: use https, or \
          allow it with allow_http = true"
        ]
    );
    for prefix in ["https://user:geheim@h/", "https://h/?geheim", "ftp://geheim/", "geheim", "https://h/..%2fgeheim"] {
        let of_file = problems(&format!("prefix = \"{prefix}\""));
        let of_flag = with_flags(&["--capacity", "4GiB", "--allow-origin", prefix]).problems();
        for found in [of_file, of_flag] {
            assert!(found.len() == 1 && !found[0].contains("geheim"), "{found:?}");
        }
    }
}

#[test]
fn unknown_keys_are_refused_with_their_line_and_the_nearest_known_key() {
    assert_eq!(
        with_file("staging_size = 3\ncapacity = \"4GiB\"\nhuge-pages = \"thp\"\n[[tenant]]\nuid = 1\nqota = 2")
            .problems(),
        [
            "line 1 of FILE: there is no key \"staging_size\": the keys are capacity, huge_pages, populate, \
             segment_size, staging, numa, cpus, spin, tenant_quota, pinned_quota, max_sessions_per_uid, \
             max_slots_per_session, store, store_timeout, disk, disk_capacity, socket, log, tenant, store_options, origin",
            "line 3 of FILE: there is no key \"huge-pages\": did you mean huge_pages?",
            "line 6 of FILE: there is no key \"qota\": did you mean quota?",
        ]
    );
    // What is read without this module's search refuses them as well.
    assert!(toml::from_str::<FileConfig>("capcity = 1").is_err());
    assert!(toml::from_str::<FileConfig>("[[tenant]]\nqota = 1").is_err());
}

#[test]
fn a_file_that_cannot_be_read_is_the_only_problem() {
    assert_eq!(with_file("capacity = \"4GiB\"\n= 3").problems().len(), 1);
    assert!(with_file("capacity = \"4GiB\"\nlog = ").problems()[0].starts_with("line 2 of FILE: "));
    assert_eq!(with_file("log = 1\nlog = 2").problems(), ["line 2 of FILE: duplicate key"]);
    assert_eq!(
        with_flags(&["--config", "/proc/self/there-is-no-such-file"]).problems(),
        ["cannot read the configuration file /proc/self/there-is-no-such-file: No such file or directory (os error 2)"]
    );
    assert_eq!(
        with_flags(&["--config", "/dev/zero"]).problems(),
        ["cannot read the configuration file /dev/zero: it is larger than 1048576 bytes"]
    );
    assert_eq!(
        with_file("capacity = \"4GiB\"\ncpus = [\n 0, 1]").problems(),
        ["line 2 of FILE: cpus takes no list, table or date: write one text, such as cpus = \"...\""]
    );
}

#[test]
fn all_problems_are_found_and_the_first_is_the_summary() {
    let case = Case {
        file: Some("segment_size = \"3MiB\"\nhuge_pages = \"thp\"\ncolour = 1\n"),
        variables: &[("LARDER_NUMA", "7")],
        flags: &["--staging=none"],
    };
    assert_eq!(case.problems().len(), 5, "{:#?}", case.problems());
    let args = Args::try_parse_from(["larderd", "--numa=7", "--spin=x"]).expect("the flags are well formed");
    let error = Config::load(args, &|_| None, &machine()).expect_err("three things are wrong");
    let (first, summary) = (error.problems()[0].to_string(), error.to_string());
    assert_eq!(summary, format!("{first} (and 2 more problems, which --check-config shows)"));
}

#[test]
fn the_socket_is_where_clients_look() {
    let capacity = ("LARDER_CAPACITY", "1GiB");
    let socket = |variables: &[(&str, &str)], euid| {
        let machine = Machine { euid, ..machine() };
        Case { variables, ..Case::default() }.load_on(&machine).expect("nothing is wrong").socket
    };
    let runtime_dir = [capacity, ("XDG_RUNTIME_DIR", "/run/user/1000")];
    assert_eq!(socket(&runtime_dir, 0), Path::new("/run/larder/larder.sock"));
    assert_eq!(socket(&runtime_dir, 1_000), Path::new("/run/user/1000/larder/larder.sock"));
    assert_eq!(socket(&[capacity], 1_000), Path::new("/tmp/larder-1000/larder.sock"));
    assert_eq!(socket(&[capacity, ("XDG_RUNTIME_DIR", "run")], 1_000), Path::new("/tmp/larder-1000/larder.sock"));

    let socket_dir = |path: &str| with_flags(&["--capacity=1GiB", "--socket", path]).config().socket_dir().to_owned();
    assert_eq!(socket_dir("/run/x/y.sock"), Path::new("/run/x"));
    assert_eq!(socket_dir("y.sock"), Path::new("."));
}

#[test]
fn each_problem_of_a_socket_path_has_its_sentence() {
    for path in ["/", "/run/larder/", "/run/larder/.."] {
        assert_eq!(
            with_flags(&["--capacity=1GiB", "--socket", path]).problems(),
            [format!("the socket path {path} does not name a file: give one such as /run/larder/larder.sock")]
        );
    }
    assert_eq!(with_file("capacity = \"1GiB\"\nsocket = \"/tmp/a\\u0000b\"").problems().len(), 1);
    let path = format!("/{}", "x".repeat(107));
    let problems = with_flags(&["--capacity=1GiB", "--socket", &path]).problems();
    assert!(problems[0].ends_with("has 108 bytes: choose one of at most 107 with --socket"), "{problems:?}");
    with_flags(&["--capacity=1GiB", "--socket", &path[..107]]).config();
}

#[test]
fn values_in_messages_stay_one_short_line() {
    let case = format!("--cpus=1\n{}", "9".repeat(10_000));
    let problems = with_flags(&["--capacity=1GiB", &case]).problems();
    assert_eq!(problems.len(), 1);
    assert!(problems[0].len() < 300 && !problems[0].contains('\n'), "{problems:?}");
}

#[test]
fn the_help_names_every_flag_under_a_heading() {
    Args::command().debug_assert();
    let help = Args::command().render_long_help().to_string();
    for key in SCALAR_KEYS {
        assert!(help.contains(&format!("--{}", key.replace('_', "-"))), "{key} is missing in\n{help}");
    }
    for part in ["Memory:", "Placement:", "Limits:", "Service:", "--check-config", "Example:"] {
        assert!(help.contains(part), "{part} is missing in\n{help}");
    }
}

proptest! {
    #[test]
    fn no_file_makes_the_reader_panic(
        lines in proptest::collection::vec("(capacity|tenant|uid|x|\\[\\[tenant\\]\\]|\\[log\\])?( = (1|\"2GiB\"|\\[\\]|\\{uid=1\\}|.{0,9}))?", 0..8)
    ) {
        let mut problems = Vec::new();
        let given = file::parse(Path::new("larder.toml"), &lines.join("\n"), &mut problems);
        prop_assert!(given.is_some() || !problems.is_empty());
    }

    #[test]
    fn no_value_makes_the_checks_panic(key in 0..SCALAR_KEYS.len(), value in "([0-9.%,-]{0,22}(KiB|GiB|EiB)?|.{0,20})") {
        let flag = format!("--{}={value}", SCALAR_KEYS[key].replace('_', "-"));
        if let Ok(args) = Args::try_parse_from(["larderd", &flag]) {
            let env = |name: &str| (name == "LARDER_CAPACITY").then(|| OsString::from("1GiB"));
            if let Ok(config) = Config::load(args, &env, &machine()) {
                prop_assert!(config.segment_size <= config.capacity);
                prop_assert!(config.segment_size.bytes().is_multiple_of(HUGE_PAGE.bytes()));
                prop_assert!(config.tenant_quota <= config.capacity && config.pinned_quota <= config.capacity);
            }
        }
    }
}
