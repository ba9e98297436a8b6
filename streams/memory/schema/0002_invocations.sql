-- The history of invocations, filled from the results topic. owner is the agent ID, by which the table is partitioned
-- as state is; value is the JSON of what the handler returned.
CREATE TABLE invocations (
    owner           text             NOT NULL,
    id              text             NOT NULL,
    agent           text             NOT NULL,
    key             text             NOT NULL,
    idempotency_key text             NOT NULL,
    tenant          text             NOT NULL,
    version         text             NOT NULL,
    status          text             NOT NULL,
    value           bytea,
    error_type      text             NOT NULL,
    error_message   text             NOT NULL,
    error_field     text             NOT NULL,
    degraded        boolean          NOT NULL,
    steps           bigint           NOT NULL,
    input_tokens    bigint           NOT NULL,
    output_tokens   bigint           NOT NULL,
    cost            double precision NOT NULL,
    submitted_at    timestamptz      NOT NULL,
    started_at      timestamptz,
    finished_at     timestamptz      NOT NULL,
    PRIMARY KEY (owner, id)
) PARTITION BY HASH (owner);

DO $$
BEGIN
    FOR remainder IN 0..15 LOOP
        EXECUTE format(
            'CREATE TABLE invocations_%s PARTITION OF invocations FOR VALUES WITH (MODULUS 16, REMAINDER %s)',
            lpad(remainder::text, 2, '0'), remainder
        );
    END LOOP;
END $$;

-- For "what happened lately", and for retention in bounded batches: small, since history is appended in order of time.
CREATE INDEX invocations_finished ON invocations USING brin (finished_at);
