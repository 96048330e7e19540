"""Profiles: latencies of the pieces of a space's networks on a device, from which the latency of
any of its networks is predicted, as an arithmetic metric."""

from __future__ import annotations

import contextlib
import dataclasses
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from nas.driver.latencies import device_here, is_here
from nas.driver.plan import Plan
from nas.errors import NasError, StudyError, nearest
from nas.job.outcome import OWN_BATCH, OWN_RUNTIME, OWN_THREADS
from nas.language.architecture import Architecture, parse
from nas.metrics import HERE, Located, added, located, metric, on_device
from nas.spaces.space import Space
from nas.store import Store
from nas.store.devices import Profiled, all_profiles, keep, keep_profile, measured, patterns
from nas.store.reading import Record
from nas.text import counted
from nas.training.latency_pieces import distinct, parts, time_piece
from nas.training.latency_prediction import LatencyPredictor

DRAWS = 50  # draws per network wanted, before the space counts as exhausted
# Networks whose pieces are timed, per network measured whole. Pieces cost little: those of 80
# networks, 20 of them measured whole, predict 97 % of others within 10 %; those of the 20 alone,
# 71 % (vgg_like).
APART = 3
COVERAGE_DRAWS = 50  # networks drawn from a space to check whether a profile covers it
RARE = 0.1  # fraction of them that may have a kind of piece that the profile lacks
HALF = 0.5  # fraction of known pieces below which a larger profile is suggested
PIECES = 600  # pieces timed at most, the commonest first; the rest is interpolated

OnProgress = Callable[[str, int, int], None]


def profile(
    store: Store,
    space: Space,
    *,
    name: str,
    runtime: str,
    threads: int,
    batch: int,
    networks: int,
    seed: int,
    again: bool = False,
    on_progress: OnProgress,
) -> tuple[Profiled, LatencyPredictor]:
    """Measures pieces of random networks of the space here, and the first ``networks`` of those
    whole, and adds them to this device's profile, which may cover other spaces. What the profile
    has is measured only if ``again``; measurements are kept even if interrupted. Calls
    ``on_progress`` with "pieces" or "networks", the number measured, and their total."""
    import torch

    from nas.training import latency
    from nas.training.device import available, with_threads
    from nas.training.network import build
    from nas.training.turns import measurement

    at_hand = available()
    where = latency.device_of(runtime, at_hand, threads)
    device = device_here(store, name, runtime, threads, at_hand)
    keep(store, device, [])
    made = Profiled(device=device, runtime=runtime, batch=batch, pieces={}, wholes={})
    made = next((each for each in all_profiles(store) if each.place == made.place), made)
    pieces, wholes = dict(made.pieces), dict(made.wholes)
    drawn = _drawn(space, APART * networks, seed)
    apart = {*made.apart, *map(str, drawn[networks:])}
    new = [piece for piece in distinct(drawn) if again or piece.key not in pieces][:PIECES]
    unseen = [each for each in drawn[:networks] if again or str(each) not in wholes]
    try:
        for n, piece in enumerate(new):
            with with_threads(threads), measurement(where), torch.inference_mode():
                pieces[piece.key] = time_piece(piece, runtime, where, threads, batch)
            on_progress("pieces", n + 1, len(new))
        for n, architecture in enumerate(unseen):
            found = latency.measure(
                build(architecture, seed=0),
                architecture.input,
                at_hand,
                runtime=runtime,
                threads=threads,
                batch=batch,
            )
            wholes[str(architecture)] = found.ms
            keep(store, None, [(architecture.fingerprint, found)], again=again)
            on_progress("networks", n + 1, len(unseen))
    finally:
        made = dataclasses.replace(
            made, device=device, pieces=pieces, wholes=wholes, apart=sorted(apart)
        )
        if pieces:
            keep_profile(store, made)
    return made, predictor(store, made)


def _drawn(space: Space, count: int, seed: int) -> list[Architecture]:
    rng = random.Random(seed)
    found: dict[str, Architecture] = {}
    for _ in range(DRAWS * count):
        architecture = space.draw(rng)[1]
        if not space.excess(architecture):
            found.setdefault(architecture.fingerprint, architecture)
        if len(found) == count:
            break
    if not found:
        raise NasError(f"no draw of {space.name} meets its constraints")
    return list(found.values())


def predictor(record: Record, profiled: Profiled) -> LatencyPredictor:
    """The predictor of a profile, corrected by all measurements of whole networks on its device, in
    any study."""
    since = _measured(record, profiled)
    besides = {text: since[key] for key, text in patterns(record, since).items()}
    wholes = {**profiled.wholes, **besides}
    known = {text: architecture for text in wholes if (architecture := _parsed(text))}
    apart = [architecture for text in profiled.apart if (architecture := _parsed(text))]
    pieces = {
        piece.key: piece
        for architecture in [*known.values(), *apart]
        for piece in parts(architecture).pieces
        if piece.key in profiled.pieces
    }
    fitted = LatencyPredictor.fit(
        [(piece, profiled.pieces[key]) for key, piece in pieces.items()],
        [(architecture, wholes[text]) for text, architecture in known.items()],
        apart,
    )
    return dataclasses.replace(fitted, besides=len(known.keys() - profiled.wholes.keys()))


def _measured(record: Record, profiled: Profiled) -> dict[str, float]:
    """Latencies by fingerprint, measured on a profile's device, in its runtime and at its batch."""
    place = profiled.place
    return {r.fingerprint: r.latency.ms for r in measured(record) if r.latency.place == place}


def _parsed(text: str) -> Architecture | None:
    try:
        return parse(text)
    except NasError:  # its plug-in is not loaded
        return None


# --- as metrics ----------------------------------------------------------------------------------


