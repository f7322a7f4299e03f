//! The process's tasks, each with a name, so that a stop can say who was late.

use std::time::Duration;

use tokio::{
    task::JoinHandle,
    time::{Instant, timeout_at},
};

/// Tasks that are to end together.
#[derive(Default)]
pub(crate) struct Parts(Vec<(&'static str, JoinHandle<()>)>);

impl Parts {
    pub(crate) fn spawn(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.0.push((name, tokio::spawn(task)));
    }

    /// Waits for all of them, and gives up on those that are late. Their names.
    pub(crate) async fn ended(self, deadline: Instant) -> Vec<&'static str> {
        let mut late = Vec::new();
        for (name, mut task) in self.0 {
            match timeout_at(deadline, &mut task).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::error!(part = name, %error, "a part died"),
                Err(_) => {
                    task.abort();
                    late.push(name);
                }
            }
        }
        late
    }
}

/// The moment `patience` from now.
pub(crate) fn within(patience: Duration) -> Instant {
    Instant::now() + patience
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_is_late_is_named() {
        let mut parts = Parts::default();
        parts.spawn("quick", async {});
        parts.spawn("stuck", std::future::pending());
        parts.spawn("dead", async { panic!("as a test") });
        assert_eq!(parts.ended(within(Duration::from_millis(50))).await, ["stuck"]);
    }
}
