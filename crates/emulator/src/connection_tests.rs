//! The protocol as a client sees it, without sockets: bytes into a [`Connection`], frames out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use fe2o3_amqp_types::definitions::{Handle, ReceiverSettleMode, Role, SenderSettleMode};
use fe2o3_amqp_types::messaging::message::__private::Serializable;
use fe2o3_amqp_types::messaging::{
    AmqpValue, ApplicationProperties, DeliveryState, Message, Source, Target, TargetArchetype,
};
use fe2o3_amqp_types::performatives::{
    Attach, Detach, Disposition, Flow, Open, Performative, Transfer as TransferPerformative,
};
use proptest::prelude::*;
use serde_amqp::Value;

use super::broker::{Broker, Storage};
use super::connection::Connection;
use super::event;
use super::frame::{self, Body, Frame, LinkFlow, SessionFlow};
use super::hub_options::HubOptions;
use super::mailbox::Mailbox;
use super::settings::Settings;
use super::settings::TokenCheck;

pub(super) const WINDOW: SessionFlow = SessionFlow {
    next_incoming_id: 0,
    incoming_window: 1000,
    next_outgoing_id: 0,
    outgoing_window: 1000,
};
pub(super) const CONSUMER: &str = "hub/ConsumerGroups/$Default/Partitions/0";
pub(super) const DISPOSITION_DELAY: Duration = Duration::from_millis(10);
const DETACH_DELAY: Duration = Duration::from_millis(20);
const IDLE: Duration = Duration::from_secs(60);

pub(super) fn broker() -> Arc<Broker> {
    let broker = Broker::new(
        Settings {
            disposition_delay: DISPOSITION_DELAY,
            detach_delay: DETACH_DELAY,
            idle_timeout: IDLE,
            ..Settings::default()
        },
        Storage::Memory,
    );
    broker.open_hub("hub", 2).unwrap();
    Arc::new(broker)
}

pub(super) fn publish(broker: &Broker, body: &[u8]) {
    let event = event::prepare(message(body), None).unwrap();
    let hub = broker.hub("hub").unwrap();
    hub.partition(0).unwrap().log.append_in_memory(&event.events, 1_000).unwrap();
}

pub(super) fn message(body: &[u8]) -> Bytes {
    let mut out = BytesMut::new();
    super::wire::put_descriptor(&mut out, 0x75);
    super::wire::put_binary(&mut out, body);
    out.freeze()
}

pub(super) struct Peer {
    pub(super) connection: Connection,
    pub(super) now: Instant,
    pub(super) input: BytesMut,
    output: BytesMut,
}

impl Peer {
    pub(super) fn new(broker: &Arc<Broker>) -> Self {
        let now = Instant::now();
        let mailbox = Arc::new(Mailbox::default());
        Self {
            connection: Connection::new(Arc::clone(broker), mailbox, now),
            now,
            input: BytesMut::new(),
            output: BytesMut::new(),
        }
    }

    /// A peer with one session on channel 0.
    pub(super) fn open(broker: &Arc<Broker>) -> Self {
        Self::open_with(broker, 65_536, 0)
    }

    fn open_with(broker: &Arc<Broker>, max_frame_bytes: u32, idle_millis: u32) -> Self {
        let mut peer = Self::new(broker);
        peer.input.extend_from_slice(b"AMQP\x00\x01\x00\x00");
        peer.performative(Performative::Open(Open {
            container_id: "peer".into(),
            hostname: None,
            max_frame_size: max_frame_bytes.into(),
            channel_max: 10.into(),
            idle_time_out: (idle_millis > 0).then_some(idle_millis),
            outgoing_locales: None,
            incoming_locales: None,
            offered_capabilities: None,
            desired_capabilities: None,
            properties: None,
        }));
        frame::put_begin(&mut peer.input, 0, 1000, 100);
        peer.turn();
        assert_eq!(peer.output.split_to(8)[..], b"AMQP\x00\x01\x00\x00"[..]);
        let answers = peer.frames();
        assert!(matches!(answers[..], [Body::Open(_), Body::Begin(_)]), "{answers:?}");
        peer
    }

    fn performative(&mut self, performative: Performative) {
        self.performative_with(performative, &[]);
    }

