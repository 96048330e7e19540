"""Many images: decoded once per machine, in parallel, resumably; memory-mapped, not copied."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pieces
import pytest
import torch
from folders import anew, colour, folder, ref
from PIL import Image
from waiting import eventually

from nas.data import batches, imagefolder, processes, survey
from nas.data import datasets as data
from nas.data.images import Images
from nas.errors import DataError

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAS_CACHE", str(tmp_path / "cache"))


# --- processes -----------------------------------------------------------------------------------


def test_work_is_spread_over_processes_and_what_kills_one_is_named() -> None:
    assert dict(processes.spread(pieces.squared, range(40))) == {n: n * n for n in range(40)}
    assert dict(processes.spread(pieces.deadly, range(9))) == {
        n: None if n == 5 else n for n in range(9)
    }
    with pytest.raises(ValueError, match="is bad"):
        list(processes.spread(pieces.failing, range(9)))


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_processes_end_with_their_parent(how: signal.Signals, tmp_path: Path) -> None:
    code = (
        "import signal, sys; sys.path.insert(0, sys.argv[1]); import pieces;"
        "from nas.data import processes;"
        "signal.signal(signal.SIGINT, signal.default_int_handler);"  # a job behind & ignores it
        "list(processes.spread(pieces.noted, [sys.argv[2]] * 999))"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, Path(__file__).parent, tmp_path])
    assert eventually(lambda: any(tmp_path.iterdir()))
    parent.send_signal(how)
    parent.wait()
    assert eventually(lambda: not any(alive(int(path.name)) for path in tmp_path.iterdir()))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z"
    except OSError:
        return False


# --- decoded once --------------------------------------------------------------------------------


def store(root: Path) -> Path:
    """The folder of what was decoded."""
    return imagefolder.prepared(imagefolder.whole(ref(root))).decoded.folder


def mark(kept: Path, row: int, value: int) -> None:
    """Writes what no decoder would: it is there still where a row was not decoded again."""
    pixels = np.load(kept / "pixels.npy", mmap_mode="r+")
    pixels[row] = value
    pixels.flush()


def test_a_copy_is_not_decoded_again(tmp_path: Path) -> None:
    root = folder(tmp_path / "d")
    mark(store(root), 3, 99)
    shutil.copytree(root, tmp_path / "copy")
    assert (data.read(ref(tmp_path / "copy"), "train").pixels[3] == 99).all()


def test_decoding_goes_on_where_it_was_interrupted(tmp_path: Path) -> None:
    root = folder(tmp_path / "d")
    kept = store(root)
    for row in range(20):
        mark(kept, row, 99)
    (kept / "errors.json").unlink()  # not whole
    states = np.load(kept / "states.npy")
    states[7:12] = 0
    np.save(kept / "states.npy", states)
    anew()
    pixels = data.read(ref(root), "train").pixels
    again = [n for n in range(20) if not (pixels[n] == 99).all()]
    assert again == [7, 8, 9, 10, 11]
    assert np.array_equal(pixels[11].transpose(1, 2, 0), colour(1001, 1))


def test_of_a_changed_folder_only_what_changed_is_decoded(tmp_path: Path) -> None:
    root = folder(tmp_path / "d")
    kept = store(root)
    for row in range(20):
        mark(kept, row, 100 + row)
    Image.fromarray(colour(77)).save(root / "a" / "0002.png")
    Image.fromarray(colour(78)).save(root / "a" / "000.png")  # comes first
    (root / "b" / "0004.png").unlink()
    anew()
    pixels = data.read(ref(root), "train").pixels
    marks = [int(p[0, 0, 0]) if (p == p[0, 0, 0]).all() else None for p in pixels]
    assert marks == [None, 100, 101, None, *range(103, 114), *range(115, 120)]
    assert np.array_equal(pixels[0].transpose(1, 2, 0), colour(78))
    assert np.array_equal(pixels[3].transpose(1, 2, 0), colour(77))


def test_an_image_that_kills_its_decoder_is_one_that_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = folder(tmp_path / "d", 200)
    monkeypatch.setattr(survey, "look", pieces.look_and_die)
    with pytest.raises(DataError, match=r"1 of 400 images .*b/0007\.png \(its decoder crashed\)"):
        data.describe(ref(root))
    monkeypatch.undo()
    monkeypatch.setenv("NAS_CACHE", str(tmp_path / "cache"))
    anew()
    assert data.describe(ref(root)).shape == (3, 32, 32)  # a crash is no verdict


def test_a_trial_takes_the_images_of_its_search_without_a_look_at_the_files(tmp_path: Path) -> None:
    root = folder(tmp_path / "d")
    identity = data.identity(ref(root))
    (root / "a" / "0001.png").write_text("overwritten")
    anew()
    images = data.read(ref(root, identity=identity), "train")
    assert np.array_equal(images.pixels[1].transpose(1, 2, 0), colour(1))
    assert data.identity(ref(root, identity=identity)) == identity
    # On a machine that has not decoded them, they must be the same.
    shutil.rmtree(tmp_path / "cache")
    Image.fromarray(colour(5)).save(root / "a" / "0001.png")
    anew()
    with pytest.raises(DataError, match="are not those that this was started with"):
        data.describe(ref(root, identity=identity))
    Image.fromarray(colour(1)).save(root / "a" / "0001.png")
    anew()
    assert len(data.read(ref(root, identity=identity), "train")) == 20


# --- mapped --------------------------------------------------------------------------------------


def mapped(path: Path, count: int, side: int) -> Images:
    np.save(path, np.random.RandomState(0).randint(0, 256, (count, 3, side, side), np.uint8))
    return Images.of(np.load(path, mmap_mode="c"), np.arange(count) % 4)


@pytest.mark.parametrize("budget", [0, 1 << 30])
def test_batches_on_the_cpu_are_taken_from_the_images_themselves(
    budget: int, tmp_path: Path
) -> None:
    images = mapped(tmp_path / "x.npy", 50, 8)
    source = batches.Source.of(images, CPU, budget)
    assert source.pixels.data_ptr() == images.pixels.ctypes.data
    order = torch.randperm(50)
    pixels = torch.cat([pixels for pixels, _ in source.chunks(order, 7)])
    assert np.array_equal(pixels.numpy(), images.pixels[order.numpy()])


def test_a_training_holds_no_copy_and_starts_no_process(tmp_path: Path) -> None:
    """96 MB of images, read whole by batches, resident and streamed."""
    code = f"""
