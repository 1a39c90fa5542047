//! The `longshore` command: what it takes, what it prints, how it exits.
//!
//! Results go to stdout, everything else to stderr. Exit codes: 0, all is done; 1, the environment
//! stopped the run (a full disk, a folder that is a file), or the result could not be written; 2, the command line or the configuration
//! cannot be used; 3, a part was not done: tasks became dead letters, partitions were refused or had
//! stopped; 4, a Ctrl-C was drained and work is left; 130, a Ctrl-C that was not drained: a second, or one
//! of the demo; 143, the same of SIGTERM. A worker has no end, so one that is drained is done (0), unless
//! the drain cut something (4); what becomes dead letters is told and is no failure of it.

mod checkpoints;
mod configured;
mod dead_letters;
mod demo;
mod emulator;
mod event_line;
mod failing;
mod file_server;
mod job;
mod json;
mod latencies;
mod little_memory;
mod log;
mod logs;
mod parked;
mod place;
mod position;
mod progress;
mod report;
mod retry_scheduler;
mod send;
mod service;
mod signals;
mod table;
mod tail;
mod temporary;
mod terminal;
mod test;
mod transfer;
mod watch;
mod worker;

use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::builder::RangedU64ValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum};

use self::terminal::tell;

use longshore::blob_store::container::{DEFAULT_TRANSFER_BUDGET, MIN_TRANSFER_BUDGET};
use longshore::config::{
    Credentials, DEFAULT_ANSWER_TIMEOUT, DEFAULT_BATCH_TIMEOUT, DEFAULT_BLOCK_BYTES,
    DEFAULT_DOWNLOAD_CONNECT_TIMEOUT, DEFAULT_MAX_BATCH_SIZE, DEFAULT_MAX_BYTES,
    DEFAULT_MAX_EVENTS_IN_FLIGHT, DEFAULT_MIN_BYTES_PER_SECOND, DEFAULT_READ_TIMEOUT,
    DownloadLimits, HttpOptions, HttpProxy, MAX_DURATION, MAX_SLOTS, MAX_WINDOW_EVENTS,
    MIN_BLOCK_BYTES, Rate, RateLimits, Redirects,
};
use longshore::error::{Error, ErrorClass, error_chain};
use longshore::named_file::{self, MOST_CONFIGURATION_BYTES};
use longshore::settings::value::{byte_count, bytes_per_second, duration, requests_per_second};
use longshore::transfer::download::ExistingFiles;

/// Moves the files that events of Azure Event Hubs name. Many files move at once.
#[derive(Parser, Debug)]
#[command(name = "longshore", version, max_term_width = 100)]
#[command(
    after_help = "`demo`, `emulator`, and `transfer` to a folder need no Azure account. Begin with \
    `longshore demo`."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    Checkpoints(checkpoints::CheckpointsArgs),
    DeadLetters(dead_letters::DeadLettersArgs),
    Demo(DemoArgs),
    Emulator(emulator::EmulatorArgs),
    Parked(parked::ParkedArgs),
    RetryScheduler(retry_scheduler::RetrySchedulerArgs),
    Send(send::SendArgs),
    Tail(tail::TailArgs),
    Test(test::TestArgs),
    Transfer(TransferArgs),
    Worker(worker::WorkerArgs),
}

/// Moves the same files in three ways on this machine, and draws how fast each was.
///
/// An HTTP server gives each connection 5 MB/s. The tasks go through an Event Hubs-compatible broker and
/// the Azure SDK. The first way moves one file at a time. The second way moves batches, and each batch
/// must end before the next begins. The third way is longshore, whose batches overlap. Every file is
/// verified and thrown away. A batch waits for its slowest file, so the ways differ more if the sizes of
/// the files differ more. Try --dir with your own files.
#[derive(Args, Debug)]
struct DemoArgs {
    /// Move the files of this folder and of its subfolders. Default: 120 generated files of mixed sizes
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    #[command(flatten)]
    pace: PaceArgs,
}

