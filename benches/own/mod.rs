//! A scenario of your own, from variables; docs/benches.md describes them.
// Each bench uses a part of it.
#![allow(dead_code)]

use std::env;
use std::process;
use std::time::Duration;

use longshore::config::MAX_WINDOW_EVENTS;
use longshore::settings::value;

const EVENTS_IN_FLIGHT: &str = "LONGSHORE_BENCH_EVENTS_IN_FLIGHT";
const BATCH_SIZE: &str = "LONGSHORE_BENCH_BATCH_SIZE";
const BATCHES_IN_FLIGHT: &str = "LONGSHORE_BENCH_BATCHES_IN_FLIGHT";
const HANDLER: &str = "LONGSHORE_BENCH_HANDLER";

/// What the variables ask for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Own {
    /// How many events are handled at once.
    pub(crate) events_in_flight: Option<usize>,
    /// How many events a batch has.
    pub(crate) batch_size: Option<usize>,
    /// How many batches are handled at once. Default: 4.
    pub(crate) batches_in_flight: usize,
    /// How long a call of the handler waits. Default: 10 ms.
    pub(crate) handler: Duration,
}

impl Own {
    /// How many events a pass has, so that it takes about a second: whole batches for four partitions.
    pub(crate) fn events(&self, at_once: usize, batch: usize) -> usize {
        let seconds = self.handler.as_secs_f64().max(1e-6);
        let wanted = (at_once as f64 / seconds).clamp(1_000.0, 400_000.0) as usize;
        let round = 4 * batch;
        wanted.div_ceil(round) * round
    }
}

/// The scenario of the variables; `None` if neither a concurrency nor a batch size is set. A value that cannot be
/// used ends the process.
pub(crate) fn own() -> Option<Own> {
    let own = read(|name| env::var(name).ok().filter(|text| !text.is_empty()));
    own.unwrap_or_else(|problem| {
        eprintln!("{problem}");
        process::exit(2);
    })
}

fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Own>, String> {
    let count = |name: &str| {
        let Some(text) = variable(name) else { return Ok(None) };
        let count = text.parse().ok().filter(|count| (1..=MAX_WINDOW_EVENTS).contains(count));
        let must = format!("{name} = {text}: it must be a number from 1 to {MAX_WINDOW_EVENTS}");
        count.map(Some).ok_or(must)
    };
    let handler = match variable(HANDLER) {
        None => Duration::from_millis(10),
        Some(text) => {
            value::duration(&text).map_err(|must| format!("{HANDLER} = {text}: {must}"))?
        }
    };
    let own = Own {
        events_in_flight: count(EVENTS_IN_FLIGHT)?,
        batch_size: count(BATCH_SIZE)?,
        batches_in_flight: count(BATCHES_IN_FLIGHT)?.unwrap_or(4),
        handler,
    };
    if let Some(size) = own.batch_size
        && size * own.batches_in_flight > MAX_WINDOW_EVENTS
    {
        return Err(format!(
            "{BATCH_SIZE} x {BATCHES_IN_FLIGHT} = {size} x {}: the product must be at most \
             {MAX_WINDOW_EVENTS}",
            own.batches_in_flight
        ));
    }
    Ok((own.events_in_flight.is_some() || own.batch_size.is_some()).then_some(own))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn of(variables: &[(&str, &str)]) -> Result<Option<Own>, String> {
        let value = |name: &str| variables.iter().find(|(known, _)| *known == name);
        read(|name| value(name).map(|(_, text)| (*text).to_owned()))
    }

    #[test]
    fn variables_choose_a_scenario_and_what_cannot_run_is_named() {
        assert!(of(&[]).unwrap().is_none());
        assert!(of(&[(HANDLER, "1s")]).unwrap().is_none(), "alone it chooses nothing");
        let own = of(&[(EVENTS_IN_FLIGHT, "50"), (HANDLER, "20ms")]).unwrap().unwrap();
        assert_eq!((own.events_in_flight, own.batch_size), (Some(50), None));
        assert_eq!(own.events(50, 1), 2_500, "a second of work");
        let own = of(&[(BATCH_SIZE, "30")]).unwrap().unwrap();
        assert_eq!((own.batch_size, own.batches_in_flight), (Some(30), 4));
        assert_eq!(own.events(120, 30) % (4 * 30), 0, "whole batches for four partitions");
        for (variables, said) in [
            (&[(EVENTS_IN_FLIGHT, "0")][..], "LONGSHORE_BENCH_EVENTS_IN_FLIGHT = 0: it must be"),
            (&[(BATCH_SIZE, "many")], "LONGSHORE_BENCH_BATCH_SIZE = many: it must be"),
            (&[(BATCH_SIZE, "10"), (HANDLER, "20")], "LONGSHORE_BENCH_HANDLER = 20: write a"),
            (&[(BATCH_SIZE, "9000")], "= 9000 x 4: the product must be at most 32768"),
        ] {
            let problem = of(variables).unwrap_err();
            assert!(problem.contains(said), "{problem}");
        }
    }
}
