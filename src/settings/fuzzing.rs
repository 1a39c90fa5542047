//! What holds of settings, whatever a file and the environment say.

use super::{Resolved, source};

/// Stands in the seeds wherever a secret may.
const SECRET: &str = "canary5f1e";

/// Settings are taken, or all that is wrong is said; no secret is in what is said, nor in what `Debug`
/// shows of settings. The text is the file, and behind a line of `---` the environment, a line for each variable.
///
/// # Panics
/// Where that does not hold.
pub fn settings(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (file, environment) = text.split_once("\n---\n").unwrap_or((text, ""));
    let variables = environment.lines().filter_map(|line| line.split_once('='));
    let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let values = source::Values::of_text(variables, "longshore.toml".as_ref(), file);
    let is_a_name = is_a_name(text);
    match Resolved::new(values).into_settings() {
        Ok(settings) => {
            let (shown, warnings) = (format!("{settings:?}"), settings.warnings().join("\n"));
            assert!(is_a_name || !(shown + &warnings).contains(SECRET), "{settings:?}");
            let _named = (settings.entity(), settings.checkpoint_place(), settings.credential());
            for worker in ["download", "upload", "enrich"] {
                let _places = (settings.worker(worker), settings.entity_of(worker));
            }
        }
        Err(error) => assert!(is_a_name || !error.to_string().contains(SECRET), "{error}"),
    }
}

/// Whether the secret stands elsewhere than in a value that may be one: names of keys, hubs and hosts are shown.
fn is_a_name(text: &str) -> bool {
    let in_secrets = ["SharedAccessKey=", "sig=", "AccountKey=", "user:"];
    let all = text.matches(SECRET).count();
    let secret: usize =
        in_secrets.iter().map(|before| text.matches(&format!("{before}{SECRET}")).count()).sum();
    all != secret
}
