-- A hub's tables as version 1 wrote them, by hub 0.1: four devices, one of them deleted and
-- made again; one key for all. It never changes.
PRAGMA application_id = 1397511751;
PRAGMA user_version = 1;
BEGIN TRANSACTION;
CREATE TABLE activity (
    ord INTEGER PRIMARY KEY,
    connection_updated INTEGER NOT NULL,
    last_activity INTEGER NOT NULL
);
INSERT INTO "activity" VALUES(2,1795453589200,1795453589300);
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
INSERT INTO "change" VALUES(0,1,1795453589037,1,1,'pump-1',1,1,'');
INSERT INTO "change" VALUES(0,2,1795453589055,1,2,'Pump-2',1,1,'');
INSERT INTO "change" VALUES(0,3,1795453589060,1,3,'gateway',1,1,'');
INSERT INTO "change" VALUES(0,4,1795453589060,1,4,'gateway/$edgeAgent',1,1,'');
INSERT INTO "change" VALUES(0,5,1795453589060,1,5,'gateway/$edgeHub',1,1,'');
INSERT INTO "change" VALUES(0,6,1795453589069,1,6,'valve',1,1,'');
INSERT INTO "change" VALUES(0,7,1795453589074,4,1,'pump-1',3,1,'{"site":"paris","place":{"floor":3}}');
INSERT INTO "change" VALUES(0,8,1795453589081,4,2,'Pump-2',3,1,'{"site":"lyon"}');
INSERT INTO "change" VALUES(0,9,1795453589085,5,1,'pump-1',2,1,'{"speed":7}');
INSERT INTO "change" VALUES(0,10,1795453589094,3,1,'pump-1',1,1,'');
INSERT INTO "change" VALUES(0,11,1795453589098,1,7,'pump-1',1,1,'');
INSERT INTO "change" VALUES(0,12,1795453589105,4,7,'pump-1',3,1,'{"site":"paris","place":{"floor":3}}');
CREATE TABLE fact (key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO "fact" VALUES('incarnation',1);
INSERT INTO "fact" VALUES('partitions',4);
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
INSERT INTO "identity" VALUES(2,'Pump-2','','448029801241110507',8530540520055767041,1,NULL,1795453589055,1,'c2VsdmVkZ2UgdGVzdCBrZXksIG5vIHNlY3JldCBhdCA=','c2VsdmVkZ2UgdGVzdCBrZXksIG5vIHNlY3JldCBhdCA=',0,'');
INSERT INTO "identity" VALUES(3,'gateway','','661102943342618096',164007071409242113,1,NULL,1795453589060,1,'c2VsdmVkZ2UgdGVzdCBrZXksIG5vIHNlY3JldCBhdCA=','c2VsdmVkZ2UgdGVzdCBrZXksIG5vIHNlY3JldCBhdCA=',1,'');
INSERT INTO "identity" VALUES(4,'gateway','$edgeAgent','1029737072971598664',3500428496910417921,1,NULL,1795453589060,1,'c2VsdmVkZ2UgdGVzdCBrZXksIG5vIHNlY3JldCBhdCA=','c2VsdmVkZ2UgdGVzdCBrZXksIG5vIHNlY3JldCBhdCA=',0,'IotEdge');
INSERT INTO "identity" VALUES(5,'gateway','$edgeHub','656945984068640662',-3174703726279524351,1,NULL,1795453589060,1,'c2VsdmVkZ2UgdGVzdCBrZXksIG5vIHNlY3JldCBhdCA=','c2VsdmVkZ2UgdGVzdCBrZXksIG5vIHNlY3JldCBhdCA=',0,'IotEdge');
INSERT INTO "identity" VALUES(6,'valve','','1020840584230391559',6147635249112154114,0,'sold',1795453589069,1,'c2VsdmVkZ2UgdGVzdCBrZXksIG5vIHNlY3JldCBhdCA=','c2VsdmVkZ2UgdGVzdCBrZXksIG5vIHNlY3JldCBhdCA=',0,'');
INSERT INTO "identity" VALUES(7,'pump-1','','306577248744257662',5664678035081658369,1,NULL,1795453589098,1,'c2VsdmVkZ2UgdGVzdCBrZXksIG5vIHNlY3JldCBhdCA=','c2VsdmVkZ2UgdGVzdCBrZXksIG5vIHNlY3JldCBhdCA=',0,'');
CREATE TABLE session (ord INTEGER PRIMARY KEY);
CREATE TABLE subscription (
    ord INTEGER NOT NULL,
    filter TEXT NOT NULL,
    feature INTEGER NOT NULL,
    qos INTEGER NOT NULL,
    PRIMARY KEY (ord, filter)
) WITHOUT ROWID;
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
INSERT INTO "twin" VALUES(2,3,4623345454476689410,'{"site":"lyon"}','{}',1,'{}',1);
INSERT INTO "twin" VALUES(3,2,7361206880259014657,'{}','{}',1,'{}',1);
INSERT INTO "twin" VALUES(4,2,-7636703812249452543,'{}','{}',1,'{}',1);
INSERT INTO "twin" VALUES(5,2,2943019622531596289,'{}','{}',1,'{}',1);
INSERT INTO "twin" VALUES(6,2,-5133102392555864063,'{}','{}',1,'{}',1);
INSERT INTO "twin" VALUES(7,3,831875856031809538,'{"site":"paris","place":{"floor":3}}','{}',1,'{}',1);
CREATE TABLE twin_metadata (
    ord INTEGER PRIMARY KEY,
    desired TEXT NOT NULL,
    reported TEXT NOT NULL
);
INSERT INTO "twin_metadata" VALUES(2,'{"$lastUpdated":"2026-11-23T17:06:29.055Z","$lastUpdatedVersion":1}','{"$lastUpdated":"2026-11-23T17:06:29.055Z","$lastUpdatedVersion":1}');
INSERT INTO "twin_metadata" VALUES(3,'{"$lastUpdated":"2026-11-23T17:06:29.060Z","$lastUpdatedVersion":1}','{"$lastUpdated":"2026-11-23T17:06:29.060Z","$lastUpdatedVersion":1}');
INSERT INTO "twin_metadata" VALUES(4,'{"$lastUpdated":"2026-11-23T17:06:29.060Z","$lastUpdatedVersion":1}','{"$lastUpdated":"2026-11-23T17:06:29.060Z","$lastUpdatedVersion":1}');
INSERT INTO "twin_metadata" VALUES(5,'{"$lastUpdated":"2026-11-23T17:06:29.060Z","$lastUpdatedVersion":1}','{"$lastUpdated":"2026-11-23T17:06:29.060Z","$lastUpdatedVersion":1}');
INSERT INTO "twin_metadata" VALUES(6,'{"$lastUpdated":"2026-11-23T17:06:29.069Z","$lastUpdatedVersion":1}','{"$lastUpdated":"2026-11-23T17:06:29.069Z","$lastUpdatedVersion":1}');
INSERT INTO "twin_metadata" VALUES(7,'{"$lastUpdated":"2026-11-23T17:06:29.098Z","$lastUpdatedVersion":1}','{"$lastUpdated":"2026-11-23T17:06:29.098Z","$lastUpdatedVersion":1}');
CREATE INDEX identity_device ON identity (device) WHERE module = '';
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('identity',7);
COMMIT;
