"""``nas cascade``: its candidates, the choice, and the output."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nas.cli.models import note_weights
from nas.cli.options import identified
from nas.cli.output import writable
from nas.cli.record import check_dataset, data_of, is_of, opened, there
from nas.driver.tradeoffs import nothing_found, pareto
from nas.errors import NasError, NothingFound, StudyError
from nas.job import DataRef
from nas.metrics import METRICS, arithmetic, percent, shown
from nas.report import screens
from nas.report import smaller as pages
from nas.text import size_text
from nas.training import cascade, classical, latency
from nas.training.cascade import Cascade, Member
from nas.training.cascade_choice import Candidate, Choice, Demand, Verdict, decide
from nas.training.device import available
from nas.training.evaluation import compare, data_for, evaluate, fitting
from nas.training.models import Model, load_model
from nas.training.predict import sized

COSTS = ("latency_ms", "macs", "params")


def cascade_and_show(
    files: Sequence[str],
    *,
    study: str | None,
    storage: str,
    data: str,
    dataset: str,
    cost: str,
    accuracy: str,
    budget: float | None,
    baselines: Sequence[str],
    output: Path,
) -> None:
    """Chooses a cascade on the validation images, prints its test results and those of the best
    single network, and writes it. Raises NothingFound where no cascade meets the demand."""
    if cost not in COSTS:
        raise NasError(f"--cost {cost}: must be one of {', '.join(COSTS)}")
    if output.suffix.lower() != ".json":
        raise NasError(f"--output {output}: must end in .json")
    writable(output)
    if budget is not None and not 0 < budget < math.inf:
        raise NasError(f"--budget {budget:g}: must be a number above 0")
    if budget is not None and accuracy != "best":
        raise NasError(f"--accuracy {accuracy} and --budget {budget:g}: give one of the two")
    wanted = _fraction(accuracy)
    found, ref, beside = (
        _of_files(files, dataset, data) if files else _of_study(storage, study, dataset, data)
    )
    for name in dict.fromkeys([*beside, *baselines]):
        found |= _classical(name, ref)
    given = max(len(files), len(found))
    found = _once(found)
    names, models = list(found), list(found.values())
    if len(models) < 2:
        same = f"the {given} given are one" if given > 1 else f"there is {len(models)}"
        raise NothingFound(f"a cascade needs at least two networks with weights, and {same}")
    cascade.alike(models, "a cascade")
    for model in models:
        cascade.beside(output, model)  # any of them may be chosen: checked before the work
    device = available()
    costs = [costs_of(model.to(device), device) for model in models]
    seen = [evaluate(model, ref, "validation") for model in models]
    scores = [each.accuracy for each in seen]
    candidates = [
        Candidate.of(each.probabilities, own[cost]) for each, own in zip(seen, costs, strict=True)
    ]
    demand = Demand(accuracy=max(scores) if wanted is None else wanted)
    if budget is not None:
        demand = Demand(budget=budget)
    verdict = decide(candidates, seen[0].labels, demand, best_single=wanted is None)
    screens.out(pages.candidates_table(names, models, scores, costs, cost))
    if verdict.cascade is None:
        raise NothingFound(
            "; ".join([_why_none(verdict, demand, names, cost), instead(verdict, demand, scores)])
        )
    chosen, single = verdict.cascade, verdict.single
    made = _made(verdict, models, chosen)
    beaten = models[single.members[0]] if single else None
    tested = evaluate(made, ref, "test")
    images = tested.images[0]
    pixels = sized(images, images.rows[: cascade.TIMED], made.input)
    told = pages.Cascaded(
        names=names,
        cost=cost,
        choice=chosen,
        single=single,
        validated=verdict.cross_validated[len(chosen.members)],
        single_validated=verdict.cross_validated[1],
        test=tested,
        shares=made.shares,
        costs=[c[cost] for c in costs],
        ms=cascade.timed(made, pixels),
        single_test=evaluate(beaten, ref, "test") if beaten else None,
        single_ms=cascade.timed(beaten, pixels) if beaten else None,
    )
    made.about = _about(told, demand, costs, latency.fingerprint(device, threads=1))
    cascade.save_cascade(output, made)
    comparison = compare(tested, told.single_test) if told.single_test else None
    screens.out(pages.cascade_page(told, comparison))
    print(f"\nnas: written to {output}, with its members next to it", file=sys.stderr)
    if told.slower_than and budget is None:  # it saves no time, and that was what it was for
        print(f"nas: {told.slower_than} alone is as good, and faster here", file=sys.stderr)
        return
    print(f"next:\n  nas predict {output} IMAGE_OR_DIR", file=sys.stderr)
    print(f"  nas export {output} -f onnx", file=sys.stderr)


def _about(
    told: pages.Cascaded, demand: Demand, costs: Sequence[Mapping[str, float]], device: str
) -> dict[str, Any]:
    """The description of the choice in a cascade's file."""
    chosen, single, test = told.choice, told.single, told.test
    expected = {name: chosen.mean_cost([own[name] for own in costs]) for name in COSTS}
    about: dict[str, Any] = {
        "cost": told.cost,
        "demand": {k: v for k, v in dataclasses.asdict(demand).items() if v is not None},
        "expected": {"accuracy": chosen.accuracy, **expected},
        "shares": list(chosen.shares),
        "members": [told.names[i] for i in chosen.members],
        "device": device,
        "test": {"accuracy": test.accuracy, "images": len(test)},
        "measured_ms": told.ms,
    }
    if single and told.single_test is not None:
        about["single"] = {
            "name": told.names[single.members[0]],
            "test": told.single_test.accuracy,
            "measured_ms": told.single_ms,
        }
    return about


