//! Buckets with any number of objects that nobody stores.

use super::S3Object;
use crate::doubles::mix;
use bytes::Bytes;
use std::time::SystemTime;

/// Objects that are computed when they are asked for, to see what a million keys cost the client. The bucket can only be read.
///
/// The key of number 1234567 is `d01234/o01234567`; contents are random bytes from the number.
#[derive(Clone, Copy, Debug)]
pub struct Synthetic {
    /// How many objects; at most 100,000,000.
    pub objects: u64,
    /// Bytes of each.
    pub size: usize,
}

/// What a listing says of an object.
pub(super) struct Listed {
    pub(super) key: String,
    pub(super) etag: String,
    pub(super) size: u64,
    pub(super) modified: SystemTime,
    pub(super) storage_class: String,
}

impl Listed {
    pub(super) fn of(object: &S3Object) -> Self {
        Self {
            key: object.key.clone(),
            etag: object.etag.clone(),
            size: object.body.len() as u64,
            modified: object.modified,
            storage_class: object.storage_class.clone(),
        }
    }
}

impl Synthetic {
    /// The key of an object.
    pub fn key(self, number: u64) -> String {
        format!("d{:05}/o{number:08}", number / 1000)
    }

    /// The ETag does not look like an MD5, since it is none.
    fn etag(self, number: u64) -> String {
        format!("{:016x}{:016x}-1", mix(number), self.size)
    }

    /// The content of an object.
    pub fn body(self, number: u64) -> Bytes {
        let words = (0..self.size.div_ceil(8) as u64).flat_map(|word| mix(mix(number) ^ word).to_le_bytes());
        words.take(self.size).collect()
    }

    pub(super) fn object(self, key: &str) -> Option<S3Object> {
        let number = key.split_once("/o")?.1.parse().ok()?;
        if number >= self.objects || self.key(number) != key {
            return None;
        }
        let mut object = S3Object::new(key, self.body(number));
        object.etag = self.etag(number);
        object.modified = SystemTime::UNIX_EPOCH;
        Some(object)
    }

    /// The objects from a key on, in order.
    pub(super) fn list_from(self, after: &str) -> impl Iterator<Item = Listed> + use<> {
        // Keys grow with their numbers, so the first one behind is found by halves.
        let (mut low, mut high) = (0, self.objects);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.key(middle).as_str() < after { low = middle + 1 } else { high = middle }
        }
        (low..self.objects).map(move |number| Listed {
            key: self.key(number),
            etag: self.etag(number),
            size: self.size as u64,
            modified: SystemTime::UNIX_EPOCH,
            storage_class: "STANDARD".to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_found_by_key_and_listed_from_any_key() {
        let many = Synthetic { objects: 1_000_000, size: 20 };
        assert_eq!(many.key(1234), "d00001/o00001234");
        assert_eq!(many.object(&many.key(1234)).unwrap().body, many.body(1234));
        assert_ne!(many.body(1), many.body(2));
        assert!(many.object("d00000/o00001234").is_none());
        assert!(many.object(&many.key(1_000_000)).is_none());
        assert_eq!(many.list_from("").next().unwrap().key, many.key(0));
        assert_eq!(many.list_from("d00500").next().unwrap().key, many.key(500_000));
        assert!(many.list_from("e").next().is_none());
    }
}
