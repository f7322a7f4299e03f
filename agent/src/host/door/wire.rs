//! What a command on this host and the agent say to each other: the messages of the link where there are such, each
//! after its length. Both ends are of one version, so that this is no part of the contract.

use std::io;

use prost::Message;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use vigie_proto::v1;

/// No message is longer, in bytes: an answer to a probe is bounded by much less.
const LONGEST: u32 = 16 * 1024 * 1024;

/// From the command.
#[derive(Clone, PartialEq, Message)]
pub struct ToHost {
    #[prost(oneof = "Said", tags = "1, 2, 3, 4")]
    pub said: Option<Said>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Said {
    #[prost(message, tag = "1")]
    Hello(Hello),
    #[prost(message, tag = "2")]
    Probe(v1::Probe),
    #[prost(message, tag = "3")]
    Prepare(v1::Prepare),
    #[prost(message, tag = "4")]
    Order(Order),
}

/// First from the command.
#[derive(Clone, PartialEq, Message)]
pub struct Hello {
    #[prost(string, tag = "1")]
    pub version: String,
    /// For a command that is to change the host: what it was called with. Empty for one that only looks.
    #[prost(string, tag = "2")]
    pub run: String,
}

/// An order as the host's root gives it, once it agreed to its plan.
#[derive(Clone, PartialEq, Message)]
pub struct Order {
    /// The leaf's own id, so that an answer finds its question even where the leaf does not read.
    #[prost(string, tag = "1")]
    pub order: String,
    #[prost(bytes = "vec", tag = "2")]
    pub leaf: Vec<u8>,
    #[prost(string, tag = "3")]
    pub run: String,
    #[prost(string, tag = "4")]
    pub person: String,
    #[prost(string, tag = "5")]
    pub remedy: String,
    #[prost(int64, tag = "6")]
    pub not_after_ms: i64,
}

/// From the agent.
#[derive(Clone, PartialEq, Message)]
pub struct FromHost {
    #[prost(oneof = "Answer", tags = "1, 2, 3, 4, 5, 6, 7")]
    pub answer: Option<Answer>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Answer {
    #[prost(message, tag = "1")]
    Welcome(Welcome),
    #[prost(message, tag = "2")]
    Probed(v1::ProbeResult),
    #[prost(message, tag = "3")]
    Prepared(v1::PreparedOrder),
    #[prost(message, tag = "4")]
    Started(v1::Started),
    #[prost(message, tag = "5")]
    Finished(v1::Finished),
    #[prost(message, tag = "6")]
    Output(v1::OutputChunk),
    #[prost(message, tag = "7")]
    Busy(Busy),
}

/// Instead of a welcome: what the command has to wait for.
#[derive(Clone, PartialEq, Message)]
pub struct Busy {
    #[prost(string, tag = "1")]
    pub by: String,
}

/// First from the agent: whom it speaks for.
#[derive(Clone, PartialEq, Message)]
pub struct Welcome {
    #[prost(string, tag = "1")]
    pub version: String,
    /// The host's id, as targets name it.
    #[prost(string, tag = "2")]
    pub host: String,
    #[prost(uint64, tag = "3")]
    pub incarnation: u64,
    /// What people call it.
    #[prost(string, tag = "4")]
    pub name: String,
    #[prost(string, repeated, tag = "5")]
    pub stacks: Vec<String>,
    /// Why the Docker engine does not answer; empty when it does, and when there is none.
    #[prost(string, tag = "6")]
    pub docker_error: String,
}

/// Reads one message; `None` where the other end has gone.
///
/// # Errors
/// When what comes is no message.
pub async fn read<M: Message + Default>(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<M>> {
    let length = match from.read_u32().await {
        Ok(length) => length,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
        Err(error) => return Err(error),
    };
    if length > LONGEST {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a message of {length} bytes")));
    }
    let mut bytes = vec![0; length as usize];
    from.read_exact(&mut bytes).await?;
    M::decode(bytes.as_slice()).map(Some).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// Writes one message.
///
/// # Errors
/// When the other end does not take it.
pub async fn write(to: &mut (impl AsyncWrite + Unpin), message: &impl Message) -> io::Result<()> {
    let length = u32::try_from(message.encoded_len()).ok().filter(|length| *length <= LONGEST);
    let length = length.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a message is too long"))?;
    let mut bytes = Vec::with_capacity(4 + message.encoded_len());
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(&message.encode_to_vec());
    to.write_all(&bytes).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn messages_come_whole_in_their_order_and_then_the_end() {
        let (mut here, mut there) = tokio::io::duplex(16);
        let said = |version: &str| ToHost {
            said: Some(Said::Hello(Hello { version: version.to_owned(), run: String::new() })),
        };
        let (first, second) = (said(&"1".repeat(100)), said(""));
        let sent = [first.clone(), second.clone()];
        let writing = tokio::spawn(async move {
            for message in &sent {
                write(&mut here, message).await.unwrap();
            }
        });
        assert_eq!(read::<ToHost>(&mut there).await.unwrap(), Some(first));
        assert_eq!(read::<ToHost>(&mut there).await.unwrap(), Some(second));
        writing.await.unwrap();
        assert_eq!(read::<ToHost>(&mut there).await.unwrap(), None);
    }

    #[tokio::test]
    async fn what_is_no_message_is_an_error() {
        for bytes in [&[0xff, 0xff, 0xff, 0xff][..], &[0, 0, 0, 1, 0xff], &[0, 0, 0, 9, 1]] {
            assert!(read::<ToHost>(&mut &*bytes).await.is_err(), "{bytes:?}");
        }
    }
}