import contextlib, torch
import numpy as np
from pathlib import Path
from nas.data import batches
from nas.data.images import Images
images = Images.of(np.load({str(tmp_path / "x.npy")!r}, mmap_mode="c"), np.arange(2000) % 4)
private = lambda: int(next(l for l in Path("/proc/self/smaps_rollup").read_text().splitlines()
                           if l.startswith("Pss_Anon")).split()[1]) / 1024
def read(budget):
    source = batches.Source.of(images, torch.device("cpu"), budget)
    children = 0
    for pixels, _ in source.chunks(torch.randperm(2000), 50):
        for task in Path("/proc/self/task").iterdir():
            with contextlib.suppress(OSError):  # a thread that has ended since
                children += len((task / "children").read_text().split())
    return children
read(0), read(1 << 30)
before = private()
children = read(0) + read(1 << 30)
print(private() - before, children)
"""
    mapped(tmp_path / "x.npy", 2000, 128)
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    more, children = map(float, told.stdout.split())
    assert children == 0
    assert more < 60  # MiB; a copy would be 94 and two 188


def test_statistics_take_little_memory_and_are_kept(tmp_path: Path) -> None:
    images = mapped(tmp_path / "x.npy", 1000, 100)  # 30 MB, 240 as int64
    batches.statistics(images)
    tracemalloc.start()
    normal = batches.statistics(images)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 60e6
    assert normal.mean == pytest.approx((images.pixels / 255.0).mean((0, 2, 3)).tolist(), rel=1e-9)
    assert not [*tmp_path.glob("statistics*")]  # not beside what is no cache of ours

    root = folder(tmp_path / "d")
    train = data.load(ref(root), "train")
    first = batches.statistics(train)
    (kept,) = store(root).glob("statistics-*.json")
    kept.write_text(json.dumps([[0.25] * 3, [0.5] * 3]))
    assert batches.statistics(train).mean == (0.25,) * 3
    other = batches.statistics(data.load(ref(root, split_seed=1), "train"))
    assert other != first  # of other rows
    assert other.mean != (0.25,) * 3


def test_a_damaged_cache_is_made_anew(tmp_path: Path) -> None:
    root = folder(tmp_path / "d")
    identity = data.identity(ref(root))
    for path in [
        *(tmp_path / "cache").rglob("*.safetensors"),
        *(tmp_path / "cache").rglob("*.json"),
    ]:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    anew()
    images = data.read(ref(root, identity=identity), "train")
    assert np.array_equal(images.pixels[7].transpose(1, 2, 0), colour(7))
    assert data.identity(ref(root)) == identity
