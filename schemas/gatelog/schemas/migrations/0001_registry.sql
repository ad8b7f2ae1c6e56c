-- The default registry: every version of every subject, one subject an event type. Ids never change.
CREATE TABLE @store.schemas (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    subject text COLLATE "C" NOT NULL,
    version integer NOT NULL,
    definition text NOT NULL,
    sha256 text NOT NULL,
    registered_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (subject, version),
    UNIQUE (subject, sha256)
);
