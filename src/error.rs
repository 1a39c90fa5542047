//! Errors, sorted by what the caller does about them.
//!
//! An [`Error`] says which operation failed, where, and why, in one line. `Display` never prints the source; the
//! chain ([`std::error::Error::source`]) carries it. The [`ErrorClass`] says what to do: wait and try again, slow
//! down, ask for credentials, or give up.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::event::{Partition, SequenceNumber};

/// What a caller does about an error.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorClass {
    /// Will pass: try again after a back-off.
    Transient,
    /// The other side asks for less: wait at least four seconds.
    Throttling,
    /// Credentials are missing, wrong or expired: tell an operator, and try again slowly.
    Auth,
    /// Trying again gives the same answer.
    Permanent,
    /// Larger than the other side takes: send less, or shorter.
    TooLarge,
    /// Another owner has the partition: stop, and leave its checkpoint alone.
    PartitionLost,
    /// The position is not in the log: apply the policy for lost positions, and say so.
    BadPosition,
    /// What arrived cannot be understood, or what is to be sent cannot be written.
    BadData,
    /// An event arrived that the client cannot decode. It becomes a dead letter without content. The events behind
    /// it arrive.
    Unreadable,
    /// Not known: treated as transient, with an alert, and never skipped.
    Unknown,
}

impl ErrorClass {
    /// The class as one lower-case word, as records and metrics spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            ErrorClass::Transient => "transient",
            ErrorClass::Throttling => "throttling",
            ErrorClass::Auth => "auth",
            ErrorClass::Permanent => "permanent",
            ErrorClass::TooLarge => "too_large",
            ErrorClass::PartitionLost => "partition_lost",
            ErrorClass::BadPosition => "bad_position",
            ErrorClass::BadData => "bad_data",
            ErrorClass::Unreadable => "unreadable",
            ErrorClass::Unknown => "unknown",
        }
    }

    /// The class of this word. `None` if there is none.
    pub fn from_word(word: &str) -> Option<Self> {
        const ALL: [ErrorClass; 10] = [
            ErrorClass::Transient,
            ErrorClass::Throttling,
            ErrorClass::Auth,
            ErrorClass::Permanent,
            ErrorClass::TooLarge,
            ErrorClass::PartitionLost,
            ErrorClass::BadPosition,
            ErrorClass::BadData,
            ErrorClass::Unreadable,
            ErrorClass::Unknown,
        ];
        ALL.into_iter().find(|class| class.as_str() == word)
    }

    /// Whether the same call may succeed later without anybody's help.
    pub fn is_retryable(self) -> bool {
        matches!(
            self,
            ErrorClass::Transient | ErrorClass::Throttling | ErrorClass::Auth | ErrorClass::Unknown
        )
    }
}

impl fmt::Display for ErrorClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A result with longshore's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

type Source = Box<dyn std::error::Error + Send + Sync + 'static>;

/// A failed operation of the transport, a store or a sink.
pub struct Error(Box<Parts>);

struct Parts {
    class: ErrorClass,
    operation: &'static str,
    message: String,
    partition: Option<Partition>,
    sequence_number: Option<SequenceNumber>,
    source: Option<Source>,
}

impl Error {
    /// An error of `operation` (a verb and its object: "open the link").
    pub fn new(class: ErrorClass, operation: &'static str, message: impl Into<String>) -> Self {
        Self(Box::new(Parts {
            class,
            operation,
            message: message.into(),
            partition: None,
            sequence_number: None,
            source: None,
        }))
    }

    /// Says which partition the operation was about.
    pub fn with_partition(mut self, partition: &Partition) -> Self {
        self.0.partition = Some(partition.clone());
        self
    }

    /// Says which event the operation was about.
    pub fn with_sequence_number(mut self, sequence_number: SequenceNumber) -> Self {
        self.0.sequence_number = Some(sequence_number);
        self
    }

    /// Keeps the cause for the chain.
    pub fn with_source(mut self, source: impl Into<Source>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// The same error for one more caller who waited for the same operation; its chain is kept
    /// as text.
    pub(crate) fn repeated(&self) -> Self {
        let parts = &*self.0;
        let causes = error_chain(self);
        Self(Box::new(Parts {
            class: parts.class,
            operation: parts.operation,
            message: parts.message.clone(),
            partition: parts.partition.clone(),
            sequence_number: parts.sequence_number,
            source: causes
                .get(1..)
                .filter(|causes| !causes.is_empty())
                .map(|causes| causes.join(": ").into()),
        }))
    }

    /// What to do about it.
    pub fn class(&self) -> ErrorClass {
        self.0.class
    }

    /// The operation that failed.
    pub fn operation(&self) -> &'static str {
        self.0.operation
    }

    /// The partition the operation was about.
    pub fn partition(&self) -> Option<&Partition> {
        self.0.partition.as_ref()
    }

