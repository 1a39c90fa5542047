//! What a namespace takes, what it refuses, and which way its connections go.
#![allow(clippy::unwrap_used, clippy::panic)]

use proptest::prelude::*;

use super::*;
use crate::error::ErrorClass;

const KEY: &str = "SharedAccessKeyName=send;SharedAccessKey=c2VjcmV0PT0=";

fn namespace(rest: &str) -> Namespace {
    Namespace::from_connection_string(&format!("{rest};{KEY}")).unwrap()
}

fn azure() -> Namespace {
    namespace("Endpoint=sb://NS.servicebus.windows.net/")
}

#[track_caller]
fn refused(text: &str, why: &str) {
    let error = Namespace::from_connection_string(text).unwrap_err().to_string();
    assert!(error.contains(why), "{error}");
    assert!(!error.contains("c2VjcmV0") && !error.contains("s3cret"), "{error}");
}

#[track_caller]
fn dials(namespace: &Namespace, protocol: Protocol, endpoint: Option<&str>) {
    match namespace.route() {
        Route::Sdk { protocol: by, endpoint: at } => {
            assert_eq!((by, at.as_deref()), (protocol, endpoint));
        }
        Route::Tunnel(options) => panic!("{options:?}"),
    }
}

#[track_caller]
fn tunnels(namespace: &Namespace) -> TunnelOptions {
    match namespace.route() {
        Route::Tunnel(options) => options,
        sdk => panic!("{sdk:?}"),
    }
}

fn for_sdk(namespace: &Namespace) -> &str {
    match &namespace.access {
        Access::ConnectionString(text) => text,
        Access::Tokens(_) => panic!("no connection string"),
    }
}

#[test]
fn a_wrong_connection_string_is_refused_by_the_part_and_never_repeated() {
    let azure = "Endpoint=sb://ns.servicebus.windows.net/";
    for (text, why) in [
        (String::new(), "Endpoint is missing"),
        (KEY.to_owned(), "Endpoint is missing"),
        (format!("{azure};SharedAccessKey=s3cret"), "SharedAccessKeyName is missing"),
        (format!("{azure};SharedAccessKeyName=send"), "SharedAccessKey is missing"),
        (azure.to_owned(), "SharedAccessKeyName and SharedAccessKey are missing"),
        (format!("Endpoint=http://ns.example/;{KEY}"), "scheme of Endpoint must be sb"),
        (format!("Endpoint=https://ns.example:8443/;{KEY}"), "scheme of Endpoint must be sb"),
        (format!("Endpoint=ns example;{KEY}"), "not an address such as"),
        (format!("Endpoint=sb:///;{KEY}"), "host in Endpoint"),
        (format!("Endpoint=sb://h%20st/;{KEY}"), "host in Endpoint"),
        (format!("Endpoint=sb://me:s3cret@ns.example/;{KEY}"), "more than a host and a port"),
        (format!("Endpoint=sb://ns.example/hub;{KEY}"), "EntityPath"),
        (format!("Endpoint=sb://ns.example:0/;{KEY}"), "from 1 to 65535"),
        (format!("Endpoint=sb://ns.example:70000/;{KEY}"), "not an address such as"),
        (format!("{azure};{KEY};s3cret"), "part 4 has no '='"),
        (format!("{azure};{KEY};s3cret=1"), "the name of part 4 is not known"),
        (format!("{azure};{KEY};EntityPath="), "EntityPath is empty"),
        (format!("{azure};{KEY};entitypath=a;EntityPath=b"), "EntityPath is given twice"),
        (format!("{azure};{KEY};SharedAccessSignature=s3cret"), "not beside one"),
        (format!("{azure};SharedAccessSignature=s3cret"), "SharedAccessSignature must read"),
        (format!("{azure};{KEY};UseDevelopmentEmulator=maybe"), "must be true or false"),
        (format!("{azure};{KEY};UseDevelopmentEmulator=true"), "in plain text"),
        (format!("{azure};{KEY};TransportType=Smoke"), "TransportType must be"),
        (format!("{azure};{KEY};OperationTimeout=60"), "HOURS:MINUTES:SECONDS"),
        (format!("{azure};{KEY};OperationTimeout=00:00:00"), "HOURS:MINUTES:SECONDS"),
        (format!("{azure};{KEY};OperationTimeout=00:61:00"), "HOURS:MINUTES:SECONDS"),
        (format!("{azure};{KEY};OperationTimeout=999.00:00:00"), "HOURS:MINUTES:SECONDS"),
        (format!("{azure};{KEY};OperationTimeout=00:00:inf"), "HOURS:MINUTES:SECONDS"),
        ("AccountName=acc;AccountKey=s3cret".to_owned(), "of a storage account"),
        ("HostName=h;SharedAccessKeyName=n;SharedAccessKey=s3cret".to_owned(), "of an IoT hub"),
    ] {
        refused(&text, why);
    }
}

