"""``nas dashboard``: the Optuna dashboard on the studies of a record, with the front drawn.

It reads the copy that the search keeps for it (``nas.store.mirror``) and never blocks: SQLite's WAL
and PostgreSQL let it read while a search writes.
"""

from __future__ import annotations

import io
import ipaddress
import json
import re
import sys
import threading
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from wsgiref.simple_server import WSGIRequestHandler, make_server

import optuna
from optuna.artifacts import FileSystemArtifactStore
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna_dashboard import save_note, wsgi
from optuna_dashboard._cli import ThreadedWSGIServer
from sqlalchemy.exc import DBAPIError

from nas.driver.tradeoffs import pareto
from nas.errors import NasError, StoreError, StudyError, brief
from nas.report import believed
from nas.report.trials import caveats, columns
from nas.store import Store, StudyRow, TrialRow
from nas.store.mirror import Mirror, optuna_storage
from nas.store.urls import said, shown
from nas.text import markdown, printable

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from nas.driver.beliefs import Beliefs


def serve(
    store: Store,
    *,
    host: str,
    port: int,
    artifacts: Path,
    names: Collection[str] = (),
    study: str | None = None,
) -> None:
    """Updates every study's copy, draws the fronts, and serves until interrupted. Estimates are
    added to the fronts meanwhile, as they take 4 s of processor time per 300 trials.

    ``names`` are host names to accept besides ``host`` and this machine's own (see
    ``known_hosts``). Prints the address of ``study``, if given. A study that cannot be copied is
    reported, and the others are served. Raises NasError where it cannot listen on the address,
    StudyError for an unknown study, and StoreError for a record that cannot be read, before
    anything is written, or whose copies cannot be written.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if study is not None:
        store.find_study(study)
    try:
        read, storage, files = copied(store, artifacts)
    except (DBAPIError, StorageInternalError) as error:
        cause = error if isinstance(error, DBAPIError) else error.__cause__
        why = said(cause, store.engine.url) if isinstance(cause, DBAPIError) else brief(str(error))
        raise StoreError(
            f"{shown(store.engine.url)}: the dashboard's copies of the studies, which it keeps "
            f"beside the record, cannot be written: {why}"
        ) from None
    app = known_hosts(wsgi(storage, artifact_store=files), {host, *names})
    try:
        server = make_server(host, port, app, server_class=ThreadedWSGIServer, handler_class=Quiet)
    except OSError as error:
        raise NasError(f"--host {host} --port {port}: {error.strerror or error}") from None
    page = ""
    if study in {row.name for row, _ in read}:
        page = f"studies/{storage.get_study_id_from_name(str(study))}"
    print(
        f"nas: http://{host}:{server.server_port}/dashboard/{page} (Ctrl-C to stop)",
        file=sys.stderr,
    )
    threading.Thread(target=believe, args=(read, storage), daemon=True).start()
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        server.server_close()


Read = list[tuple[StudyRow, list[TrialRow]]]


def copied(store: Store, artifacts: Path) -> tuple[Read, RDBStorage, FileSystemArtifactStore]:
    """The copies of all studies, with their fronts and drawings, which the dashboard reads; and the
    studies shown, as they were read."""
    read = [(study, list(store.trials(study.id))) for study in store.studies()]
    storage = optuna_storage(store)
    files = FileSystemArtifactStore(artifacts)
    artifacts.mkdir(parents=True, exist_ok=True)
    there: Read = []
    for study, rows in read:
        try:
            Mirror(store, study).catch_up(rows)
        except StudyError as error:
            print(f"nas: study {study.name} is not shown: {error}", file=sys.stderr)
        else:
            decorate(study, rows, storage, files)
            there.append((study, rows))
    return there, storage, files


def believe(read: Read, storage: RDBStorage) -> None:
    """Adds the sampler's estimates to each study's front, the newest study first."""
    from nas.driver.beliefs import believed as beliefs_of  # a second of imports

    for study, rows in reversed(read):
        found = beliefs_of(study, rows)
        if found.by:
            copy = optuna.load_study(study_name=study.name, storage=storage)
            save_note(copy, note(study, pareto(study, rows), found))


class Quiet(WSGIRequestHandler):
    """Does not log requests: a page sends one every few seconds."""

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        pass


def known_hosts(app: WSGIApplication, names: Collection[str]) -> WSGIApplication:
    """Wraps the dashboard to refuse requests whose Host is not an address, ``localhost`` or one of
    ``names``, or whose Origin differs from it: against DNS rebinding and cross-site requests."""
    known = {"localhost", *(name.lower() for name in names)}

    def checked(environ: WSGIEnvironment, respond: StartResponse) -> Iterable[bytes]:
        asked = str(environ.get("HTTP_HOST", "")).lower()
        origin = str(environ.get("HTTP_ORIGIN", f"http://{asked}")).lower()
        if not (_name(asked) in known or _is_address(_name(asked))):
            refusal = f"host {asked!r} is not accepted: nas dashboard --allow-host {_name(asked)!r}"
        elif origin.partition("://")[2] != asked:
            refusal = f"a page of {origin!r} may not ask this"
        else:
            return app(environ, respond)
        respond("403 Forbidden", [("Content-Type", "text/plain; charset=utf-8")])
        return [printable(f"nas: {refusal}\n").encode("utf-8", "replace")]

    return checked


def _name(host: str) -> str:
    """The host without the port: of ``name:8080`` and of ``[::1]:8080``."""
    return re.sub(r":\d*$", "", host).strip("[]")


def _is_address(name: str) -> bool:
    """Whether a Host is an IP address, which unlike a name cannot be rebound."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def decorate(
    study: StudyRow,
    trials: Sequence[TrialRow],
    storage: RDBStorage,
    files: FileSystemArtifactStore,
) -> None:
    """Adds the front as the study's note, and a drawing to each trial of the front."""
    best = pareto(study, trials)
    copy = optuna.load_study(study_name=study.name, storage=storage)
    save_note(copy, note(study, best))
    known = storage.get_study_system_attrs(copy._study_id)
    for row in best:
        drawn = svg(row) if row.is_network else None  # a classical method has none
        if drawn is None:
            continue
        artifact = f"{study.id}-{row.number}-{row.fingerprint}"
        # Not by ``get_trials``, which reads all trials: 3 s for 5,000.
        trial = storage.get_trial_id_from_study_id_trial_number(copy._study_id, row.number)
        # The key under which the dashboard looks for the artifacts of ended trials.
        key = f"dashboard:artifacts:{trial}:{artifact}"
        files.write(artifact, io.BytesIO(drawn.encode()))
        if key not in known:
            page = {
                "artifact_id": artifact,
                "filename": f"trial-{row.number}.svg",
                "mimetype": "image/svg+xml",
                "encoding": None,
            }
            storage.set_study_system_attr(copy._study_id, key, json.dumps(page))


def note(study: StudyRow, best: tuple[TrialRow, ...], beliefs: Beliefs | None = None) -> str:
    """The front as a Markdown table, with the sampler's estimates."""
    shown = columns(study, best, beliefs)
    lines = [f"## The front of {markdown(study.name)}", ""]
    lines.append(f"| {' | '.join(markdown(title) for title, _ in shown)} | pattern |")
    lines.append("|---" * (len(shown) + 1) + "|")
    for row in best:
        cells = [cell(row) for _, cell in shown]
        name = f"{markdown(row.baseline)}: " if row.made else ""
        lines.append(f"| {' | '.join(cells)} | {name}`{row.pattern}` |")
    if said := believed.note(study, beliefs, best):
        lines += ["", said]
    lines += [line for said in caveats(study, best) for line in ("", markdown(said))]
    return "\n".join(lines)


def svg(row: TrialRow) -> str | None:
    """The drawing of a trial; None, with the reason on stderr, where it needs a plug-in that is not
    loaded."""
    try:
        return row.architecture.svg(f"trial {row.number}")
    except NasError as error:
        print(f"nas: not drawn: {error}", file=sys.stderr)
        return None
