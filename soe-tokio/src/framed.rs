//! Typed messages: a codec between the application's items and the session's messages.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::BytesMut;
use futures_core::Stream;
use futures_sink::Sink;
use soe_core::{Channel, Message};
use tokio::task::coop::poll_proceed;
use tokio_util::codec::{Decoder, Encoder};

use crate::{error::FramedError, session::SoeSession};

/// A session that speaks the items of a codec. See [`SoeSession::framed`].
///
/// Each item is encoded into one message. Each message is decoded by itself: the codec sees it whole, as if it were all that
/// will ever come (`decode_eof`), may find several items in it, and fails if it leaves bytes over.
///
/// An error of the decoder ends the stream: it comes once, and then `None`, as with `tokio_util::codec::Framed`. A codec may
/// keep a part of the message that it failed at, and would take the next one for its rest. The session goes on, and the sink
/// with it; [`SoeFramed::into_parts`] gives the session back, to be framed with a fresh codec. To pass over bad messages,
/// let the decoder return them as items.
#[derive(Debug)]
pub struct SoeFramed<C> {
    session: SoeSession,
    codec: C,
    channel: Channel,
    encoded: BytesMut,
    received: BytesMut,
    received_on: Channel,
    /// The decoder has failed.
    has_failed: bool,
}

impl SoeSession {
    /// Turns the session into a stream and a sink of the codec's items, one message per item, on reliable channel 0.
    pub fn framed<C>(self, codec: C) -> SoeFramed<C> {
        SoeFramed::new(self, codec)
    }
}

impl<C> SoeFramed<C> {
    fn new(session: SoeSession, codec: C) -> Self {
        let (channel, received_on) = (Channel::default(), Channel::default());
        let (encoded, received) = (BytesMut::new(), BytesMut::new());
        Self { session, codec, channel, encoded, received, received_on, has_failed: false }
    }

    /// Sends on another channel from the next item on. At first it is reliable channel 0.
    #[must_use]
    pub fn on_channel(mut self, channel: impl Into<Channel>) -> Self {
        self.set_channel(channel);
        self
    }

    /// Sends on another channel from the next item on.
    pub fn set_channel(&mut self, channel: impl Into<Channel>) {
        self.channel = channel.into();
    }

    /// The channel that the next item is sent on.
    pub fn channel(&self) -> Channel {
        self.channel
    }

    /// The channel that the last item came on.
    pub fn received_on(&self) -> Channel {
        self.received_on
    }

    /// The session underneath.
    pub fn session(&self) -> &SoeSession {
        &self.session
    }

    /// The session underneath, for keys and messages past the codec.
    pub fn session_mut(&mut self) -> &mut SoeSession {
        &mut self.session
    }

    /// The codec.
    pub fn codec(&self) -> &C {
        &self.codec
    }

    /// The codec.
    pub fn codec_mut(&mut self) -> &mut C {
        &mut self.codec
    }

    /// Gives the session and the codec back. Items of a message that have not been taken are lost.
    pub fn into_parts(self) -> (SoeSession, C) {
        (self.session, self.codec)
    }
}

impl<C: Decoder + Unpin> Stream for SoeFramed<C> {
    type Item = Result<C::Item, FramedError<C::Error>>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            if this.has_failed {
                return Poll::Ready(None);
            }
            if !this.received.is_empty() {
                // A message of many items is no reason to hold up other tasks.
                ready!(poll_proceed(cx)).made_progress();
                match this.codec.decode_eof(&mut this.received) {
                    Ok(Some(item)) => return Poll::Ready(Some(Ok(item))),
                    Ok(None) => this.received.clear(),
                    Err(error) => {
                        this.received.clear();
                        this.has_failed = true;
                        return Poll::Ready(Some(Err(FramedError::Codec(error))));
                    }
                }
            }
            match ready!(Pin::new(&mut this.session).poll_next(cx)) {
                Some(Ok(message)) => {
                    this.received_on = message.channel;
                    this.received = BytesMut::from(message.payload);
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                None => return Poll::Ready(None),
            }
        }
    }
}

impl<C: Encoder<I> + Unpin, I> Sink<I> for SoeFramed<C> {
    type Error = FramedError<C::Error>;

    fn poll_ready(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Pin::new(&mut self.get_mut().session).poll_ready(cx).map_err(FramedError::Session)
    }

    fn start_send(self: Pin<&mut Self>, item: I) -> Result<(), Self::Error> {
        let this = self.get_mut();
        this.encoded.clear();
        this.codec.encode(item, &mut this.encoded).map_err(FramedError::Codec)?;
        let message = Message::new(this.channel, this.encoded.split().freeze());
        Pin::new(&mut this.session).start_send(message).map_err(FramedError::Session)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Pin::new(&mut self.get_mut().session).poll_flush(cx).map_err(FramedError::Session)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Pin::new(&mut self.get_mut().session).poll_close(cx).map_err(FramedError::Session)
    }
}
