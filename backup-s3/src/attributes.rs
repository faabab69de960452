//! What an object has besides its content, as an archive keeps it and as requests carry it.

use aws_sdk_s3::client::customize::CustomizableOperation;
use aws_sdk_s3::operation::create_multipart_upload::builders::CreateMultipartUploadFluentBuilder;
use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::operation::put_object::builders::PutObjectFluentBuilder;
use aws_sdk_s3::primitives::{DateTime, DateTimeFormat};
use backup_core::model::Metadata;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use std::collections::BTreeMap;

/// The header of a storage class in [`Metadata::headers`].
pub(crate) const STORAGE_CLASS: &str = "storage-class";
/// What services mean that name no storage class.
const STANDARD: &str = "STANDARD";
/// Headers that a restore puts back.
const KNOWN: [&str; 8] = [
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-type",
    "expires",
    STORAGE_CLASS,
    "website-redirect-location",
];

/// Headers, user metadata and tags of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Attributes {
    /// In lower case; none but those that are known.
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) user_metadata: BTreeMap<String, String>,
    pub(crate) tags: BTreeMap<String, String>,
}

impl Attributes {
    /// Of content of no special kind.
    pub(crate) fn of_type(content_type: &str) -> Self {
        let headers = BTreeMap::from([("content-type".to_owned(), content_type.to_owned())]);
        Self { headers, ..Self::default() }
    }

    /// What of an entry's metadata an object can have.
    pub(crate) fn of_metadata(metadata: &Metadata) -> Self {
        let known = |(name, value): (&String, &String)| {
            let fits = KNOWN.contains(&name.as_str()) && fits_header(value);
            fits.then(|| (name.clone(), value.clone()))
        };
        Self {
            headers: metadata.headers.iter().filter_map(known).collect(),
            user_metadata: metadata.user_metadata.clone(),
            tags: metadata.tags.clone(),
        }
    }

    /// What a HEAD tells; never the tags.
    pub(crate) fn of_head(seen: &HeadObjectOutput) -> Self {
        let all = [
            seen.cache_control(),
            seen.content_disposition(),
            seen.content_encoding(),
            seen.content_language(),
            seen.content_type(),
            seen.expires_string(),
            seen.storage_class().map(|class| class.as_str()),
            seen.website_redirect_location(),
        ];
        let headers = KNOWN.iter().zip(all).filter_map(|(name, value)| Some(((*name).to_owned(), value?.to_owned())));
        let user_metadata = seen.metadata().into_iter().flatten().map(|(name, value)| (name.clone(), value.clone()));
        Self { headers: headers.collect(), user_metadata: user_metadata.collect(), tags: BTreeMap::new() }
    }

    /// The storage class, if it is not the usual one.
    pub(crate) fn storage_class(&self) -> Option<&str> {
        self.headers.get(STORAGE_CLASS).map(String::as_str).filter(|class| *class != STANDARD)
    }

    /// The same without a storage class.
    pub(crate) fn without_storage_class(&self) -> Self {
        let mut other = self.clone();
        other.headers.remove(STORAGE_CLASS);
        other
    }

    /// What an object has that should have these, in words; nothing is said of the tags.
    pub(crate) fn differences(&self, found: &Self) -> Vec<String> {
        let mut different = Vec::new();
        for name in KNOWN {
            let (wanted, found) = (self.headers.get(name), found.headers.get(name));
            let same = match name {
                STORAGE_CLASS => wanted.map_or(STANDARD, |class| class) == found.map_or(STANDARD, |class| class),
                // Services make one up.
                "content-type" => wanted.is_none() || wanted == found,
                _ => wanted == found,
            };
            if !same {
                let shown =
                    |value: Option<&String>| value.map_or("none".to_owned(), |v| format!("`{}`", v.escape_debug()));
                different.push(format!("its {name} is {} instead of {}", shown(found), shown(wanted)));
            }
        }
        if self.user_metadata != found.user_metadata {
            different.push("its user metadata is different".to_owned());
        }
        different
    }

    /// An `Expires` that is no date.
    fn raw_expires(&self) -> Option<&String> {
        self.headers.get("expires").filter(|expires| http_date(expires).is_none())
    }

    /// Leaves an `Expires` out that is no date.
    pub(crate) fn take_raw_expires(&mut self) -> Option<String> {
        self.raw_expires()?;
        self.headers.remove("expires")
    }

