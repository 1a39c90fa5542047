//! One file that is fetched over connections that break: what it has, what the next request asks
//! for, and what an answer to that means.
//!
//! ```text
//!            200, 203                     bytes                 the body ends as announced
//!  nothing ─────────────> a body runs ──────────> more of it ────────────────────────────> complete
//!     ^                        ^                      │
//!     │ 200: another file,     │ 206: the rest        │ the connection breaks,
//!     │ or no ranges there     │ of the same file     │ and something came
//!     └────────────────────────┴──── the rest is asked for, with If-Range ───┘
//! ```
//!
//! The rest of a file is asked for only where the server gave a validator that tells two versions
//! apart byte for byte (RFC 9110, 8.8 and 13.1.5): a strong ETag; or, where there is no ETag at all,
//! a time of the last change that is at least a second older than the answer. Else a break means to
//! begin anew.

use std::ops::Range;
use std::time::Duration;

/// Less than this between two breaks is no progress to speak of: the next request waits a little.
const SMALL_GAIN_BYTES: u64 = 64 * 1024;

/// The first such wait, and the longest; each is twice the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// What tells one version of a file from every other, as `If-Range` takes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Validator {
    /// A strong ETag.
    ETag(String),
    /// The time of the last change.
    LastModified(String),
}

impl Validator {
    /// As `If-Range` takes it.
    pub fn as_str(&self) -> &str {
        match self {
            Self::ETag(text) | Self::LastModified(text) => text,
        }
    }
}

/// What an answer says of the version of its file.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Version {
    /// Its ETag, strong or weak.
    pub etag: Option<String>,
    /// When it was changed last.
    pub last_modified: Option<String>,
    /// How much older the change is than the answer, where both times can be read.
    pub age: Option<Duration>,
}

impl Version {
    /// What tells this version from every other, where anything does.
    pub fn validator(&self) -> Option<Validator> {
        if let Some(etag) = &self.etag {
            let quoted = etag.len() >= 2 && etag.starts_with('"') && etag.ends_with('"');
            return quoted.then(|| Validator::ETag(etag.clone()));
        }
        let is_old = self.age.is_some_and(|age| age >= Duration::from_secs(1));
        self.last_modified.clone().filter(|_| is_old).map(Validator::LastModified)
    }

    /// Whether it may be the version that this validator is of. One that says nothing may be: it
    /// answers a request that asked for that version alone.
    fn may_be(&self, validator: &Validator) -> bool {
        match validator {
            Validator::ETag(etag) => self.etag.as_ref().is_none_or(|said| said == etag),
            Validator::LastModified(time) => {
                self.etag.is_none() && self.last_modified.as_ref().is_none_or(|said| said == time)
            }
        }
    }
}

/// Which bytes of how many an answer 206 holds: `Content-Range`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ContentRange {
    /// The first byte, from 0.
    pub first: u64,
    /// The last byte.
    pub last: u64,
    /// The length of the whole, where the server knows it.
    pub total: Option<u64>,
}

impl ContentRange {
    /// Reads `bytes 0-99/1000` or `bytes 0-99/*`; `None` where it is anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let (unit, rest) = text.trim().split_once(' ')?;
        let (range, total) = rest.trim().split_once('/')?;
        let (first, last) = range.split_once('-')?;
        let number = |text: &str| {
            let text = text.trim();
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            digits.then(|| text.parse::<u64>().ok()).flatten()
        };
        let (first, last) = (number(first)?, number(last)?);
        let total = match total.trim() {
            "*" => None,
            total => Some(number(total)?),
        };
        let fits = first <= last && last < u64::MAX && total.is_none_or(|total| last < total);
        (unit.eq_ignore_ascii_case("bytes") && fits).then_some(Self { first, last, total })
    }
}

/// What the next request asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ask<'a> {
    /// The file.
    Whole,
    /// What of it is missing, as long as it is the same file.
    Rest {
        /// The first byte that is missing.
        from: u64,
        /// What says that it is the same.
        validator: &'a Validator,
    },
    /// A part of it, as long as it is the same file.
    Part {
        /// The first byte of the part.
        from: u64,
        /// The byte behind its last one.
        to: u64,
        /// What says that it is the same.
        validator: &'a Validator,
    },
}