/// Downloads the files of a list. After a crash or a Ctrl-C, the next run fetches only what is missing.
///
/// A line of the list is a URL, or a JSON task. Only the url of a task is required:
///
/// {"url": "https://…", "path": "a/b.jpg", "sha256": "…", "size": 123}
///
/// Empty lines and lines that begin with # are skipped. A file gets the path of its URL as its name,
/// unless the task names a path. The list may have any length: it is read while files move.
///
/// Run the command again after a crash, a Ctrl-C or an edit of the list. A task is known by its line, so a
/// changed line is a new task. Tasks that cannot be done are recorded in the folder dead-letters of the
/// state. The next run tries them again.
#[derive(Args, Debug)]
#[command(after_long_help = EXIT_CODES)]
struct TransferArgs {
    /// The list of files to download; - reads it from stdin
    #[arg(long, value_name = "FILE")]
    urls: PathBuf,
    /// Where the files go: a folder, or the address of a container of Azure Blob Storage,
    /// https://ACCOUNT.blob.core.windows.net/CONTAINER?SIGNATURE. Other users can see a command line, so
    /// put an address with a signature into LONGSHORE_TRANSFER_TO. An address without a signature is opened
    /// with the account of the Azure CLI
    #[arg(long, value_name = "PLACE", env = "LONGSHORE_TRANSFER_TO", hide_env_values = true)]
    to: transfer::To,
    /// The folder that keeps the state between runs. Default for a target folder: TARGET.longshore beside
    /// it. Default for a container: CONTAINER.longshore in the current folder
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Reads the list and the state, says what would be fetched, and does nothing else: no request, no file
    #[arg(long)]
    dry_run: bool,
    /// Prints the result in this format. Default: text
    #[arg(long, value_name = "FORMAT")]
    report: Option<ReportFormat>,
    /// Allows URLs that lead to loopback and private addresses, also over plain http
    #[arg(long)]
    allow_private: bool,
    /// Allows plain http everywhere. Anyone on the way can read and change such files
    #[arg(long)]
    allow_http: bool,
    /// What to do with a file that is already there, unless an earlier run with this state completed it
    #[arg(long, value_name = "CHOICE", default_value = "verify")]
    existing: Existing,
    #[command(flatten)]
    along: transfer::AlongArgs,
    #[command(flatten)]
    pace: PaceArgs,
    #[command(flatten)]
    limits: LimitArgs,
    #[command(flatten)]
    http: HttpArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Existing {
    /// Keep it. If the task names another size, fetch it again
    Skip,
    /// Keep it if it is known to be right: its hash is that of the task, an earlier run left a note of its
    /// hash with it, or the file on the server has the same length and is not newer. Otherwise fetch it again
    Verify,
    /// Fetch it again
    Replace,
}

impl From<Existing> for ExistingFiles {
    fn from(existing: Existing) -> Self {
        match existing {
            Existing::Skip => ExistingFiles::Skip,
            Existing::Verify => ExistingFiles::Verify,
            Existing::Replace => ExistingFiles::Replace,
        }
    }
}

#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "HTTP")]
struct HttpArgs {
    /// How long to wait for a name to resolve, and for a connection
    #[arg(long, value_name = "TIME", default_value_t = DurationArg(DEFAULT_DOWNLOAD_CONNECT_TIMEOUT))]
    connect_timeout: DurationArg,
    /// How long to wait for the first byte of an answer
    #[arg(long, value_name = "TIME", default_value_t = DurationArg(DEFAULT_ANSWER_TIMEOUT))]
    answer_timeout: DurationArg,
    /// How long to wait for the next bytes of a file
    #[arg(long, value_name = "TIME", default_value_t = DurationArg(DEFAULT_READ_TIMEOUT))]
    read_timeout: DurationArg,
    /// The average, in bytes a second, that a download must reach after a minute; 0 for no minimum
    #[arg(long, value_name = "BYTES", default_value_t = BytesArg(DEFAULT_MIN_BYTES_PER_SECOND))]
    min_bytes_per_second: BytesArg,
    /// The most bytes of a file, for example 2GiB or 500MB. A longer file becomes a dead letter
    #[arg(long, value_name = "BYTES", default_value_t = BytesArg(DEFAULT_MAX_BYTES))]
    max_bytes: BytesArg,
    /// Follows no redirects. A redirected task fails and says where the file is
    #[arg(long)]
    no_redirects: bool,
    /// Sends all requests for files through this proxy, http://HOST:PORT. The proxy resolves the names of
    /// hosts. If the proxy needs a password, put its address into LONGSHORE_HTTP_PROXY. Default: no proxy;
    /// HTTPS_PROXY is not read
    #[arg(long, value_name = "URL", env = "LONGSHORE_HTTP_PROXY", hide_env_values = true)]
    proxy: Option<String>,
    /// A TOML file with credentials: a table for each origin, such as ["https://files.example.com"], with
    /// bearer, or with user and password
    #[arg(long, value_name = "FILE")]
    credentials: Option<PathBuf>,
}

impl HttpArgs {
    fn limits(&self) -> DownloadLimits {
        let mut limits = DownloadLimits::default();
        limits.connect_timeout = self.connect_timeout.0;
        limits.answer_timeout = self.answer_timeout.0;
        limits.read_timeout = self.read_timeout.0;
        limits.min_bytes_per_second = self.min_bytes_per_second.0;
        limits.max_bytes = self.max_bytes.0;
        limits
    }