    fn performative_with(&mut self, performative: Performative, payload: &[u8]) {
        let mut body = serde_amqp::to_vec(&performative).unwrap();
        body.extend_from_slice(payload);
        self.input.extend_from_slice(&(body.len() as u32 + 8).to_be_bytes());
        self.input.extend_from_slice(&[2, 0, 0, 0]);
        self.input.extend_from_slice(&body);
    }

    pub(super) fn turn(&mut self) {
        self.connection.on_input(&mut self.input, self.now);
        self.connection.on_notices();
        self.connection.on_turn(self.now);
        let written = self.connection.output().split();
        if !written.is_empty() {
            self.connection.on_wrote(self.now);
        }
        self.output.extend_from_slice(&written);
    }

    pub(super) fn pass(&mut self, time: Duration) {
        self.turn();
        self.now += time;
        self.turn();
    }

    pub(super) fn frames(&mut self) -> Vec<Body> {
        self.turn();
        let mut frames = Vec::new();
        while let Some(Frame { body, .. }) = frame::take_frame(&mut self.output).unwrap() {
            frames.push(body);
        }
        assert!(self.output.is_empty());
        frames
    }

    pub(super) fn attach(&mut self, handle: u32, role: Role, address: &str) {
        self.attach_as(&format!("link-{handle}"), handle, role, address);
    }

    pub(super) fn attach_as(&mut self, name: &str, handle: u32, role: Role, address: &str) {
        let (source, target) = match role {
            Role::Receiver => (address, "me"),
            Role::Sender => ("me", address),
        };
        let target = Target::builder().address(target).build();
        self.performative(Performative::Attach(Attach {
            name: name.to_owned(),
            handle: handle.into(),
            role,
            snd_settle_mode: SenderSettleMode::Mixed,
            rcv_settle_mode: ReceiverSettleMode::First,
            source: Some(Box::new(Source::builder().address(source).build())),
            target: Some(Box::new(TargetArchetype::Target(target))),
            unsettled: None,
            incomplete_unsettled: false,
            initial_delivery_count: Some(0),
            max_message_size: None,
            offered_capabilities: None,
            desired_capabilities: None,
            properties: None,
        }));
    }

    pub(super) fn flow(
        &mut self,
        session: SessionFlow,
        handle: u32,
        seen: u32,
        credit: u32,
        drain: bool,
    ) {
        frame::put_flow(
            &mut self.input,
            0,
            session,
            Some(LinkFlow { handle, delivery_count: seen, credit, drain }),
        );
    }

    pub(super) fn transfer(&mut self, handle: u32, id: u32, more: bool, payload: &[u8]) {
        self.transfer_of(0, handle, id, more, payload);
    }

    pub(super) fn batch(&mut self, handle: u32, id: u32, payload: &[u8]) {
        self.transfer_of(event::BATCH_FORMAT, handle, id, false, payload);
    }

    fn transfer_of(&mut self, format: u32, handle: u32, id: u32, more: bool, payload: &[u8]) {
        let transfer = TransferPerformative {
            handle: handle.into(),
            delivery_id: Some(id),
            delivery_tag: Some(serde_bytes::ByteBuf::from(id.to_be_bytes().to_vec())),
            message_format: Some(format),
            settled: Some(false),
            more,
            rcv_settle_mode: None,
            state: None,
            resume: false,
            aborted: false,
            batchable: false,
        };
        self.performative_with(Performative::Transfer(transfer), payload);
    }

    pub(super) fn detach(&mut self, handle: u32) {
        frame::put_detach(&mut self.input, 0, handle, true, None);
    }
}

pub(super) fn transfers(frames: &[Body]) -> usize {
    let is_transfer = |body: &&Body| matches!(body, Body::Transfer(_));
    frames.iter().filter(is_transfer).count()
}

pub(super) fn condition(error: &Option<fe2o3_amqp_types::definitions::Error>) -> String {
    let condition = &error.as_ref().unwrap().condition;
    serde_amqp::from_slice::<String>(&serde_amqp::to_vec(condition).unwrap()).unwrap_or_else(|_| {
        let value: Value = serde_amqp::to_value(condition).unwrap();
        match value {
            Value::Symbol(symbol) => symbol.into_inner(),
            other => panic!("{other:?}"),
        }
    })
}

