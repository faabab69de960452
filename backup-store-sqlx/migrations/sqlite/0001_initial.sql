-- Times are microseconds since 1970-01-01 UTC on the database's clock, if not said otherwise.
-- Applied migrations are never edited: their checksums are compared.
-- The names start with backup_, since the database may be shared with other programs.

CREATE TABLE backup_connections (
    id                     TEXT NOT NULL PRIMARY KEY,
    kind                   TEXT NOT NULL,
    name                   TEXT NOT NULL UNIQUE,
    settings               TEXT NOT NULL, -- JSON, without secrets
    secret                 TEXT, -- sealed
    sealed_under           TEXT, -- how the secret is sealed, and the id of the key
    version                INTEGER NOT NULL,
    created_at             INTEGER NOT NULL,
    updated_at             INTEGER NOT NULL,
    checked_at             INTEGER, -- on the clock of who checked
    check_error            TEXT -- of the last check, when it failed
) STRICT;

CREATE TABLE backup_operations (
    id                     TEXT NOT NULL PRIMARY KEY,
    kind                   TEXT NOT NULL,
    name                   TEXT NOT NULL,
    source_kind            TEXT NOT NULL,
    source_location        TEXT NOT NULL,
    destination_kind       TEXT NOT NULL,
    destination_location   TEXT NOT NULL,
    archive                TEXT NOT NULL,
    spec                   TEXT NOT NULL, -- JSON
    source_connection      TEXT, -- stays when the connection is deleted
    destination_connection TEXT,
    created_by             TEXT NOT NULL,
    state                  TEXT NOT NULL, -- the name, for filters
    state_data             TEXT NOT NULL, -- JSON, the whole state
    version                INTEGER NOT NULL,
    attempt                INTEGER NOT NULL,
    nonce                  INTEGER NOT NULL,
    holder                 TEXT, -- JSON
    lease_until            INTEGER,
    due_at                 INTEGER, -- since when any worker may take it
    request                TEXT,
    progress               TEXT NOT NULL, -- JSON
    log_sequence           INTEGER NOT NULL, -- of the last log record
    created_at             INTEGER NOT NULL,
    updated_at             INTEGER NOT NULL,
    finished_at            INTEGER
) STRICT;
CREATE INDEX backup_operations_by_state ON backup_operations (state, id);
CREATE INDEX backup_operations_by_kind ON backup_operations (kind, id);
CREATE INDEX backup_operations_by_due ON backup_operations (due_at, id);
CREATE INDEX backup_operations_by_source ON backup_operations (source_connection, id);
CREATE INDEX backup_operations_by_source_state ON backup_operations (source_connection, state, id);
CREATE INDEX backup_operations_by_destination ON backup_operations (destination_connection, id);
CREATE INDEX backup_operations_by_destination_state ON backup_operations (destination_connection, state, id);

CREATE TABLE backup_checkpoints (
    operation_id           TEXT NOT NULL PRIMARY KEY REFERENCES backup_operations (id),
    saved_at               INTEGER NOT NULL,
    data                   BLOB NOT NULL
) STRICT;

CREATE TABLE backup_log_records (
    operation_id           TEXT NOT NULL REFERENCES backup_operations (id),
    sequence               INTEGER NOT NULL, -- from 1; only what was cleared leaves gaps
    time                   INTEGER NOT NULL, -- on the clock of the worker
    level                  INTEGER NOT NULL, -- 0 debug, 1 info, 2 warning, 3 error
    step                   TEXT NOT NULL,
    message                TEXT NOT NULL,
    context                TEXT, -- JSON
    PRIMARY KEY (operation_id, sequence)
) STRICT, WITHOUT ROWID;

CREATE TABLE backup_log_writers (
    operation_id           TEXT NOT NULL REFERENCES backup_operations (id),
    writer                 INTEGER NOT NULL, -- random bits
    added                  INTEGER NOT NULL, -- how many records it has added, so that a call that is repeated doubles none
    PRIMARY KEY (operation_id, writer)
) STRICT, WITHOUT ROWID;

CREATE TABLE backup_archives (
    place                  TEXT NOT NULL, -- SHA-256 of the destination, which is too long for a key
    archive                TEXT NOT NULL,
    destination_kind       TEXT NOT NULL,
    destination_location   TEXT NOT NULL,
    source_kind            TEXT NOT NULL,
    source_location        TEXT NOT NULL,
    manifest_sha256        TEXT NOT NULL, -- hexadecimal
    name                   TEXT NOT NULL,
    stored_bytes           INTEGER NOT NULL,
    completed_at           INTEGER NOT NULL, -- on the clock of the worker
    protected              INTEGER NOT NULL, -- 1 when it must not be deleted
    PRIMARY KEY (place, archive)
) STRICT, WITHOUT ROWID;
CREATE INDEX backup_archives_by_archive ON backup_archives (archive);
