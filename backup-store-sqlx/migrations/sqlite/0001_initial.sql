-- Times are microseconds since 1970-01-01 UTC on the database's clock, if not said otherwise.
-- Applied migrations are never edited: their checksums are compared.

CREATE TABLE operations (
    id                   TEXT    NOT NULL PRIMARY KEY,
    kind                 TEXT    NOT NULL,
    name                 TEXT    NOT NULL,
    source_kind          TEXT    NOT NULL,
    source_location      TEXT    NOT NULL,
    destination_kind     TEXT    NOT NULL,
    destination_location TEXT    NOT NULL,
    archive              TEXT    NOT NULL,
    spec                 TEXT    NOT NULL, -- JSON
    state                TEXT    NOT NULL, -- the name, for filters
    state_data           TEXT    NOT NULL, -- JSON, the whole state
    version              INTEGER NOT NULL,
    attempt              INTEGER NOT NULL,
    nonce                INTEGER NOT NULL,
    holder               TEXT,             -- JSON
    lease_until          INTEGER,
    request              TEXT,
    progress             TEXT    NOT NULL, -- JSON
    log_sequence         INTEGER NOT NULL, -- of the last log record
    created_at           INTEGER NOT NULL,
    updated_at           INTEGER NOT NULL,
    finished_at          INTEGER
) STRICT;

CREATE INDEX operations_by_state ON operations (state, id);

-- Apart from the operations, so that their rows stay small.
CREATE TABLE checkpoints (
    operation_id TEXT    NOT NULL PRIMARY KEY REFERENCES operations (id),
    saved_at     INTEGER NOT NULL,
    data         BLOB    NOT NULL
) STRICT;

CREATE TABLE log_records (
    operation_id TEXT    NOT NULL REFERENCES operations (id),
    sequence     INTEGER NOT NULL, -- from 1, without gaps
    time         INTEGER NOT NULL, -- on the clock of the worker
    level        INTEGER NOT NULL, -- 1 info, 2 warning, 3 error
    step         TEXT    NOT NULL,
    message      TEXT    NOT NULL,
    context      TEXT,             -- JSON
    PRIMARY KEY (operation_id, sequence)
) STRICT, WITHOUT ROWID;

CREATE TABLE archives (
    destination_kind     TEXT NOT NULL,
    destination_location TEXT NOT NULL,
    archive              TEXT NOT NULL,
    source_kind          TEXT NOT NULL,
    source_location      TEXT NOT NULL,
    manifest_sha256      TEXT NOT NULL, -- hexadecimal
    PRIMARY KEY (destination_kind, destination_location, archive)
) STRICT, WITHOUT ROWID;
