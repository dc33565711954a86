//! Typed messages: a codec between the application's items and the session's messages.

use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::BytesMut;
use futures_core::Stream;
use futures_sink::Sink;
use soe_core::{Channel, Message};
use tokio::task::coop::poll_proceed;
use tokio_util::codec::{Decoder, Encoder};

use crate::{
    error::{FramedError, SessionError},
    session::SoeSession,
    split::{RecvHalf, SendHalf},
};

/// The result of decoding a message.
type Decoded<C> = Result<<C as Decoder>::Item, FramedError<<C as Decoder>::Error>>;

/// A session, or one half of it, that sends and receives the items of a codec. See [`SoeSession::framed`]. Each item is
/// encoded into one message. Each message is decoded separately with `decode_eof`: the codec gets the whole message as
/// if the stream ended after it, may return several items, and fails if bytes are left over. The sink sends on one
/// channel, reliable channel 0 by default. [`send_on`](Self::send_on) and
/// [`recv_with_channel`](Self::recv_with_channel) take and return the channel with each item;
/// [`with_channels`](Self::with_channels) converts to a stream and sink of pairs. An error of the decoder ends the
/// stream: it is returned once, then `None`, as with `tokio_util::codec::Framed`, because the codec may have kept a
/// part of the message that failed and would misread the next one. The session and the sink continue;
/// [`SoeFramed::into_parts`] returns the session, to be framed with a new codec. To skip bad messages, let the decoder
/// return them as items.
///
/// ```
/// use bytes::BytesMut;
/// use futures_util::{SinkExt, StreamExt};
/// use soe_testing::Network;
/// use soe_tokio::{Channel, SessionConfig};
/// use tokio_util::codec::{Decoder, Encoder};
///
/// /// One line of chat in each message.
/// struct Chat;
///
/// impl Encoder<String> for Chat {
///     type Error = std::io::Error;
///
///     fn encode(&mut self, line: String, out: &mut BytesMut) -> std::io::Result<()> {
///         out.extend_from_slice(line.as_bytes());
///         Ok(())
///     }
/// }
///
/// impl Decoder for Chat {
///     type Item = String;
///     type Error = std::io::Error;
///
///     fn decode(&mut self, bytes: &mut BytesMut) -> std::io::Result<Option<String>> {
///         let line = String::from_utf8(bytes.split().to_vec()).map_err(std::io::Error::other)?;
///         Ok(Some(line).filter(|line| !line.is_empty()))
///     }
/// }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?.block_on(async {
/// let (client, server) = Network::new(1).pair(SessionConfig::new("Chat")?).await?;
///
/// let mut client = client.framed(Chat);
/// client.send("hello".into()).await?;
/// client.send_on(Channel::Unreliable, "psst".into()).await?;
///
/// let (send, recv) = server.split();
/// let (mut send, mut recv) = (send.framed(Chat), recv.framed(Chat));
/// while let Some((channel, line)) = recv.recv_with_channel().await.transpose()? {
///     send.send_on(channel, line.to_uppercase()).await?;
///     if channel == Channel::Unreliable {
///         break;
///     }
/// }
/// assert_eq!(client.next().await.expect("open")?, "HELLO");
/// # Ok(()) })
/// # }
/// ```
#[derive(Debug)]
pub struct SoeFramed<C, S = SoeSession> {
    session: S,
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

impl SendHalf {
    /// Turns the half into a sink of the codec's items, one message per item, on reliable channel 0.
    pub fn framed<C>(self, codec: C) -> SoeFramed<C, Self> {
        SoeFramed::new(self, codec)
    }
}

impl RecvHalf {
    /// Turns the half into a stream of the codec's items.
    pub fn framed<C>(self, codec: C) -> SoeFramed<C, Self> {
        SoeFramed::new(self, codec)
    }
}

impl<C, S> SoeFramed<C, S> {
    fn new(session: S, codec: C) -> Self {
        let (channel, received_on) = (Channel::default(), Channel::default());
        let (encoded, received) = (BytesMut::new(), BytesMut::new());
        Self { session, codec, channel, encoded, received, received_on, has_failed: false }
    }

    /// Sends the next items on this channel. Default: reliable channel 0.
    #[must_use]
    pub fn on_channel(mut self, channel: impl Into<Channel>) -> Self {
        self.set_channel(channel);
        self
    }

    /// Sends the next items on this channel.
    pub fn set_channel(&mut self, channel: impl Into<Channel>) {
        self.channel = channel.into();
    }

    /// The channel that the next item is sent on.
    pub fn channel(&self) -> Channel {
        self.channel
    }

    /// The channel that the last item was received on.
    pub fn received_on(&self) -> Channel {
        self.received_on
    }

    /// The underlying session.
    pub fn session(&self) -> &S {
        &self.session
    }

    /// The underlying session, to set keys and to send messages without the codec.
    pub fn session_mut(&mut self) -> &mut S {
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

    /// Returns the session and the codec. Decoded bytes of the current message that were not returned as items are
    /// lost.
    pub fn into_parts(self) -> (S, C) {
        (self.session, self.codec)
    }

    /// Converts this to a stream and a sink of pairs of a channel and an item.
    pub fn with_channels(self) -> FramedChannels<C, S> {
        FramedChannels { framed: self }
    }
}

impl<C, S: Sink<Message, Error = SessionError> + Unpin> SoeFramed<C, S> {
    /// Encodes an item and sends it on `channel`, waiting for room. The channel of other items is unchanged.
    ///
    /// # Errors
    ///
    /// [`FramedError::Session`] if the session is over or cannot carry the message, [`FramedError::Codec`] if the codec
    /// refuses the item.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future before it is ready drops the item unsent.
    pub async fn send_on<I>(&mut self, channel: impl Into<Channel>, item: I) -> Result<(), FramedError<C::Error>>
    where
        C: Encoder<I>,
    {
        let channel = channel.into();
        poll_fn(|cx| Pin::new(&mut self.session).poll_ready(cx)).await?;
        self.start_send_on(channel, item)?;
        poll_fn(|cx| Pin::new(&mut self.session).poll_flush(cx)).await?;
        Ok(())
    }