pub(super) fn closed_with(frames: &[Body]) -> String {
    match frames.last() {
        Some(Body::Close(close)) => condition(&close.error),
        other => panic!("no close but {other:?}"),
    }
}

#[test]
fn events_flow_as_far_as_credit_goes() {
    let broker = broker();
    for _ in 0..5 {
        publish(&broker, b"x");
    }
    let mut peer = Peer::open(&broker);
    peer.attach(0, Role::Receiver, CONSUMER);
    peer.flow(WINDOW, 0, 0, 2, false);
    assert_eq!(transfers(&peer.frames()), 2);
    // A flow that crossed them: the two under way count against the three it grants.
    peer.flow(WINDOW, 0, 0, 3, false);
    assert_eq!(transfers(&peer.frames()), 1);
    peer.flow(WINDOW, 0, 3, 10, false);
    assert_eq!(transfers(&peer.frames()), 2);
    publish(&broker, b"later");
    assert_eq!(transfers(&peer.frames()), 1);
}

#[test]
fn a_drain_is_answered_when_there_is_nothing_left() {
    let broker = broker();
    publish(&broker, b"x");
    let mut peer = Peer::open(&broker);
    peer.attach(0, Role::Receiver, CONSUMER);
    peer.flow(WINDOW, 0, 0, 10, true);
    let frames = peer.frames();
    assert_eq!(transfers(&frames), 1);
    match frames.last() {
        Some(Body::Flow(Flow {
            delivery_count: Some(10),
            link_credit: Some(0),
            drain: true,
            ..
        })) => {}
        other => panic!("{other:?}"),
    }
    publish(&broker, b"after the drain");
    assert_eq!(transfers(&peer.frames()), 0);
    peer.flow(WINDOW, 0, 10, 1, false);
    assert_eq!(transfers(&peer.frames()), 1);
}

#[test]
fn a_drain_of_a_link_that_waits_is_answered_at_once() {
    let broker = broker();
    let mut peer = Peer::open(&broker);
    peer.attach(0, Role::Receiver, CONSUMER);
    peer.flow(WINDOW, 0, 0, 10, false);
    peer.frames();
    peer.flow(WINDOW, 0, 0, 10, true);
    let frames = peer.frames();
    assert!(matches!(frames[..], [Body::Flow(_)]), "{frames:?}");
}

#[test]
fn large_events_are_split_and_wait_for_the_session_window() {
    let broker = broker();
    publish(&broker, &vec![7; 10_000]);
    let mut peer = Peer::open_with(&broker, 1024, 0);
    peer.attach(0, Role::Receiver, CONSUMER);
    let narrow = |next_incoming_id| SessionFlow { next_incoming_id, incoming_window: 4, ..WINDOW };
    peer.flow(narrow(0), 0, 0, 10, false);
    let mut payload = BytesMut::new();
    let mut seen = 0;
    for _ in 0..10 {
        let frames = peer.frames();
        assert!(transfers(&frames) <= 4);
        for body in frames {
            if let Body::Transfer(transfer) = body {
                assert_eq!(transfer.delivery_id, Some(0));
                payload.extend_from_slice(&transfer.payload);
                seen += 1;
                if !transfer.more {
                    let hub = broker.hub("hub").unwrap();
                    let log = &hub.partition(0).unwrap().log;
                    assert_eq!(log.next().offset as usize, payload.len() + 24);
                    return;
                }
            }
        }
        frame::put_flow(&mut peer.input, 0, narrow(seen), None);
    }
    panic!("the event never ended");
}

