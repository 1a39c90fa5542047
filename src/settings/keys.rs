//! Every key, described once; the table in `docs/configuration.md` is generated from here.

mod failures;
mod nearest;
mod tables;
mod transfers;

use std::fmt::Write as _;
use std::time::Duration;

pub(super) use self::failures::*;
pub(super) use self::nearest::{distance, nearest, nearest_of};
pub(super) use self::tables::*;
pub(super) use self::transfers::*;
use super::knob::{Kind, Knob, LeaseTime, MAX_BYTES};
use super::value;
use crate::config::{
    LostPartition, MAX_SLOTS, MAX_WINDOW_EVENTS, Ordering, OwnerLevel, PositionLost,
    UncheckpointedEvents,
};
use crate::state::takeovers::MIN_TAKEOVERS;

/// A key of the environment and of the file.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Key {
    /// Its name, the same in both.
    pub name: &'static str,
    /// Other names it has.
    pub aliases: &'static [&'static str],
    /// What applies where it is not set; empty where nothing does.
    pub default: &'static str,
    /// Whether its value is shown nowhere.
    pub is_secret: bool,
    /// What it decides, in one line.
    pub help: &'static str,
    pub(super) kind: Kind,
}

impl Key {
    /// What its value may be, as the documentation and the errors say it.
    pub fn allowed(&self) -> String {
        self.kind.allowed()
    }
}

const MAX_COUNT: usize = u32::MAX as usize;
const MILLISECOND: Duration = Duration::from_millis(1);
const TEN_MILLISECONDS: Duration = Duration::from_millis(10);
const SECOND: Duration = Duration::from_secs(1);

const fn key(name: &'static str, default: &'static str, kind: Kind, help: &'static str) -> Key {
    Key { name, aliases: &[], default, is_secret: false, help, kind }
}

const fn knob(name: &'static str, default: &'static str, knob: Knob, help: &'static str) -> Key {
    key(name, default, Kind::Knob(knob), help)
}

const fn lease_time(
    name: &'static str,
    default: &'static str,
    lease_time: LeaseTime,
    help: &'static str,
) -> Key {
    key(name, default, Kind::LeaseTime(lease_time), help)
}

const A_NAME: &str = "1 to 256 letters, digits, '.', '-' and '_'";

pub(super) const TRANSPORT: Key = key(
    "PIPELINE_TRANSPORT",
    "eventhub",
    Kind::Choice(&["eventhub", "memory"]),
    "What carries events: Event Hubs, or queues in memory, which the program builds itself: `Settings::consumer` and the command need Event Hubs.",
);
pub(super) const CONNECTION_STRING: Key = Key {
    aliases: &["EVENTHUB_NAMESPACE_CONNECTION_STRING"],
    is_secret: true,
    ..key(
        "EVENTHUB_CONNECTION_STRING",
        "",
        Kind::Text(
            "Endpoint=sb://HOST/;SharedAccessKeyName=NAME;SharedAccessKey=KEY, and \
             ;EntityPath=HUB if it is for one hub",
        ),
        "The connection string of the namespace or of one hub.",
    )
};
pub(super) const SECRET: Key = key(
    "EVENTHUB_CONNECTION_STRING_SECRET",
    "",
    Kind::Text("https://VAULT.vault.azure.net/secrets/NAME or …/secrets/NAME/VERSION"),
    "The Key Vault secret that holds the connection string; `EVENTHUB_CREDENTIAL` opens the vault.",
);
pub(super) const NAMESPACE: Key = key(
    "EVENTHUB_NAMESPACE",
    "",
    Kind::Text("a host name such as NAME.servicebus.windows.net"),
    "The host of the namespace, for Microsoft Entra ID.",
);
pub(super) const CREDENTIAL: Key = key(
    "EVENTHUB_CREDENTIAL",
    "connection-string, if one is set",
    Kind::Choice(&["connection-string", "developer", "managed-identity", "workload-identity"]),
    "How to sign in. `developer` is the Azure CLI or the Azure Developer CLI.",
);
pub(super) const CLIENT_ID: Key = key(
    "AZURE_CLIENT_ID",
    "",
    Kind::Text("a client id"),
    "The user-assigned managed identity, or the application of the workload identity.",
);
pub(super) const TENANT_ID: Key =
    key("AZURE_TENANT_ID", "", Kind::Text("a tenant id"), "The tenant of the workload identity.");