#[test]
fn an_endpoint_is_taken_as_sdks_and_the_portal_show_it() {
    for (endpoint, dialled) in [
        ("NS.servicebus.windows.net", "ns.servicebus.windows.net:443"),
        ("ns.servicebus.windows.net/", "ns.servicebus.windows.net:443"),
        ("ns.servicebus.windows.net:5671", "ns.servicebus.windows.net:5671"),
        ("https://ns.servicebus.windows.net:443/", "ns.servicebus.windows.net:443"),
        ("SB://ns.servicebus.windows.net/", "ns.servicebus.windows.net:443"),
    ] {
        let namespace = namespace(&format!("Endpoint={endpoint}"));
        assert_eq!(namespace.host(), "ns.servicebus.windows.net", "{endpoint}");
        assert_eq!(namespace.address(), dialled, "{endpoint}");
    }
}

#[test]
fn an_operation_timeout_is_how_long_a_call_may_take() {
    let of = |time| namespace(&format!("Endpoint=sb://ns.example;OperationTimeout={time}"));
    for (time, seconds) in [("00:01:00", 60.0), ("1.01:00:30", 90_030.0), ("00:00:02.5", 2.5)] {
        assert_eq!(of(time).call_timeout, Duration::from_secs_f64(seconds), "{time}");
    }
    assert_eq!(namespace("Endpoint=sb://ns.example").call_timeout, DEFAULT_CALL_TIMEOUT);
    let later = of("00:01:00").with_call_timeout(Duration::from_secs(5));
    assert_eq!(later.call_timeout, Duration::from_secs(5), "what is said in code wins");
}

#[test]
fn the_sdk_reads_what_was_read_here() {
    let signature = "SharedAccessSignature sr=sb%3a%2f%2fns&sig=abc%3d&se=1900000000&skn=send";
    for (text, entity) in [
        (format!(" endpoint = sb://NS.example ; {KEY};"), None),
        (format!("Endpoint=sb://ns.example:5671/;{KEY};EntityPath=orders"), Some("orders")),
        (format!("Endpoint=sb://ns.example/;SharedAccessSignature={signature}"), None),
        (format!("Endpoint=sb://[::1]:5671;{KEY}"), None),
    ] {
        let namespace = Namespace::from_connection_string(&text).unwrap();
        let by_sdk: azure_messaging_eventhubs::ConnectionString =
            for_sdk(&namespace).parse().unwrap();
        let host = by_sdk.fully_qualified_namespace.trim_matches(['[', ']']).to_owned();
        assert_eq!(host, namespace.host());
        assert_eq!(namespace.entity_path(), entity);
        let has_key = by_sdk.shared_access_key.is_some_and(|key| key.secret() == "c2VjcmV0PT0=");
        assert_eq!(has_key, !text.contains("sig="));
    }
}

