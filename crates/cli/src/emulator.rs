//! `longshore emulator`: the broker alone, for clients in any language.

use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::pin::pin;
use std::str::FromStr;

use clap::Args;
use serde_json::json;

use super::temporary;
use super::terminal::tell;
use super::{CommandError, Ending, ReportFormat};
use longshore_emulator::{Emulator, EmulatorBuilder, EmulatorError, HubOptions, validate_hub};

/// The port that Azure's own emulator uses.
const DEFAULT_PORT: u16 = 5672;

/// Runs an Event Hubs-compatible broker until Ctrl-C or SIGTERM.
///
/// It needs a hub: --hub, or a file with hubs in --config. It prints to stdout an export line for longshore,
/// connection strings for other clients, and then the line "ready". It prints to stderr which addresses it
/// listens on, and whether it checks tokens. By default only this machine can reach it. It checks tokens if
/// the file of --config has keys.
#[derive(Args, Clone, Debug)]
#[command(after_long_help = EXIT_CODES)]
#[command(override_usage = "longshore emulator --hub <NAME:PARTITIONS> [OPTIONS]\n       \
                            longshore emulator --config <FILE> [OPTIONS]")]
pub(super) struct EmulatorArgs {
    /// An event hub and its number of partitions. May be given several times. Required unless the file of
    /// --config has hubs
    #[arg(long = "hub", value_name = "NAME:PARTITIONS", required_unless_present = "config")]
    hubs: Vec<HubArg>,
    /// Port for AMQP over TCP. 0 picks a free port, here and in the other port options
    #[arg(long, value_name = "PORT", default_value_t = DEFAULT_PORT)]
    port: u16,
    /// Port for AMQP over TLS. Default: off
    #[arg(long, value_name = "PORT")]
    tls_port: Option<u16>,
    /// Port for AMQP over WebSocket. Default: off
    #[arg(long, value_name = "PORT")]
    ws_port: Option<u16>,
    /// Port for AMQP over WebSocket with TLS. Default: off
    #[arg(long, value_name = "PORT")]
    wss_port: Option<u16>,
    /// The IP address to listen on. 0.0.0.0 is every address of this machine. Default: the address in the
    /// file of --config. Without one: 127.0.0.1
    #[arg(long, value_name = "ADDRESS", visible_alias = "bind")]
    listen: Option<IpAddr>,
    /// The name of this machine in connection strings and in the certificate. Default: the name in the file
    /// of --config. Without one: the address of --listen if it is a single address, otherwise localhost
    #[arg(long, value_name = "HOST")]
    advertise: Option<String>,
    /// Allows an address that other machines can reach, even without keys. Anybody who reaches it can then
    /// read and write everything
    #[arg(long)]
    allow_anyone: bool,
    /// Another name of this machine for the certificate. May be given several times
    #[arg(long = "host-name", value_name = "NAME")]
    host_names: Vec<String>,
    /// Also reads hubs, consumer groups, retention, keys, addresses and limits from this TOML file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Keeps events in this folder. Default: in memory
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Keeps the certificate authority in this folder, as ca.pem and ca.key. Default: a new authority for
    /// each run
    #[arg(long, value_name = "DIR")]
    cert_dir: Option<PathBuf>,
    /// Prints what it prints to stdout in this format. Default: text
    #[arg(long, value_name = "FORMAT")]
    report: Option<ReportFormat>,
}

const EXIT_CODES: &str = "\
Exit codes:
  0  a signal stopped it. With --data, all events are kept
  1  the environment does not let it run, such as a port that is taken
  2  the command line or the file cannot be used";

/// A hub as it is written on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
struct HubArg {
    name: String,
    partitions: u32,
}

impl FromStr for HubArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let hub = text.rsplit_once(':').and_then(|(name, partitions)| {
            Some(Self { name: name.to_owned(), partitions: partitions.parse().ok()? })
        });
        let hub = hub.ok_or("write a name, a colon and a number of partitions: orders:4")?;
        validate_hub(&hub.name, hub.partitions).map_err(|error| error.to_string())?;
        Ok(hub)
    }
}

