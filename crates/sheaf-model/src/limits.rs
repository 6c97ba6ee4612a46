//! How much of anything a tenant may send at once. Defaults; every bound is checked before it costs memory.

/// The bounds that decoding and typing keep to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one value as it was sent. Larger values bloat documents, whose every update copies them.
    pub value_bytes_max: usize,
    /// Bytes of one event as it was sent.
    pub event_bytes_max: usize,
    /// Attributes of one event. PostgreSQL merges wide documents slowly: 150 attributes cost ten times 10.
    pub event_attributes_max: usize,
    /// Bytes of one decompressed request body.
    pub body_bytes_max: usize,
    /// Depth of a json value. PostgreSQL fails at 60,000 levels and readers long before.
    pub json_depth_max: usize,
    /// Attributes in a tenant's catalogue.
    pub tenant_attributes_max: usize,
}

impl Limits {
    /// What a tenant gets when nothing else is said.
    pub const DEFAULT: Limits = Limits {
        value_bytes_max: 256 * 1024,
        event_bytes_max: 1024 * 1024,
        event_attributes_max: 1_000,
        body_bytes_max: 64 * 1024 * 1024,
        json_depth_max: 32,
        tenant_attributes_max: 10_000,
    };
}
