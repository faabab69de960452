//! S3 buckets as sources, destinations and restore targets of backups.