pub(super) async fn run(args: EmulatorArgs) -> Result<Ending, CommandError> {
    // Before anyone is told that it runs: who was told may stop it.
    let mut stopped = pin!(stop_signal()?);
    // An authority that is not kept still needs a file, which clients can be told of.
    let temporary = match (&args.cert_dir, args.tls_port.or(args.wss_port)) {
        (None, Some(_)) => Some(temporary::folder().map_err(|error| {
            CommandError::caused("cannot make a temporary folder for certificates", &error)
        })?),
        _ => None,
    };
    let cert_dir = temporary.as_ref().map(|dir| dir.path().to_owned()).or(args.cert_dir.clone());
    let named = args.clone();
    // A disk may be slow, and a log may take its time to be read.
    let building = tokio::task::spawn_blocking(move || builder(&named, cert_dir));
    let built = tokio::select! {
        built = building => built.map_err(|gone| CommandError::new(gone.to_string()))?,
        () = &mut stopped => return Ok(Ending::Done),
    };
    let builder = match built {
        Ok(builder) => builder,
        Err(error) => return unusable(error),
    };
    let hubs = builder.hubs().to_vec();
    if hubs.is_empty() {
        tell("there is no event hub in the configuration; add [[hubs]] to it, or give --hub");
        return Ok(Ending::Unusable);
    }
    let started = tokio::select! {
        started = builder.start() => started,
        () = &mut stopped => return Ok(Ending::Done),
    };
    let emulator = match started {
        Ok(emulator) => emulator,
        Err(error) => return unusable(error),
    };
    for line in emulator.recovery().iter().map(String::as_str).chain(emulator.exposure().lines()) {
        tell(line);
    }
    if !emulator.local_addr().ip().is_loopback() && emulator.is_advertised_here_only() {
        tell("the connection strings say localhost; other machines need --advertise HOST");
    }
    let announced = match args.report {
        Some(ReportFormat::Json) => as_json(&emulator, &hubs),
        None => as_text(&emulator, &hubs),
    };
    announce(&announced);
    stopped.await;
    emulator.shutdown().await?;
    Ok(Ending::Done)
}

/// Tells what cannot be used; what the environment refuses is an error.
fn unusable(error: EmulatorError) -> Result<Ending, CommandError> {
    match error {
        EmulatorError::OpenToAnyone { address } => {
            tell(format_args!(
                "other machines reach {address}, and no token is checked against a key of your own: \
                 give [[keys]] in the file of --config, or say --allow-anyone to let whoever \
                 connects read and write everything"
            ));
        }
        EmulatorError::ConfigFile { .. } | EmulatorError::Setting { .. } => {
            tell(CommandError::from(error).0);
        }
        _ => return Err(error.into()),
    }
    Ok(Ending::Unusable)
}

fn builder(
    args: &EmulatorArgs,
    cert_dir: Option<PathBuf>,
) -> Result<EmulatorBuilder, EmulatorError> {
    let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut builder = Emulator::builder().bind(at(args.port));
    if let Some(file) = &args.config {
        builder = builder.config_file(file)?;
    }
    if let Some(address) = args.listen {
        builder = builder.listen(address);
    }
    if let Some(host) = &args.advertise {
        builder = builder.advertise(host);
    }
    if args.allow_anyone {
        builder = builder.allow_anyone();
    }
    if let Some(port) = args.tls_port {
        builder = builder.tls(at(port));
    }
    if let Some(port) = args.ws_port {
        builder = builder.websocket(at(port));
    }
    if let Some(port) = args.wss_port {
        builder = builder.secure_websocket(at(port));
    }
    if let Some(dir) = cert_dir {
        builder = builder.cert_dir(dir);
    }
    if let Some(dir) = &args.data {
        builder = builder.data_dir(dir);
    }
    for name in &args.host_names {
        builder = builder.host_name(name);
    }
    for hub in &args.hubs {
        builder = builder.hub(&hub.name, hub.partitions);
    }
    Ok(builder)
}