    fn options(&self) -> Result<HttpOptions, CommandError> {
        let mut options = HttpOptions::new();
        if self.no_redirects {
            options = options.with_redirects(Redirects::Refuse);
        }
        // A variable that is empty is one that is not set.
        if let Some(proxy) = self.proxy.as_ref().filter(|proxy| !proxy.trim().is_empty()) {
            options = options.with_proxy(HttpProxy::parse(proxy)?);
        }
        if let Some(file) = &self.credentials {
            let text = named_file::read_text(file, MOST_CONFIGURATION_BYTES).map_err(|error| {
                CommandError::caused(format_args!("{} cannot be read", file.display()), &error)
            })?;
            let credentials = Credentials::from_toml(&text).map_err(|error| {
                CommandError::caused(format_args!("{} cannot be used", file.display()), &error)
            })?;
            options = options.with_credentials(credentials);
        }
        Ok(options)
    }
}

#[derive(Args, Debug, Clone, Copy)]
#[command(next_help_heading = "Limits")]
struct LimitArgs {
    /// The most requests a second to all hosts, for example 50 or 0.5. 50+5 allows a burst of 5 more after
    /// a pause. Default: no limit
    #[arg(long, value_name = "RATE", value_parser = requests_per_second)]
    #[arg(allow_negative_numbers = true)]
    requests_per_second: Option<Rate>,
    /// The most requests a second to each host. Default: no limit
    #[arg(long, value_name = "RATE", value_parser = requests_per_second)]
    #[arg(allow_negative_numbers = true)]
    requests_per_second_per_host: Option<Rate>,
    /// The most bytes a second from all hosts, for example 20MB or 16MiB. 20MB+2MB allows a burst of 2 MB
    /// more after a pause. Default: no limit
    #[arg(long, value_name = "RATE", value_parser = bytes_per_second)]
    #[arg(allow_negative_numbers = true)]
    bytes_per_second: Option<Rate>,
    /// The most bytes a second from each host. Default: no limit
    #[arg(long, value_name = "RATE", value_parser = bytes_per_second)]
    #[arg(allow_negative_numbers = true)]
    bytes_per_second_per_host: Option<Rate>,
    /// Connections at once to all hosts. Each file has one; the others fetch blocks of large files. With 1,
    /// every file comes over one connection. Default: as many as --concurrency
    #[arg(long, value_name = "N", value_parser = count(MAX_SLOTS), allow_negative_numbers = true)]
    connections: Option<usize>,
    /// Connections at once to each host. No more files than this are fetched from a host at once. Default:
    /// no limit
    #[arg(long, value_name = "N", value_parser = count(MAX_SLOTS), allow_negative_numbers = true)]
    connections_per_host: Option<usize>,
    /// Memory for blocks on their way into a container
    #[arg(long, value_name = "BYTES", default_value_t = BytesArg(DEFAULT_TRANSFER_BUDGET))]
    #[arg(value_parser = |text: &str| bytes_from(MIN_TRANSFER_BUDGET, text))]
    transfer_budget: BytesArg,
    /// The length of a block. A file of two blocks or more comes over several connections, if its server
    /// allows that
    #[arg(long, value_name = "BYTES", default_value_t = BytesArg(DEFAULT_BLOCK_BYTES))]
    #[arg(value_parser = |text: &str| bytes_from(MIN_BLOCK_BYTES, text))]
    block_bytes: BytesArg,
}

impl LimitArgs {
    fn rates(&self) -> RateLimits {
        let mut limits = RateLimits::default();
        limits.requests_per_second = self.requests_per_second;
        limits.requests_per_second_per_host = self.requests_per_second_per_host;
        limits.bytes_per_second = self.bytes_per_second;
        limits.bytes_per_second_per_host = self.bytes_per_second_per_host;
        limits
    }
}

#[derive(Args, Debug, Clone, Copy)]
#[command(next_help_heading = "Pace")]
struct PaceArgs {
    /// How many files are moved at once
    #[arg(long, value_name = "N", default_value_t = DEFAULT_MAX_EVENTS_IN_FLIGHT)]
    #[arg(value_parser = count(MAX_SLOTS), allow_negative_numbers = true)]
    concurrency: usize,
    /// The most tasks in a batch. The progress of a batch is saved together
    #[arg(long, value_name = "N", default_value_t = DEFAULT_MAX_BATCH_SIZE)]
    #[arg(value_parser = count(MAX_WINDOW_EVENTS), allow_negative_numbers = true)]
    batch_size: usize,
    /// How long a batch waits to fill, for example 500ms or 1s
    #[arg(long, value_name = "TIME", default_value_t = DurationArg(DEFAULT_BATCH_TIMEOUT))]
    batch_timeout: DurationArg,
}

const EXIT_CODES: &str = "\
Exit codes:
  0    all is done
  1    the environment stopped it, such as a full disk: correct that, then run
       it again
  2    the command line cannot be used
  3    done, but some tasks failed
  4    work is left: a Ctrl-C let the files in flight finish, or the list changed
       meanwhile; run it again
  130  a second Ctrl-C stopped it at once: run it again";

/// A number from 1 to `most`.
fn count(most: usize) -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..=most as u64)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ReportFormat {
    /// One JSON object
    Json,
}