/// One version of a file, whose parts may come over several connections.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FileVersion {
    /// What tells it from every other version.
    pub validator: Validator,
    /// Its length.
    pub total: u64,
    /// Whose it is, as [`Answer::resource`].
    pub resource: String,
}

impl FileVersion {
    /// The bytes that an answer to a request for `asked` holds; `None` where they are others, or those
    /// of another file.
    pub fn part(&self, answer: &Answer, asked: &Range<u64>) -> Option<Range<u64>> {
        let range = answer.partial.flatten()?;
        let is_same = answer.resource == self.resource && answer.version.may_be(&self.validator);
        let part = range.first..range.last.checked_add(1)?;
        let fits = part.start == asked.start
            && part.end <= asked.end
            && range.total.is_none_or(|total| total == self.total)
            && answer.length.is_none_or(|length| length == part.end - part.start);
        (is_same && fits).then_some(part)
    }
}

/// An answer that has a body of the file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// Of an answer 206: `None` where its `Content-Range` cannot be understood.
    pub partial: Option<Option<ContentRange>>,
    /// The length of its body, where it is known.
    pub length: Option<u64>,
    /// What it says of the version.
    pub version: Version,
    /// Whose it is: where redirects led. Versions of two resources say nothing of each other.
    pub resource: String,
    /// Whether the server says that it gives parts of it: `Accept-Ranges: bytes`.
    pub has_ranges: bool,
}

/// What the body of an answer is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Body {
    /// It follows what is there.
    Follows,
    /// It is the file from its beginning: what is there is thrown away.
    BeginsAnew,
}

/// Why the body of an answer is of no use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Misfit {
    /// A part of the file where all of it was asked for.
    NotAskedFor,
    /// Another part than the one that was asked for, or one of another file. The next request asks
    /// for the whole.
    OtherPart,
}

/// How a body ended that did not break.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// All of the file is there.
    Complete,
    /// The server gave a part of what was asked for; the rest is to be asked for.
    More,
    /// The length is not what was said.
    WrongLength {
        /// What was said.
        announced: u64,
    },
}

/// What follows a break.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AfterBreak {
    /// The rest is asked for after this pause.
    GoOn(Duration),
    /// This attempt failed. What is there is of use to the next one, or nothing is.
    Failed,
}

/// See the [module](self).
#[derive(Clone, Debug, Default)]
pub struct FetchPlan {
    /// Bytes that are there, from the first one.
    received: u64,
    total: Option<u64>,
    validator: Option<Validator>,
    resource: String,
    /// What was there when the body began that runs, or ran last.
    began_at: u64,
    /// Where that body ends, if it was said.
    ends_at: Option<u64>,
    /// The server says that it gives parts.
    has_ranges: bool,
    /// The server gave something else where the rest was asked for.
    whole_only: bool,
    /// All of the file came where the rest was asked for, in this attempt.
    began_again: bool,
    /// The file is put together from several bodies.
    is_joined: bool,
    /// Breaks in a row after which little was there that had not been there before.
    small_gains: u32,
}

impl FetchPlan {
    /// Bytes that are there, from the first one.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// The length of the file, where it is known.
    pub fn total(&self) -> Option<u64> {
        self.total
    }

    /// Whether what is there came in several bodies.
    pub fn is_joined(&self) -> bool {
        self.is_joined
    }

    /// The version that comes, where parts of it can be asked for side by side: its length is known,
    /// it can be told from every other, and the server says that it gives parts.
    pub fn version_in_parts(&self) -> Option<FileVersion> {
        let (validator, total) = self.validator.clone().zip(self.total)?;
        let resource = self.resource.clone();
        (self.has_ranges && !self.whole_only).then_some(FileVersion { validator, total, resource })
    }

    /// Parts of the file did not fit together: all of it is asked for, and nothing else.
    pub fn on_no_parts(&mut self) {
        *self = Self { whole_only: true, ..Self::default() };
    }

