//! `longshore emulator`: the broker alone, for clients in any language.

use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use serde_json::json;

use super::{CommandError, Ending, ReportFormat};
use longshore_emulator::{Emulator, EmulatorBuilder, HubOptions, validate_hub};

/// The port that Azure's own emulator uses.
const DEFAULT_PORT: u16 = 5672;

/// Runs an Event Hubs-compatible broker until Ctrl-C or SIGTERM.
///
/// It prints what to paste into clients, and then the line "ready".
#[derive(Args, Debug)]
pub(super) struct EmulatorArgs {
    /// An event hub and how many partitions it has; may be given several times
    #[arg(long = "hub", value_name = "NAME:PARTITIONS", required_unless_present = "config")]
    hubs: Vec<HubArg>,
    /// Port for AMQP over TCP; 0 picks a free one, here as everywhere
    #[arg(long, value_name = "PORT", default_value_t = DEFAULT_PORT)]
    port: u16,
    /// Port for AMQP over TLS
    #[arg(long, value_name = "PORT")]
    tls_port: Option<u16>,
    /// Port for AMQP over WebSocket
    #[arg(long, value_name = "PORT")]
    ws_port: Option<u16>,
    /// Port for AMQP over WebSocket with TLS
    #[arg(long, value_name = "PORT")]
    wss_port: Option<u16>,
    /// The address to listen on
    #[arg(long, value_name = "ADDRESS", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    bind: IpAddr,
    /// A further name of this machine, for the certificate; may be given several times
    #[arg(long = "host-name", value_name = "NAME")]
    host_names: Vec<String>,
    /// Takes hubs, consumer groups, retention, keys and limits from this TOML file as well
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Keeps events here. Default: in memory
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Keeps the certificate authority here, as ca.pem and ca.key. Default: a new one for each run
    #[arg(long, value_name = "DIR")]
    cert_dir: Option<PathBuf>,
    /// Prints one JSON object, once it is ready, instead of text
    #[arg(long, value_name = "FORMAT")]
    report: Option<ReportFormat>,
}

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
    let stopped = stop_signal()?;
    // An authority that is not kept still needs a file, which clients can be told of.
    let temporary = match (&args.cert_dir, args.tls_port.or(args.wss_port)) {
        (None, Some(_)) => Some(tempfile::tempdir().map_err(|error| {
            CommandError::caused("cannot make a temporary folder for certificates", &error)
        })?),
        _ => None,
    };
    let cert_dir = temporary.as_ref().map(|dir| dir.path().to_owned()).or(args.cert_dir.clone());
    let builder = builder(&args, cert_dir)?;
    let hubs = builder.hubs().to_vec();
    let emulator = builder.start().await?;
    let announced = match args.report {
        Some(ReportFormat::Json) => as_json(&emulator, &hubs),
        None => as_text(&emulator, &hubs),
    };
    announce(&announced);
    stopped.await;
    emulator.shutdown().await?;
    Ok(Ending::Done)
}

fn builder(
    args: &EmulatorArgs,
    cert_dir: Option<PathBuf>,
) -> Result<EmulatorBuilder, CommandError> {
    let at = |port| SocketAddr::new(args.bind, port);
    let mut builder = Emulator::builder().bind(at(args.port));
    if let Some(file) = &args.config {
        builder = builder.config_file(file)?;
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
    if builder.hubs().is_empty() {
        return Err(CommandError::new(
            "there is no event hub in the configuration; add [[hubs]] to it, or give --hub",
        ));
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

fn as_json(emulator: &Emulator, hubs: &[HubOptions]) -> String {
    let port = |address: Option<SocketAddr>| address.map(|address| address.port());
    let hubs: Vec<_> = hubs
        .iter()
        .map(|hub| {
            json!({
                "name": hub.name(),
                "partitions": hub.partitions(),
                "connection_string": emulator.connection_string(Some(hub.name())),
                "ws_connection_string": emulator.websocket_connection_string(Some(hub.name())),
                "wss_connection_string":
                    emulator.secure_websocket_connection_string(Some(hub.name())),
            })
        })
        .collect();
    json!({
        "ports": {
            "amqp": emulator.local_addr().port(),
            "amqps": port(emulator.tls_addr()),
            "ws": port(emulator.websocket_addr()),
            "wss": port(emulator.secure_websocket_addr()),
        },
        "endpoint": emulator.endpoint(),
        "hubs": hubs,
        "certificate_authority": emulator.certificate_authority_path(),
    })
    .to_string()
}

fn as_text(emulator: &Emulator, hubs: &[HubOptions]) -> String {
    let mut text = String::new();
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
        if let Some((string, port)) = emulator
            .secure_websocket_connection_string(hub)
            .zip(emulator.secure_websocket_addr().map(|address| address.port()))
        {
            section(
                &mut text,
                "Rust",
                "over WebSocket with TLS",
                &[
                    ".with_transport(AmqpTransport::WebSocket)",
                    &format!(".with_custom_endpoint(\"amqps://localhost:{port}\")"),
                    &format!(".open_with_connection_string(\"{string}\", None)"),
                ],
            );
            section(&mut text, "JavaScript", "over WebSocket with TLS", &[&string]);
        }
    }
    if let Some(path) = emulator.certificate_authority_path() {
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