proptest! {
    #[test]
    fn no_connection_string_panics(text in ".{0,200}", endpoint in "[ -~]{0,40}") {
        let _ = Namespace::from_connection_string(&text);
        if let Ok(namespace) =
            Namespace::from_connection_string(&format!("Endpoint=sb://{endpoint};{KEY}"))
        {
            let by_sdk: Result<azure_messaging_eventhubs::ConnectionString, _> =
                for_sdk(&namespace).parse();
            prop_assert!(by_sdk.is_ok());
            namespace.route();
        }
    }
}

#[tokio::test]
async fn a_connection_string_of_another_hub_is_refused_before_it_is_used() {
    let bound =
        namespace("Endpoint=sb://localhost:1;UseDevelopmentEmulator=true;EntityPath=Orders");
    let error = bound.open_producer(&"files".into()).await.err().unwrap();
    assert_eq!(error.class(), ErrorClass::Permanent);
    assert!(error.to_string().contains("bound to the hub Orders, not to files"), "{error}");
    // Names of hubs have no case. Nobody is at that port.
    let error = bound.open_producer(&"orders".into()).await.err().unwrap();
    assert_eq!(error.class(), ErrorClass::Transient, "{error:?}");
}

#[test]
fn websocket_is_the_default_and_tcp_a_choice() {
    dials(&azure(), Protocol::WebSocket, None);
    dials(&azure().with_protocol(Protocol::Tcp), Protocol::Tcp, None);
    let by_string = namespace("Endpoint=sb://ns.example/;TransportType=Amqp");
    dials(&by_string, Protocol::Tcp, None);
    dials(&by_string.with_protocol(Protocol::WebSocket), Protocol::WebSocket, None);
    assert_eq!(azure().host(), "ns.servicebus.windows.net");
}

#[test]
fn a_port_is_honoured() {
    let at = Some("amqps://ns.example:8443");
    dials(&namespace("Endpoint=sb://ns.example:8443"), Protocol::WebSocket, at);
    let tcp = namespace("Endpoint=sb://ns.example:8443").with_protocol(Protocol::Tcp);
    dials(&tcp, Protocol::Tcp, at);
    let amqps = namespace("Endpoint=sb://localhost:5671/");
    dials(&amqps, Protocol::Tcp, Some("amqps://localhost:5671"));
    let ipv6 = namespace("Endpoint=sb://[::1]:5671/");
    dials(&ipv6, Protocol::Tcp, Some("amqps://[::1]:5671"));
}

#[test]
fn an_emulator_is_met_without_tls() {
    let emulator = namespace("Endpoint=sb://localhost:5673;UseDevelopmentEmulator=true");
    dials(&emulator, Protocol::Tcp, Some("amqp://localhost:5673"));
    let without_port = namespace("Endpoint=sb://127.0.0.1;UseDevelopmentEmulator=true");
    dials(&without_port, Protocol::Tcp, Some("amqp://127.0.0.1:5672"));
    // Nothing on the way is needed, or used, on this machine.
    let proxy = "http://proxy.example:3128".parse().unwrap();
    let behind = emulator.clone().with_proxy(proxy).unwrap().without_certificate_verification();
    dials(&behind, Protocol::Tcp, Some("amqp://localhost:5673"));
    // The SDK has no WebSocket without TLS.
    let options = tunnels(&emulator.with_protocol(Protocol::WebSocket));
    assert_eq!((options.port, options.wire), (5673, Wire::WebSocket));
    assert!(options.trust.is_none());
}

#[test]
fn a_custom_endpoint_says_what_is_spoken_there() {
    let at = |endpoint: &str| azure().with_custom_endpoint(endpoint).unwrap();
    dials(&at("amqp://127.0.0.1:5672"), Protocol::Tcp, Some("amqp://127.0.0.1:5672"));
    dials(&at("amqps://b.example:1"), Protocol::WebSocket, Some("amqps://b.example:1"));
    let tcp = at("amqps://b.example").with_protocol(Protocol::Tcp);
    dials(&tcp, Protocol::Tcp, Some("amqps://b.example:5671"));
    let wss = at("wss://b.example").with_protocol(Protocol::Tcp);
    dials(&wss, Protocol::WebSocket, Some("amqps://b.example:443"));
    assert_eq!(tunnels(&at("ws://localhost:8080")).port, 8080);
    let error = azure().with_custom_endpoint("amqp://b.example:5672").unwrap_err();
    assert!(error.to_string().contains("tokens would travel in plain text"), "{error}");
}

