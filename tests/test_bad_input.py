"""Wrong space files: one sentence that names the file, the place and the rule, at once."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nas.errors import SpaceError
from nas.spaces.space import load_space

FUZZ = Path(__file__).parent.parent / "benchmarks" / "fuzz_spaces.py"


def where(domain: str, pattern: str = "INPUT -> CONV(w) -> FC") -> str:
    return f"name: t\npattern: {pattern}\nwhere:\n  {domain}\n"


def closed(more: str) -> str:
    return f"name: t\npattern: INPUT -> FC\n{more}\n"


STAGES = "INPUT -> [CONV]*M -> FC\nwhere:\n  M: 2"

WRONG = {
    # text that is no mapping
    "empty": ("", "must be a mapping of keys such as name, pattern and where"),
    "list": ("- a\n- b", "must be a mapping"),
    "number": ("5", "must be a mapping"),
    "not yaml": ("name: [a\n", "line 2: not YAML"),
    "tab": ("name: t\n\tpattern: x", "line 2: not YAML: a tab: indent with spaces"),
    "indentation": ("where:\n  w: 1\n    b: 2\n", "line 3: not YAML: "),
    "indented less": ("where:\n    w: {int: [1, 2]}\n  b: 2", "line 3: not YAML: it is indented"),
    "a bracket that stays open": ("where: {w: 1\nname: t", "a comma is missing, or the end of b"),
    "a quote that stays open": ('name: "t\npattern: x', "a quote before it is not closed"),
    "a colon in a value": ("pattern: INPUT: FC", "a colon within a value: put the value in quo"),
    "a sign of YAML's own": ("pattern: @x", "a value begins with a sign of YAML's own"),
    "two documents": ("a: 1\n---\nb: 2", "line 2: not YAML"),
    "control characters": ("name: \x07", "not YAML"),
    "duplicate key": ("name: a\nname: b\n", "line 2: key 'name' is there twice"),
    "duplicate domain": (where("w: 3\n  w: 4"), "line 5: key 'w' is there twice"),
    "bomb": ("a: &a [x, x]\nb: &b [*a, *a]\n", "line 2: aliases (*name) have no place here"),
    "itself": ("where: &w\n  w: *w\n", "line 2: aliases"),
    "merge": ("<<: {a: 1}\n", "line 1: merge keys (<<) have no place here"),
    "tag": ("name: !!python/object/apply:os.system [ls]\n", "line 1: tags (!name) have no place"),
    "nested lists": (closed("where: " + "[" * 10_000), "line 3: nested more than 20 deep"),
    "nested maps": (closed("where: " + "{a: " * 10_000), "line 3: nested more than 20 deep"),
    "nested lines": ("\n".join(" " * i + "a:" for i in range(200)), "nested more than 20 deep"),
    "huge": ("a: " + "x" * 10_000_000, "10000003 bytes: must be at most 64000"),
    "digits": (where(f"w: {'9' * 10_000}"), "not YAML: Exceeds the limit"),
    # keys
    "unknown key": ("name: t\npatern: INPUT -> FC\n", "unknown key patern; did you mean pattern?"),
    "no name": ("pattern: INPUT -> FC\n", "name: must be there, as text"),
    "number for pattern": ("name: t\npattern: 5\n", "pattern: must be there, as text"),
    "list for where": (closed("where: [1]"), "where: [1]: must be a mapping"),
    "input": (closed("input: [1, 8]"), "input: [1, 8]: must be [channels, height, width]"),
    "classes": (closed("classes: 0"), "classes: 0: must be a whole number from 1 to 65536"),
    "pixels": (closed("large: {pixels: many}"), "large.pixels: 'many': must be a whole number"),
    "large key": (closed("large: {were: {}}"), "large.were: unknown key"),
    # patterns
    "pattern": ("name: t\npattern: INPUT -> CONV(8\n", "column 16: expected ',' or ')'"),
    "layer": ("name: t\npattern: INPUT -> CNV(8) -> FC",
        "unknown layer or block CNV, unless a --plugin adds it; did you mean CONV?"),
    "argument": ("name: t\npattern: INPUT -> CONV(8, kernal=3) -> FC", "did you mean kernel?"),
    "open symbol": ("name: t\npattern: INPUT -> CONV(w) -> FC",
        "w is open: it needs a domain under "
                    "where, a whole number from 1 to 65536"),
    "open count": ("name: t\npattern: INPUT -> RELU*N -> FC", "N is open: it needs a domain"),
    "open width": ("name: t\npattern: INPUT -> CONV -> FC",
        "CONV.width is open: it needs a domain"),
    "too small": ("name: t\npattern: INPUT -> CONV(8, 9, pad=0) -> FC",
        "does not fit a map of 8x8"),
    "10^9 layers": ("name: t\npattern: INPUT -> RELU*1_000_000_000 -> FC", "1000000000 repeats"),
    "10^9 layers in turn": ("name: t\npattern: INPUT -> [[[RELU]*1000]*1000]*1000 -> FC",
                            "more than 4096 elements"),
    "deep brackets": ("name: t\npattern: INPUT -> " + "[" * 10_000, "at most 32 brackets"),
    # domains
    "unknown symbol": (where("with: 3"), "where.with: nothing in the pattern has that name"),
    "unknown kind": (
        where("w: {itn: [1, 2]}"),
        "where.w: needs one of choice, int, float, start; it has itn; did you mean int?",
    ),
    "two kinds": (where("w: {int: [1, 2], choice: [1]}"), "it has choice, int"),
    "unknown option": (where("w: {int: [1, 2], stp: 1}"), "where.w.stp: unknown key; did you mean "
                       "step?"),
    "empty choice": (where("w: {choice: []}"),
        "where.w.choice: empty: must have at least one value"),
    "twice": (where("w: {choice: [3, 3]}"), "where.w.choice: [3, 3]: each value once"),
    "reversed": (where("w: {int: [5, 1]}"), "where.w.int: [5, 1] is reversed: the low end comes"),
    "negative": (where("w: {int: [-5, 1]}"), "where.w: width is -5: must be a whole number from 1"),
    "one end": (where("w: {int: [5]}"), "where.w.int: [5]: must be [low, high]"),
    "wrong type": (where("w: {int: [1, 2.5]}"), "where.w.int: 2.5: must be a whole number"),
    "words": (where("w: {choice: [big]}"), "where.w: width is 'big': must be a whole number"),
    "10^9 wide": (where("w: {int: [1, 1000000000]}"), "width is 1000000000: must be"),
    "10^400 wide": (where(f"w: {{int: [1, {'9' * 400}]}}"), "must be at most 1e+12"),
    "2e6": (where("w: {int: [1, 2e6]}"), "where.w.int: '2e6' is text to YAML, not a number"),
    "2e6 chosen": (where("w: {choice: [2e6]}"), "where.w.choice: '2e6' is text to YAML"),
    "octal": (where("w: {choice: [010, 020]}"), "line 4: 010 is 8 to YAML: write the number out"),
    "octal with a sign": (where("w: {int: [1, +0_17]}"), "line 4: +0_17 is 15 to YAML: write"),
    "to the base of 60": (where("w: {choice: [8, 1:30]}"), "line 4: 1:30 is 90 to YAML: write"),
    "real to the base of 60": (closed("recipe: {lr: 0:0.5}"), "0:0.5 is 0.5 to YAML: write"),
    "empty name": ("name: ''\npattern: INPUT -> FC", "name: '': must be printable characters"),
    "name of blanks": ("name: ' '\npattern: INPUT -> FC", "name: ' ': must be printable char"),
    "name of lines": ('name: "a\\nb"\npattern: INPUT -> FC', "name: 'a\\nb': must be printable"),
    "name with NUL": ('name: "a\\0b"\npattern: INPUT -> FC', "name: 'a\\x00b': must be printable"),
    "nan": (where("w: {float: [.nan, 1.0]}"), "where.w.float: nan: must be a number"),
    "date": (where("w: 2020-01-01"), "must be numbers or words"),
    "log from 0": (where("w: {int: [0, 8], log: yes}"), "where.w.log: a logarithmic domain begins"),
    "step 0": (where("w: {int: [1, 8], step: 0}"), "where.w.step: 0: must be 1 or more"),
    "no times": (where("w: {start: [8]}"), "where.w: a progression with start also needs times"),
    "most": (where("w: {start: [8], times: [2.0], most: 4}"), "where.w.most: 4: must be at least"),
    "many repeats": (where("w: {int: [1, 5000]}", "INPUT -> RELU*w -> FC"),
        "where.w: 5000: must be"),
    "fraction of repeats": (where("w: {float: [1, 2]}", "INPUT -> RELU*w -> FC"), "must be int or "
                            "choice: it counts repetitions"),
    "presence": (where("POOL?: maybe", "INPUT -> POOL? -> FC"), "a choice of present and absent"),
    "wrong scope": (where("CONV.width: {int: [1, 2], per: N}", STAGES.replace("\nwhere:", "", 1)
                          .replace("\n  M: 2", "")) + "  M: 2\n",
                    "where.CONV.width.per: N: must be a repetition around every place that it "
                    "fills; one is inside M (a value in the pattern leaves a place out)"),
    "no scope": (where("w: {int: [1, 2], per: M}"), "where.w.per: M: must be a repetition around "
                 "every place that it fills; one is in no repetition"),
    "first": (where("w: {int: [1, 2], first: M}"), "where.w.first: M: must be a repetition around"),
    "element": (where("B: {choice: [PLAN]}", "INPUT -> B -> FC"), "where.B: 'PLAN': unknown layer"),
    "element itself": (where("B: {choice: [B]}", "INPUT -> B -> FC"), "unknown layer or block B"),
    "element number": (where("B: {choice: [3]}", "INPUT -> B -> FC"),
        "must be a choice of elements"),
    "element argument": (where("B: PLAIN", "INPUT -> B(widht=3) -> FC"), "did you mean width?"),
    # what is asked of a network
    "constraint": (closed("constraints: {params: many}"), "constraints.params: 'many': must be a "
                   "bound such as '<= 1_000_000'"),
    "constraint without direction": (closed("constraints: {params: 2e6}"), "must be a bound"),
    "no objective": (closed("objectives: {}"), "objectives: {}: must name one or more"),
    "direction": (closed("objectives: {accuracy: up}"),
        "objectives.accuracy: 'up': must be max or"),
    "recipe": (closed("recipe: {lrr: 0.1}"), "recipe.lrr: unknown setting; did you mean lr?"),
    "recipe type": (closed("recipe: {lr: fast}"), "recipe.lr is 'fast': must be of type float"),
    "recipe range": (closed("recipe: {lr: {float: [-1.0, 1.0]}}"), "recipe.lr is -1.0: must be a"),
    "recipe text": (closed("recipe: {lr: 2e-3}"), "'2e-3' is text to YAML, not a number"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_file_is_refused_in_one_sentence_at_once(case, tmp_path):
    text, told = WRONG[case]
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    began = time.process_time()
    with pytest.raises(SpaceError) as caught:
        load_space(path)
    assert time.process_time() - began < 3
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert told in message
    assert message.isprintable()
    assert len(message) <= 400


def test_what_is_no_text_file_is_refused(tmp_path):
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(bytes(range(256)))
    with pytest.raises(SpaceError, match="not UTF-8 text at byte 128"):
        load_space(binary)
    with pytest.raises(SpaceError, match="no such space file"):
        load_space(tmp_path / "missing.yaml")
    with pytest.raises(SpaceError, match="no such space file"):
        load_space(tmp_path)
    with pytest.raises(SpaceError, match="unknown space resnet_lik; did you mean resnet_like"):
        load_space("resnet_lik")
    for name in ("x" * 5_000, "a\0b", "", "."):
        with pytest.raises(SpaceError):
            load_space(name)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read anything")
def test_a_file_that_may_not_be_read_is_refused(tmp_path):
    path = tmp_path / "secret.yaml"
    path.write_text("name: t")
    path.chmod(0)
    with pytest.raises(SpaceError, match="cannot be read: Permission denied"):
        load_space(path)


def test_300_mutants_of_the_shipped_files_are_spaces_or_one_sentence():
    command = [sys.executable, str(FUZZ), "--count", "300", "--seed", "20000"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
