//! The order of versions and delete markers in a listing.
//!
//! The service lists both in one order, but the SDK gives two lists. Times do not tell how these belong together, since they are in
//! whole seconds. So the ids are read off the answer itself.

use aws_sdk_s3::config::interceptors::AfterDeserializationInterceptorContextRef;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;
use backup_core::model::Timestamp;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

/// The ids in the answer to one request, in their order.
#[derive(Clone, Debug, Default)]
pub(super) struct WireOrder(Arc<Mutex<Vec<String>>>);

impl Intercept for WireOrder {
    fn name(&self) -> &'static str {
        "order of versions"
    }

    fn read_after_deserialization(
        &self,
        context: &AfterDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let body = context.response().body().bytes().unwrap_or_default();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = ids(&String::from_utf8_lossy(body));
        Ok(())
    }
}

/// What stands in the elements `VersionId`. Ids are "URL-ready", so that there is nothing to unescape.
fn ids(xml: &str) -> Vec<String> {
    let ends = |rest: &str| rest.split_once("</VersionId>").map(|(id, _)| id.trim().to_owned());
    xml.split("<VersionId>").skip(1).filter_map(ends).collect()
}

impl WireOrder {
    /// Makes one list of two that are each in the order of the answer. `of` gives key, id and time.
    pub(super) fn merge<T>(
        &self,
        mut versions: VecDeque<T>,
        mut markers: VecDeque<T>,
        of: impl for<'a> Fn(&'a T) -> (&'a String, &'a String, Option<Timestamp>),
    ) -> VecDeque<T> {
        let order = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut order = order.iter();
        let mut merged = VecDeque::with_capacity(versions.len() + markers.len());
        while let (Some(version), Some(marker)) = (versions.front(), markers.front()) {
            let ((key, id, time), (marker_key, marker_id, marker_time)) = (of(version), of(marker));
            let next = order.next();
            let marker_is_next = match (key.cmp(marker_key), next) {
                (std::cmp::Ordering::Less, _) => false,
                (std::cmp::Ordering::Greater, _) => true,
                (_, Some(next)) if next == marker_id => true,
                (_, Some(next)) if next == id => false,
                // Without an id in the answer the time decides.
                _ => marker_time >= time,
            };
            merged.extend(if marker_is_next { markers.pop_front() } else { versions.pop_front() });
        }
        merged.append(&mut versions);
        merged.append(&mut markers);
        merged
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Item = (String, String, Option<Timestamp>);

    fn items(list: &[(&str, &str, i64)]) -> VecDeque<Item> {
        let item = |(key, id, seconds): &(&str, &str, i64)| {
            (key.to_string(), id.to_string(), Some(Timestamp { seconds: *seconds, nanos: 0 }))
        };
        list.iter().map(item).collect()
    }

    fn merged(xml: &str, versions: &[(&str, &str, i64)], markers: &[(&str, &str, i64)]) -> Vec<String> {
        let order = WireOrder(Arc::new(Mutex::new(ids(xml))));
        let merged = order.merge(items(versions), items(markers), |(key, id, time)| (key, id, *time));
        merged.into_iter().map(|(key, id, _)| format!("{key}/{id}")).collect()
    }

    #[test]
    fn the_answer_tells_the_order_within_a_second() {
        let xml = "<DeleteMarker><VersionId>3</VersionId></DeleteMarker><Version><VersionId> 2 </VersionId></Version>\
                   <DeleteMarker><VersionId>1</VersionId></DeleteMarker><Version><VersionId>0</VersionId></Version>";
        let order = merged(xml, &[("a", "2", 9), ("a", "0", 9)], &[("a", "3", 9), ("a", "1", 9)]);
        assert_eq!(order, ["a/3", "a/2", "a/1", "a/0"]);
    }

    #[test]
    fn ids_that_several_keys_share_do_not_mix_them_up() {
        let xml = "<VersionId>null</VersionId>".repeat(3);
        let order = merged(&xml, &[("a", "null", 1), ("c", "null", 1)], &[("b", "null", 9)]);
        assert_eq!(order, ["a/null", "b/null", "c/null"]);
    }

    #[test]
    fn without_ids_the_time_tells_the_order() {
        let order = merged("", &[("a", "2", 5), ("a", "1", 2)], &[("a", "3", 7)]);
        assert_eq!(order, ["a/3", "a/2", "a/1"]);
    }
}
