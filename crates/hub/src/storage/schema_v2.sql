CREATE VIRTUAL TABLE device_words USING fts5 (
    words, content = '', contentless_delete = 1, detail = none, tokenize = 'ascii'
);

CREATE INDEX activity_last ON activity (last_activity);

INSERT INTO fact (key, value)
    SELECT 'devices', count(*) FROM identity WHERE module = '';
INSERT INTO fact (key, value)
    SELECT 'devices_enabled', coalesce(sum(enabled), 0) FROM identity WHERE module = '';
INSERT INTO fact (key, value)
    SELECT 'devices_edge', coalesce(sum(iot_edge), 0) FROM identity WHERE module = '';

CREATE TRIGGER device_made AFTER INSERT ON identity WHEN new.module = ''
BEGIN
    UPDATE fact SET value = value + 1 WHERE key = 'devices';
    UPDATE fact SET value = value + new.enabled WHERE key = 'devices_enabled';
    UPDATE fact SET value = value + new.iot_edge WHERE key = 'devices_edge';
END;

CREATE TRIGGER device_changed AFTER UPDATE OF enabled, iot_edge ON identity
WHEN new.module = '' AND (new.enabled <> old.enabled OR new.iot_edge <> old.iot_edge)
BEGIN
    UPDATE fact SET value = value + new.enabled - old.enabled WHERE key = 'devices_enabled';
    UPDATE fact SET value = value + new.iot_edge - old.iot_edge WHERE key = 'devices_edge';
END;

CREATE TRIGGER device_gone AFTER DELETE ON identity WHEN old.module = ''
BEGIN
    UPDATE fact SET value = value - 1 WHERE key = 'devices';
    UPDATE fact SET value = value - old.enabled WHERE key = 'devices_enabled';
    UPDATE fact SET value = value - old.iot_edge WHERE key = 'devices_edge';
END;
