"""``nas train``, ``predict``, ``evaluate`` and ``export``: from a model to the screen or a file."""

from __future__ import annotations

import csv
import dataclasses
import json
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from nas import artifacts
from nas.cli.arguments import MODELS
from nas.cli.options import called
from nas.cli.output import begin_work, directory
from nas.cli.record import check_there
from nas.data import kinds
from nas.errors import DataError, NasError, brief
from nas.interrupts import deferred
from nas.job import Job
from nas.language.architecture import parse
from nas.metrics import percent
from nas.report import screens
from nas.report.images import tell as tell_images
from nas.report.progress import epoch_printer
from nas.text import cell, counted, shown_file, size_text

if TYPE_CHECKING:
    from nas.job import DataRef
    from nas.training.card import Card
    from nas.training.cascade import Cascade
    from nas.training.evaluation import Evaluation
    from nas.training.models import Model
    from nas.training.onnx import OnnxModel
    from nas.training.predict import Prediction

OTHERS = "hidden, pipes, or not images by their ending"
NAMED = 10  # most unreadable files that are named; the rest are counted


def predictor(file: str | Path) -> Model | OnnxModel | Cascade:
    """Loads a model, its ONNX export, or a cascade, from a file or a URL that fsspec knows. Raises
    NasError."""
    check_there(str(file))
    if str(file).lower().endswith(".json"):
        from nas.training.cascade import load_cascade
        from nas.training.device import available

        return load_cascade(file).to(available())
    if str(file).lower().endswith(".onnx"):
        from nas.training.onnx import load_onnx

        return load_onnx(file)
    from nas.training.device import available
    from nas.training.models import load_model

    return load_model(file).to(available())


# --- train ---------------------------------------------------------------------------------------


def train_and_show(job: Job, output: Path) -> None:
    """Trains one architecture, with a line per epoch on stderr and the scores on stdout. The model
    is written to ``output``, or under a default name in that directory."""
    named = output.suffix.lower() == ".safetensors" and not output.is_dir()
    folder = output.parent if named else directory(output, "checkpoint and model")
    with deferred():  # compiled code may swallow an interrupt during its import
        from nas.training.single import free_to_train, train

    begin_work()
    tell_images(job)
    name = file_name(job)

    checkpoint = folder / f"{name}.checkpoint"
    file = output if named else folder / f"{name}.safetensors"
    free_to_train(job, file)
    if artifacts.kept(checkpoint):
        print(f"nas: resumes from {checkpoint}, whose epochs are repeated first", file=sys.stderr)
    done = train(job, epoch_printer(job.epochs), checkpoint=checkpoint, file=file, over=False)
    screens.out(screens.trained_page(done))
    shown = shlex.quote(shown_file(str(file)))
    data = f" --data {shlex.quote(shown_file(job.data.dir))}" if job.data.dir else ""
    print("\nnext:", file=sys.stderr)
    print(f"  nas evaluate {shown}{data}", file=sys.stderr)
    print(f"  nas predict {shown} IMAGE_OR_DIR", file=sys.stderr)
    print(f"  nas export {shown} -f onnx", file=sys.stderr)


def file_name(job: Job) -> str:
    """The base name of a training's files, different for each training."""
    from nas.training.single import training_id

    return f"{called(job.data)}-{training_id(job)}"


# --- predict -------------------------------------------------------------------------------------


def predict_and_show(file: str, paths: Sequence[Path], format: str, top: int) -> None:
    """Prints each image's prediction at once. Raises DataError at the end if images could not be
    read."""
    from nas.training.predict import files, stream

    if format not in WRITERS:
        raise NasError(f"--format {format}: must be one of {', '.join(WRITERS)}")
    if top < 1:
        raise NasError(f"--top {top}: must be 1 or more")
    if models := [str(path) for path in paths if path.suffix.lower() in MODELS]:
        raise NasError(f"{brief(models[0])} is a model, not an image: give one model, then images")
    found = files(paths)
    model = predictor(file)
    skipped: Counter[str] = Counter()

    def wanted() -> Iterator[Path]:
        for path, image in found:
            if image:
                yield path
                continue
            known = path.suffix.lower() in kinds.ENDINGS and not kinds.is_dropping(path.name)
            skipped[(known and kinds.unread(path.name)) or OTHERS] += 1

    failed = shown = 0

    def predictions() -> Iterator[tuple[Path, Prediction]]:
        nonlocal failed, shown
        for path, answer in stream(model, wanted(), file):
            shown += 1
            if isinstance(answer, NasError):
                failed += 1
                if failed <= NAMED:
                    print(f"nas: {brief(str(answer))}", file=sys.stderr)
            else:
                yield path, answer

    WRITERS[format](predictions(), top)
    note_stops(model)
    for why, count in sorted(skipped.items()):
        print(f"nas: {counted(count, 'file')} skipped: {why}", file=sys.stderr)
    if failed:
        raise DataError(f"{failed:,} of {counted(shown, 'image')} could not be read")
    if not shown:
        raise DataError(f"{', '.join(map(str, paths))}: no images found")


