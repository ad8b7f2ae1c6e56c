-- How the versions of a subject must fit together; the subject '' stands for those that have no row.
CREATE TABLE @store.schema_levels (
    subject text COLLATE "C" PRIMARY KEY,
    level text NOT NULL CHECK (level IN (
        'NONE', 'BACKWARD', 'BACKWARD_TRANSITIVE', 'FORWARD', 'FORWARD_TRANSITIVE', 'FULL', 'FULL_TRANSITIVE'
    ))
);
