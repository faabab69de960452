//! JSON documents that carry a checksum of their own bytes.
