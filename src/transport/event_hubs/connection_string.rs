//! Reads a connection string, and says which part of a wrong one is wrong, without repeating any
//! of it: a part that is not where it should be may be the key.
//!
//! The SDK reads it again. It gets what was understood here, written anew, so that the two cannot
//! understand it differently; and only the host and the credentials, for the rest is dealt with here.

use std::time::Duration;

use url::Url;

use super::endpoint::{Host, is_loopback};
use super::protocol::Protocol;
use crate::config::MAX_DURATION;
use crate::error::InvalidConfig;

const FIELD: &str = "connection_string";
const SHAPE: &str = "it must read Endpoint=sb://HOST/;SharedAccessKeyName=NAME;\
     SharedAccessKey=KEY, and ;EntityPath=HUB if it is for one hub";

/// What a connection string says. It holds a secret and so has no `Debug`.
pub(super) struct ConnectionString {
    pub(super) host: Host,
    pub(super) port: Option<u16>,
    pub(super) entity_path: Option<String>,
    pub(super) protocol: Option<Protocol>,
    /// A broker on this machine that speaks plain AMQP.
    pub(super) is_emulator: bool,
    /// How long a call may take.
    pub(super) operation_timeout: Option<Duration>,
    /// What the SDK is given.
    pub(super) for_sdk: String,
}

/// The values of the parts, as they are written.
#[derive(Default)]
struct Parts<'a> {
    endpoint: Option<&'a str>,
    key_name: Option<&'a str>,
    key: Option<&'a str>,
    signature: Option<&'a str>,
    entity_path: Option<&'a str>,
    emulator: Option<&'a str>,
    transport: Option<&'a str>,
    operation_timeout: Option<&'a str>,
}

fn refused(what: impl Into<String>) -> InvalidConfig {
    InvalidConfig::new(FIELD, "(hidden)", what)
}

impl<'a> Parts<'a> {
    fn split(text: &'a str) -> Result<Self, InvalidConfig> {
        let mut parts = Self::default();
        let written = text.split(';').map(str::trim).enumerate();
        for (at, part) in written.filter(|(_, part)| !part.is_empty()) {
            let number = at + 1;
            let Some((name, value)) = part.split_once('=') else {
                return Err(refused(format!("part {number} has no '='; {SHAPE}")));
            };
            let (name, value) = (name.trim_end(), value.trim_start());
            let Some((name, place)) = parts.place(name) else {
                return Err(refused(unknown(name).map_or_else(
                    || {
                        format!(
                            "the name of part {number} is not known; known are Endpoint, \
                             SharedAccessKeyName, SharedAccessKey, SharedAccessSignature, \
                             EntityPath, UseDevelopmentEmulator, TransportType and \
                             OperationTimeout; {SHAPE}"
                        )
                    },
                    str::to_owned,
                )));
            };
            if value.is_empty() || value.contains(char::is_control) {
                return Err(refused(format!("{name} is empty or not one line of text")));
            }
            if place.replace(value).is_some() {
                return Err(refused(format!("{name} is given twice")));
            }
        }
        Ok(parts)
    }

    /// A part's name, as it is spelled, and where its value goes.
    fn place(&mut self, name: &str) -> Option<(&'static str, &mut Option<&'a str>)> {
        let places = [
            ("Endpoint", &mut self.endpoint),
            ("SharedAccessKeyName", &mut self.key_name),
            ("SharedAccessKey", &mut self.key),
            ("SharedAccessSignature", &mut self.signature),
            ("EntityPath", &mut self.entity_path),
            ("UseDevelopmentEmulator", &mut self.emulator),
            ("TransportType", &mut self.transport),
            ("OperationTimeout", &mut self.operation_timeout),
        ];
        places.into_iter().find(|(known, _)| known.eq_ignore_ascii_case(name))
    }

    fn credentials(&self) -> Result<String, InvalidConfig> {
        match (self.key_name, self.key, self.signature) {
            (Some(name), Some(key), None) => {
                Ok(format!("SharedAccessKeyName={name};SharedAccessKey={key}"))
            }
            (None, None, Some(signature)) => {
                check_signature(signature)?;
                Ok(format!("SharedAccessSignature={signature}"))
            }
            (_, _, Some(_)) => {
                Err(refused("SharedAccessSignature stands instead of a key, not beside one"))
            }
            (None, Some(_), None) => {
                Err(refused(format!("SharedAccessKeyName is missing; {SHAPE}")))
            }
            (Some(_), None, None) => Err(refused(format!("SharedAccessKey is missing; {SHAPE}"))),
            (None, None, None) => Err(refused(format!(
                "SharedAccessKeyName and SharedAccessKey are missing; {SHAPE}"
            ))),
        }
    }
}

/// What a connection string is for that has a part of this name, if it is one of another service.
fn unknown(name: &str) -> Option<&'static str> {
    let is_one_of = |names: &[&str]| names.iter().any(|known| known.eq_ignore_ascii_case(name));
    if is_one_of(&["DefaultEndpointsProtocol", "AccountName", "AccountKey", "BlobEndpoint"]) {
        return Some(
            "it is the connection string of a storage account; copy that of the Event Hubs \
             namespace, which begins with Endpoint=sb://",
        );
    }
    is_one_of(&["HostName", "DeviceId"]).then_some(
        "it is the connection string of an IoT hub; copy its Event Hubs-compatible endpoint, which \
         begins with Endpoint=sb://",
    )
}