def in_search(space: Space) -> Space:
    """The space with ``latency_ms@here`` renamed to ``latency_ms``, which a search measures itself:
    in eager PyTorch, one thread, one image. Raises NasError for any other setting."""

    def own_name(name: str) -> str:
        at = located(name)
        if at is None or at.device != HERE:
            return name
        own = (OWN_RUNTIME, OWN_THREADS, OWN_BATCH)
        if (at.runtime or OWN_RUNTIME, at.threads or OWN_THREADS, at.batch) != own:
            raise NasError(
                f"{name}: a search measures eager PyTorch, one thread, one image; what "
                "`nas latency profile --name NAME` has measured is predicted as "
                f"{at.metric}@NAME"
            )
        return at.metric

    return dataclasses.replace(
        space,
        objectives=_renamed(space.objectives, own_name),
        constraints=_renamed(space.constraints, own_name),
    )


def _renamed(values: Mapping[str, Any], new: Callable[[str], str]) -> dict[str, Any]:
    renamed: dict[str, Any] = {}
    for name, value in values.items():
        if new(name) in renamed:
            raise NasError(f"{name}: given twice; each metric once")
        renamed[new(name)] = value
    return renamed


@contextlib.contextmanager
def predicting(
    record: Record | None,
    names: Iterable[str],
    space: Space | None = None,
    devices: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[dict[str, str]]:
    """While entered, makes the latencies on named devices among ``names`` arithmetic metrics: a
    network's measurement, or else the prediction of the device's profile. Yields a description of
    each. Raises StudyError for a device without a profile, with the nearest that has one, and for a
    profile that lacks a kind of piece of the space's networks. ``devices`` maps abbreviated names
    to full ones."""
    places = {name: at for name in names if (at := located(devices.get(name, name)))}
    descriptions: dict[str, str] = {}
    entries = {}
    for name, at in places.items():
        chosen = _profile(record, at)
        assert record
        predict = predictor(record, chosen)
        value = _measured_or(predict, _measured(record, chosen))
        entries[name] = dataclasses.replace(metric(name), arithmetic=value, predicts=chosen.place)
        descriptions[name] = f"predicted by {counted(len(predict.table), 'piece')}, {predict.trust}"
        if space is not None:
            descriptions[name] += f"; {_fits(predict, space, at)}"
    with added(entries):
        yield descriptions


def _measured_or(
    predict: LatencyPredictor, since: Mapping[str, float]
) -> Callable[[Architecture], float]:
    def value(architecture: Architecture) -> float:
        found = since.get(architecture.fingerprint)
        return predict(architecture) if found is None else found

    return value


def in_full(record: Record | None, plan: Plan) -> Plan:
    """The plan with the full name of each latency on a named device: the one recorded when the
    study began, or else that of the only matching profile. Raises StudyError as ``predicting``."""
    places = {name: at for name in plan.asked if (at := located(name))}
    if not places:
        return plan
    begun = record.study_named(plan.study) if record else None
    held = begun.settings.get("devices", {}) if begun else {}
    full = {name: held.get(name) or _name(at, _profile(record, at)) for name, at in places.items()}
    return dataclasses.replace(plan, devices=full)


def _fits(predict: LatencyPredictor, space: Space, at: Located) -> str:
    """Describes how well a profile covers a space. Raises StudyError where it lacks a kind of
    piece, whose latency it could only estimate from other kinds."""
    rng = random.Random(0)
    each = [set(parts(space.draw(rng)[1]).pieces) for _ in range(COVERAGE_DRAWS)]
    lacking = Counter(
        kind for some in each for kind in {piece.kind for piece in some}.difference(predict.kinds)
    )
    makes = f"`nas latency profile --space {space.name} --name {at.device}` adds what is missing"
    if any(count > RARE * len(each) for count in lacking.values()):
        kinds = ", ".join(kind for kind, _ in lacking.most_common())
        raise StudyError(
            f"{at}: its profile does not cover the networks of {space.name}: it has no "
            f"{kinds}; {makes}"
        )
    share = [sum(piece.key in predict.table for piece in some) / len(some) for some in each]
    has = sum(share) / len(share)
    return (
        f"it has {100 * has:.0f} % of the pieces of a network of {space.name}, and predicts a "
        f"piece that it lacks within 10 % in {100 * predict.pieces_within:.0f} of 100"
        + (f": {makes}" if has < HALF else "")
    )


def offer(record: Record | None, bounded: Iterable[str]) -> str:
    """A hint where a bound is on a measured latency that a profile of this machine could predict;
    else empty."""
    for name in on_device(bounded):
        at = Located(name, HERE, OWN_RUNTIME, OWN_THREADS)
        with contextlib.suppress(StudyError):
            known = _name(at, _profile(record, at))
            return f"{name} is measured before each training; {known} is predicted, at no cost"
    return ""


def _profile(record: Record | None, at: Located) -> Profiled:
    profiles = all_profiles(record) if record else []
    on_it = [
        each
        for each in profiles
        if each.device.name == at.device
        or (at.device == HERE and is_here(each.device.device, each.device.about))
    ]
    fits = [each for each in on_it if at.admits(each.runtime, each.device.threads, each.batch)]
    names = {_name(at, each): each for each in fits}
    if len(names) > 1:
        raise StudyError(f"{at}: there are several profiles: {', '.join(sorted(names))}")
    if not fits:
        known = sorted({_name(at, each) for each in profiles})
        near = nearest(str(at), known) if known else "there is no profile yet"
        raise StudyError(
            f"{at}: no profile predicts it; {near} (`nas latency profile` makes one on its device)"
        )
    return fits[-1]


def _name(at: Located, profiled: Profiled) -> str:
    return str(
        Located(
            at.metric,
            profiled.device.name,
            profiled.runtime,
            profiled.device.threads,
            profiled.batch,
        )
    )
