//! Google Drive as destination of backups.
