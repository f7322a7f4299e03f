//! A thread of its own for what recurses: a deep expression then has room, and a panic stays inside.

use std::{any::Any, thread};

/// Room for the deepest expression that the limits allow, many times over.
const STACK_BYTES: usize = 16 * 1024 * 1024;

/// Runs `work` on a thread with a big stack and waits for it. The work itself bounds how long that takes.
///
/// # Errors
/// When no thread could be started, or the work panicked; says which.
pub(crate) fn on_a_big_stack<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, String> {
    thread::scope(|scope| {
        let builder = thread::Builder::new().name("rules".to_owned()).stack_size(STACK_BYTES);
        match builder.spawn_scoped(scope, work) {
            Ok(thread) => {
                thread.join().map_err(|panic| format!("the evaluation of rules broke: {}", said(&*panic)))
            }
            Err(error) => Err(format!("the system gave no thread to evaluate rules on: {error}")),
        }
    })
}

/// What a panic said.
fn said(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it did not say why")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_stays_inside() {
        assert_eq!(on_a_big_stack(|| 1 + 1), Ok(2));
        let broken = on_a_big_stack(|| -> u8 { panic!("deep") });
        assert_eq!(broken, Err("the evaluation of rules broke: deep".to_owned()));
    }
}
