-- Times are microseconds since 1970-01-01 UTC on the database's clock, if not said otherwise.
-- Applied migrations are never edited: their checksums are compared.
-- The names start with backup_, since the database may be shared with other programs.

CREATE TABLE backup_connections (
    id                     VARCHAR(32) NOT NULL PRIMARY KEY,
    kind                   VARCHAR(32) NOT NULL,
    name                   VARCHAR(128) NOT NULL UNIQUE,
    settings               LONGTEXT NOT NULL, -- JSON, without secrets
    secret                 LONGTEXT, -- sealed
    sealed_under           LONGTEXT, -- how the secret is sealed, and the id of the key
    version                BIGINT NOT NULL,
    created_at             BIGINT NOT NULL,
    updated_at             BIGINT NOT NULL,
    checked_at             BIGINT, -- on the clock of who checked
    check_error            LONGTEXT -- of the last check, when it failed
) ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_bin;

CREATE TABLE backup_operations (
    id                     VARCHAR(32) NOT NULL PRIMARY KEY,
    kind                   VARCHAR(32) NOT NULL,
    name                   LONGTEXT NOT NULL,
    source_kind            LONGTEXT NOT NULL,
    source_location        LONGTEXT NOT NULL,
    destination_kind       LONGTEXT NOT NULL,
    destination_location   LONGTEXT NOT NULL,
    archive                LONGTEXT NOT NULL,
    spec                   LONGTEXT NOT NULL, -- JSON
    source_connection      VARCHAR(32), -- stays when the connection is deleted
    destination_connection VARCHAR(32),
    created_by             LONGTEXT NOT NULL,
    state                  VARCHAR(32) NOT NULL, -- the name, for filters
    state_data             LONGTEXT NOT NULL, -- JSON, the whole state
    version                BIGINT NOT NULL,
    attempt                BIGINT NOT NULL,
    nonce                  BIGINT NOT NULL,
    holder                 LONGTEXT, -- JSON
    lease_until            BIGINT,
    due_at                 BIGINT, -- since when any worker may take it
    request                VARCHAR(32),
    progress               LONGTEXT NOT NULL, -- JSON
    log_sequence           BIGINT NOT NULL, -- of the last log record
    created_at             BIGINT NOT NULL,
    updated_at             BIGINT NOT NULL,
    finished_at            BIGINT,
    KEY backup_operations_by_state (state, id),
    KEY backup_operations_by_kind (kind, id),
    KEY backup_operations_by_due (due_at, id),
    KEY backup_operations_by_source (source_connection, id),
    KEY backup_operations_by_source_state (source_connection, state, id),
    KEY backup_operations_by_destination (destination_connection, id),
    KEY backup_operations_by_destination_state (destination_connection, state, id)
) ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_bin;

CREATE TABLE backup_checkpoints (
    operation_id           VARCHAR(32) NOT NULL PRIMARY KEY,
    saved_at               BIGINT NOT NULL,
    data                   LONGBLOB NOT NULL,
    FOREIGN KEY (operation_id) REFERENCES backup_operations (id)
) ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_bin;

CREATE TABLE backup_log_records (
    operation_id           VARCHAR(32) NOT NULL,
    sequence               BIGINT NOT NULL, -- from 1; only what was cleared leaves gaps
    time                   BIGINT NOT NULL, -- on the clock of the worker
    level                  BIGINT NOT NULL, -- 0 debug, 1 info, 2 warning, 3 error
    step                   LONGTEXT NOT NULL,
    message                LONGTEXT NOT NULL,
    context                LONGTEXT, -- JSON
    PRIMARY KEY (operation_id, sequence),
    FOREIGN KEY (operation_id) REFERENCES backup_operations (id)
) ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_bin;

CREATE TABLE backup_log_writers (
    operation_id           VARCHAR(32) NOT NULL,
    writer                 BIGINT NOT NULL, -- random bits
    added                  BIGINT NOT NULL, -- how many records it has added, so that a call that is repeated doubles none
    PRIMARY KEY (operation_id, writer),
    FOREIGN KEY (operation_id) REFERENCES backup_operations (id)
) ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_bin;

CREATE TABLE backup_archives (
    place                  VARCHAR(64) NOT NULL, -- SHA-256 of the destination, which is too long for a key
    archive                VARCHAR(32) NOT NULL,
    destination_kind       LONGTEXT NOT NULL,
    destination_location   LONGTEXT NOT NULL,
    source_kind            LONGTEXT NOT NULL,
    source_location        LONGTEXT NOT NULL,
    manifest_sha256        LONGTEXT NOT NULL, -- hexadecimal
    name                   LONGTEXT NOT NULL,
    stored_bytes           BIGINT NOT NULL,
    completed_at           BIGINT NOT NULL, -- on the clock of the worker
    protected              BIGINT NOT NULL, -- 1 when it must not be deleted
    PRIMARY KEY (place, archive),
    KEY backup_archives_by_archive (archive)
) ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_bin;
