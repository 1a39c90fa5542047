//! Checkpoints in Azure Blob Storage, in the format of the other Azure SDKs and KEDA.
#![cfg_attr(not(test), expect(dead_code, reason = "the store that uses the codec comes next"))]

mod metadata;
mod settled;