#[test]
fn dispositions_wait_for_their_delay_and_share_a_frame() {
    let broker = broker();
    let mut peer = Peer::open(&broker);
    peer.attach(0, Role::Sender, "hub/Partitions/0");
    let frames = peer.frames();
    assert!(matches!(frames[..], [Body::Attach(_), Body::Flow(_)]), "{frames:?}");
    for id in 0..3 {
        peer.transfer(0, id, false, &message(b"x"));
    }
    assert_eq!(peer.frames().len(), 0);
    peer.pass(DISPOSITION_DELAY);
    match &peer.frames()[..] {
        [Body::Disposition(Disposition { first: 0, last: Some(2), settled: true, .. })] => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_end_that_overtakes_the_detach_answers_is_all_that_is_answered() {
    let broker = broker();
    let mut peer = Peer::open(&broker);
    peer.attach(0, Role::Sender, "$cbs");
    peer.attach(1, Role::Receiver, "$cbs");
    peer.frames();
    peer.detach(0);
    peer.detach(1);
    peer.detach(1);
    frame::put_end(&mut peer.input, 0, None);
    frame::put_end(&mut peer.input, 0, None);
    let frames = peer.frames();
    assert!(matches!(frames[..], [Body::End(_)]), "{frames:?}");
    peer.pass(DETACH_DELAY * 2);
    assert_eq!(peer.frames().len(), 0);
}

#[test]
fn a_receiver_that_detaches_and_does_not_close_is_answered_at_once() {
    let broker = broker();
    let mut peer = Peer::open(&broker);
    for (handle, closed, answers) in [(1, false, 1), (2, true, 0)] {
        peer.attach(handle, Role::Receiver, "hub/ConsumerGroups/$Default/Partitions/0");
        peer.frames();
        frame::put_detach(&mut peer.input, 0, handle, closed, None);
        let frames = peer.frames();
        let detaches = frames.iter().filter(|body| matches!(body, Body::Detach(_)));
        assert_eq!(detaches.count(), answers, "{frames:?}");
    }
}

#[test]
fn a_detach_is_answered_once_and_its_handle_can_be_used_again() {
    let broker = broker();
    let mut peer = Peer::open(&broker);
    peer.attach(4, Role::Sender, "hub");
    peer.frames();
    peer.detach(4);
    peer.detach(4);
    peer.pass(DETACH_DELAY);
    let frames = peer.frames();
    assert!(matches!(frames[..], [Body::Detach(Detach { error: None, .. })]), "{frames:?}");
    peer.attach(4, Role::Sender, "hub");
    peer.detach(4);
    // Not waiting for the answer.
    peer.attach(4, Role::Sender, "hub");
    let frames = peer.frames();
    assert!(
        matches!(
            frames[..],
            [Body::Attach(_), Body::Flow(_), Body::Detach(_), Body::Attach(_), Body::Flow(_)]
        ),
        "{frames:?}"
    );
}

#[test]
fn refused_links_are_attached_without_a_terminus_and_detached() {
    let broker = broker();
    for (role, address, expected) in [
        (Role::Sender, "nothing", "amqp:not-found"),
        (Role::Sender, "hub/Partitions/2", "com.microsoft:argument-out-of-range"),
        (
            Role::Receiver,
            "hub/ConsumerGroups/g/Partitions/x",
            "com.microsoft:argument-out-of-range",
        ),
        (Role::Receiver, "hub", "amqp:not-allowed"),
    ] {
        let mut peer = Peer::open(&broker);
        peer.attach(0, role.clone(), address);
        match &peer.frames()[..] {
            [Body::Attach(attach), Body::Detach(detach)] => {
                let ours = match role {
                    Role::Sender => attach.target.is_none(),
                    Role::Receiver => attach.source.is_none(),
                };
                assert!(ours && detach.closed, "{attach:?}");
                assert_eq!(condition(&detach.error), expected);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_delivery_in_several_frames_is_one_event() {
    let broker = broker();
    let mut peer = Peer::open(&broker);
    peer.attach(0, Role::Sender, "hub/Partitions/0");
    let whole = message(&[9; 300]);
    peer.transfer(0, 0, true, &whole[..100]);
    peer.transfer(0, 0, true, &whole[100..200]);
    peer.transfer(0, 0, false, &whole[200..]);
    peer.frames();
    let hub = broker.hub("hub").unwrap();
    let ends = hub.partition(0).unwrap().log.ends();
    assert_eq!(ends.last_sequence, 0);
}

#[test]
fn a_broken_message_is_rejected_and_the_link_lives() {
    let broker = broker();
    let mut peer = Peer::open(&broker);
    peer.attach(0, Role::Sender, "hub/Partitions/0");
    peer.frames();
    peer.transfer(0, 0, false, b"\x00\x53\x75\xb0\xff\xff\xff\xff");
    peer.transfer(0, 1, false, &message(b"good"));
    peer.pass(DISPOSITION_DELAY);
    let frames = peer.frames();
    assert!(matches!(frames[..], [Body::Disposition(_), Body::Disposition(_)]), "{frames:?}");
    let hub = broker.hub("hub").unwrap();
    assert_eq!(hub.partition(0).unwrap().log.ends().last_sequence, 0);
}

#[test]
fn an_oversized_frame_is_a_framing_error() {
    let mut peer = Peer::open(&broker());
    peer.input.extend_from_slice(&(frame::MAX_FRAME_BYTES + 1).to_be_bytes());
    assert_eq!(closed_with(&peer.frames()), "amqp:connection:framing-error");
    assert!(peer.connection.is_closed());
}

#[test]
fn an_unknown_performative_is_a_decode_error() {
    let mut peer = Peer::open(&broker());
    peer.input.extend_from_slice(b"\x00\x00\x00\x0c\x02\x00\x00\x00\x00\x53\x30\x45");
    assert_eq!(closed_with(&peer.frames()), "amqp:decode-error");
}

#[test]
fn a_transfer_on_a_free_handle_ends_the_session() {
    let mut peer = Peer::open(&broker());
    peer.transfer(7, 0, false, b"x");
    match &peer.frames()[..] {
        [Body::End(end)] => assert_eq!(condition(&end.error), "amqp:session:unattached-handle"),
        other => panic!("{other:?}"),
    }
    // What was under way is ignored, and the channel is free after the peer's own end.
    peer.transfer(7, 1, false, b"x");
    assert_eq!(peer.frames().len(), 0);
    frame::put_end(&mut peer.input, 0, None);
    frame::put_begin(&mut peer.input, 0, 10, 10);
    let frames = peer.frames();
    assert!(matches!(frames[..], [Body::Begin(_)]), "{frames:?}");
}

#[test]
fn heartbeats_keep_the_peer_and_silence_closes_it() {
    let broker = broker();
    let mut peer = Peer::open_with(&broker, 65_536, 10_000);
    assert_eq!(peer.connection.next_deadline(), peer.now + Duration::from_secs(5));
    peer.pass(Duration::from_secs(5));
    let frames = peer.frames();
    assert!(matches!(frames[..], [Body::Empty]), "{frames:?}");
    peer.connection.on_turn(peer.now + IDLE * 2);
    peer.turn();
    assert_eq!(closed_with(&peer.frames()), "amqp:connection:forced");
}

#[test]
fn a_close_is_answered_and_receivers_are_forgotten() {
    let broker = broker();
    let mut peer = Peer::open(&broker);
    peer.attach(0, Role::Receiver, CONSUMER);
    peer.frames();
    frame::put_close(&mut peer.input, None);
    let frames = peer.frames();
    assert!(matches!(frames[..], [Body::Close(_)]), "{frames:?}");
    let refusal = super::refusal::Refusal::new("x", "y");
    assert_eq!(broker.detach_receivers("hub", None, &refusal), 0);
}

#[test]
fn the_sixth_receiver_without_a_level_is_refused() {
    let broker = broker();
    let mut peer = Peer::open(&broker);
    for handle in 0..6 {
        peer.attach(handle, Role::Receiver, CONSUMER);
    }
    let frames = peer.frames();
    match frames.last() {
        Some(Body::Detach(Detach { handle: Handle(5), error, .. })) => {
            assert_eq!(condition(error), "amqp:resource-limit-exceeded")
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_silent_reader_costs_one_output_buffer() {
    let broker = broker();
    for _ in 0..200 {
        publish(&broker, &vec![1; 10_000]);
    }
    let mut peer = Peer::open(&broker);
    peer.attach(0, Role::Receiver, CONSUMER);
    peer.flow(WINDOW, 0, 0, 1000, false);
    peer.connection.on_input(&mut peer.input, peer.now);
    for _ in 0..10 {
        peer.connection.on_turn(peer.now);
    }
    let held = peer.connection.output().len();
    assert!((200_000..400_000).contains(&held), "{held}");
    let mut received = 0;
    while received < 200 {
        let more = transfers(&peer.frames());
        assert!(more > 0);
        received += more;
    }
}

/// A token for `resource` that the broker's own key signed.
pub(super) fn token(resource: &str, lifetime: Duration) -> String {
    use base64::Engine;
    use hmac::Mac;

    let expiry = super::broker::unix_millis().unsigned_abs() / 1000 + lifetime.as_secs();
    let mut mac = hmac::Hmac::<sha2::Sha256>::new_from_slice(super::KEY.as_bytes()).unwrap();
    mac.update(format!("{resource}\n{expiry}").as_bytes());
    let signature = base64::engine::general_purpose::STANDARD.encode(mac.finalize().into_bytes());
    let signature = signature.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
    let key = super::KEY_NAME;
    format!("SharedAccessSignature sr={resource}&sig={signature}&se={expiry}&skn={key}")
}

pub(super) fn put_token(audience: &str, token: &str) -> Vec<u8> {
    let properties = [("operation", "put-token"), ("name", audience)];
    let message = Message::builder()
        .application_properties(ApplicationProperties(
            properties.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect(),
        ))
        .body(AmqpValue(Value::String(token.to_owned())))
        .build();
    serde_amqp::to_vec(&Serializable(message)).unwrap()
}

/// A peer with the `$cbs` links on handles 0 and 1, of a broker that checks tokens.
pub(super) fn with_token_links() -> Peer {
    let settings = Settings { tokens: TokenCheck::Required, ..broker().settings.clone() };
    let broker = Broker::new(settings, Storage::Memory);
    broker.open_hub("hub", 2).unwrap();
    let mut peer = Peer::open(&Arc::new(broker));
    peer.attach(0, Role::Sender, "$cbs");
    peer.attach(1, Role::Receiver, "$cbs");
    peer.flow(WINDOW, 1, 0, 10, false);
    peer.frames();
    peer
}

/// The text of the answer to a token.
pub(super) fn answer_to_token(peer: &mut Peer, id: u32, audience: &str, token: &str) -> String {
    peer.transfer(0, id, false, &put_token(audience, token));
    let frames = peer.frames();
    let answer = frames.iter().find_map(|frame| match frame {
        Body::Transfer(transfer) => Some(String::from_utf8_lossy(&transfer.payload).into_owned()),
        _ => None,
    });
    answer.unwrap_or_else(|| panic!("{frames:?}"))
}

pub(super) fn detached_with(frames: &[Body], handle: u32) -> String {
    let found = frames.iter().find_map(|frame| match frame {
        Body::Detach(detach) if detach.handle.0 == handle => Some(condition(&detach.error)),
        _ => None,
    });
    found.unwrap_or_else(|| panic!("{frames:?}"))
}

#[test]
fn without_a_valid_token_links_are_refused() {
    let mut peer = with_token_links();
    peer.attach(2, Role::Receiver, CONSUMER);
    assert_eq!(detached_with(&peer.frames(), 2), "amqp:unauthorized-access");
    let wrong = token("sb://localhost/hub", IDLE).replace("se=", "se=1");
    let answer = answer_to_token(&mut peer, 0, "sb://localhost/hub", &wrong);
    assert!(answer.contains("InvalidSignature"), "{answer}");
    peer.attach(3, Role::Sender, "hub");
    assert_eq!(detached_with(&peer.frames(), 3), "amqp:unauthorized-access");
    let other = token("sb://localhost/other", IDLE);
    answer_to_token(&mut peer, 1, "sb://localhost/other", &other);
    peer.attach(4, Role::Sender, "hub");
    assert_eq!(detached_with(&peer.frames(), 4), "amqp:unauthorized-access");
}

#[test]
fn an_expiring_token_detaches_its_links_unless_it_was_renewed() {
    let mut peer = with_token_links();
    let audience = "amqps://localhost/hub";
    let minute = token(audience, Duration::from_secs(60));
    let answer = answer_to_token(&mut peer, 0, audience, &minute);
    assert!(answer.contains("Accepted"), "{answer}");
    peer.attach(2, Role::Receiver, CONSUMER);
    peer.attach(3, Role::Sender, "amqps://localhost/hub/Partitions/0");
    let frames = peer.frames();
    assert!(!frames.iter().any(|frame| matches!(frame, Body::Detach(_))), "{frames:?}");
    peer.pass(Duration::from_secs(50));
    let longer = token(audience, Duration::from_secs(60));
    answer_to_token(&mut peer, 1, audience, &longer);
    peer.pass(Duration::from_secs(30));
    let frames = peer.frames();
    assert!(!frames.iter().any(|frame| matches!(frame, Body::Detach(_))), "{frames:?}");
    assert!(peer.connection.next_deadline() <= peer.now + Duration::from_secs(30));
    peer.pass(Duration::from_secs(30));
    let frames = peer.frames();
    for handle in [2, 3] {
        assert_eq!(detached_with(&frames, handle), "amqp:unauthorized-access");
    }
}

#[test]
fn what_exceeds_the_throughput_is_rejected_as_busy() {
    let settings = Settings { throughput_units: Some(1), ..broker().settings.clone() };
    let broker = Arc::new(Broker::new(settings, Storage::Memory));
    broker.open_hub("hub", 1).unwrap();
    let mut peer = Peer::open(&broker);
    peer.attach(0, Role::Sender, "hub/Partitions/0");
    peer.frames();
    peer.transfer(0, 0, false, &message(&vec![1; 900_000]));
    peer.transfer(0, 1, false, &message(&vec![1; 900_000]));
    peer.pass(DISPOSITION_DELAY);
    let frames = peer.frames();
    let [Body::Disposition(first), Body::Disposition(second)] = &frames[..] else {
        panic!("{frames:?}");
    };
    assert!(matches!(first.state, Some(DeliveryState::Accepted(_))), "{first:?}");
    match &second.state {
        Some(DeliveryState::Rejected(rejected)) => {
            assert_eq!(condition(&rejected.error), "com.microsoft:server-busy");
        }
        other => panic!("{other:?}"),
    }
    let hub = broker.hub("hub").unwrap();
    assert_eq!(hub.partition(0).unwrap().log.ends().last_sequence, 0);
}

#[test]
fn an_unknown_consumer_group_is_not_found() {
    let broker = broker();
    let options = HubOptions::new("grouped", 1).consumer_groups(["Billing"]);
    broker.open_hub_with(&options).unwrap();
    let mut peer = Peer::open(&broker);
    for (handle, group) in [(0, "$default"), (1, "billing"), (2, "other")] {
        let address = format!("grouped/ConsumerGroups/{group}/Partitions/0");
        peer.attach(handle, Role::Receiver, &address);
    }
    let frames = peer.frames();
    assert_eq!(detached_with(&frames, 2), "amqp:not-found");
    let refused = frames.iter().filter(|frame| matches!(frame, Body::Detach(_))).count();
    assert_eq!(refused, 1, "{frames:?}");
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let mut peer = Peer::new(&broker());
        peer.input.extend_from_slice(&bytes);
        peer.turn();
        let mut peer = Peer::open(&broker());
        peer.input.extend_from_slice(&bytes);
        peer.turn();
    }

    #[test]
    fn random_frame_bodies_never_panic(
        code in 0x10u8..0x19,
        bytes in proptest::collection::vec(any::<u8>(), 0..100),
    ) {
        let mut peer = Peer::open(&broker());
        peer.attach(0, Role::Sender, "hub");
        peer.input.extend_from_slice(&(bytes.len() as u32 + 11).to_be_bytes());
        peer.input.extend_from_slice(&[2, 0, 0, 0, 0, 0x53, code]);
        peer.input.extend_from_slice(&bytes);
        peer.turn();
    }

    #[test]
    fn damaged_frames_never_panic(at in 0usize..600, value: u8) {
        let broker = broker();
        let mut peer = Peer::open(&broker);
        peer.attach(0, Role::Sender, "hub");
        peer.attach(1, Role::Receiver, CONSUMER);
        peer.attach(2, Role::Sender, "$management");
        peer.flow(WINDOW, 1, 0, 10, false);
        peer.transfer(0, 0, false, &message(b"x"));
        peer.transfer(2, 1, false, &message(b"x"));
        peer.detach(0);
        if let Some(byte) = peer.input.get_mut(at) {
            *byte = value;
        }
        peer.turn();
    }
}
