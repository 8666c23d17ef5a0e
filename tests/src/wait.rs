//! Waiting with a deadline, the only way the lab and its tests wait.

use std::time::{Duration, Instant};

use crate::error::{Error, Result};

/// Time between two looks.
const STEP: Duration = Duration::from_millis(25);

/// Looks until `look` returns a value, for at most `within`; `what` says what is awaited, as "two pods running".
pub fn until<T>(within: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> Result<T> {
    until_seen(within, what, || look().ok_or_else(|| "nothing".to_owned()))
}

/// As [`until`], for looks that can say what they saw instead; the last such words are in the error.
pub fn until_seen<T, S: ToString>(
    within: Duration,
    what: &str,
    mut look: impl FnMut() -> std::result::Result<T, S>,
) -> Result<T> {
    let begin = Instant::now();
    loop {
        match look() {
            Ok(value) => return Ok(value),
            Err(seen) if begin.elapsed() >= within => {
                return Err(Error::Timeout { what: what.to_owned(), within, last: seen.to_string() });
            }
            Err(_) => std::thread::sleep(STEP),
        }
    }
}

/// Looks the whole of `during` and fails at the first look at which `look` returns words that say what is wrong.
pub fn throughout(during: Duration, what: &str, mut look: impl FnMut() -> Option<String>) -> Result<()> {
    let begin = Instant::now();
    while begin.elapsed() < during {
        if let Some(wrong) = look() {
            let seconds = begin.elapsed().as_secs_f32();
            return Err(Error::Answer(format!(
                "after {seconds:.1} s it was no longer so that {what}: {wrong}"
            )));
        }
        std::thread::sleep(STEP);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_value_comes_back_as_soon_as_it_is_there() {
        let mut looks = 0;
        let value = until(Duration::from_secs(5), "the third look", || {
            looks += 1;
            (looks == 3).then_some("here")
        });
        assert_eq!(value.unwrap(), "here");
    }

    #[test]
    fn a_deadline_says_what_was_awaited_and_seen() {
        let error =
            until_seen(Duration::ZERO, "two pods", || Err::<(), _>("one pod")).unwrap_err().to_string();
        assert!(error.contains("two pods") && error.contains("one pod"), "{error}");
    }

    #[test]
    fn a_state_that_does_not_last_is_reported() {
        let mut looks = 0;
        let result = throughout(Duration::from_secs(5), "it is quiet", || {
            looks += 1;
            (looks == 2).then(|| "noise".to_owned())
        });
        assert!(result.unwrap_err().to_string().contains("it is quiet: noise"));
    }
}