    /// With an `Expires` that is no date, which the SDK would not send; AWS keeps it as it is, others refuse it.
    pub(crate) fn with_raw_expires<T, E, B>(
        &self,
        request: CustomizableOperation<T, E, B>,
    ) -> CustomizableOperation<T, E, B> {
        match self.raw_expires().cloned() {
            None => request,
            Some(expires) => request.mutate_request(move |request| {
                // It is one that a header can have, or it would not be among the attributes.
                let _ = request.headers_mut().try_insert("expires", expires.clone());
            }),
        }
    }

    /// As the header `x-amz-tagging` has them.
    fn tagging(&self) -> Option<String> {
        let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let pairs: Vec<String> =
            self.tags.iter().map(|(name, value)| format!("{}={}", encode(name), encode(value))).collect();
        (!pairs.is_empty()).then(|| pairs.join("&"))
    }
}

/// Whether a text can be the value of a header.
fn fits_header(text: &str) -> bool {
    text.bytes().all(|b| b == b'\t' || (b >= b' ' && b != 0x7f))
}

fn http_date(text: &str) -> Option<DateTime> {
    DateTime::from_str(text, DateTimeFormat::HttpDate).ok()
}

macro_rules! on_request {
    ($($name:ident($request:ident);)*) => {
        impl Attributes { $(
            /// The request with all of these but the storage class.
            pub(crate) fn $name(&self, request: $request) -> $request {
                let header = |name: &str| self.headers.get(name).cloned();
                let user_metadata = self.user_metadata.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
                request
                    .set_cache_control(header("cache-control"))
                    .set_content_disposition(header("content-disposition"))
                    .set_content_encoding(header("content-encoding"))
                    .set_content_language(header("content-language"))
                    .set_content_type(header("content-type"))
                    .set_expires(header("expires").as_deref().and_then(http_date))
                    .set_website_redirect_location(header("website-redirect-location"))
                    .set_metadata((!self.user_metadata.is_empty()).then_some(user_metadata))
                    .set_tagging(self.tagging())
            }
        )* }
    };
}
on_request! {
    on_put(PutObjectFluentBuilder);
    on_create(CreateMultipartUploadFluentBuilder);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn tags_are_encoded_as_a_query() {
        let tags = map(&[("a b", "1&2=3"), ("ä", "")]);
        let attributes = Attributes { tags, ..Attributes::default() };
        assert_eq!(attributes.tagging().unwrap(), "a%20b=1%262%3D3&%C3%A4=");
        assert_eq!(Attributes::default().tagging(), None);
    }

    #[test]
    fn what_a_service_makes_up_is_no_difference() {
        let wanted = Attributes { headers: map(&[("cache-control", "no-store")]), ..Attributes::default() };
        let mut found = wanted.clone();
        found.headers.extend(map(&[("content-type", "binary/octet-stream"), (STORAGE_CLASS, "STANDARD")]));
        assert_eq!(wanted.differences(&found), Vec::<String>::new());
        found.headers.extend(map(&[(STORAGE_CLASS, "STANDARD_IA"), ("content-encoding", "gzip")]));
        found.headers.remove("cache-control");
        found.user_metadata = map(&[("x", "y")]);
        assert_eq!(
            wanted.differences(&found),
            [
                "its cache-control is none instead of `no-store`",
                "its content-encoding is `gzip` instead of none",
                "its storage-class is `STANDARD_IA` instead of none",
                "its user metadata is different",
            ]
        );
    }

    #[test]
    fn only_what_requests_can_carry_is_taken_from_an_entry() {
        let headers =
            map(&[("content-type", "a/b"), ("x-own", "1"), ("cache-control", "a\nb"), (STORAGE_CLASS, "STANDARD")]);
        let metadata = Metadata { headers, ..Metadata::default() };
        let attributes = Attributes::of_metadata(&metadata);
        assert_eq!(attributes.headers, map(&[("content-type", "a/b"), (STORAGE_CLASS, "STANDARD")]));
        assert_eq!(attributes.storage_class(), None);
        for expires in ["Fri, 20 Nov 2026 10:00:00 GMT", "soon"] {
            let expires = map(&[("expires", expires)]);
            let metadata = Metadata { headers: expires.clone(), ..Metadata::default() };
            assert_eq!(Attributes::of_metadata(&metadata).headers, expires);
        }
    }
}