    fn start_send_on<I>(&mut self, channel: Channel, item: I) -> Result<(), FramedError<C::Error>>
    where
        C: Encoder<I>,
    {
        self.encoded.clear();
        self.codec.encode(item, &mut self.encoded).map_err(FramedError::Codec)?;
        let message = Message::new(channel, self.encoded.split().freeze());
        Pin::new(&mut self.session).start_send(message).map_err(FramedError::Session)
    }
}

impl<C: Decoder, S: Stream<Item = Result<Message, SessionError>> + Unpin> SoeFramed<C, S> {
    /// Receives the next item and its channel. `None`: the session has ended, or the decoder has failed.
    ///
    /// # Errors
    ///
    /// [`FramedError::Codec`] once if the decoder fails, [`FramedError::Session`] once if the transport ended the session.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: an item is taken only when the future is ready.
    pub async fn recv_with_channel(&mut self) -> Option<Result<(Channel, C::Item), FramedError<C::Error>>> {
        let item = poll_fn(|cx| self.poll_item(cx)).await?;
        Some(item.map(|item| (self.received_on, item)))
    }

    fn poll_item(&mut self, cx: &mut Context<'_>) -> Poll<Option<Decoded<C>>> {
        loop {
            if self.has_failed {
                return Poll::Ready(None);
            }
            if !self.received.is_empty() {
                // A message with many items must not starve other tasks of the thread.
                ready!(poll_proceed(cx)).made_progress();
                match self.codec.decode_eof(&mut self.received) {
                    Ok(Some(item)) => return Poll::Ready(Some(Ok(item))),
                    // `decode_eof` returns an error if bytes are left, so there are none here unless a codec overrides
                    // it.
                    Ok(None) => self.received.clear(),
                    Err(error) => {
                        self.received.clear();
                        self.has_failed = true;
                        return Poll::Ready(Some(Err(FramedError::Codec(error))));
                    }
                }
            }
            match ready!(Pin::new(&mut self.session).poll_next(cx)) {
                Some(Ok(message)) => {
                    self.received_on = message.channel;
                    self.received = BytesMut::from(message.payload);
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                None => return Poll::Ready(None),
            }
        }
    }
}

impl<C, S> Stream for SoeFramed<C, S>
where
    C: Decoder + Unpin,
    S: Stream<Item = Result<Message, SessionError>> + Unpin,
{
    type Item = Result<C::Item, FramedError<C::Error>>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().poll_item(cx)
    }
}

impl<C, S, I> Sink<I> for SoeFramed<C, S>
where
    C: Encoder<I> + Unpin,
    S: Sink<Message, Error = SessionError> + Unpin,
{
    type Error = FramedError<C::Error>;

    fn poll_ready(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Pin::new(&mut self.get_mut().session).poll_ready(cx).map_err(FramedError::Session)
    }

    fn start_send(self: Pin<&mut Self>, item: I) -> Result<(), Self::Error> {
        let this = self.get_mut();
        this.start_send_on(this.channel, item)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Pin::new(&mut self.get_mut().session).poll_flush(cx).map_err(FramedError::Session)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Pin::new(&mut self.get_mut().session).poll_close(cx).map_err(FramedError::Session)
    }
}

/// A stream and a sink of items with their channels. See [`SoeFramed::with_channels`].
#[derive(Debug)]
pub struct FramedChannels<C, S = SoeSession> {
    framed: SoeFramed<C, S>,
}

impl<C, S> FramedChannels<C, S> {
    /// Returns the inner `SoeFramed`.
    pub fn into_inner(self) -> SoeFramed<C, S> {
        self.framed
    }
}

impl<C, S> Stream for FramedChannels<C, S>
where
    C: Decoder + Unpin,
    S: Stream<Item = Result<Message, SessionError>> + Unpin,
{
    type Item = Result<(Channel, C::Item), FramedError<C::Error>>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let framed = &mut self.get_mut().framed;
        let item = ready!(framed.poll_item(cx));
        Poll::Ready(item.map(|item| item.map(|item| (framed.received_on, item))))
    }
}

impl<C, S, I> Sink<(Channel, I)> for FramedChannels<C, S>
where
    C: Encoder<I> + Unpin,
    S: Sink<Message, Error = SessionError> + Unpin,
{
    type Error = FramedError<C::Error>;

    fn poll_ready(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Pin::new(&mut self.get_mut().framed.session).poll_ready(cx).map_err(FramedError::Session)
    }

    fn start_send(self: Pin<&mut Self>, (channel, item): (Channel, I)) -> Result<(), Self::Error> {
        self.get_mut().framed.start_send_on(channel, item)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Pin::new(&mut self.get_mut().framed.session).poll_flush(cx).map_err(FramedError::Session)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Pin::new(&mut self.get_mut().framed.session).poll_close(cx).map_err(FramedError::Session)
    }
}
