"""``nas dashboard``: the Optuna dashboard on the studies of a record, with the front drawn.

It reads the copy that the search keeps for it (``nas.store.mirror``) and waits for nobody: SQLite's
WAL and PostgreSQL let it read while a search writes.
"""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from wsgiref.simple_server import make_server

import optuna
from optuna.artifacts import FileSystemArtifactStore
from optuna.storages import RDBStorage
from optuna_dashboard import save_note, wsgi
from optuna_dashboard._cli import ThreadedWSGIServer

from nas.driver.tradeoffs import pareto
from nas.errors import NasError
from nas.language.architecture import parse
from nas.metrics import METRICS, metric, shown
from nas.store import Store, StudyRow, TrialRow
from nas.store.mirror import Mirror, optuna_storage


def serve(store: Store, *, host: str, port: int, artifacts: Path) -> None:
    """Brings every study's copy up to date, draws the fronts, and serves until interrupted.

    Raises NasError where the address cannot be had.
    """
    storage = optuna_storage(store)
    files = FileSystemArtifactStore(artifacts)
    artifacts.mkdir(parents=True, exist_ok=True)
    for study in store.studies():
        Mirror(store, study).catch_up()
        decorate(store, study, storage, files)
    try:
        server = make_server(
            host, port, wsgi(storage, artifact_store=files), server_class=ThreadedWSGIServer
        )
    except OSError as error:
        raise NasError(f"--host {host} --port {port}: {error.strerror or error}") from None
    print(f"nas: http://{host}:{server.server_port}/dashboard/ (Ctrl-C ends it)", file=sys.stderr)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        server.server_close()


def decorate(
    store: Store, study: StudyRow, storage: RDBStorage, files: FileSystemArtifactStore
) -> None:
    """The front as the study's note, and a drawing with each trial of the front."""
    best = pareto(study, list(store.trials(study.id, states=("finished", "reused"))))
    copy = optuna.load_study(study_name=study.name, storage=storage)
    save_note(copy, note(study, best))
    rows = {row.number: row for row in best if "->" in row.pattern}  # a classical method has none
    known = storage.get_study_system_attrs(copy._study_id)
    for trial in copy.get_trials(deepcopy=False):
        row = rows.get(trial.user_attrs.get("trial", -1))
        drawn = svg(row) if row else None
        if row is None or drawn is None:
            continue
        artifact = f"{study.id}-{row.number}-{row.fingerprint}"
        # Where the dashboard looks for what belongs to a trial that has ended.
        key = f"dashboard:artifacts:{trial._trial_id}:{artifact}"
        files.write(artifact, io.BytesIO(drawn.encode()))
        if key not in known:
            told = {
                "artifact_id": artifact,
                "filename": f"trial-{row.number}.svg",
                "mimetype": "image/svg+xml",
                "encoding": None,
            }
            storage.set_study_system_attr(copy._study_id, key, json.dumps(told))


def note(study: StudyRow, best: tuple[TrialRow, ...]) -> str:
    """The front as a Markdown table."""
    usual = [name for name in METRICS if metric(name).column]
    names = list(dict.fromkeys([*usual, *dict(study.objectives)]))
    titles = ["trial", *(metric(name).title for name in names), "pattern"]
    lines = [f"## The front of {study.name}", "", f"| {' | '.join(titles)} |"]
    lines.append("|---" * len(titles) + "|")
    for row in best:
        cells = [shown(name, row.value(name)) for name in names]
        lines.append(f"| {row.number} | {' | '.join(cells)} | `{row.pattern}` |")
    return "\n".join(lines)


def svg(row: TrialRow) -> str | None:
    """The drawing of a trial; None, and why on stderr, where it has blocks of a plug-in, which is
    not loaded here."""
    try:
        return parse(row.pattern).svg(f"trial {row.number}")
    except NasError as error:
        print(f"nas: trial {row.number} is not drawn: {error}", file=sys.stderr)
        return None
