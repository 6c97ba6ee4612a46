//! Where messages come from, and where confirmations go: a seam, so that what follows a stream can be shown one that no server
//! would send.

use std::future::Future;

use sheaf_model::Lsn;
use sheaf_pg::{Received, ReplicationConnection, ReplicationError};

/// A slot that is being followed.
pub trait Feed: Send {
    /// What comes next. May be dropped at any time without losing anything.
    fn receive(&mut self) -> impl Future<Output = Result<Received, ReplicationError>> + Send;

    /// What comes next, if it is here already.
    fn receive_now(&mut self) -> Result<Option<Received>, ReplicationError>;

    /// Says that we live, and that the slot may forget what ends at or before this position; and asks for a sign of life.
    fn confirm(
        &mut self,
        position: Lsn,
    ) -> impl Future<Output = Result<(), ReplicationError>> + Send;

    /// Ends in good order: the last confirmation has arrived when this returns.
    fn end(self) -> impl Future<Output = Result<(), ReplicationError>> + Send;
}

impl Feed for ReplicationConnection {
    fn receive(&mut self) -> impl Future<Output = Result<Received, ReplicationError>> + Send {
        ReplicationConnection::receive(self)
    }

    fn receive_now(&mut self) -> Result<Option<Received>, ReplicationError> {
        ReplicationConnection::receive_now(self)
    }

    fn confirm(
        &mut self,
        position: Lsn,
    ) -> impl Future<Output = Result<(), ReplicationError>> + Send {
        ReplicationConnection::confirm(self, position, true)
    }

    fn end(self) -> impl Future<Output = Result<(), ReplicationError>> + Send {
        ReplicationConnection::end(self)
    }
}

/// What the plugin is asked for. Version 1 of its protocol sends whole transactions, in order of commit and after it, so that
/// nothing of an aborted one is ever sent.
pub const PLUGIN_OPTIONS: [(&str, &str); 3] = [
    ("proto_version", "1"),
    ("publication_names", sheaf_store::changes::PUBLICATION),
    ("binary", "true"),
];