/// The shortest duration an argument takes.
const MIN_DURATION: Duration = Duration::from_millis(1);

/// A duration as people write it: a number and ms, s, m or h.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct DurationArg(Duration);

impl std::str::FromStr for DurationArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match duration(text) {
            Ok(duration) if duration < MIN_DURATION => Err("it must be at least 1ms".to_owned()),
            Ok(duration) if duration > MAX_DURATION => Err("it must be at most a year".to_owned()),
            Ok(duration) => Ok(Self(duration)),
            Err(must) => Err(must.to_owned()),
        }
    }
}

impl fmt::Display for DurationArg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.subsec_millis() == 0 {
            write!(f, "{}s", self.0.as_secs())
        } else {
            write!(f, "{}ms", self.0.as_millis())
        }
    }
}

/// A number of bytes as people write it: digits, and a unit such as kB or MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct BytesArg(u64);

impl std::str::FromStr for BytesArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        byte_count(text).map(Self)
    }
}

impl fmt::Display for BytesArg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
        let whole = units.iter().find(|(_, each)| self.0 >= *each && self.0.is_multiple_of(*each));
        match whole {
            Some((unit, each)) => write!(f, "{}{unit}", self.0 / each),
            None => self.0.fmt(f),
        }
    }
}

/// So many bytes, or more.
fn bytes_from(least: u64, text: &str) -> Result<BytesArg, String> {
    match text.parse()? {
        BytesArg(bytes) if bytes < least => Err(format!("it must be {} or more", BytesArg(least))),
        bytes => Ok(bytes),
    }
}

