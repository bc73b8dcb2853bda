//! A stream of messages as Server-Sent Events or as lines of JSON.
//!
//! Nothing is read ahead: the next message is asked for when the caller has room, so a slow one holds nothing but its
//! connection. The stream of the service ends with this body.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use http::{HeaderMap, HeaderValue};
use hyper::body::{Body as HttpBody, Frame};
use prost::bytes::Bytes;
use prost_reflect::{FieldDescriptor, MessageDescriptor};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};
use tonic::{Code, Status};

use super::frames::Frames;
use super::refusal::status_body;
use super::render::rendered;

/// Less than the minute after which proxies commonly cut a silent connection.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
const COMMENT: &str = ": keep-alive\n\n";
const LINES_TYPE: &str = "application/x-ndjson";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Events,
    Lines,
}

impl Form {
    /// Events, unless lines are asked for.
    pub fn of(headers: &HeaderMap) -> Self {
        let accepted = headers.get_all(http::header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let mut types = accepted.flat_map(|value| value.split(',')).map(|part| {
            let name = part.split(';').next().unwrap_or_default();
            name.trim().to_ascii_lowercase()
        });
        if types.any(|name| name == LINES_TYPE) { Self::Lines } else { Self::Events }
    }

    pub fn content_type(self) -> HeaderValue {
        match self {
            Self::Events => HeaderValue::from_static("text/event-stream"),
            Self::Lines => HeaderValue::from_static(LINES_TYPE),
        }
    }

    fn failure(self, status: &Status) -> Vec<u8> {
        let body = status_body(status);
        match self {
            Self::Events => format!("event: error\ndata: {body}\n\n").into(),
            Self::Lines => format!("{body}\n").into(),
        }
    }
}

pub struct Messages {
    source: Body,
    frames: Frames,
    form: Form,
    message: MessageDescriptor,
    /// The field that numbers messages, where one does.
    number: Option<FieldDescriptor>,
    silence: Interval,
    is_over: bool,
}

impl Messages {
    pub fn new(
        source: Body,
        form: Form,
        message: MessageDescriptor,
        number: Option<FieldDescriptor>,
    ) -> Self {
        let mut silence = interval_at(Instant::now() + KEEP_ALIVE, KEEP_ALIVE);
        silence.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { source, frames: Frames::default(), form, message, number, silence, is_over: false }
    }

    fn render(&self, bytes: Bytes) -> Result<Vec<u8>, Status> {
        let (message, mut json) = rendered(&self.message, bytes)
            .map_err(|problem| Status::internal(format!("a message cannot be told: {problem}")))?;
        if self.form == Form::Lines {
            json.push(b'\n');
            return Ok(json);
        }
        let number = self.number.as_ref().and_then(|field| message.get_field(field).as_u64());
        let id = number.map(|number| format!("id: {number}\n")).unwrap_or_default();
        Ok([id.as_bytes(), b"data: ", &json, b"\n\n"].concat())
    }

    /// The next text to send; none when the stream is over.
    fn poll_text(&mut self, cx: &mut Context<'_>) -> Poll<Option<Vec<u8>>> {
        loop {
            if self.is_over {
                return Poll::Ready(None);
            }
            match self.frames.next() {
                Ok(Some(bytes)) => {
                    self.silence.reset();
                    return Poll::Ready(Some(self.render(bytes).unwrap_or_else(|status| self.fail(&status))));
                }
                Ok(None) => {}
                Err(_) => return Poll::Ready(Some(self.fail(&broken()))),
            }
            match Pin::new(&mut self.source).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => self.frames.push(&data),
                    Err(frame) => return Poll::Ready(self.end(frame.trailers_ref())),
                },
                Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(Some(self.fail(&broken()))),
                Poll::Pending if self.form == Form::Events => {
                    ready!(self.silence.poll_tick(cx));
                    return Poll::Ready(Some(COMMENT.into()));
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn end(&mut self, trailers: Option<&HeaderMap>) -> Option<Vec<u8>> {
        self.is_over = true;
        let status = trailers.and_then(Status::from_header_map).unwrap_or_else(broken);
        (status.code() != Code::Ok).then(|| self.form.failure(&status))
    }

    fn fail(&mut self, status: &Status) -> Vec<u8> {
        self.is_over = true;
        self.form.failure(status)
    }
}

fn broken() -> Status {
    Status::unavailable("the stream broke off")
}

impl HttpBody for Messages {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.poll_text(cx).map(|text| text.map(|text| Ok(Frame::data(Bytes::from(text)))))
    }
}