pub(super) const TOKEN_FILE: Key = key(
    "AZURE_FEDERATED_TOKEN_FILE",
    "",
    Kind::Text("a path"),
    "The file with the token of the workload identity.",
);
pub(super) const ENTITY: Key = key(
    "EVENTHUB_ENTITY_NAME",
    "the EntityPath of the connection string",
    Kind::Text(A_NAME),
    "The hub.",
);
pub(super) const WORKER_ENTITY: Key = key(
    "EVENTHUB_ENTITY_<WORKER>",
    "EVENTHUB_ENTITY_NAME",
    Kind::Text(A_NAME),
    "The hub of one worker. Write the name of the worker in upper case, with `_` for every character that is not a letter or a digit.",
);
pub(super) const CONSUMER_GROUP: Key = key(
    "EVENTHUB_CONSUMER_GROUP",
    "$Default",
    Kind::Text("1 to 50 letters, digits, '.', '-' and '_', or $Default"),
    "The consumer group.",
);
pub(super) const PROTOCOL: Key = key(
    "EVENTHUB_PROTOCOL",
    "websocket, unless the connection string says otherwise",
    Kind::Choice(&["websocket", "tcp"]),
    "AMQP over WebSocket (port 443) or over TCP (port 5671).",
);
pub(super) const CA_FILE: Key = key(
    "EVENTHUB_CA_FILE",
    "",
    Kind::Text("a readable PEM file with at least one certificate"),
    "Certificate authorities to trust, in addition to the public ones.",
);
pub(super) const PROXY: Key = Key {
    is_secret: true,
    ..key(
        "EVENTHUB_PROXY",
        "HTTPS_PROXY or https_proxy for websocket, unless NO_PROXY covers the host",
        Kind::Text("http://HOST:PORT, or http://USER:PASSWORD@HOST:PORT"),
        "An HTTP proxy that supports CONNECT.",
    )
};
pub(super) const DISABLE_SSL_VERIFY: Key = key(
    "DISABLE_SSL_VERIFY",
    "false",
    Kind::Flag,
    "Accepts any certificate, so that anyone on the way can read keys and events. For local \
     development only; refused in production.",
);
pub(super) const ENVIRONMENT: Key = key(
    "ENVIRONMENT",
    "",
    Kind::Text("any word; `production` and `prod` mean production"),
    "Where the process runs. It only decides whether DISABLE_SSL_VERIFY is allowed.",
);

pub(super) const CHECKPOINT_CONTAINER: Key = Key {
    is_secret: true,
    ..key(
        "LONGSHORE_CHECKPOINT_CONTAINER",
        "",
        Kind::Text(
            "https://ACCOUNT.blob.core.windows.net/CONTAINER, and ?…&sig=… behind it if you use a \
             shared access signature",
        ),
        "The container of Blob Storage for checkpoints and leases.",
    )
};
pub(super) const CHECKPOINT_CREDENTIAL: Key = key(
    "LONGSHORE_CHECKPOINT_CREDENTIAL",
    "EVENTHUB_CREDENTIAL",
    Kind::Choice(&["developer", "managed-identity", "workload-identity"]),
    "How to sign in to a checkpoint container whose address has no signature.",
);
pub(super) const CHECKPOINT_FOLDER: Key = key(
    "LONGSHORE_CHECKPOINT_FOLDER",
    "longshore-state/checkpoints",
    Kind::Text("a path"),
    "The folder for checkpoints, if no container is set. One process uses it at a time.",
);
pub(super) const FAILURES: Key = key(
    "LONGSHORE_FAILURES",
    "the container of LONGSHORE_CHECKPOINT_CONTAINER, or the folder failures beside \
     LONGSHORE_CHECKPOINT_FOLDER",
    Kind::Text(A_PLACE),
    "The failure store: where dead letters and parked events are kept. Processes may share it. An address \
     counts as a secret. If it has no signature, `EVENTHUB_CREDENTIAL` opens the container.",
);
pub(super) const LETTER_BODY: Key = key(
    "LONGSHORE_DEAD_LETTER_BODY",
    "keep",
    Kind::Choice(&["keep", "omit"]),
    "Whether the failure store keeps the bodies of dead letters. A letter without its body cannot be replayed.",
);
pub(super) const HEARTBEAT_INTERVAL: Key = lease_time(
    "LONGSHORE_HEARTBEAT_INTERVAL",
    "5s",
    LeaseTime { least: TEN_MILLISECONDS, set: |o, time| o.heartbeat_interval = time },
    "The time between two heartbeats of a worker.",
);
pub(super) const LEASE_EXPIRY: Key = lease_time(
    "LONGSHORE_LEASE_EXPIRY",
    "30s",
    LeaseTime { least: SECOND, set: |o, time| o.lease_expiry = time },
    "When a worker counts as dead: its last heartbeat is older than this. At least three times LONGSHORE_HEARTBEAT_INTERVAL.",
);
pub(super) const LOOK_INTERVAL: Key = lease_time(
    "LONGSHORE_LOOK_INTERVAL",
    "10s",
    LeaseTime { least: TEN_MILLISECONDS, set: |o, time| o.look_interval = time },
    "The time between two looks at the leases while nothing changes. At most half of LONGSHORE_LEASE_EXPIRY.",
);
pub(super) const CONNECTIONS_PER_HOST: Key = key(
    "LONGSHORE_CONNECTIONS_PER_HOST",
    "",
    Kind::Slots,
    "How many files a transfer worker fetches at once from each host.",
);

