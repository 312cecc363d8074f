-- A store as it was before stores had a version; $NUMBER, $REAL, $ANSWER and $POLICY are filled in.
CREATE TABLE cases (
    predicted_class TEXT NOT NULL,
    probability $REAL,
    predicted_loss $REAL,
    $ANSWER
    decision TEXT NOT NULL,
    reason TEXT NOT NULL,
    error_probability $REAL,
    expected_loss $REAL,
    ood_p_value $REAL,
    acceptance_score $REAL,
    ood_score $REAL,
    probabilities JSON NOT NULL,
    id TEXT NOT NULL,
    received TEXT NOT NULL,
    name TEXT NOT NULL,
    "group" TEXT,
    sha256 TEXT NOT NULL,
    model_fingerprint TEXT NOT NULL,
    policy_fingerprint TEXT,
    image_kept BOOLEAN NOT NULL,
    place INTEGER,
    remark TEXT,
    reviewed BOOLEAN NOT NULL,
    audited BOOLEAN NOT NULL,
    blind BOOLEAN NOT NULL,
    position $REAL,
    expected_error $REAL NOT NULL,
    folded_name TEXT NOT NULL,
    listed_decision TEXT NOT NULL,
    PRIMARY KEY (id)
);
CREATE INDEX cases_by_expected_error ON cases (expected_error, id);
CREATE INDEX cases_by_decision ON cases (listed_decision, reviewed, blind, id);
CREATE INDEX cases_by_class
    ON cases (predicted_class, expected_error, id, listed_decision, reviewed, blind);
CREATE INDEX cases_by_audit ON cases (policy_fingerprint, audited, listed_decision, received);
CREATE INDEX cases_by_name ON cases (folded_name, id);
CREATE INDEX ix_cases_sha256 ON cases (sha256);
CREATE INDEX cases_by_place ON cases ((-coalesce(place, 2147483647)), id);
CREATE TABLE reviews (
    number $NUMBER,
    case_id TEXT NOT NULL,
    verdict TEXT NOT NULL,
    final_class TEXT,
    override_reason TEXT,
    note TEXT NOT NULL,
    reviewer TEXT NOT NULL,
    reviewed_at TEXT NOT NULL,
    blind BOOLEAN NOT NULL,
    folded_reviewer TEXT NOT NULL,
    FOREIGN KEY(case_id) REFERENCES cases (id)
);
CREATE INDEX reviews_by_case ON reviews (case_id, number);
CREATE INDEX reviews_by_reader ON reviews (folded_reviewer, blind, case_id);
CREATE TABLE arrivals (
    number $NUMBER,
    case_id TEXT NOT NULL,
    UNIQUE (case_id),
    FOREIGN KEY(case_id) REFERENCES cases (id)
);
CREATE TABLE audits (
    policy_fingerprint TEXT NOT NULL,
    share $REAL NOT NULL,
    secret TEXT NOT NULL,
    since TEXT NOT NULL,
    PRIMARY KEY (policy_fingerprint)
);
CREATE TABLE pings (
    time TEXT NOT NULL,
    PRIMARY KEY (time)
);
INSERT INTO cases (
    id, received, name, "group", predicted_class, probability, predicted_loss, decision, reason,
    error_probability, expected_loss, ood_p_value, acceptance_score, ood_score, probabilities,
    sha256, model_fingerprint, policy_fingerprint, image_kept, place, remark, reviewed, audited,
    blind, position, expected_error, folded_name, listed_decision
) VALUES (
    '00000000000000000000000000000001', '2026-01-01T00:00:01.000000Z', 'Läsion''s.jpg', 'patient 1',
    'light', 0.7, -1.5, 'accept', 'because', 0.2, 0.5, 0.04, 0.25, -2.0,
    '{"dark": 0.3, "light": 0.7}', 'a1', 'f', '$POLICY', FALSE, NULL, NULL, TRUE, TRUE, FALSE, 0.25,
    0.2, 'läsion''s.jpg', 'accept'
), (
    '00000000000000000000000000000002', '2026-01-01T00:00:02.000000Z', '2.jpg', NULL,
    'dark', NULL, NULL, 'defer', 'because', NULL, NULL, NULL, NULL, NULL,
    '{"dark": null, "light": null}', 'a2', 'f', '$POLICY', FALSE, NULL, NULL, FALSE, TRUE, TRUE,
    0.5, 0.5, '2.jpg', 'defer'
);
INSERT INTO reviews (
    case_id, verdict, final_class, note, reviewer, reviewed_at, blind, folded_reviewer
) VALUES
    ('00000000000000000000000000000001', 'override', 'dark', 'odd', 'Ann',
     '2026-01-01T00:00:03.000000Z', TRUE, 'ann'),
    ('00000000000000000000000000000001', 'override', 'dark', '', 'Ben',
     '2026-01-01T00:00:04.000000Z', TRUE, 'ben');
INSERT INTO arrivals (case_id) VALUES
    ('00000000000000000000000000000001'), ('00000000000000000000000000000002');
INSERT INTO audits VALUES ('$POLICY', 0.2, 'secret', '2026-01-01T00:00:00.000000Z');
