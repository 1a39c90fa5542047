//! `$cbs`: tokens. Where they are not checked every token is taken; what is checked then is the form
//! of the request, because a client that gets it wrong here gets it wrong with the service.

use std::time::Instant;

use super::broker::unix_millis;
use super::context::Context;
use super::request::{Answer, Request};
use super::settings::TokenCheck;
use super::tokens;

pub(super) fn answer(request: &Request, now: Instant, context: &mut Context) -> Answer {
    match (request.text("operation"), request.text("name")) {
        (Some("put-token"), Some(audience)) => match context.broker.settings.tokens {
            TokenCheck::Ignored => accepted(),
            TokenCheck::Required => on_token(request, audience, now, context),
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

fn accepted() -> Answer {
    Answer {
        status: 202,
        description: "Accepted".to_owned(),
        condition: None,
        body: serde_amqp::Value::Null,
    }
}

fn on_token(request: &Request, audience: &str, now: Instant, context: &mut Context) -> Answer {
    let Some(token) = &request.body else {
        return Answer::failed(400, "put-token needs a token, a string, as its body");
    };
    let now_s = unix_millis().unsigned_abs() / 1000;
    let grant = match tokens::verify(token, audience, &context.broker.settings.keys, now_s) {
        Ok(grant) => grant,
        Err(why) => return Answer::failed(401, why),
    };
    match context.grants.on_token(grant, now, now_s) {
        Ok(()) => {
            context.budget.on_token();
            accepted()
        }
        Err(refusal) => Answer::failed(403, refusal.description),
    }
}
