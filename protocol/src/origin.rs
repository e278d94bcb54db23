//! Keys that a client has to places where bytes come from.

use std::fmt;

use bincode::{Decode, Encode};

/// Keys to an origin. Never printed.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
pub enum OriginKeys {
    /// Sent as `Authorization: Bearer`: HTTP, Google Cloud Storage, Azure.
    Bearer(String),
    /// Sent as `Authorization: Basic`: HTTP.
    Basic {
        /// User.
        user: String,
        /// Password.
        password: String,
    },
    /// S3.
    S3 {
        /// Access key id.
        key_id: String,
        /// Secret access key.
        secret_key: String,
        /// Session token, of temporary keys.
        token: Option<String>,
        /// Region, if not the agent's.
        region: Option<String>,
        /// URL of the server, if not the agent's.
        endpoint: Option<String>,
    },
    /// The key of a storage account: Azure.
    AzureKey(String),
    /// A shared access signature: Azure.
    AzureSas(String),
}

impl fmt::Debug for OriginKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            OriginKeys::Bearer(_) => "Bearer(...)",
            OriginKeys::Basic { .. } => "Basic(...)",
            OriginKeys::S3 { .. } => "S3(...)",
            OriginKeys::AzureKey(_) => "AzureKey(...)",
            OriginKeys::AzureSas(_) => "AzureSas(...)",
        })
    }
}
