//! Settings that ask for what is not in the build name the feature. What a test needs to be missing,
//! or there, is above it: scripts/test runs them without features and with the default ones.

use super::{Settings, SettingsError, TransportKind};

/// Shown by no error.
const KEY: &str = "canary";

fn load(environment: &[(&str, &str)]) -> Result<Settings, SettingsError> {
    Settings::load(environment.iter().copied(), None)
}

/// All that is wrong.
#[track_caller]
#[cfg_attr(
    all(feature = "event-hubs", feature = "blob"),
    expect(dead_code, reason = "both are there")
)]
fn problems(environment: &[(&str, &str)]) -> Vec<String> {
    let error = load(environment).expect_err("a feature is missing");
    let problems: Vec<_> = error.problems().iter().map(ToString::to_string).collect();
    assert!(problems.iter().all(|problem| !problem.contains(KEY)), "{problems:?}");
    problems
}

#[test]
fn memory_needs_no_feature() {
    let settings = load(&[
        ("PIPELINE_TRANSPORT", "memory"),
        ("EVENTHUB_ENTITY_NAME", "orders"),
        ("EVENTHUB_PROTOCOL", "tcp"),
        ("EVENTHUB_CREDENTIAL", "developer"),
        ("LONGSHORE_MAX_BATCH_SIZE", "7"),
    ])
    .expect("memory works");
    assert_eq!(settings.transport(), TransportKind::Memory);
    assert_eq!(settings.entity().expect("named").as_str(), "orders");
    assert_eq!(settings.consumer_options().max_batch_size, 7);
    assert!(settings.warnings().is_empty(), "{:?}", settings.warnings());
}

#[cfg(not(feature = "event-hubs"))]
#[test]
fn event_hubs_by_choice_or_by_default_names_its_feature() {
    let string = format!("Endpoint=sb://n/;SharedAccessKeyName=k;SharedAccessKey={KEY}");
    let given = ("EVENTHUB_CONNECTION_STRING", string.as_str());
    for environment in [
        &[][..],
        &[given],
        &[("PIPELINE_TRANSPORT", "eventhub")],
        &[("PIPELINE_TRANSPORT", "EventHub"), given],
    ] {
        let problems = problems(environment);
        // The one that is to be mended, and none that follows from it.
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].contains("the feature event-hubs"), "{problems:?}");
        assert!(problems[0].contains("PIPELINE_TRANSPORT"), "{problems:?}");
    }
}

#[cfg(not(feature = "blob"))]
#[test]
fn a_container_names_its_feature() {
    let signed = format!("https://a.blob.core.windows.net/c?sv=1&sig={KEY}");
    for container in [signed.as_str(), "https://a.blob.core.windows.net/c"] {
        let environment =
            [("PIPELINE_TRANSPORT", "memory"), ("LONGSHORE_CHECKPOINT_CONTAINER", container)];
        let problems = problems(&environment);
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].contains("the feature blob"), "{problems:?}");
        assert!(problems[0].contains("LONGSHORE_CHECKPOINT_CONTAINER"), "{problems:?}");
    }
}

/// A credential is data until it opens something: a program may have tokens of its own.
#[cfg(all(feature = "event-hubs", not(feature = "identity")))]
#[test]
fn a_credential_names_its_feature_where_it_is_opened() {
    for credential in ["developer", "managed-identity", "workload-identity"] {
        let settings = load(&[
            ("EVENTHUB_NAMESPACE", "n.servicebus.windows.net"),
            ("EVENTHUB_CREDENTIAL", credential),
        ])
        .expect("it is data");
        let error = settings.namespace().expect_err("nothing makes tokens");
        assert_eq!(error.class(), crate::error::ErrorClass::Permanent);
        assert!(error.to_string().contains("the feature identity"), "{error}");
    }
}

#[cfg(all(feature = "blob", not(feature = "identity")))]
#[test]
fn the_credential_of_a_container_names_its_feature_where_it_is_opened() {
    let settings = load(&[
        ("PIPELINE_TRANSPORT", "memory"),
        ("LONGSHORE_CHECKPOINT_CONTAINER", "https://a.blob.core.windows.net/c"),
        ("LONGSHORE_CHECKPOINT_CREDENTIAL", "managed-identity"),
    ])
    .expect("it is data");
    let error = settings.open_stores().expect_err("nothing makes tokens");
    assert!(error.to_string().contains("the feature identity"), "{error}");
}