    /// The event the operation was about.
    pub fn sequence_number(&self) -> Option<SequenceNumber> {
        self.0.sequence_number
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = &*self.0;
        write!(f, "could not {}", parts.operation)?;
        if let Some(partition) = &parts.partition {
            write!(f, " of {partition}")?;
        }
        if let Some(sequence_number) = parts.sequence_number {
            write!(f, " at {sequence_number}")?;
        }
        write!(f, ": {}", OneLine(&parts.message))
    }
}

/// A text that may quote what came from outside, in one line: control characters are written as their
/// codes, so that it steers no terminal and looks like no other line of a log.
pub(crate) struct OneLine<'a>(pub(crate) &'a str);

impl fmt::Display for OneLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write as _;

        for letter in self.0.chars() {
            let breaks_a_line = matches!(letter, '\u{2028}' | '\u{2029}');
            match letter.is_control() || breaks_a_line {
                true => write!(f, "{}", letter.escape_default())?,
                false => f.write_char(letter)?,
            }
        }
        Ok(())
    }
}

/// In words, with the class and all causes: what a `main` that returns it prints.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", error_chain(self).join(": "), self.0.class)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_ref().map(|source| &**source as _)
    }
}

/// The messages of an error and all its sources, outermost first. A message that the one before it ends with
/// is left out. Of an answer in XML the texts are kept.
pub fn error_chain(error: &(dyn std::error::Error + 'static)) -> Vec<String> {
    let mut chain = vec![without_markup(error.to_string())];
    let mut next = error.source();
    while let Some(source) = next {
        let message = without_markup(source.to_string());
        if !chain.last().is_some_and(|before| before.ends_with(&message)) {
            chain.push(message);
        }
        next = source.source();
    }
    chain
}

/// The texts of an answer in XML, in one line; any other text as it is.
fn without_markup(text: String) -> String {
    let Some(begin) = text.find("<?xml") else { return text };
    let (before, xml) = text.split_at(begin);
    let outside = xml.split('<').filter_map(|part| Some(part.split_once('>')?.1.trim()));
    let texts: Vec<&str> = outside.filter(|text| !text.is_empty()).collect();
    let before = before.trim_end_matches(['\u{feff}', ' ', '\n']);
    let gap = if before.is_empty() || texts.is_empty() { "" } else { " " };
    format!("{before}{gap}{}", texts.join(": ").replace(['\n', '\r'], " "))
}

/// A setting that cannot be used: the field, its value, and the bound it breaks.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} = {value} cannot be used: {bound}")]
pub struct InvalidConfig {
    /// The setting, as the code and the file spell it.
    pub field: &'static str,
    /// Its value; `(hidden)` for a secret.
    pub value: String,
    /// What it must be, and what to do.
    pub bound: String,
}

impl InvalidConfig {
    /// An error about `field`: it holds `value`, and must be as `bound` says.
    pub fn new(field: &'static str, value: impl fmt::Display, bound: impl Into<String>) -> Self {
        Self { field, value: value.to_string(), bound: bound.into() }
    }
}

/// In words: what a `main` that returns it prints.
impl fmt::Debug for InvalidConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_main_returns_is_printed_in_words() {
        let cause = std::io::Error::other("connection reset");
        let error = Error::new(ErrorClass::Transient, "open the link", "there was no answer");
        let error = error.with_source(cause);
        assert_eq!(
            format!("{error:?}"),
            "could not open the link: there was no answer: connection reset (transient)"
        );
        let invalid = InvalidConfig::new("max_attempts", 0, "at least 1");
        assert_eq!(format!("{invalid:?}"), "max_attempts = 0 cannot be used: at least 1");
    }

    #[test]
    fn display_names_operation_and_place_and_leaves_the_source_to_the_chain() {
        let cause = std::io::Error::other("connection reset");
        let error =
            Error::new(ErrorClass::Transient, "open the link", "the service did not answer")
                .with_partition(&Partition::new("orders", "3"))
                .with_sequence_number(SequenceNumber(17))
                .with_source(cause);
        assert_eq!(
            error.to_string(),
            "could not open the link of orders/3 at 17: the service did not answer"
        );
        assert_eq!(error_chain(&error).last().map(String::as_str), Some("connection reset"));
    }

    #[test]
    fn a_cause_is_said_once_and_xml_becomes_its_texts() {
        #[derive(Debug, thiserror::Error)]
        #[error("AMQP Error: {0}")]
        struct Outer(#[source] std::io::Error);

        let refused = || std::io::Error::other("Connection refused");
        assert_eq!(error_chain(&Outer(refused())), ["AMQP Error: Connection refused"]);
        let answer = "409: \u{feff}<?xml version=\"1.0\"?>\n<Error><Code>ContainerBeingDeleted</Code>\
                      <Message>It is being deleted.\nTime:x</Message></Error>";
        let error = Error::new(ErrorClass::Transient, "write the lease", "it is refused")
            .with_source(std::io::Error::other(answer));
        assert_eq!(
            error_chain(&error)[1],
            "409: ContainerBeingDeleted: It is being deleted. Time:x"
        );
        for plain in ["", "a < b", "<p>"] {
            assert_eq!(without_markup(plain.to_owned()), plain);
        }
    }
}