def _fraction(text: str) -> float | None:
    """Parses a fraction; None for "best"."""
    if text == "best":
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= 1:
        meant = f": for {value:g} % give {value / 100:g}" if 1 < value <= 100 else ""
        raise NasError(f"--accuracy {text}: must be best, or a fraction above 0 and up to 1{meant}")
    return value


def _of_files(
    files: Sequence[str], dataset: str, data: str
) -> tuple[dict[str, Model], DataRef, list[str]]:
    models = {file: load_model(file) for file in files}
    first = next(iter(models.values()))
    ref = data_for(first.card, dataset, str(Path(data).resolve()) if data else "", files[0])
    ref = fitting(identified(ref)[0], first.input)
    for file, model in models.items():
        if model.card.identity and model.card.identity != ref.identity:
            raise NasError(
                f"{file} was trained on other images and may have seen those of validation or test"
            )
    return models, ref, []


def _of_study(
    storage: str, study: str | None, dataset: str, data: str
) -> tuple[dict[str, Model], DataRef, list[str]]:
    """The networks of a study's front and its baselines with their weights, by their trial, and
    the names of its classical baselines."""
    store, row = opened(storage, study)
    check_dataset(row, dataset or None)
    ref = data_of(row, data)
    rows = list(store.trials(row.id))
    wanted = list(pareto(row, rows))
    wanted += [r for r in rows if r.baseline and r.evaluated and r not in wanted]
    if not wanted:
        raise nothing_found(row, rows)
    networks = {r.called: r for r in wanted if r.is_network}
    files = {name: store.model(r) for name, r in networks.items()}
    models = {name: load_model(file) for name, file in files.items() if file and there(file)}
    models = {name: model for name, model in models.items() if is_of(model.card, networks[name])}
    lacking = [name for name in networks if name not in models]
    if lacking:
        print(
            "nas: left out for lack of weights (not kept, deleted or overwritten): "
            f"{', '.join(lacking)}",
            file=sys.stderr,
        )
    if lacking and not models:
        raise StudyError(f"study {row.name!r} has kept no weights of its front (--keep front)")
    names = [r.baseline for r in wanted if r.baseline in classical.METHODS]
    return models, ref, names


