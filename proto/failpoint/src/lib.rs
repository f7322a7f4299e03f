//! Places where a test can have a program die, as if the power had gone: in the middle of the protocol, between two lines
//! that no timing would ever hit.
//!
//! A program that is started with `VIGIE_DIE_AT=agent.started` gets SIGKILL from itself the first time that it comes there;
//! `agent.started#3` means the third time. Programs that are built for release have no such places.

/// Dies here if a test asked for it.
#[inline]
pub fn reached(point: &str) {
    #[cfg(debug_assertions)]
    asked::reached(point);
    #[cfg(not(debug_assertions))]
    let _ = point;
}

#[cfg(debug_assertions)]
mod asked {
    use std::sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    };

    struct Asked {
        point: String,
        /// How many more times the place is passed before the end.
        left: AtomicU32,
    }

    fn parse(text: &str) -> Asked {
        let (point, times) = text.split_once('#').unwrap_or((text, "1"));
        Asked { point: point.to_owned(), left: AtomicU32::new(times.parse().unwrap_or(1)) }
    }

    pub(super) fn reached(point: &str) {
        static ASKED: OnceLock<Option<Asked>> = OnceLock::new();
        let asked = ASKED.get_or_init(|| std::env::var("VIGIE_DIE_AT").ok().as_deref().map(parse));
        let Some(asked) = asked.as_ref().filter(|asked| asked.point == point) else { return };
        if asked.left.fetch_sub(1, Ordering::SeqCst) == 1 {
            // Nothing is flushed and nobody is told, as when the power goes.
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
            loop {
                std::thread::park();
            }
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_place_may_be_passed_before() {
            let asked = parse("agent.started#3");
            assert_eq!((asked.point.as_str(), asked.left.into_inner()), ("agent.started", 3));
            let asked = parse("agent.started");
            assert_eq!((asked.point.as_str(), asked.left.into_inner()), ("agent.started", 1));
        }
    }
}
