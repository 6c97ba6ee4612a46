//! Which changes a file has no line of.
//!
//! All of it is read for that, beside the runtime, and what was read before somebody stopped waiting is not read again.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek, SeekFrom};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use sheaf_model::ChangePosition;

/// What was looked for last, where that did not come to its end.
#[derive(Debug, Default)]
pub(super) struct Search(Option<Arc<Mutex<Wanted>>>);

/// Lines that are looked for, and how far.
#[derive(Debug, Clone)]
struct Wanted {
    places: Vec<ChangePosition>,
    missing: HashSet<String>,
    /// Up to here the file was read.
    to: u64,
}

/// Whoever waits for a search has gone.
struct Gone(Arc<AtomicBool>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Search {
    /// Which of these changes the file has no line of.
    pub(super) async fn missing_in(
        &mut self,
        path: &Path,
        places: Vec<ChangePosition>,
    ) -> io::Result<HashSet<String>> {
        let known = self.0.take();
        let known = known.filter(|known| locked(known).places == places);
        let wanted = known.unwrap_or_else(|| {
            let missing = places.iter().map(ToString::to_string).collect();
            Arc::new(Mutex::new(Wanted {
                places,
                missing,
                to: 0,
            }))
        });
        self.0 = Some(Arc::clone(&wanted));
        let gone = Gone(Arc::default());
        let (of_task, is_gone) = (Arc::clone(&wanted), Arc::clone(&gone.0));
        let path = path.to_owned();
        let searched = tokio::task::spawn_blocking(move || {
            let file = File::open(path)?;
            let before = locked(&of_task).clone();
            let after = search_on(before, file, &is_gone)?;
            *locked(&of_task) = after;
            Ok::<_, io::Error>(())
        });
        searched.await.map_err(io::Error::other)??;
        self.0 = None;
        let missing = locked(&wanted).missing.clone();
        Ok(missing)
    }
}

fn locked(wanted: &Mutex<Wanted>) -> std::sync::MutexGuard<'_, Wanted> {
    // Each is replaced as a whole.
    wanted.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads on by whole lines, until nothing is missing, the file ends, or nobody waits any more.
fn search_on(mut wanted: Wanted, mut file: File, is_gone: &AtomicBool) -> io::Result<Wanted> {
    file.seek(SeekFrom::Start(wanted.to))?;
    let mut file = BufReader::new(file);
    let mut line = Vec::new();
    while !wanted.missing.is_empty() && !is_gone.load(Ordering::Relaxed) {
        line.clear();
        let length = file.read_until(b'\n', &mut line)?;
        if line.last() != Some(&b'\n') {
            break;
        }
        wanted.to += u64::try_from(length).map_err(io::Error::other)?;
        if let Some(place) = place_of(&String::from_utf8_lossy(&line)) {
            wanted.missing.remove(place);
        }
    }
    Ok(wanted)
}

/// Where the change of a line is. Within a text of the line the quotes would be escaped.
fn place_of(line: &str) -> Option<&str> {
    let (_, place) = line.split_once(r#""position":""#)?;
    place.split('"').next()
}

#[cfg(test)]
mod tests {
    use sheaf_testkit::ScratchDir;

    use super::*;

    #[test]
    fn a_search_ends_where_nothing_is_missing_and_goes_on_where_it_was_left() {
        let dir = ScratchDir::new("search").expect("a directory");
        let path = dir.path().join("lines");
        let lines: Vec<String> = (1..=4)
            .map(|n| format!("{{\"position\":\"1:0/0:{n}\"}}\n"))
            .collect();
        std::fs::write(&path, lines.concat()).expect("it can be written");
        let read_to = |count: usize| lines[..count].concat().len() as u64;
        let of = |numbers: &[u64]| Wanted {
            places: Vec::new(),
            missing: numbers.iter().map(|n| format!("1:0/0:{n}")).collect(),
            to: 0,
        };
        let search = |search, is_gone| {
            let file = File::open(&path).expect("it opens");
            let found = search_on(search, file, &AtomicBool::new(is_gone)).expect("it is read");
            (found.missing.len(), found.to)
        };
        assert_eq!(search(of(&[]), false), (0, 0));
        assert_eq!(search(of(&[2, 1]), false), (0, read_to(2)));
        assert_eq!(search(of(&[2, 9]), false), (1, read_to(4)));
        assert_eq!(search(of(&[2]), true), (1, 0), "nobody waits");
        let left = Wanted {
            to: read_to(2),
            ..of(&[1, 3])
        };
        assert_eq!(search(left, false), (1, read_to(4)), "not read again");
    }
}
