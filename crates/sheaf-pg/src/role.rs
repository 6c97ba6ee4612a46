//! Who a connection is: a server must not run as a role that row-level security does not bind.

use tokio_postgres::Client;

use crate::error::PgError;

/// Why a role may not serve requests.
#[derive(Debug, thiserror::Error)]
pub enum RoleFault {
    /// The check itself failed.
    #[error(transparent)]
    Postgres(#[from] PgError),
    /// The connection is some other role than the one it is meant to be.
    #[error("the connection is role {actual}, not {expected}")]
    OtherRole {
        /// The role that logged in.
        actual: String,
        /// The role that was meant.
        expected: String,
    },
    /// Row-level security does not bind the role.
    #[error("role {role} is {what}, so that row-level security does not bind it")]
    Unbound {
        /// The role.
        role: String,
        /// Superuser, BYPASSRLS, or a member of the owner.
        what: &'static str,
    },
    /// Its transactions see what they began with, where some of ours have to see what was committed since.
    #[error(
        "role {role} begins transactions as {level}; ALTER ROLE {role} SET default_transaction_isolation = 'read committed'"
    )]
    Isolation {
        /// The role.
        role: String,
        /// The level.
        level: String,
    },
}

/// Makes sure that a connection is the expected role, and one that row-level security binds: no superuser, no
/// BYPASSRLS, not the owner of the tables nor a member of it. And that each of its statements sees what was committed before.
pub async fn check_role(client: &Client, expected: &str, owner: &str) -> Result<(), RoleFault> {
    let rows = client
        .query_typed(
            "SELECT rolname::text, rolsuper, rolbypassrls, pg_has_role(rolname, $1::name, 'MEMBER'),
                current_setting('default_transaction_isolation')
             FROM pg_roles WHERE rolname = current_user",
            &[(&owner, tokio_postgres::types::Type::TEXT)],
        )
        .await
        .map_err(PgError::statement("checking the role of a connection"))?;
    let Some(row) = rows.first() else {
        return Err(
            PgError::unreadable("checking the role of a connection", "current_user").into(),
        );
    };
    let role: String = row.get(0);
    let unbound = [
        (1, "a superuser"),
        (2, "BYPASSRLS"),
        (3, "a member of the tables' owner"),
    ];
    if let Some((_, what)) = unbound.into_iter().find(|(column, _)| row.get(*column)) {
        return Err(RoleFault::Unbound { role, what });
    }
    if role != expected {
        return Err(RoleFault::OtherRole {
            actual: role,
            expected: expected.to_owned(),
        });
    }
    let level: String = row.get(4);
    if level != "read committed" {
        return Err(RoleFault::Isolation { role, level });
    }
    Ok(())
}
