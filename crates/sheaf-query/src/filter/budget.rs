//! What one filter may cost, counted while it is read, so that nothing past a limit is ever built.

use super::parameter::Parameters;
use super::{DEPTH_MAX, FilterError, LIST_LENGTH_MAX, NODES_MAX};

/// Parameters of one filter. A statement has 65,535, says their number in two bytes, and may ask a filter more than once.
const PARAMETERS_MAX: usize = 16 * 1024;

#[derive(Default)]
pub(super) struct Budget {
    nodes: usize,
    depth: usize,
}

impl Budget {
    /// Refuses a filter of more bytes before any of it is read.
    pub(super) fn length(bytes: usize, bytes_max: usize) -> Result<(), FilterError> {
        if bytes > bytes_max {
            let detail = format!("a filter of this form has at most {bytes_max} bytes");
            return Err(too_complex(bytes_max, detail));
        }
        Ok(())
    }

    /// One more condition or operator.
    pub(super) fn node(&mut self, offset: usize) -> Result<(), FilterError> {
        self.nodes += 1;
        if self.nodes > NODES_MAX {
            let detail = format!("a filter has at most {NODES_MAX} conditions and operators");
            return Err(too_complex(offset, detail));
        }
        Ok(())
    }

    /// One level down; every success is paired with `leave`.
    pub(super) fn enter(&mut self, offset: usize) -> Result<(), FilterError> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            let detail = format!("a filter is nested at most {DEPTH_MAX} levels deep");
            return Err(too_complex(offset, detail));
        }
        Ok(())
    }

    pub(super) fn leave(&mut self) {
        self.depth -= 1;
    }

    /// Refuses the element that makes a list too long.
    pub(super) fn list(length: usize, offset: usize) -> Result<(), FilterError> {
        if length > LIST_LENGTH_MAX {
            let detail = format!("a list has at most {LIST_LENGTH_MAX} elements");
            return Err(too_complex(offset, detail));
        }
        Ok(())
    }

    /// Refuses a filter that a statement could not be sent with.
    pub(super) fn parameters(sent: &Parameters) -> Result<(), FilterError> {
        if sent.as_slice().len() > PARAMETERS_MAX {
            let detail = format!("a filter needs at most {PARAMETERS_MAX} parameters");
            return Err(too_complex(0, detail));
        }
        Ok(())
    }
}

fn too_complex(offset: usize, detail: String) -> FilterError {
    FilterError::TooComplex { offset, detail }
}

#[cfg(test)]
mod tests {
    use super::super::parameter::Parameter;
    use super::*;

    #[test]
    fn more_parameters_than_a_statement_can_be_sent_with_are_too_complex() {
        let mut sent = Parameters::default();
        for number in 0..PARAMETERS_MAX {
            sent.push(Parameter::Int8(number as i64));
        }
        assert_eq!(Budget::parameters(&sent), Ok(()));
        sent.push(Parameter::Int8(0));
        let refused = Budget::parameters(&sent).expect_err("one parameter more");
        assert_eq!(refused.code(), "filter_too_complex");
        assert!(PARAMETERS_MAX * 3 < usize::from(u16::MAX));
    }
}
