//! What servers other than AWS do differently.

/// How the server departs from AWS. The default is AWS.
#[derive(Clone, Debug, Default)]
pub struct Quirks {
    /// `If-None-Match` of writes is ignored: an object that exists is replaced.
    pub ignores_if_none_match: bool,
    /// `If-None-Match` of writes is answered with 501 NotImplemented.
    pub refuses_if_none_match: bool,
    /// `If-None-Match` is honoured by PutObject, and ignored by CompleteMultipartUpload.
    pub completes_over_anything: bool,
    /// `If-Match` of reads is ignored.
    pub ignores_if_match: bool,
    /// Checksum headers and trailers (`x-amz-checksum-*`, aws-chunked bodies) are answered with 400 InvalidRequest, as older Garage does.
    pub refuses_checksums: bool,
    /// Checksum headers (`x-amz-checksum-*`) are taken without being compared or kept.
    pub ignores_checksums: bool,
    /// A part that was uploaded twice is listed twice by ListParts, the older one first, as SeaweedFS does.
    pub lists_parts_twice: bool,
    /// All parts of an upload but the last must have the same length (400 InvalidPart), as R2 does.
    pub wants_equal_parts: bool,
    /// How many parts an upload may have (400 InvalidPart above); AWS takes 10,000.
    pub most_parts: Option<i32>,
    /// Calls about tags are answered with 501 NotImplemented.
    pub knows_no_tags: bool,
    /// The credentials may not set tags: requests that carry some are answered with 403 AccessDenied.
    pub denies_tags: bool,
    /// Listings go on with the first page again, for ever.
    pub lists_in_circles: bool,
    /// In listings with `encoding-type=url` a space is `%20` instead of `+`.
    pub percent_spaces: bool,
}