/// How a command ended, if it did not fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ending {
    Done,
    SomeFailed,
    /// In good order, before all was done.
    WorkLeft,
    /// The configuration cannot be used.
    Unusable,
    /// A signal stopped it; the exit code says which.
    Stopped(u8),
}

/// Why a command failed; one line for the person at the terminal, causes included.
#[derive(Debug)]
struct CommandError(String);

impl CommandError {
    fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }

    /// What was tried, and the whole chain of why it failed.
    fn caused(what: impl fmt::Display, error: &(dyn std::error::Error + 'static)) -> Self {
        Self(format!("{what}: {}", error_chain(error).join(": ")))
    }
}

impl<E: std::error::Error + 'static> From<E> for CommandError {
    fn from(error: E) -> Self {
        Self(error_chain(&error).join(": "))
    }
}

/// A failure of a store or a hub in a sentence or two. What the message leaves open is said by
/// the innermost cause, unless that is an answer of the storage service, which is long.
fn brief(error: &Error) -> String {
    let chain = error_chain(error);
    let says_all = matches!(error.class(), ErrorClass::Permanent | ErrorClass::BadData);
    match chain.as_slice() {
        [message, .., cause] if !says_all && !cause.contains("RequestId:") => {
            format!("{message}: {cause}")
        }
        _ => error.to_string(),
    }
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    // A worker has nobody at its terminal who would ask for more.
    let is_worker = matches!(cli.command, Command::Worker(_) | Command::RetryScheduler(_));
    log::start(if is_worker { "longshore=warn" } else { "off" });
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tell(format_args!("cannot start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let ended = runtime.block_on(async {
        match cli.command {
            Command::Checkpoints(args) => checkpoints::run(args).await,
            Command::DeadLetters(args) => dead_letters::run(args).await,
            Command::Demo(args) => demo::run(args).await,
            Command::Emulator(args) => emulator::run(args).await,
            Command::Parked(args) => parked::run(args).await,
            Command::RetryScheduler(args) => retry_scheduler::run(args).await,
            Command::Send(args) => send::run(args).await,
            Command::Tail(args) => tail::run(args).await,
            Command::Test(args) => test::run(args).await,
            Command::Transfer(args) => transfer::run(args).await,
            Command::Worker(args) => worker::run(args).await,
        }
    });
    // What is still blocked in a system call does not keep us.
    runtime.shutdown_timeout(Duration::from_secs(1));
    let lost = terminal::lost();
    if let Some(error) = &lost {
        tell(format_args!("the result cannot be written to stdout: {error}"));
    }
    match ended {
        Ok(Ending::Done) if lost.is_some() => ExitCode::FAILURE,
        Ok(Ending::Done) => ExitCode::SUCCESS,
        Ok(Ending::Unusable) => ExitCode::from(2),
        Ok(Ending::SomeFailed) => ExitCode::from(3),
        Ok(Ending::WorkLeft) => ExitCode::from(4),
        Ok(Ending::Stopped(code)) => ExitCode::from(code),
        Err(CommandError(message)) => {
            tell(message);
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn durations_are_read_as_people_write_them() {
        let read = |text: &str| text.parse::<DurationArg>().map(|duration| duration.0);
        assert_eq!(read("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(read("1.5s"), Ok(Duration::from_millis(1_500)));
        assert_eq!(read("2m"), Ok(Duration::from_secs(120)));
        for wrong in ["", "5", "s", "-1s", "1d", "0s", "0.1ms", "1e9h", "99999999h"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
