CREATE TABLE fact (
    area TEXT NOT NULL,
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (area, name)
) WITHOUT ROWID;