#[test]
fn what_the_sdk_cannot_be_told_goes_through_a_tunnel() {
    let proxy = "http://me:s3cret@proxy.example:3128".parse().unwrap();
    let proxied = azure().with_proxy(proxy).unwrap();
    assert!(!format!("{proxied:?} {:?}", proxied.route()).contains("s3cret"));
    let options = tunnels(&proxied);
    assert_eq!(options.host, "ns.servicebus.windows.net");
    assert_eq!((options.port, options.wire), (443, Wire::WebSocket));
    assert!(options.proxy.is_some() && matches!(options.trust, Some(Trust::System)));
    let unverified = azure().with_protocol(Protocol::Tcp).without_certificate_verification();
    let options = tunnels(&unverified);
    assert_eq!((options.port, options.wire), (5671, Wire::Amqp));
    assert!(matches!(options.trust, Some(Trust::Anything)));
    assert_eq!(options.idle_timeout, DEFAULT_IDLE_TIMEOUT);
}

#[test]
fn an_authority_file_is_refused_for_what_is_wrong_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("authority.pem");
    let with = |content: &str| {
        std::fs::write(&path, content).unwrap();
        azure().with_certificate_authority_file(&path)
    };
    let key = rcgen::KeyPair::generate().unwrap();
    let authority = rcgen::CertificateParams::default().self_signed(&key).unwrap().pem();
    let taken = with(&format!("# ours\n{}{authority}{authority}", key.serialize_pem())).unwrap();
    match tunnels(&taken).trust {
        Some(Trust::SystemAnd(authorities)) => assert_eq!(authorities.len(), 2),
        other => panic!("{other:?}"),
    }
    let middle = authority.len() / 2;
    let body = authority.lines().nth(2).unwrap();
    for (content, why) in [
        ("", "there is no certificate in it"),
        (key.serialize_pem().as_str(), "there is no certificate in it"),
        (&authority[..middle], "certificate 1 in it is damaged"),
        (&authority.replace(body, "%%%%"), "certificate 1 in it is damaged"),
        (&format!("{authority}{}", authority.replace(body, "")), "certificate 2 in it is damaged"),
    ] {
        let error = with(content).unwrap_err().to_string();
        assert!(error.contains(why) && error.contains("authority.pem"), "{error}");
    }
    let error = azure().with_certificate_authority_file(dir.path().join("none.pem")).unwrap_err();
    assert!(error.to_string().contains("it cannot be read"), "{error}");
    assert!(error.to_string().contains("none.pem"), "{error}");
}

#[test]
fn checkpoints_are_filed_under_the_port_of_a_broker_on_this_machine_as_other_clients_do() {
    for (endpoint, name) in [
        ("Endpoint=sb://NS.servicebus.windows.net/", "ns.servicebus.windows.net"),
        // A port says how to get there, and is no part of a name in the cloud.
        ("Endpoint=sb://NS.servicebus.windows.net:5671/", "ns.servicebus.windows.net"),
        ("Endpoint=sb://localhost", "localhost"),
        ("Endpoint=sb://localhost:5673", "localhost:5673"),
        ("Endpoint=sb://LOCALHOST:5673/;UseDevelopmentEmulator=true", "localhost:5673"),
        ("Endpoint=sb://127.0.0.1:5673", "127.0.0.1:5673"),
        ("Endpoint=sb://[::1]:5673", "[::1]:5673"),
    ] {
        assert_eq!(namespace(endpoint).name(), name);
    }
    let elsewhere = namespace("Endpoint=sb://localhost").with_custom_endpoint("amqp://[::1]:1");
    assert_eq!(elsewhere.unwrap().name(), "localhost");
}
