//! `$cbs`: tokens. Every token is taken; what is checked is the form of the request, because a
//! client that gets it wrong here gets it wrong with the service.

use super::request::{Answer, Request};

pub(super) fn answer(request: &Request) -> Answer {
    match (request.text("operation"), request.text("name")) {
        (Some("put-token"), Some(_)) => Answer {
            status: 202,
            description: "Accepted".to_owned(),
            body: serde_amqp::Value::Null,
        },
        (Some("put-token"), None) => {
            Answer::failed(400, "put-token needs a 'name', the audience of the token")
        }
        (operation, _) => Answer::failed(
            501,
            format!(
                "the operation '{}' is not known to $cbs; it takes put-token",
                operation.unwrap_or_default()
            ),
        ),
    }
}
