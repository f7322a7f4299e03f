use std::time::Duration;

use tonic::transport::Server;

/// Streams that one peer may have open: an agent needs one for control and one per running output, and
/// queues the rest on its own side.
const STREAMS: u32 = 64;

/// Bytes that a peer may send on one stream before we read them: 250 ms of a 1 MB/s link.
const STREAM_WINDOW: u32 = 256 * 1024;

/// The same for a whole connection: what a hostile peer can make us hold, times the number of peers.
const CONNECTION_WINDOW: u32 = 1024 * 1024;

/// The largest frame, HTTP/2's default: a larger one only lets one stream hold up the others for longer.
const FRAME: u32 = 16 * 1024;

/// Headers of one request, decoded. Ours are some hundred bytes; h2 alone would take 16 MiB.
const HEADERS: u32 = 16 * 1024;

/// Streams that a peer opened and reset before we looked at them (rapid reset, CVE-2023-44487);
/// h2's default.
const PENDING_RESETS: usize = 20;

/// Streams that we reset because the peer broke the protocol (RUSTSEC-2024-0003). tonic passes
/// `None` on to hyper unless told otherwise, which means no limit at all.
const ERROR_RESETS: usize = 256;

/// A silent peer is asked every 10 s and given up after 5 s more, so that a vanished host is
/// noticed within 15 s.
const PING_EVERY: Duration = Duration::from_secs(10);
const PING_ANSWER: Duration = Duration::from_secs(5);

/// Sets every HTTP/2 limit of a tonic server, so that none is left to a default that means "none".
///
/// Not set, on purpose: a request timeout, a concurrency limit and load shedding, which count an
/// agent's control stream like a unary call and would cut it; and a connection's age, until
/// sessions can be handed over. The cap on streams bounds concurrency. Message sizes are a matter
/// of each generated service.
pub fn limits<L>(server: Server<L>) -> Server<L> {
    server
        .accept_http1(false)
        .max_concurrent_streams(STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_adaptive_window(Some(false))
        .max_frame_size(FRAME)
        .http2_max_header_list_size(HEADERS)
        .http2_max_pending_accept_reset_streams(Some(PENDING_RESETS))
        .http2_max_local_error_reset_streams(Some(ERROR_RESETS))
        .http2_keepalive_interval(Some(PING_EVERY))
        .http2_keepalive_timeout(Some(PING_ANSWER))
}