def note_stops(model: Model | OnnxModel | Cascade, ms: float | None = None) -> None:
    """Prints the fraction of images that stopped at each member of a cascade, and the ``ms`` that
    one took."""
    if shares := getattr(model, "shares", None):
        shares_text = ", ".join(f"{100 * share:.1f} %" for share in shares)
        took = f"; {ms:.3f} ms per image, one at a time" if ms is not None else ""
        print(f"nas: stopped at each member: {shares_text}{took}", file=sys.stderr)


Predictions = Iterable[tuple[Path, "Prediction"]]


def _csv(predictions: Predictions, top: int) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["file", "class", "probability"])
    for path, prediction in predictions:
        # A name that is not UTF-8 is escaped bytewise, so that different names stay different.
        file = cell(str(path).encode(errors="backslashreplace").decode())
        best = prediction.top(top)
        writer.writerows([file, cell(name), f"{value:.6f}"] for name, value in best)


def _json(predictions: Predictions, top: int) -> None:
    """Prints a JSON list entry by entry, so that it is never held in memory."""
    before = "["
    try:
        for path, prediction in predictions:
            page: dict[str, Any] = {
                "file": str(path),
                "class": prediction.label,
                "probability": round(prediction.probability, 6),
                "unsure": prediction.unsure,
            }
            if top > 1:
                best = prediction.top(top)
                page["top"] = [{"class": name, "probability": round(p, 6)} for name, p in best]
            print(before, json.dumps(page), sep="\n", end="")
            before = ","
    finally:  # even on an error, close the list
        print("[]" if before == "[" else "\n]")


def _table(predictions: Predictions, top: int) -> None:
    """Prints a line per image at once, so columns are not aligned to the longest name."""
    for path, prediction in predictions:
        best = "  ".join(f"{brief(name)} {100 * p:.2f} %" for name, p in prediction.top(top))
        print(f"{brief(str(path))}  {best}{'  unsure' * prediction.unsure}")


WRITERS: Mapping[str, Callable[[Predictions, int], None]] = {
    "table": _table,
    "csv": _csv,
    "json": _json,
}


# --- evaluate ------------------------------------------------------------------------------------


def evaluate_and_show(
    file: str,
    beside: str | None,
    *,
    dataset: str,
    data: str,
    skip_unreadable: bool,
    part: str,
    format: str,
    output: Path | None,
) -> None:
    """Scores a model, and one ``beside`` it on the same images; writes pictures to ``output``, of
    two models to a directory of each in it."""
    from nas.data import identity
    from nas.report import evaluations as pages
    from nas.training.cascade import TIMED, Cascade, timed
    from nas.training.evaluation import compare, data_for, evaluate, learned, usual_part
    from nas.training.predict import sized

    if output:
        directory(output, "tables and pictures")
    if format not in ("table", "json"):
        raise NasError(f"--format {format}: must be table or json")
    if beside is not None and Path(beside).resolve() == Path(file).resolve():
        raise NasError(f"{beside} is given twice: two different models are compared")
    models = {name: predictor(name) for name in (file, beside) if name is not None}
    first = models[file]
    folder = str(Path(data).resolve()) if data else ""
    ref = data_for(first.card, dataset, folder, file, skip_unreadable)
    ref = dataclasses.replace(ref, identity=identity(ref))  # once, as it looks at every file
    part = part or usual_part(first.card, ref)
    for name, model in models.items():
        if how := learned(model.card, ref, part):
            warning = "its accuracy here says little about others"
            print(f"nas: warning: {name} {how}: {warning}", file=sys.stderr)
    evaluations = {name: evaluate(model, ref, part) for name, model in models.items()}
    if missing := [s.name for s in evaluations[file].by_class if not s.images]:
        names = ", ".join(brief(name) for name in missing[:NAMED])
        more = f" and {len(missing) - NAMED:,} more" * (len(missing) > NAMED)
        print(f"nas: no images of {names}{more}: their recall is not measured", file=sys.stderr)
    for model, of in zip(models.values(), evaluations.values(), strict=True):
        if isinstance(model, Cascade):
            images = of.images[0]
            note_stops(model, timed(model, sized(images, images.rows[:TIMED], model.input)))
    comparison = compare(*evaluations.values()) if len(evaluations) == 2 else None
    if format == "json":
        page: dict[str, Any] = {n: pages.evaluation_dict(e) for n, e in evaluations.items()}
        if comparison:
            page["mcnemar"] = dataclasses.asdict(comparison)
        print(json.dumps(page if comparison else page[file], indent=1))
    else:
        for name, evaluation in evaluations.items():
            if comparison:
                screens.out(Text(f"\n{brief(name)}", style="bold"))
            screens.out(pages.evaluation_page(evaluation))
        if comparison:
            print()
            screens.out(pages.comparison_page(list(evaluations), comparison))
    if output:
        if not find_spec("matplotlib"):
            print("nas: no confusion.png: pip install 'nas-patterns[plot]'", file=sys.stderr)
        stems = [Path(name).stem for name in evaluations]
        for number, (stem, evaluation) in enumerate(zip(stems, evaluations.values(), strict=True)):
            own = stem if stems.count(stem) == 1 else f"{stem}-{number + 1}"
            _write_pictures(evaluation, output / own if comparison else output)


