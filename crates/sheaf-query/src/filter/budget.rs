//! What one filter may cost, counted while it is read, so that nothing past a limit is ever built.

use super::{DEPTH_MAX, FilterError, LIST_LENGTH_MAX, NODES_MAX};

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
}

fn too_complex(offset: usize, detail: String) -> FilterError {
    FilterError::TooComplex { offset, detail }
}
