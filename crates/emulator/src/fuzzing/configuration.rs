//! The small files: the configuration, and what a data folder says of itself.

use std::fmt::Debug;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::extents::{self, Extents, Seal};
use crate::store::HubFile;
use crate::{Emulator, config_file};

/// A configuration that is taken has hubs that can be. A file of a data folder that is taken for whole is
/// read as the same from what is written of it.
pub fn configuration(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(builder) = config_file::read(text, Emulator::builder())
    {
        for hub in builder.hubs() {
            assert!(crate::validate_hub(hub.name(), hub.partitions()).is_ok());
        }
    }
    is_stable::<Extents>(bytes, Seal::Required);
    is_stable::<HubFile>(bytes, Seal::Optional);
}

fn is_stable<T>(bytes: &[u8], seal: Seal)
where
    T: Serialize + DeserializeOwned + PartialEq + Debug,
{
    if let Some(content) = extents::unseal::<T>(bytes, seal) {
        let again =
            extents::sealed(&content).map(|bytes| extents::unseal::<T>(&bytes, Seal::Required));
        assert!(matches!(&again, Ok(Some(again)) if *again == content), "{content:?}: {again:?}");
    }
}