def _write_pictures(evaluation: Evaluation, folder: Path) -> None:
    from nas.report import evaluations as pages
    from nas.report import fonts

    fonts.tell_lacking(evaluation.classes)
    written = {
        "confusion.csv": pages.confusion_csv(evaluation).encode(),
        "mistakes.png": pages.mistakes_png(evaluation),
    }
    if find_spec("matplotlib"):
        written["confusion.png"] = pages.confusion_png(evaluation)
    with artifacts.together() as new:
        for name, content in written.items():
            artifacts.replace(new(folder / name), content)
    print(f"nas: {', '.join(sorted(written))} written to {folder}", file=sys.stderr)


# --- export --------------------------------------------------------------------------------------


def export_model(
    file: str, format: str, output: Path | None, name: str, *, kept: bool = False
) -> None:
    """Writes a model in a format of ``nas.training.export``, by default as ``name``, and prints how
    closely it matches torch. Weights ``kept`` by the record may be deleted with their study, so
    Python source that reads them gets a copy beside it."""
    from nas import artifacts
    from nas.training.export import FORMATS, export, made
    from nas.training.models import free_for, load_model, read

    if format == "pattern":
        _text(str(predictor(file).card.architecture), output)
        return
    refuse_exported(file)
    if format not in FORMATS:
        raise NasError(f"--format {format}: must be one of pattern, {', '.join(FORMATS)}")
    if format == "python" and "://" in file and not kept:
        raise NasError(
            f"Python source reads its weights from disk: first use -f safetensors, not {file}"
        )
    model = load_model(file)
    if format == "python" and output is None:
        print(made(model, format, Path("model.py"), Path(file)).decode().rstrip())
        return
    output = output or Path(name + FORMATS[format].ending)
    if output.exists() and Path(file).exists() and output.samefile(file):
        raise NasError(f"--output {output}: is the model itself; choose another file")
    weights = Path(file)
    with artifacts.together() as new:
        if kept and format == "python":
            weights, data = output.with_suffix(".safetensors"), read(file)
            if not weights.exists():
                artifacts.replace(new(weights), data)
            else:
                free_for(weights, model)
        done = export(model, format, output, weights)
    if weights != Path(file):
        print(f"nas: weights copied to {weights}", file=sys.stderr)
    check = "not checked: ONNX Runtime is not installed (pip install 'nas-patterns[onnx]')"
    if done.difference is not None:
        check = f"differs from torch by {done.difference:.1e} of the output's scale"
    print(f"nas: {done.file}, {size_text(done.file.stat().st_size)}, {check}", file=sys.stderr)
    if format == "python":
        note_weights([weights], output)


def note_weights(files: Sequence[Path], output: Path) -> None:
    """Prints which files Python source reads its weights from."""
    names = ", ".join(str(file) for file in files)
    print(
        f"nas: {output.name} reads its weights from {names}: whoever gets it needs "
        f"{'that' if len(files) == 1 else 'those'}, beside it",
        file=sys.stderr,
    )


def refuse_exported(file: str) -> None:
    """Raises NasError for a file that was itself exported, which cannot be exported again."""
    if Path(file).suffix.lower() in (".onnx", ".pt2", ".py"):
        raise NasError(
            f"{file} is an export and cannot be converted further: give the model that it was made "
            "from, a .safetensors file of `nas train`, or --trial N"
        )


def export_lowered(
    file: str, precision: str, output: Path, images: Callable[[Card], DataRef]
) -> None:
    """Writes a model as ONNX in a lower precision, and prints the change in accuracy and speed on
    the ``images`` for its card."""
    from nas import artifacts
    from nas.training.export import deployed
    from nas.training.models import load_model, room_for
    from nas.training.precision import lowered

    refuse_exported(file)
    model = deployed(load_model(file))
    artifacts.reserve(output, room_for(model.architecture))
    made, measured = lowered(model, precision, images(model.card))
    artifacts.replace(output, made)
    for each in measured:
        scored = f"test accuracy {percent(each.accuracy)}, {each.ms:.3f} ms, {size_text(each.size)}"
        print(f"nas: {each.precision}: {scored}", file=sys.stderr)
    print(f"nas: written to {output}", file=sys.stderr)


def export_pattern(pattern: str, format: str, output: Path | None) -> None:
    """Writes an architecture without weights, as Python or as its pattern."""
    if format == "pattern":
        _text(pattern, output)
    elif format == "python":
        from nas.training.python_source import python_source

        _text(python_source(parse(pattern)).rstrip(), output)
    else:
        raise NasError(f"--format {format}: a pattern has no weights: `nas train` trains it")


def _text(text: str, output: Path | None) -> None:
    from nas import artifacts

    if output is None:
        print(text)
    else:
        artifacts.replace(output, f"{text}\n".encode())
        print(f"nas: written to {output}", file=sys.stderr)