/// Reads `HOURS:MINUTES:SECONDS`, as .NET writes a time, with `DAYS.` before it and a fraction behind it.
fn time_span(text: &str) -> Option<Duration> {
    let (days, time) = match text.split_once(':')?.0.split_once('.') {
        Some((days, _)) => (days.parse::<u32>().ok()?, text.get(days.len() + 1..)?),
        None => (0, text),
    };
    let mut parts = time.split(':');
    let (hours, minutes, seconds) = (parts.next()?, parts.next()?, parts.next()?);
    let is_number = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let (hours, minutes) = (hours.parse::<u32>().ok()?, minutes.parse::<u32>().ok()?);
    let seconds = seconds.parse::<f64>().ok().filter(|_| is_number(seconds))?;
    if parts.next().is_some() || hours > 23 || minutes > 59 || seconds >= 60.0 {
        return None;
    }
    let whole = (f64::from(days) * 24.0 + f64::from(hours)) * 3_600.0 + f64::from(minutes) * 60.0;
    let time = Duration::try_from_secs_f64(whole + seconds).ok()?;
    (!time.is_zero() && time <= MAX_DURATION).then_some(time)
}

/// What the SDK asks of a signature when it connects, asked at once.
fn check_signature(signature: &str) -> Result<(), InvalidConfig> {
    let fields = signature.strip_prefix("SharedAccessSignature ");
    let expiry = fields.and_then(|fields| {
        let has = |name| fields.split('&').any(|field| field.starts_with(name));
        let expiry = fields.split('&').find_map(|field| field.strip_prefix("se="));
        expiry.filter(|_| has("sr=") && has("sig="))?.parse().ok()
    });
    let expires_at =
        expiry.and_then(|seconds| time::OffsetDateTime::from_unix_timestamp(seconds).ok());
    match expires_at {
        Some(_) => Ok(()),
        None => Err(refused(
            "SharedAccessSignature must read SharedAccessSignature sr=…&sig=…&se=SECONDS&skn=…",
        )),
    }
}

/// The host and the port of `Endpoint`. Without a scheme it is what SDKs call the fully qualified namespace;
/// with `https` and port 443 it is what the portal shows.
fn endpoint(text: &str) -> Result<(Host, Option<u16>), InvalidConfig> {
    let whole = if text.contains("://") { text.to_owned() } else { format!("sb://{text}") };
    let url =
        Url::parse(&whole).map_err(|_| refused("Endpoint is not an address such as sb://HOST/"))?;
    if !matches!((url.scheme(), url.port()), ("sb", _) | ("https", None)) {
        return Err(refused("the scheme of Endpoint must be sb, as in sb://HOST/"));
    }
    let has_more = !url.username().is_empty()
        || url.password().is_some()
        || url.query().is_some()
        || url.fragment().is_some();
    if has_more || !matches!(url.path(), "" | "/") {
        return Err(refused(
            "Endpoint holds more than a host and a port; a hub's name goes in EntityPath",
        ));
    }
    let host = url.host_str().and_then(Host::parse);
    let host = host.ok_or_else(|| refused("the host in Endpoint is not a host name"))?;
    if url.port() == Some(0) {
        return Err(refused("the port in Endpoint must be from 1 to 65535"));
    }
    Ok((host, url.port()))
}

impl ConnectionString {
    pub(super) fn parse(text: &str) -> Result<Self, InvalidConfig> {
        let parts = Parts::split(text)?;
        let Some(address) = parts.endpoint else {
            return Err(refused(format!("Endpoint is missing; {SHAPE}")));
        };
        let (host, port) = endpoint(address)?;
        let credentials = parts.credentials()?;
        let is_emulator = match parts.emulator {
            None => false,
            Some(value) if value.eq_ignore_ascii_case("false") => false,
            Some(value) if value.eq_ignore_ascii_case("true") => true,
            Some(_) => return Err(refused("UseDevelopmentEmulator must be true or false")),
        };
        if is_emulator && !is_loopback(&host) {
            return Err(refused(
                "UseDevelopmentEmulator=true is a connection in plain text, tokens included: the \
                 host in Endpoint must be this machine (localhost, 127.0.0.1)",
            ));
        }
        let protocol = match parts.transport {
            None => None,
            Some(value) if value.eq_ignore_ascii_case("Amqp") => Some(Protocol::Tcp),
            Some(value) if value.eq_ignore_ascii_case("AmqpWebSockets") => {
                Some(Protocol::WebSocket)
            }
            Some(_) => return Err(refused("TransportType must be Amqp or AmqpWebSockets")),
        };
        let operation_timeout = parts.operation_timeout.map(|text| {
            time_span(text).ok_or_else(|| {
                refused("OperationTimeout must read HOURS:MINUTES:SECONDS, such as 00:01:00")
            })
        });
        Ok(Self {
            operation_timeout: operation_timeout.transpose()?,
            for_sdk: format!("Endpoint=sb://{}/;{credentials}", host.in_url()),
            host,
            port,
            entity_path: parts.entity_path.map(str::to_owned),
            protocol,
            is_emulator,
        })
    }
}
