//! Which small files become one: a pure decision. Each commit adds a file for each part of a table; a reader opens all of them.

use std::cmp::Reverse;
use std::collections::BTreeMap;

/// A file, and what it takes to decide about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FileSize {
    /// What its rows have in common: only files of one part become one.
    pub(crate) part: Vec<Option<i32>>,
    pub(crate) location: String,
    pub(crate) bytes: u64,
}

/// How files are joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct JoinLimits {
    /// So many files of about the same size are enough to be joined. More leave more files; fewer write each row more often.
    pub(crate) files_min: usize,
    /// Files that are joined at once: all of them are read side by side.
    pub(crate) files_max: usize,
    /// From here on a file is small among the large ones, and a large one among the small: each row is written once for
    /// either.
    pub(crate) medium_bytes: u64,
    /// A file of so many bytes stays as it is. Two of them are enough to be joined into one.
    pub(crate) full_bytes: u64,
    /// What is read in one step, over all parts.
    pub(crate) step_bytes: u64,
}

impl JoinLimits {
    pub(crate) const DEFAULT: JoinLimits = JoinLimits {
        files_min: 16,
        files_max: 64,
        medium_bytes: 2 << 20,
        full_bytes: 16 << 20,
        step_bytes: 64 << 20,
    };
}

/// The files to join in one step, as groups of their places; each becomes one file. The parts with the most files come first.
pub(crate) fn choose(files: &[FileSize], limits: &JoinLimits) -> Vec<Vec<usize>> {
    let mut alike: BTreeMap<(&[Option<i32>], bool), Vec<usize>> = BTreeMap::new();
    for (place, file) in files.iter().enumerate() {
        if file.bytes < limits.full_bytes {
            let is_medium = file.bytes >= limits.medium_bytes;
            alike
                .entry((&file.part, is_medium))
                .or_default()
                .push(place);
        }
    }
    let mut groups: Vec<Vec<usize>> = alike.into_values().collect();
    groups.sort_by_key(|group| Reverse(group.len()));
    let mut chosen = Vec::new();
    let mut left = limits.step_bytes;
    for mut group in groups {
        let bytes = |place: &usize| files[*place].bytes;
        let is_enough = group.len() >= limits.files_min
            || group.len() > 1 && group.iter().map(bytes).sum::<u64>() >= 2 * limits.full_bytes;
        if !is_enough {
            continue;
        }
        group.sort_by_key(bytes);
        let mut taken = 0;
        let fits = group.iter().take(limits.files_max).take_while(|place| {
            taken += bytes(place);
            taken <= left.min(2 * limits.full_bytes)
        });
        let fits: Vec<usize> = fits.copied().collect();
        if fits.len() > 1 {
            left -= fits.iter().map(bytes).sum::<u64>();
            chosen.push(fits);
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: JoinLimits = JoinLimits {
        files_min: 4,
        files_max: 6,
        medium_bytes: 10,
        full_bytes: 100,
        step_bytes: 300,
    };

    fn files(sizes: &[(i32, u64)]) -> Vec<FileSize> {
        let file = |(part, bytes): &(i32, u64)| FileSize {
            part: vec![Some(*part)],
            location: String::new(),
            bytes: *bytes,
        };
        sizes.iter().map(file).collect()
    }

    #[test]
    fn files_of_a_part_are_joined_when_there_are_enough_of_a_size_or_enough_for_a_full_one() {
        for (claim, sizes, wanted) in [
            ("none", vec![], vec![]),
            ("too few", vec![(1, 5), (1, 5), (1, 5)], vec![]),
            (
                "enough",
                vec![(1, 5), (1, 6), (1, 7), (1, 8)],
                vec![vec![0, 1, 2, 3]],
            ),
            ("of two parts", vec![(1, 5), (2, 5), (1, 5), (2, 5)], vec![]),
            (
                "of two sizes",
                vec![(1, 5), (1, 5), (1, 50), (1, 50)],
                vec![],
            ),
            (
                "full ones stay",
                vec![(1, 100), (1, 200), (1, 300), (1, 400)],
                vec![],
            ),
            (
                "no more at once than may be side by side, the smallest first",
                vec![(1, 9), (1, 8), (1, 7), (1, 6), (1, 5), (1, 4), (1, 3)],
                vec![vec![6, 5, 4, 3, 2, 1]],
            ),
            (
                "few that are enough for a full one",
                vec![(1, 70), (1, 80), (1, 60)],
                vec![vec![2, 0]],
            ),
            ("one alone is none", vec![(1, 99)], vec![]),
            (
                "the most files first, and no more than a step may read",
                vec![
                    (1, 40),
                    (1, 40),
                    (1, 40),
                    (1, 40),
                    (2, 40),
                    (2, 40),
                    (2, 40),
                    (2, 40),
                    (2, 40),
                    (3, 9),
                    (3, 9),
                    (3, 9),
                    (3, 9),
                ],
                // 200 of part 2, then 80 of part 1, then 18 of part 3.
                vec![vec![4, 5, 6, 7, 8], vec![0, 1], vec![9, 10]],
            ),
        ] {
            assert_eq!(choose(&files(&sizes), &LIMITS), wanted, "{claim}");
        }
    }

    #[test]
    fn what_is_joined_again_and_again_ends_with_few_files_each_written_a_few_times() {
        let mut files: Vec<FileSize> = Vec::new();
        let (mut written, mut given) = (0, 0);
        for _ in 0..20_000 {
            files.push(FileSize {
                part: vec![Some(1)],
                location: String::new(),
                bytes: 150_000,
            });
            given += 150_000;
            for group in choose(&files, &JoinLimits::DEFAULT) {
                let bytes = group.iter().map(|place| files[*place].bytes).sum();
                written += bytes;
                let mut place = 0;
                files.retain(|_| {
                    place += 1;
                    !group.contains(&(place - 1))
                });
                files.push(FileSize {
                    part: vec![Some(1)],
                    location: String::new(),
                    bytes,
                });
            }
        }
        let full = files
            .iter()
            .filter(|file| file.bytes >= JoinLimits::DEFAULT.full_bytes);
        let full = full.count();
        assert!(
            files.len() - full < 32,
            "{} files beside {full}",
            files.len() - full
        );
        assert!(written <= 2 * given, "{written} of {given}");
    }
}