/// Every key, in the order of the documentation.
pub const ALL: &[Key] = &[
    TRANSPORT,
    CONNECTION_STRING,
    SECRET,
    NAMESPACE,
    CREDENTIAL,
    CLIENT_ID,
    TENANT_ID,
    TOKEN_FILE,
    ENTITY,
    WORKER_ENTITY,
    CONSUMER_GROUP,
    PROTOCOL,
    CA_FILE,
    PROXY,
    DISABLE_SSL_VERIFY,
    ENVIRONMENT,
    knob(
        "LONGSHORE_MAX_BATCH_SIZE",
        "20",
        Knob::Count { least: 1, most: MAX_WINDOW_EVENTS, set: |o, n| o.max_batch_size = n },
        "The most events in a batch.",
    ),
    knob(
        "LONGSHORE_MAX_BATCH_BYTES",
        "4194304",
        Knob::Count { least: 1, most: MAX_BYTES, set: |o, n| o.max_batch_bytes = n },
        "The most bytes in a batch. A larger event is a batch of its own.",
    ),
    knob(
        "LONGSHORE_BATCH_TIMEOUT",
        "1s",
        Knob::Time { least: MILLISECOND, set: |o, time| o.batch_timeout = time },
        "How long a batch waits to fill.",
    ),
    knob(
        "LONGSHORE_MAX_BATCHES_IN_FLIGHT",
        "4",
        Knob::Count { least: 1, most: MAX_SLOTS, set: |o, n| o.max_batches_in_flight = n },
        "How many batches are handled at once, over all partitions. This number times LONGSHORE_MAX_BATCH_SIZE must not exceed LONGSHORE_WINDOW_EVENTS.",
    ),
    knob(
        "LONGSHORE_MAX_EVENTS_IN_FLIGHT",
        "10",
        Knob::Count { least: 1, most: MAX_SLOTS, set: |o, n| o.max_events_in_flight = n },
        "How many events are handled at once, over all partitions, by a handler of single events.",
    ),
    knob(
        "LONGSHORE_ORDERING",
        "unordered",
        Knob::Other {
            allowed: "unordered, per-key or per-partition",
            set: |o, text| {
                let all = [Ordering::Unordered, Ordering::PerKey, Ordering::PerPartition];
                o.ordering =
                    all.into_iter().find(|ordering| value::is_word(text, ordering.as_str()))?;
                Some(())
            },
        },
        "Which events are handled one after the other: none, those of a partition key, or those of a partition.",
    ),
    knob(
        "LONGSHORE_WINDOW_EVENTS",
        "4096",
        Knob::Count { least: 1, most: MAX_WINDOW_EVENTS, set: |o, n| o.window_events = n },
        "The window W: the most events of a partition that are received and not below its watermark.",
    ),
    knob(
        "LONGSHORE_MEMORY_BUDGET_BYTES",
        "268435456",
        Knob::Count { least: 65_536, most: MAX_BYTES, set: |o, n| o.memory_budget_bytes = n },
        "Memory for events: those received and not settled, and those that links hold ahead.",
    ),
    knob(
        "LONGSHORE_PREFETCH_EVENTS",
        "300",
        Knob::Count {
            least: 1,
            most: MAX_COUNT,
            set: |o, n| o.prefetch_events = u32::try_from(n).unwrap_or(u32::MAX),
        },
        "The most events that a link holds ahead. A link holds fewer if they do not fit into its share of an eighth of the memory budget.",
    ),
    knob(
        "LONGSHORE_HANDLER_TIMEOUT",
        "15m",
        Knob::TimeOrNone { least: MILLISECOND, set: |o, time| o.handler_timeout = time },
        "How long a handler may take. After that it is dropped, and its events are retried.",
    ),
    MAX_ATTEMPTS,
    MAX_AGE,
    PARK_AFTER,
    PARK_DELAYS,
    MAX_PARKED_EVENTS,
    knob(
        "LONGSHORE_MAX_TAKEOVERS",
        "7",
        Knob::Other {
            allowed: "unlimited, or a number from 6",
            set: |o, text| {
                o.max_takeovers = value::limit(text, MIN_TAKEOVERS)?;
                Some(())
            },
        },
        "How many owners of a partition may end in a row without progress before the event that ends them becomes a dead letter. The search for that event begins four ends earlier.",
    ),
    RETRY_BACKOFF,
    RETRY_POLICIES,
    knob(
        "LONGSHORE_CHECKPOINT_MIN_INTERVAL",
        "1s",
        Knob::Time { least: Duration::ZERO, set: |o, time| o.checkpoint_min_interval = time },
        "The shortest time between two checkpoint writes of a partition.",
    ),
    knob(
        "LONGSHORE_UNCHECKPOINTED_EVENTS",
        "unlimited",
        Knob::Other {
            allowed: "unlimited, or a number from 1",
            set: |o, text| {
                o.uncheckpointed_events = value::limit(text, 1)?
                    .map_or(UncheckpointedEvents::Unlimited, UncheckpointedEvents::PauseAt);
                Some(())
            },
        },
        "How many events of a partition a crash may repeat while checkpoints cannot be written. At this number the partition takes in no more.",
    ),
    knob(
        "LONGSHORE_DRAIN_TIMEOUT",
        "30s",
        Knob::Time { least: Duration::ZERO, set: |o, time| o.drain_timeout = time },
        "How long a drain waits for handlers.",
    ),
    knob(
        "LONGSHORE_CONNECT_TIMEOUT",
        "20s",
        Knob::TimeOrNone { least: MILLISECOND, set: |o, time| o.connect_timeout = time },
        "How long a worker tries to reach its hub, and then the leases, for the first time. Once connected, it reconnects for ever.",
    ),
    knob(
        "LONGSHORE_STORE_TIMEOUT",
        "30s",
        Knob::Time { least: MILLISECOND, set: |o, time| o.store_timeout = time },
        "How long one call of the checkpoint store or of the dead-letter sink may take.",
    ),
    knob(
        "LONGSHORE_START_POSITION",
        "earliest",
        Knob::Other {
            allowed: "earliest, latest, a sequence number, or a time such as 2026-01-31T12:00:00Z",
            set: |o, text| {
                o.start_position = value::start_position(text)?;
                Some(())
            },
        },
        "Where to begin in a partition that has no checkpoint.",
    ),
    knob(
        "LONGSHORE_POSITION_LOST",
        "earliest",
        Knob::Other {
            allowed: "earliest, latest or stop",
            set: |o, text| {
                let words = [
                    ("earliest", PositionLost::Earliest),
                    ("latest", PositionLost::Latest),
                    ("stop", PositionLost::Stop),
                ];
                o.position_lost = value::one_of(text, words)?;
                Some(())
            },
        },
        "Where to go on if the position of the checkpoint is not in the log.",
    ),
    knob(
        "LONGSHORE_LOST_PARTITION",
        "cancel",
        Knob::Other {
            allowed: "cancel or finish",
            set: |o, text| {
                let words = [("cancel", LostPartition::Cancel), ("finish", LostPartition::Finish)];
                o.lost_partition = value::one_of(text, words)?;
                Some(())
            },
        },
        "What happens to handler calls whose partition is lost to another owner.",
    ),
    knob(
        "LONGSHORE_OWNER_LEVEL",
        "lease-epoch",
        Knob::Other {
            allowed: "lease-epoch, none, or a number from 0",
            set: |o, text| {
                let words = [("lease-epoch", OwnerLevel::LeaseEpoch), ("none", OwnerLevel::None)];
                let level = || text.parse().ok().filter(|level| *level >= 0).map(OwnerLevel::Fixed);
                o.owner_level = value::one_of(text, words).or_else(level)?;
                Some(())
            },
        },
        "The owner level (AMQP epoch) of the links.",
    ),
    knob(
        "LONGSHORE_REOPEN_BACKOFF",
        "100ms..30s",
        Knob::Delays { set: |o, delays| o.reopen_backoff = delays },
        "Delays between attempts to open a link. Each is twice the one before.",
    ),
    CHECKPOINT_CONTAINER,
    CHECKPOINT_CREDENTIAL,
    CHECKPOINT_FOLDER,
    FAILURES,
    LETTER_BODY,
    HEARTBEAT_INTERVAL,
    LEASE_EXPIRY,
    lease_time(
        "LONGSHORE_FOREIGN_LEASE_EXPIRY",
        "2m",
        LeaseTime { least: SECOND, set: |o, time| o.foreign_lease_expiry = time },
        "When a processor of another SDK counts as dead: it has not renewed its ownership for this long.",
    ),
    LOOK_INTERVAL,
    lease_time(
        "LONGSHORE_HAND_OFF_TIMEOUT",
        "1m",
        LeaseTime { least: TEN_MILLISECONDS, set: |o, time| o.hand_off_timeout = time },
        "How long a hand-off waits for handlers. After that it is put off, and the partition is offered again later.",
    ),
    REQUESTS_PER_SECOND,
    REQUESTS_PER_SECOND_PER_HOST,
    BYTES_PER_SECOND,
    BYTES_PER_SECOND_PER_HOST,
    CONNECTIONS_PER_HOST,
    DOWNLOAD_CONNECT_TIMEOUT,
    DOWNLOAD_ANSWER_TIMEOUT,
    DOWNLOAD_READ_TIMEOUT,
    DOWNLOAD_MIN_BYTES_PER_SECOND,
    DOWNLOAD_MAX_BYTES,
    DOWNLOAD_CONNECTIONS,
    DOWNLOAD_BLOCK_BYTES,
    TRANSFER_BUDGET,
    DOWNLOAD_REDIRECTS,
    DOWNLOAD_PROXY,
    DOWNLOAD_CREDENTIALS,
    DOWNLOAD_PRIVATE_ADDRESSES,
    DOWNLOAD_SCHEMES,
    DOWNLOAD_EXISTING,
    TABLE_STRING,
    TABLE_SECRET,
    TABLE_HOST,
    TABLE_CREDENTIAL,
    TOPIC_NAMESPACE,
    TOPIC_ENTITY,
    WORKER_INPUT,
    WORKER_RESULTS,
    WORKER_DEAD_LETTERS,
    WORKER_FILES,
    WORKER_SOURCE,
    WORKER_METADATA,
    WORKER_TIME,
    WORKER_TIER,
    WORKER_COPY,
];

