//! Counting injected faults: a fault test that injected nothing has shown nothing.

use std::sync::atomic::{AtomicU64, Ordering};

/// How often one fault was injected.
#[derive(Debug)]
pub struct Injected {
    name: &'static str,
    count: AtomicU64,
}

impl Injected {
    /// None so far.
    pub fn new(name: &'static str) -> Self {
        Injected {
            name,
            count: AtomicU64::new(0),
        }
    }

    /// Counts one injection.
    pub fn count(&self) {
        self.count.fetch_add(1, Ordering::Relaxed);
    }

    /// How many so far.
    pub fn total(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Prints the count.
    ///
    /// # Panics
    /// If it is zero.
    pub fn require(&self) {
        let (name, total) = (self.name, self.total());
        #[expect(clippy::print_stdout, reason = "the test harness shows it")]
        {
            println!("injected {name}: {total}");
        }
        assert!(total > 0, "the fault {name} was never injected");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counted_faults_pass() {
        let fault = Injected::new("crash");
        fault.count();
        fault.count();
        fault.require();
        assert_eq!(fault.total(), 2);
    }

    #[test]
    #[should_panic(expected = "never injected")]
    fn a_fault_that_never_happened_fails() {
        Injected::new("crash").require();
    }
}