    /// Whether what is there can be gone on from.
    pub fn can_go_on(&self) -> bool {
        matches!(self.ask(), Ask::Rest { .. })
    }

    /// What to ask for.
    pub fn ask(&self) -> Ask<'_> {
        match &self.validator {
            Some(validator) if self.received > 0 && !self.whole_only => {
                Ask::Rest { from: self.received, validator }
            }
            _ => Ask::Whole,
        }
    }

    /// An answer to what was asked for came, with a body.
    ///
    /// # Errors
    /// Why the body is of no use.
    pub fn on_answer(&mut self, answer: Answer) -> Result<Body, Misfit> {
        let asked_for_rest = matches!(self.ask(), Ask::Rest { .. });
        let body = match answer.partial {
            None => {
                if asked_for_rest {
                    // The same file, and all of it: this server has no ranges.
                    self.whole_only |= answer.version.validator() == self.validator;
                    self.began_again = true;
                }
                self.begin(answer.length, &answer)
            }
            Some(range) if asked_for_rest => self.take_part(range, &answer)?,
            // All of it, under another name.
            Some(Some(ContentRange { first: 0, last, total: Some(total) }))
                if last + 1 == total =>
            {
                self.begin(Some(total), &answer)
            }
            Some(_) => return Err(Misfit::NotAskedFor),
        };
        self.began_at = self.received;
        Ok(body)
    }

    fn begin(&mut self, length: Option<u64>, answer: &Answer) -> Body {
        (self.received, self.total, self.ends_at) = (0, length, length);
        self.validator = answer.version.validator();
        self.resource.clone_from(&answer.resource);
        self.has_ranges = answer.has_ranges;
        self.is_joined = false;
        Body::BeginsAnew
    }

    fn take_part(&mut self, range: Option<ContentRange>, answer: &Answer) -> Result<Body, Misfit> {
        let is_same = answer.resource == self.resource
            && self.validator.as_ref().is_some_and(|ours| answer.version.may_be(ours));
        let fits = |range: &ContentRange| {
            let total = match (self.total, range.total) {
                (Some(ours), Some(theirs)) => ours == theirs,
                // Nobody knows where the file ends.
                (None, None) => false,
                _ => true,
            };
            let bytes = range.last - range.first + 1;
            let length = answer.length.is_none_or(|length| length == bytes);
            range.first == self.received && total && length
        };
        let Some(range) = range.filter(|range| is_same && fits(range)) else {
            self.whole_only = true;
            return Err(Misfit::OtherPart);
        };
        self.total = self.total.or(range.total);
        self.ends_at = Some(range.last + 1);
        self.is_joined = true;
        Ok(Body::Follows)
    }

    /// The server says that there is no such part (416): the next request asks for the whole.
    pub fn on_no_such_part(&mut self) {
        self.whole_only = true;
    }

    /// Bytes of the body came.
    pub fn on_bytes(&mut self, bytes: u64) {
        self.received += bytes;
    }

    /// The body ended as HTTP says.
    pub fn on_end(&mut self) -> End {
        match (self.ends_at, self.total) {
            (Some(announced), _) if announced != self.received => End::WrongLength { announced },
            (_, Some(total)) if self.received < total => End::More,
            _ => End::Complete,
        }
    }

    /// The connection broke, or the server stopped sending.
    pub fn on_break(&mut self) -> AfterBreak {
        let gain = self.received.saturating_sub(self.began_at);
        // A server whose file is another one each time would be asked for ever.
        if gain == 0 || !self.can_go_on() || std::mem::take(&mut self.began_again) {
            return AfterBreak::Failed;
        }
        // A second break without a body in between gains nothing.
        self.began_at = self.received;
        if gain >= SMALL_GAIN_BYTES {
            self.small_gains = 0;
            return AfterBreak::GoOn(Duration::ZERO);
        }
        let pause = pause(self.small_gains);
        self.small_gains += 1;
        AfterBreak::GoOn(pause)
    }
}

/// The pause after a break, behind so many like it.
pub(super) fn pause(before: u32) -> Duration {
    (FIRST_PAUSE * (1 << before.min(10))).min(MAX_PAUSE)
}

#[cfg(test)]
mod tests;
