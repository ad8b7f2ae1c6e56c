-- Projections: read models whose checkpoints are committed together with their rows. These tables are in the database of
-- the read models, which need not be that of the store. They refer to nothing else.

-- A read model is built once for each version of its handlers, and again for each rebuild: beside the live one.
CREATE TABLE @store.projection_builds (
    projection text COLLATE "C" NOT NULL,
    build integer NOT NULL,              -- 1, 2, 3 …
    version integer NOT NULL,            -- of the program that fills it
    state text NOT NULL CHECK (state IN ('building', 'live', 'retired')),
    since timestamptz NOT NULL DEFAULT now(),        -- it was begun
    changed_at timestamptz NOT NULL DEFAULT now(),   -- into this state
    PRIMARY KEY (projection, build)
);
CREATE UNIQUE INDEX projection_builds_live_key ON @store.projection_builds (projection) WHERE state = 'live';
CREATE UNIQUE INDEX projection_builds_building_key ON @store.projection_builds (projection) WHERE state = 'building';

-- Who may write from a partition. A member that claims it raises the generation, and whoever had it before is refused.
-- A batch holds the row locked until it commits: two members never have events of one partition in hand.
CREATE TABLE @store.projection_partitions (
    projection text COLLATE "C" NOT NULL,
    build integer NOT NULL,
    topic text COLLATE "C" NOT NULL,
    partition integer NOT NULL,
    generation bigint NOT NULL DEFAULT 0,
    pid integer,                         -- of the holder's session, and when that began
    session_since timestamptz,
    PRIMARY KEY (projection, build, topic, partition),
    FOREIGN KEY (projection, build) REFERENCES @store.projection_builds ON DELETE CASCADE
);

-- The checkpoints: one row a partition; a step deletes it and adds the next. (A row that is updated leaves dead versions
-- under one key, which nothing removes while a transaction of the cluster is older, and every look passes them all.)
CREATE TABLE @store.projection_offsets (
    projection text COLLATE "C" NOT NULL,
    build integer NOT NULL,
    topic text COLLATE "C" NOT NULL,
    partition integer NOT NULL,
    position bigint NOT NULL,            -- everything of the partition up to here is handled
    next_offset bigint NOT NULL,         -- where to go on in Kafka; -1: after the index has told
    leader_epoch integer,                -- of the newest record that was read then: Kafka tells by it whether that is there still
    topic_id text,                       -- of the topic that the offset is of: Kafka gives one that is made again another
    events bigint NOT NULL,              -- handled so far
    moved_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (projection, build, topic, partition, position, next_offset)
);

-- With one total order, one member works and the others stand by: it says here that it is alive, by counting on.
CREATE TABLE @store.projection_leases (
    projection text COLLATE "C" NOT NULL,
    build integer NOT NULL,
    holder uuid NOT NULL,
    beat bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (projection, build),
    FOREIGN KEY (projection, build) REFERENCES @store.projection_builds ON DELETE CASCADE
);
