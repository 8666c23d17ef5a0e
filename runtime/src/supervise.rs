//! Tasks and their parent.

use std::fmt::Display;

use tokio::task::{JoinError, JoinSet};

/// Why a program that should run for ever is ending.
#[derive(Debug, thiserror::Error)]
pub enum Ended<E: Display> {
    /// A task returned although nobody asked it to.
    #[error("the task \"{0}\" returned")]
    Returned(&'static str),
    /// A task failed.
    #[error("the task \"{task}\" failed: {error}")]
    Failed {
        /// Its name.
        task: &'static str,
        /// What it reported.
        error: E,
    },
    /// A task panicked or was cancelled.
    #[error("a task died: {0}")]
    Died(JoinError),
    /// There is no task.
    #[error("no task is running")]
    None,
}

/// Waits until the first task ends and says how: none of them may die unseen.
///
/// Each task carries its name in its result. Dropping the set afterwards cancels the others.
pub async fn first_ended<E: Display + 'static>(
    tasks: &mut JoinSet<(&'static str, Result<(), E>)>,
) -> Ended<E> {
    match tasks.join_next().await {
        Some(Ok((task, Ok(())))) => Ended::Returned(task),
        Some(Ok((task, Err(error)))) => Ended::Failed { task, error },
        Some(Err(error)) => Ended::Died(error),
        None => Ended::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_task_to_end_is_named_with_its_error() {
        let mut tasks = JoinSet::new();
        tasks.spawn(async { ("forever", std::future::pending::<Result<(), String>>().await) });
        tasks.spawn(async { ("watch", Err("no route".to_owned())) });
        let ended = first_ended(&mut tasks).await;
        assert_eq!(ended.to_string(), r#"the task "watch" failed: no route"#);
    }

    #[tokio::test]
    async fn a_task_that_panics_does_not_die_unseen() {
        let mut tasks: JoinSet<(&'static str, Result<(), String>)> = JoinSet::new();
        tasks.spawn(async { panic!("boom") });
        assert!(matches!(first_ended(&mut tasks).await, Ended::Died(_)));
    }
}
