-- The records of agents' state and shared records, as the log last said. (epoch, sequence) orders all writes of a
-- partition of the log; a deleted record stays, marked, so that a late writer meets its guard. value is the record's
-- JSON as bytes, exactly as it was written (jsonb would reorder it, and refuses characters that JSON allows).
CREATE TABLE state (
    owner      text        NOT NULL,
    record     text        NOT NULL,
    value      bytea,
    vector     jsonb       NOT NULL,
    epoch      bigint      NOT NULL,
    sequence   bigint      NOT NULL,
    writer     text        NOT NULL,
    invocation text        NOT NULL,
    deleted    boolean     NOT NULL,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (owner, record)
) PARTITION BY HASH (owner);

DO $$
BEGIN
    FOR remainder IN 0..15 LOOP
        EXECUTE format(
            'CREATE TABLE state_%s PARTITION OF state FOR VALUES WITH (MODULUS 16, REMAINDER %s)',
            lpad(remainder::text, 2, '0'), remainder
        );
    END LOOP;
END $$;