/// Resolves at the first SIGTERM or SIGINT after this call.
#[cfg(unix)]
fn stop_signal() -> Result<impl Future<Output = ()>, CommandError> {
    use tokio::signal::unix::{SignalKind, signal};

    let (mut interrupt, mut terminate) =
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

#[cfg(not(unix))]
fn stop_signal() -> Result<impl Future<Output = ()>, CommandError> {
    Ok(async {
        let _ = tokio::signal::ctrl_c().await;
    })
}

/// Whoever waits for it on a pipe gets it now.
fn announce(text: &str) {
    let mut out = io::stdout().lock();
    let _gone = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// Where the certificate authority is, for a shell in any folder.
fn authority_path(emulator: &Emulator) -> Option<PathBuf> {
    let path = emulator.certificate_authority_path()?;
    Some(std::path::absolute(path).unwrap_or_else(|_| path.to_owned()))
}

const CA_FILE: &str = "EVENTHUB_CA_FILE";

/// What leads a worker of ours, and `longshore test`, to the broker.
struct Environment {
    /// In the order in which they are told.
    variables: Vec<(&'static str, String)>,
    /// The other hubs that `EVENTHUB_ENTITY_NAME` may name.
    others: Vec<String>,
}

impl Environment {
    /// `None` if there is no way: our clients send no plain text to another machine.
    fn of(emulator: &Emulator, hubs: &[HubOptions]) -> Option<Self> {
        // A connection string with a hub in it opens that one only.
        let one = match hubs {
            [hub] => Some(hub.name()),
            _ => None,
        };
        let (string, protocol) = if emulator.is_advertised_here_only() {
            (emulator.connection_string(one), None)
        } else if let Some(string) = emulator.secure_websocket_connection_string(one) {
            (string, Some("websocket"))
        } else {
            (emulator.tls_connection_string(one)?, Some("tcp"))
        };
        let mut variables = vec![("EVENTHUB_CONNECTION_STRING", string)];
        if let Some((protocol, authority)) = protocol.zip(authority_path(emulator)) {
            variables.push(("EVENTHUB_PROTOCOL", protocol.to_owned()));
            variables.push((CA_FILE, authority.to_string_lossy().into_owned()));
        }
        let mut others = hubs.iter().map(|hub| hub.name().to_owned());
        if one.is_none() {
            variables.extend(others.next().map(|first| ("EVENTHUB_ENTITY_NAME", first)));
            return Some(Self { variables, others: others.collect() });
        }
        Some(Self { variables, others: Vec::new() })
    }

    /// Lines for a shell.
    fn as_text(&self) -> String {
        let mut text = String::new();
        for (name, value) in &self.variables {
            text.push_str(&format!("export {name}='{}'\n", value.replace('\'', "'\\''")));
        }
        if self.variables.iter().any(|(name, _)| *name == CA_FILE) {
            text.push_str(
                "# the worker needs this file on its own machine: copy it, or share the folder of \
                 --cert-dir\n",
            );
        }
        if !self.others.is_empty() {
            let others = self.others.join(", ");
            text.push_str(&format!("# EVENTHUB_ENTITY_NAME may also be: {others}\n"));
        }
        text.push_str(
            "# a worker of longshore needs no more; to try it: longshore test --send\n\n",
        );
        text
    }
}

const NO_WAY: &str = "# longshore sends no plain text to another machine: give --wss-port or --tls-port, and \
                      --cert-dir, to let it in\n\n";

fn as_json(emulator: &Emulator, all: &[HubOptions]) -> String {
    let port = |address: Option<SocketAddr>| address.map(|address| address.port());
    let hubs: Vec<_> = all
        .iter()
        .map(|hub| {
            json!({
                "name": hub.name(),
                "partitions": hub.partitions(),
                "connection_string": emulator.connection_string(Some(hub.name())),
                "tls_connection_string": emulator.tls_connection_string(Some(hub.name())),
                "ws_connection_string": emulator.websocket_connection_string(Some(hub.name())),
                "wss_connection_string":
                    emulator.secure_websocket_connection_string(Some(hub.name())),
            })
        })
        .collect();
    let environment: serde_json::Map<_, _> = Environment::of(emulator, all)
        .into_iter()
        .flat_map(|environment| environment.variables)
        .map(|(name, value)| (name.to_owned(), value.into()))
        .collect();
    json!({
        "environment": environment,
        "checks_tokens": emulator.checks_tokens(),
        "open_to_anyone": emulator.is_open_to_anyone(),
        "ports": {
            "amqp": emulator.local_addr().port(),
            "amqps": port(emulator.tls_addr()),
            "ws": port(emulator.websocket_addr()),
            "wss": port(emulator.secure_websocket_addr()),
        },
        "endpoint": emulator.endpoint(),
        "hubs": hubs,
        "certificate_authority": authority_path(emulator),
    })
    .to_string()
}

fn as_text(emulator: &Emulator, hubs: &[HubOptions]) -> String {
    let mut text = match Environment::of(emulator, hubs) {
        Some(environment) => environment.as_text(),
        None => NO_WAY.to_owned(),
    };
    for hub in hubs {
        let (name, partitions) = (hub.name(), hub.partitions());
        let hub = Some(name);
        let plain = emulator.connection_string(hub);
        let plural = if partitions == 1 { "" } else { "s" };
        text.push_str(&format!("Event hub {name}, {partitions} partition{plural}\n\n"));
        section(
            &mut text,
            "Rust",
            "over TCP",
            &[
                &format!(".with_custom_endpoint(\"{}\")", emulator.endpoint()),
                &format!(".open_with_connection_string(\"{plain}\", None)"),
            ],
        );
        for language in ["Python", "JavaScript", ".NET"] {
            section(&mut text, language, "over TCP", &[&plain]);
        }
        if let Some(string) = emulator.websocket_connection_string(hub) {
            section(&mut text, "Python and .NET", "over WebSocket", &[&string]);
        }
        if let Some((string, endpoint)) =
            emulator.tls_connection_string(hub).zip(emulator.tls_endpoint())
        {
            section(
                &mut text,
                "Rust",
                "over TCP with TLS",
                &[
                    &format!(".with_custom_endpoint(\"{endpoint}\")"),
                    &format!(".open_with_connection_string(\"{string}\", None)"),
                ],
            );
        }
        if let Some((string, endpoint)) = emulator
            .secure_websocket_connection_string(hub)
            .zip(emulator.secure_websocket_endpoint())
        {
            section(
                &mut text,
                "Rust",
                "over WebSocket with TLS",
                &[
                    ".with_transport(AmqpTransport::WebSocket)",
                    &format!(".with_custom_endpoint(\"{endpoint}\")"),
                    &format!(".open_with_connection_string(\"{string}\", None)"),
                ],
            );
            section(&mut text, "JavaScript", "over WebSocket with TLS", &[&string]);
        }
    }
    if let Some(path) = authority_path(emulator) {
        let path = path.display();
        section(
            &mut text,
            "Certificate authority",
            "for clients that use TLS",
            &[&format!("SSL_CERT_FILE={path}"), &format!("NODE_EXTRA_CA_CERTS={path}")],
        );
    }
    text.push_str("ready");
    text
}

fn section(text: &mut String, what: &str, how: &str, lines: &[&str]) {
    text.push_str(&format!("{what}, {how}:\n"));
    for line in lines {
        text.push_str(&format!("  {line}\n"));
    }
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hubs_are_read_and_checked() {
        let hub = |name: &str, partitions| Ok(HubArg { name: name.to_owned(), partitions });
        assert_eq!("orders:4".parse(), hub("orders", 4));
        for (wrong, said) in [
            ("orders", "a colon"),
            ("orders:", "a number"),
            ("orders:-1", "a number"),
            ("orders:0", "from 1 to 1024"),
            ("orders:1025", "from 1 to 1024"),
            ("or ders:1", "not a valid event hub name"),
            (":1", "not a valid event hub name"),
        ] {
            let error = wrong.parse::<HubArg>().expect_err(wrong);
            assert!(error.contains(said), "{wrong}: {error}");
        }
    }
}