def _once(models: dict[str, Model]) -> dict[str, Model]:
    """Removes duplicates of a network under other file names."""
    known: dict[str, str] = {}
    for name, model in models.items():
        first = known.setdefault(model.digest, name)
        if first != name:
            print(f"nas: {name} is the same network as {first}: counted once", file=sys.stderr)
    return {name: models[name] for name in known.values()}


def _classical(name: str, ref: DataRef) -> dict[str, Model]:
    """A classical baseline as a network: nothing else can be a member, and HOG's arithmetic is in
    no cost but the time."""
    if name != "logistic":
        if name not in classical.METHODS:
            raise NasError(f"--baseline {name}: must be logistic, which is a one-layer network")
        print(f"nas: {name} is not a network: left out", file=sys.stderr)
        return {}
    from nas.training.linear import as_model

    return {name: as_model(classical.fit(name, ref), ref)}


def costs_of(model: Model, device: Any) -> dict[str, float]:
    """A model's costs per image."""
    told = arithmetic(model.architecture)
    measured = latency.measure(model.network, model.input, device)
    return {"latency_ms": measured.ms, **{name: float(told[name]) for name in ("macs", "params")}}


def _made(verdict: Verdict, models: Sequence[Model], choice: Choice) -> Cascade:
    least = [*choice.thresholds, -math.inf]
    return Cascade(
        [
            Member(models[i], verdict.candidates[i].temperature, threshold)
            for i, threshold in zip(choice.members, least, strict=True)
        ],
        {},
    )


def instead(verdict: Verdict, demand: Demand, scores: Sequence[float]) -> str:
    """What to do where nothing meets the demand."""
    most = max(scores)
    if demand.accuracy is not None and demand.accuracy > most:
        return f"no network has that much: give --accuracy best, which is {percent(most)} here"
    if verdict.single is None:
        return "give a larger --budget" if demand.accuracy is None else "train more networks"
    alone = "use that network alone, or train more, cheaper ones among them"
    if demand.accuracy == most:
        return f"give less, such as --accuracy {most - 0.01:.2f}, or {alone}"
    if demand.accuracy is not None:
        return alone  # the best network's accuracy may be what was asked for before
    return f"{alone}, or give --accuracy best, which is {percent(most)} here"


def _why_none(verdict: Verdict, demand: Demand, names: Sequence[str], cost: str) -> str:
    what = (
        f"accuracy {percent(demand.accuracy)} on validation at a lower {METRICS[cost].title}"
        if demand.accuracy is not None
        else f"a higher accuracy at a {METRICS[cost].title} of {shown(cost, demand.budget)}"
    )
    told = [f"no cascade of these networks has {what} than a single network"]
    if verdict.single:
        name, value = names[verdict.single.members[0]], shown(cost, verdict.single.cost)
        told.append(f"{name} has {percent(verdict.single.accuracy)} at {value}")
    for size, validated in verdict.cross_validated.items():
        if size > 1 and validated:
            told.append(
                f"the best of {size} members has, held out, {percent(validated.held_out)} at "
                f"{shown(cost, validated.cost)}"
            )
    return "; ".join(told)


def export_cascade(file: str, format: str, output: Path | None) -> None:
    """Exports a cascade as one file, and prints how closely its answers match."""
    from nas.training.cascade_export import FORMATS, export

    if format not in FORMATS:
        raise NasError(f"--format {format}: a cascade is exported as {' or '.join(FORMATS)}")
    if format == "python" and "://" in file:
        raise NasError(f"Python source reads its weights from disk, not from {file}")
    ending = ".py" if format == "python" else ".onnx"
    output = output or Path(Path(file).stem + ending)
    loaded = cascade.load_cascade(file)
    difference = export(loaded, format, output, Path(file))
    told = "not checked: ONNX Runtime is not installed (pip install 'nas-patterns[onnx]')"
    if difference is not None:
        told = f"its probabilities differ by at most {difference:.1e}"
    print(f"nas: {output}, {size_text(output.stat().st_size)}, {told}", file=sys.stderr)
    if format == "python":
        note_weights([Path(file).with_name(member.file) for member in loaded.members], output)
