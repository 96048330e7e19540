"""What is wrong with a study after its faults, read from the database alone.

    python tests/faults_checker.py STUDY TRIALS   # the database's URL in NAS_STORAGE

Each entry of ``NONE`` selects what must not be there. The SQL is of both databases; ``nas`` is not
imported, so that its own reading is not what it is checked by.
"""

from __future__ import annotations

import os
import sys

from faults_evaluators import accuracy, fails
from sqlalchemy import Connection, create_engine, text

MINE = "study_id = (SELECT id FROM nas_studies WHERE name = :study)"
TRIED = f"nas_attempts a JOIN nas_trials t ON t.id = a.trial_id AND t.{MINE}"
COPY = """
    SELECT u.value_json AS number, CAST(o.state AS VARCHAR(20)) AS state
    FROM studies s JOIN trials o ON o.study_id = s.study_id
    LEFT JOIN trial_user_attributes u ON u.trial_id = o.trial_id AND u.key = 'trial'
    WHERE s.study_name = :study"""

NONE: dict[str, str] = {
    "a trial that did not end": f"""
        SELECT number, state FROM nas_trials WHERE {MINE}
        AND (state NOT IN ('finished', 'failed', 'reused') OR finished IS NULL)""",
    "an attempt that did not end": f"""
        SELECT t.number FROM {TRIED} WHERE a.state = 'running' OR a.ended IS NULL""",
    "more or fewer trials, or a gap": f"""
        SELECT * FROM (SELECT count(*) AS n, min(number) AS low, max(number) AS high
        FROM nas_trials WHERE {MINE}) AS counted WHERE n <> :trials OR low <> 0 OR high <> n - 1""",
    "a counter that went wrong": """
        SELECT numbers FROM nas_studies WHERE name = :study AND numbers <> :trials""",
    "a result without the one attempt that delivered it": f"""
        SELECT t.number, count(a.token) FROM nas_trials t
        LEFT JOIN nas_attempts a ON a.trial_id = t.id AND a.state = 'finished'
        WHERE t.{MINE} GROUP BY t.number, t.state
        HAVING count(a.token) <> CASE WHEN t.state = 'finished' THEN 1 ELSE 0 END""",
    "an attempt after the trial's end": f"""
        SELECT t.number FROM {TRIED} WHERE a.started > t.finished""",
    "two attempts at once": f"""
        SELECT t.number FROM {TRIED}
        JOIN nas_attempts b ON b.trial_id = a.trial_id AND b.number > a.number
        WHERE b.started < a.ended""",
    "attempts not numbered from 1": f"""
        SELECT t.number FROM {TRIED}
        GROUP BY t.number HAVING max(a.number) <> count(*) OR min(a.number) <> 1""",
    "a candidate that erred and was not tried exactly twice": f"""
        SELECT t.number, count(*) FROM {TRIED} WHERE a.state = 'failed'
        GROUP BY t.number, t.state HAVING count(*) <> 2 OR t.state <> 'failed'""",
    "a trial that failed by no fault of its own": f"""
        SELECT number, failure, reason FROM nas_trials
        WHERE {MINE} AND state = 'failed' AND failure <> 'error'""",
    "an architecture evaluated twice": f"""
        SELECT fingerprint, count(*) FROM nas_trials WHERE {MINE} GROUP BY fingerprint, job_key
        HAVING count(*) > 1""",
    "a trial that the dashboard's copy has not once": f"""
        SELECT t.number, t.state, count(c.number) FROM nas_trials t
        LEFT JOIN ({COPY}) c ON c.number = CAST(t.number AS VARCHAR(20))
        AND c.state = CASE WHEN t.state = 'failed' THEN 'FAIL' ELSE 'COMPLETE' END
        WHERE t.{MINE} GROUP BY t.number, t.state HAVING count(c.number) <> 1""",
    "more in the dashboard's copy": f"""
        SELECT * FROM (SELECT count(*) AS n FROM ({COPY}) c) AS counted WHERE n <> :trials""",
}


def faults(url: str, study: str, trials: int) -> list[str]:
    """All that is wrong; empty where the study has exactly ``trials`` trials, each one whole."""
    engine = create_engine(url)
    told = {"study": study, "trials": trials}
    with engine.connect() as connection:
        found = [
            f"{what}: {[tuple(row) for row in rows[:5]]}{' ...' if len(rows) > 5 else ''}"
            for what, query in NONE.items()
            if (rows := connection.execute(text(query), told).all())
        ]
        found += wrong_results(connection, study)
    engine.dispose()
    return found


def wrong_results(connection: Connection, study: str) -> list[str]:
    """Trials whose result is not the one of their architecture."""
    query = text(f"SELECT number, state, fingerprint, accuracy FROM nas_trials WHERE {MINE}")
    return [
        f"trial {number} is {state} with accuracy {found}"
        for number, state, fingerprint, found in connection.execute(query, {"study": study})
        if (state == "failed") != fails(fingerprint)
        or (state != "failed" and found != accuracy(fingerprint))
    ]


def main() -> None:
    study, trials = sys.argv[1:]
    found = faults(os.environ["NAS_STORAGE"], study, int(trials))
    print("\n".join(found) or f"{study}: {trials} trials, each once and whole")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
