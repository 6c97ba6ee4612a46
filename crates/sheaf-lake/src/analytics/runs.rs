//! Groups of rows that are read in the same way: beside each other in a file, with the same conditions left to be asked. Pure.

/// Groups of rows beside each other, and what is asked of their rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) groups: Vec<usize>,
    /// Whether their bounds name no other tenant.
    pub(crate) is_own: bool,
    /// The places of the conditions that bounds do not decide.
    pub(crate) asked: Vec<usize>,
}

/// Divides groups, in their order.
pub(crate) fn runs(
    groups: &[usize],
    is_own: impl Fn(usize) -> bool,
    asked: impl Fn(usize) -> Vec<usize>,
) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for (place, group) in groups.iter().enumerate() {
        let (is_own, asked) = (is_own(*group), asked(place));
        match runs.last_mut() {
            Some(run) if run.is_own == is_own && run.asked == asked => run.groups.push(*group),
            _ => runs.push(Run {
                groups: vec![*group],
                is_own,
                asked,
            }),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_of_which_the_same_is_asked_are_read_together_and_none_out_of_its_order() {
        let asked = [vec![0], vec![0], vec![], vec![], vec![0], vec![0]];
        let found = runs(
            &[2, 3, 5, 6, 7, 9],
            |group| group >= 9,
            |place| asked[place].clone(),
        );
        let run = |groups: &[usize], is_own, asked: &[usize]| Run {
            groups: groups.to_vec(),
            is_own,
            asked: asked.to_vec(),
        };
        let wanted = [
            run(&[2, 3], false, &[0]),
            run(&[5, 6], false, &[]),
            run(&[7], false, &[0]),
            run(&[9], true, &[0]),
        ];
        assert_eq!(found, wanted);
        assert_eq!(runs(&[], |_| true, |_| Vec::new()), []);
    }
}