/// The key of this name or alias, if it stands by itself.
pub(super) fn find(name: &str) -> Option<&'static Key> {
    let mut alone = ALL.iter().filter(|key| !key.name.contains('<'));
    alone.find(|key| key.name == name || key.aliases.contains(&name))
}

/// The table of the documentation.
pub fn markdown() -> String {
    let mut text =
        "| key | what it decides | allowed | default |\n| --- | --- | --- | --- |\n".to_owned();
    for key in ALL {
        let mut name = format!("`{}`", key.name);
        for alias in key.aliases {
            let _infallible = write!(name, ", also `{alias}`");
        }
        if let Some(variable) = key.variable() {
            let _infallible = write!(name, ", as a variable `{variable}`");
        }
        let help =
            if key.is_secret { format!("{} Secret.", key.help) } else { key.help.to_owned() };
        let _infallible =
            writeln!(text, "| {name} | {help} | {} | {} |", key.allowed(), key.default);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{
        ConsumerOptions, DownloadLimits, LeaseOptions, MAX_DURATION, RateLimits, Unit,
    };

    const BEGIN: &str = "<!-- written by a test of src/settings/keys.rs -->\n\n";
    const END: &str = "\n<!-- end -->";

    #[test]
    fn the_documentation_is_true() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md");
        let written = std::fs::read_to_string(path).expect("readable");
        let (before, rest) = written.split_once(BEGIN).expect("where the table begins");
        let (table, after) = rest.split_once(END).expect("where the table ends");
        if std::env::var_os("LONGSHORE_WRITE_DOCS").is_some() {
            let text = format!("{before}{BEGIN}{}{END}{after}", markdown());
            std::fs::write(path, text).expect("writable");
            return;
        }
        assert_eq!(
            table,
            markdown(),
            "run `LONGSHORE_WRITE_DOCS=1 cargo test the_documentation_is_true`"
        );
    }

    #[test]
    fn limits_of_downloads_have_a_key_each_and_the_defaults_of_the_table() {
        let mut limits = DownloadLimits::default();
        let mut keys = Vec::new();
        for key in ALL {
            let Kind::Download(limit) = key.kind else { continue };
            assert!(limit.apply(&mut limits, key.default), "{}", key.name);
            assert!(!limit.apply(&mut limits, "-1") && !limit.apply(&mut limits, "much"));
            keys.push(key.name.replace("LONGSHORE_DOWNLOAD_", "LONGSHORE_"));
        }
        assert_eq!(limits, DownloadLimits::default());
        keys.sort_unstable();
        let mut fields = keys_of(&limits);
        fields.sort_unstable();
        assert_eq!(keys, fields);
    }

    /// The keys of the fields of a value: `Debug` names each once, in the order of the table.
    fn keys_of(options: &impl std::fmt::Debug) -> Vec<String> {
        format!("{options:#?}")
            .lines()
            .filter(|line| line.starts_with("    ") && !line.starts_with("     "))
            .filter_map(|line| line.trim().split_once(':'))
            .map(|(field, _)| format!("LONGSHORE_{}", field.to_ascii_uppercase()))
            .collect()
    }

    fn lease_times() -> impl Iterator<Item = (&'static Key, LeaseTime)> {
        ALL.iter().filter_map(|key| match key.kind {
            Kind::LeaseTime(time) => Some((key, time)),
            _ => None,
        })
    }

    #[test]
    fn leases_have_a_key_for_each_option_with_its_default_and_its_range() {
        let names: Vec<_> = lease_times().map(|(key, _)| key.name.to_owned()).collect();
        assert_eq!(keys_of(&LeaseOptions::default()), names);
        let mut options = LeaseOptions::default();
        for (key, time) in lease_times() {
            (time.set)(&mut options, Duration::from_secs(77));
            assert!(time.apply(&mut options, key.default), "{}", key.name);
            assert_eq!(options, LeaseOptions::default());
            assert!(!time.apply(&mut options, "2y"));
            assert_eq!(options, LeaseOptions::default());

            let with = |value| {
                let mut options = LeaseOptions::default();
                options.heartbeat_interval = TEN_MILLISECONDS;
                options.look_interval = TEN_MILLISECONDS;
                options.lease_expiry = MAX_DURATION;
                options.look_interval = TEN_MILLISECONDS;
                (time.set)(&mut options, value);
                options.validate()
            };
            assert_eq!(with(time.least), Ok(()), "{}", key.name);
            let less = time.least - Duration::from_nanos(1);
            assert!(with(less).is_err(), "{} takes less", key.name);
            let more = MAX_DURATION + Duration::from_nanos(1);
            assert!(with(more).is_err(), "{} takes more", key.name);
        }
    }

    #[test]
    fn limits_have_a_key_for_each_rate_with_the_range_that_is_checked() {
        let rates = ALL.iter().filter_map(|key| match key.kind {
            Kind::RateLimit(rate) => Some((key, rate)),
            _ => None,
        });
        let names: Vec<_> = rates.clone().map(|(key, _)| key.name.to_owned()).collect();
        assert_eq!(keys_of(&RateLimits::default()), names);
        for (key, rate) in rates {
            let mut limits = RateLimits::default();
            assert_eq!(rate.apply(&mut limits, "1+1"), Ok(()), "{}", key.name);
            assert_ne!(limits, RateLimits::default(), "{}", key.name);
            assert_eq!(limits.validate(), Ok(()), "{}", key.name);
            let set = limits;
            for wrong in ["0", "1+2", "", "fast", "1e3", "9999999999999"] {
                assert!(rate.apply(&mut limits, wrong).is_err(), "{} = {wrong}", key.name);
            }
            assert_eq!(limits, set, "{}", key.name);
            let most = if rate.unit == Unit::Bytes { "1000000000000" } else { "1000000" };
            assert_eq!(rate.apply(&mut limits, most), Ok(()), "{}", key.name);
            assert!(rate.apply(&mut limits, &format!("{most}.1")).is_err(), "{}", key.name);
        }
    }

    fn knobs() -> impl Iterator<Item = (&'static Key, Knob)> {
        ALL.iter().filter_map(|key| match key.kind {
            Kind::Knob(knob) => Some((key, knob)),
            _ => None,
        })
    }

    #[test]
    fn the_defaults_are_those_of_the_consumer() {
        let mut options = ConsumerOptions::default();
        // So that a default that sets nothing is noticed.
        options.max_batch_size = 7;
        options.start_position = crate::event::StartPosition::Latest;
        options.owner_level = OwnerLevel::None;
        options.lost_partition = LostPartition::Finish;
        options.ordering = Ordering::PerKey;
        for (key, knob) in knobs() {
            assert!(knob.apply(&mut options, key.default), "{}", key.name);
        }
        assert_eq!(options, ConsumerOptions::default());
    }

    #[test]
    fn every_option_has_a_key_and_the_range_that_the_consumer_checks() {
        let names: Vec<_> = knobs().map(|(key, _)| key.name.to_owned()).collect();
        assert_eq!(keys_of(&ConsumerOptions::default()), names);

        for (key, knob) in knobs() {
            let set = |count: usize| {
                let Knob::Count { set, .. } = knob else { return Ok(()) };
                let mut options = ConsumerOptions::default();
                set(&mut options, count);
                options.validate()
            };
            if let Knob::Count { least, most, .. } = knob {
                assert_eq!((set(least), set(most)), (Ok(()), Ok(())), "{}", key.name);
                assert!(set(least - 1).is_err(), "{} takes less", key.name);
                let greater = most.checked_add(1).filter(|_| most != MAX_COUNT);
                assert!(greater.is_none_or(|more| set(more).is_err()), "{} takes more", key.name);
            }
            if let Knob::Time { least, set } = knob {
                let with = |time| {
                    let mut options = ConsumerOptions::default();
                    set(&mut options, time);
                    options.validate()
                };
                assert_eq!((with(least), with(MAX_DURATION)), (Ok(()), Ok(())), "{}", key.name);
                if let Some(less) = least.checked_sub(Duration::from_nanos(1)) {
                    assert!(with(less).is_err(), "{} takes less", key.name);
                }
            }
        }
    }

    #[test]
    fn what_is_not_allowed_changes_nothing() {
        for (name, wrong) in [
            ("LONGSHORE_MAX_BATCH_SIZE", "0"),
            ("LONGSHORE_MAX_BATCH_SIZE", "32769"),
            ("LONGSHORE_MAX_BATCH_SIZE", "many"),
            ("LONGSHORE_BATCH_TIMEOUT", "0s"),
            ("LONGSHORE_HANDLER_TIMEOUT", "never"),
            ("LONGSHORE_RETRY_BACKOFF", "60s..1s"),
            ("LONGSHORE_RETRY_BACKOFF", "0s..1s"),
            ("LONGSHORE_RETRY_BACKOFF", "1s"),
            ("LONGSHORE_UNCHECKPOINTED_EVENTS", "0"),
            ("LONGSHORE_MAX_TAKEOVERS", "5"),
            ("LONGSHORE_START_POSITION", "-1"),
            ("LONGSHORE_POSITION_LOST", "go on"),
            ("LONGSHORE_LOST_PARTITION", "wait"),
            ("LONGSHORE_OWNER_LEVEL", "-5"),
            ("LONGSHORE_ORDERING", "per key"),
        ] {
            let (_, knob) = knobs().find(|(key, _)| key.name == name).expect(name);
            let mut options = ConsumerOptions::default();
            assert!(!knob.apply(&mut options, wrong), "{name} = {wrong}");
            assert_eq!(options, ConsumerOptions::default());
        }
    }

    #[test]
    fn a_slip_of_the_pen_is_understood() {
        assert_eq!(nearest("EVENTHUB_CONECTION_STRING"), Some("EVENTHUB_CONNECTION_STRING"));
        assert_eq!(nearest("longshore_max_batch"), Some("LONGSHORE_MAX_BATCH_SIZE"));
        assert_eq!(nearest("COLOUR"), None);
        assert_eq!((distance("", "abc"), distance("kitten", "sitting")), (3, 3));
    }
}
