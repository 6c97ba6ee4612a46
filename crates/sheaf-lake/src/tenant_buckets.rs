//! Which bucket of its table's files a tenant is in.

use iceberg::spec::{Datum, PrimitiveLiteral, Transform};
use iceberg::transform::{BoxedTransformFunction, create_transform_function};

use crate::error::LakeError;
use crate::schema::{LakeTable, TENANT_BUCKETS};

/// Which bucket a tenant is in, as readers work it out too.
pub(crate) struct TenantBuckets(BoxedTransformFunction, &'static str);

impl TenantBuckets {
    pub(crate) fn new(table: LakeTable) -> Result<TenantBuckets, LakeError> {
        let transform = create_transform_function(&Transform::Bucket(TENANT_BUCKETS));
        let transform = transform.map_err(LakeError::table("dividing the rows", table.name()))?;
        Ok(TenantBuckets(transform, table.name()))
    }

    pub(crate) fn of(&self, tenant: i64) -> Result<i32, LakeError> {
        let bucket = self.0.transform_literal(&Datum::long(tenant));
        let bucket = bucket.map_err(LakeError::table("dividing the rows", self.1))?;
        match bucket.as_ref().map(Datum::literal) {
            Some(PrimitiveLiteral::Int(bucket)) => Ok(*bucket),
            _ => Ok(0),
        }
    }
}
