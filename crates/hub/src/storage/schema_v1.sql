CREATE TABLE fact (key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;

CREATE TABLE identity (
    ord INTEGER PRIMARY KEY AUTOINCREMENT,
    device TEXT NOT NULL,
    module TEXT NOT NULL,
    generation TEXT NOT NULL,
    etag INTEGER NOT NULL,
    enabled INTEGER NOT NULL,
    status_reason TEXT,
    status_updated INTEGER NOT NULL,
    auth INTEGER NOT NULL,
    credential1 TEXT,
    credential2 TEXT,
    iot_edge INTEGER NOT NULL,
    managed_by TEXT NOT NULL,
    UNIQUE (device, module)
);
CREATE INDEX identity_device ON identity (device) WHERE module = '';

CREATE TABLE activity (
    ord INTEGER PRIMARY KEY,
    connection_updated INTEGER NOT NULL,
    last_activity INTEGER NOT NULL
);

CREATE TABLE twin (
    ord INTEGER PRIMARY KEY,
    version INTEGER NOT NULL,
    etag INTEGER NOT NULL,
    tags TEXT NOT NULL,
    desired TEXT NOT NULL,
    desired_version INTEGER NOT NULL,
    reported TEXT NOT NULL,
    reported_version INTEGER NOT NULL
);

CREATE TABLE twin_metadata (
    ord INTEGER PRIMARY KEY,
    desired TEXT NOT NULL,
    reported TEXT NOT NULL
);

CREATE TABLE session (ord INTEGER PRIMARY KEY);

CREATE TABLE subscription (
    ord INTEGER NOT NULL,
    filter TEXT NOT NULL,
    feature INTEGER NOT NULL,
    qos INTEGER NOT NULL,
    PRIMARY KEY (ord, filter)
) WITHOUT ROWID;

CREATE TABLE change (
    shard INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    at INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    ord INTEGER NOT NULL,
    identity TEXT NOT NULL,
    version INTEGER NOT NULL,
    cause INTEGER NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (shard, seq)
) WITHOUT ROWID;
