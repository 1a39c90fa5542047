//! An event made of a line, and of what the command line says of all.

use super::SendArgs;
use crate::event_line;
use longshore::event::{MAX_NESTING, OutgoingEvent, Value};

/// See the module.
pub(super) struct Made<'a> {
    args: &'a SendArgs,
}

/// A property as people write it.
pub(super) fn property(text: &str) -> Result<(String, String), String> {
    let property = text.split_once('=').filter(|(name, _)| !name.is_empty());
    let (name, value) = property.ok_or("it must be NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

impl<'a> Made<'a> {
    pub(super) fn new(args: &'a SendArgs) -> Self {
        Self { args }
    }

    /// The event of a line. What the line says goes before what the command line says.
    ///
    /// # Errors
    /// Why it cannot be sent.
    pub(super) fn event(&self, line: Vec<u8>) -> Result<OutgoingEvent, String> {
        let SendArgs { json, key, property, content_type, .. } = self.args;
        let mut event = if *json { event_line::read(&line)? } else { OutgoingEvent::new(line) };
        event.key = event.key.or_else(|| key.clone());
        event.message.content_type =
            event.message.content_type.take().or_else(|| content_type.clone());
        for (name, value) in property {
            let value = || Value::from(value.as_str());
            event.properties.entry(name.clone()).or_insert_with(value);
        }
        if let Some((name, kind)) = event.property_not_allowed() {
            return Err(format!(
                "its property {name:?} is of the type {kind}, and AMQP has no lists, maps and arrays in \
                 properties"
            ));
        }
        if event.is_nested_too_deeply() {
            return Err(format!("its values are nested deeper than {MAX_NESTING} levels"));
        }
        Ok(event)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: SendArgs,
    }

    #[test]
    fn what_a_line_says_goes_before_what_the_command_line_says() {
        let cli = [
            "send",
            "--json",
            "--key",
            "k",
            "--property",
            "a=1=2",
            "--property",
            "b=",
            "--content-type",
            "text/plain",
        ];
        let args = Cli::try_parse_from(cli).expect("arguments").args;
        let made = Made::new(&args);
        let event = made.event(b"{\"body_text\":\"x\"}".to_vec()).expect("an event");
        assert_eq!(event.key.as_deref(), Some("k"));
        assert_eq!(event.message.content_type.as_deref(), Some("text/plain"));
        assert_eq!(event.properties["a"], Value::from("1=2"));
        assert_eq!(event.properties["b"], Value::from(""));
        let line = b"{\"body_text\":\"x\",\"key\":\"own\",\"properties\":{\"a\":5},\"content_type\":\"t\"}";
        let event = made.event(line.to_vec()).expect("an event");
        assert_eq!((event.key.as_deref(), &event.properties["a"]), (Some("own"), &Value::Long(5)));
        assert_eq!(event.message.content_type.as_deref(), Some("t"));
        let list = b"{\"body_text\":\"x\",\"properties\":{\"p\":{\"list\":[]}}}";
        assert!(made.event(list.to_vec()).expect_err("a list").contains("property \"p\""));
    }
}
