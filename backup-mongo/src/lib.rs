//! MongoDB databases as sources and restore targets of backups.
