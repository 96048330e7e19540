"""The pattern language: text, tree, canonical form, and actionable errors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nas
from nas.blocks import BLOCKS
from nas.errors import NasError, PatternError, ShapeError
from nas.language import elements, expansion
from nas.language.pattern import (
    MAX_NESTING,
    MAX_TEXT,
    Call,
    Chain,
    Maybe,
    Repeat,
    Symbol,
    read,
    write,
)
from nas.layers import RELU, Conv, Dropout, Fraction, Node, Shape
from nas.spaces.space import read_space
from nas.store import values as stored

many = settings(max_examples=300)

names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,6}", fullmatch=True)
values = st.one_of(
    st.integers(0, 10**12),
    st.floats(0, 1e30, allow_nan=False),
    names.map(Symbol),
)


@st.composite
def calls(draw: st.DrawFn) -> Call:
    plain = [(None, v) for v in draw(st.lists(values, max_size=2))]
    keys = draw(st.lists(names, max_size=2, unique=True))
    return Call(draw(names), (*plain, *((k, draw(values)) for k in keys)))


def element(body: st.SearchStrategy[Call | Chain]) -> st.SearchStrategy[Call | Repeat | Maybe]:
    counts = st.one_of(st.integers(0, 10**6), names.map(Symbol))
    repeats = st.builds(Repeat, body, counts)
    return st.one_of(repeats, st.builds(Maybe, st.one_of(body, repeats)))


def chains(of: st.SearchStrategy[Call | Repeat | Maybe]) -> st.SearchStrategy[Chain]:
    return st.lists(of, min_size=1, max_size=4).map(lambda items: Chain(tuple(items)))


def deeper(inner: st.SearchStrategy[Chain]) -> st.SearchStrategy[Chain]:
    # A bracket around a single call says nothing, so it is not in the tree.
    bodies = inner.filter(lambda c: len(c.items) > 1 or not isinstance(c.items[0], Call))
    return chains(st.one_of(calls(), element(st.one_of(calls(), bodies))))


trees = st.recursive(chains(calls()), deeper, max_leaves=12)


@many
@given(trees)
def test_reading_what_was_written_gives_the_tree(tree):
    assert read(write(tree)) == tree


@many
@given(st.text(alphabet="AB12[](),=*?-> \n.e", max_size=40))
def test_any_text_is_a_tree_or_a_pattern_error_with_its_place(text):
    told = ""
    try:
        assert read(write(read(text))) == read(text)
    except PatternError as error:
        told = str(error)
    assert not told or "column" in told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("INPUT ->", "column 9: expected a layer, a block or '[', found the end"),
        ("INPUT -> CONV(8", "column 16: expected ',' or ')', found the end"),
        ("INPUT -> [RELU", "column 15: expected '->' or ']', found the end"),
        ("INPUT -> RELU]", "column 14: expected '->', '*', '?' or the end, found ']'"),
        ("INPUT -> RELU*", "column 15: expected a number of repeats or a symbol after '*'"),
        ("INPUT -> RELU*1.5", "column 15: expected a whole number of repeats, found '1.5'"),
        ("INPUT -> CONV(width=)", "column 21: expected a number, a word or a symbol, found ')'"),
        ("INPUT -> CONV(width=8, 3)", "column 24: expected a named argument"),
        ("INPUT -> CONV(width=8, width=9)", "column 24: expected each argument once"),
        ("INPUT -> CONV(8) & FC", "column 18: expected a layer, '->', '[', ']', '*', '?'"),
        ("INPUT -> CONV(-8) -> FC", "found '-'"),
        ("INPUT ->\n CONV(8 -> FC", "line 2, column 9"),
        ("INPUT -> CONV(1__0) -> FC", "column 15: expected"),
        ("INPUT -> CONV(1_) -> FC", "column 15: expected"),
        ("INPUT -> CONV(8)*1_ -> FC", "column 18: expected"),
        ("INPUT -> DROPOUT(1_.5) -> FC", "column 18: expected"),
        ("INPUT -> DROPOUT(0.5_0) -> FC", "column 18: expected"),
        ("INPUT -> DROPOUT(5e-1_0) -> FC", "column 18: expected"),
        ("", "column 1: expected a layer"),
    ],
)
def test_syntax_errors_tell_the_place_and_what_was_expected(text, told):
    with pytest.raises(PatternError) as caught:
        nas.parse(text)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("INPUT -> RESIDUEL(64) -> FC", "RESIDUEL(64) at column 10: unknown layer or block "
         "RESIDUEL, unless a --plugin adds it; did you mean RESIDUAL?"),
        ("INPUT -> conv(8) -> FC", "did you mean CONV?"),
        ("INPUT -> CONV(widht=8) -> FC", "unknown argument widht; did you mean width?"),
        ("INPUT -> CONV -> FC", "CONV at column 10: CONV needs width, a whole number from 1 to"),
        ("INPUT -> CONV(8, width=8) -> FC", "width is given twice"),
        ("INPUT -> CONV(1, 2, 3, 4, 5, yes, 7) -> FC", "7 arguments, but it takes 6"),
        ("INPUT -> CONV(0) -> FC", "width is 0: must be a whole number from 1 to 65536"),
        ("INPUT -> CONV(1_000_000_000) -> FC", "width is 1000000000: must be"),
        ("INPUT -> CONV(8.5) -> FC", "width is 8.5: must be a whole number"),
        ("INPUT -> CONV(8, bias=maybe) -> FC", "bias is maybe: must be one of yes, no"),
        ("INPUT -> POOL(kind=mean) -> FC", "kind is mean: must be one of max, avg"),
        ("INPUT -> DROPOUT(2) -> FC", "rate is 2: must be a number from 0 to 1"),
        ("INPUT -> BN(0) -> FC", "eps is 0: must be a number above 0 and up to 1e+06"),
        ("INPUT -> CONV(w) -> FC", "w is open: an architecture needs a number there"),
        ("INPUT -> [RELU]*N -> FC", "N is open"),
        ("INPUT -> BN? -> FC", "BN? is open: an architecture has the element or has it not"),
        ("INPUT -> BN*1_000_000_000 -> FC", "1000000000 repeats: must be a whole number"),
        ("CONV(8) -> FC", "column 1: a pattern begins with INPUT, not with CONV(8)"),
        ("INPUT", "at least one element after INPUT"),
        ("INPUT(3, 8) -> FC", "INPUT(3, 8): must be INPUT(channels, height, width)"),
        ("INPUT(0, 8, 8) -> FC", "sizes must be whole numbers from 1 to 65536"),
        ("INPUT -> INPUT -> FC", "INPUT at column 10: INPUT stands at the beginning alone"),
    ],
)  # fmt: skip
def test_wrong_patterns_name_the_element_its_place_and_the_rule(text, told):
    with pytest.raises(PatternError) as caught:
        nas.parse(text)
    message = str(caught.value)
    assert told in message
    assert "\n" not in message


def test_deep_and_long_texts_are_refused_at_once():
    with pytest.raises(PatternError, match=f"at most {MAX_NESTING} brackets"):
        read("[" * 10_000 + "A" + "]" * 10_000)
    with pytest.raises(PatternError, match="must be at most 100000"):
        read("A -> " * 30_000 + "A")


def test_what_is_accepted_can_be_read_back_however_long():
    text = "INPUT(1, 40, 40) -> {} -> GAP -> FC"
    fits = text.format(" -> ".join(["BN -> RELU -> TANH -> CONV(8, 5)"] * 900))
    assert nas.parse(str(nas.parse(fits))) == nas.parse(fits)
    columns = (f"INCEPTION({i % 97 + 1},{i % 89 + 1},2,1,2,3,7)" for i in range(2_500))
    refused = text.format("->".join(columns))
    assert len(refused) < MAX_TEXT
    with pytest.raises(ShapeError, match=r"has \d{6} characters .* must be at most 100000"):
        nas.parse(refused)


@pytest.mark.parametrize(
    "given", [(3, 0, 1), (3.0, 4, 4), (3, 4), "344", (True, 4, 4), 5, (1, 2, 70_000)]
)
def test_an_input_of_another_form_is_refused(given):
    rule = r"must be \(channels, height, width\), whole numbers from 1 to 65536"
    for call in (
        lambda: nas.parse("INPUT -> FC", input=given),
        lambda: nas.load_space("linear", given),
    ):
        with pytest.raises(NasError, match=rule) as caught:
            call()
        assert f"input is {given!r}" in str(caught.value)


def test_an_input_and_classes_of_numpy_are_pythons_own():
    expected = nas.parse("INPUT(3, 4, 5) -> FC(7)")
    for shape in ([3, 4, 5], tuple(np.array([3, 4, 5]))):
        found = nas.parse("INPUT -> FC", input=shape, classes=np.int64(7))
        assert found.fingerprint == expected.fingerprint


@pytest.mark.parametrize("given", [0, -1, True, "3", 2.0, 70_000])
def test_classes_of_another_form_are_refused(given):
    for call in (
        lambda: nas.parse("INPUT -> FC", classes=given),
        lambda: nas.load_space("linear", classes=given),
    ):
        with pytest.raises(NasError, match="must be a whole number from 1 to 65536") as caught:
            call()
        assert f"classes is {given!r}" in str(caught.value)


@pytest.mark.parametrize("given", [None, 5, b"INPUT -> FC", ["INPUT"]])
def test_what_is_no_pattern_space_or_network_is_refused(given):
    for call in (nas.parse, nas.load_space, nas.build, lambda x: nas.load_torchvision(x, {})):
        with pytest.raises(NasError):
            call(given)
    with pytest.raises(NasError, match="architecture is 'INPUT -> FC': must be an Architecture"):
        nas.build("INPUT -> FC")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("INPUT -> CONV(8) -> FC", "INPUT(1, 8, 8)->CONV(width=8,kernel=3)->FLATTEN->FC(10)"),
        ("INPUT -> [CONV(8) -> RELU]*2 -> FC", "INPUT -> CONV(8) -> RELU -> CONV(8) -> RELU -> FC"),
        ("INPUT -> [[RELU]*2]*2 -> FC", "INPUT -> RELU*4 -> FC"),
        ("INPUT -> PLAIN(8) -> FC", "INPUT -> CONV(8, bias=no) -> BN -> RELU -> FC"),
        ("INPUT -> CONV(8) -> BN -> FC", "INPUT -> CONV(8, bias=no) -> BN -> FC"),
        ("INPUT -> CONV(8, bias=yes) -> RELU -> FC", "INPUT -> CONV(8) -> RELU -> FC"),
        ("INPUT -> CONV(8, 5, pad=2) -> FC", "INPUT -> CONV(8, 5) -> FC"),
        ("INPUT -> POOL -> FC", "INPUT -> POOL(2, stride=2, kind=max) -> FC"),
        ("INPUT -> DROPOUT(0) -> GAP -> FLATTEN -> FC", "INPUT -> GAP -> FC"),
        ("INPUT -> RESIDUAL(8, se=0) -> FC", "INPUT -> RESIDUAL(8) -> FC"),
        ("INPUT -> TRANSITION -> FC",
         "INPUT -> BN -> RELU -> CONV(1, 1, bias=no) -> POOL(kind=avg) -> FC"),
        ("INPUT -> MBCONV(8, expansion=1) -> FC",
         "INPUT -> CONV(1) -> BN -> RELU6 -> CONV(8, 1) -> BN -> FC"),
        ("INPUT -> RESIDUAL(8, bottleneck=8) -> FC", "INPUT -> RESIDUAL(8, bottleneck=16) -> FC"),
        ("INPUT -> RESIDUAL(8, se=5) -> FC", "INPUT -> RESIDUAL(8, se=8) -> FC"),
        ("INPUT -> RESIDUAL(1500, se=751) -> FC", "INPUT -> RESIDUAL(1500, se=1024) -> FC"),
        ("INPUT(8, 8, 8) -> MBCONV(8, se=9) -> FC", "INPUT(8, 8, 8) -> MBCONV(8, se=20) -> FC"),
        ("INPUT(16, 8, 8) -> MBCONV(24, se=6) -> FC", "INPUT(16, 8, 8) -> MBCONV(24, se=8) -> FC"),
        ("INPUT -> INCEPTION(width=16) -> FC", "INPUT -> INCEPTION(4, 6, 8, 1, 2, 2) -> FC"),
        ("INPUT -> INCEPTION(4, 6, 8, 1, 2, 2, width=16) -> FC",
         "INPUT -> INCEPTION(one=9, width=16) -> FC"),
    ],
)  # fmt: skip
def test_two_ways_of_writing_one_network_give_one_text(one, other):
    one, other = nas.parse(one), nas.parse(other)
    assert str(one) == str(other)
    assert one.fingerprint == other.fingerprint
    assert one == other
    assert nas.parse(str(one)) == one


@many
@given(st.integers(1, 70), st.integers(1, 1024), st.integers(1, 1024))
def test_ratios_have_one_text_where_they_divide_into_the_same(width, one, other):
    """By the arithmetic of the papers: width / ratio channels, one at least."""
    for block in ("RESIDUAL({w}, bottleneck={r})", "RESIDUAL({w}, se={r})", "MBCONV(8, se={r})"):
        pattern = f"INPUT({width}, 4, 4) -> {block} -> FC"
        found = [nas.parse(pattern.format(w=width, r=r)) for r in (one, other)]
        equal = max(1, width // one) == max(1, width // other)
        assert (found[0] == found[1]) == equal
        assert (str(found[0]) == str(found[1])) == equal
        assert (found[0].fingerprint == found[1].fingerprint) == equal
        assert nas.parse(str(found[0])).fingerprint == found[0].fingerprint


def test_a_ratio_that_is_a_power_of_two_is_kept_as_it_is_written_where_it_divides():
    for width, ratio in [(64, 4), (64, 16), (24, 4), (96, 16), (36, 16), (10, 4), (24, 16)]:
        assert f"se={ratio})" in str(nas.parse(f"INPUT -> RESIDUAL({width}, se={ratio}) -> FC"))


def test_equality_goes_by_the_network_where_a_plug_in_divides_otherwise(monkeypatch):
    def halved(x: Shape, *, width: int) -> Node:
        body = Conv(width // 2 * 2, 1)
        return body + Conv(width // 2 * 2, 3)

    monkeypatch.setitem(BLOCKS, "HALVED", halved)
    one, other = (nas.parse(f"INPUT -> HALVED({w}) -> FC") for w in (8, 9))
    assert one == other
    assert one.fingerprint == other.fingerprint


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("CONV(23)", "CONV(23.0)"), ("POOL(kernel=2)", "POOL(kernel=2e0)"),
        ("CONV(5, bias=no)", "CONV(5, bias=0)"), ("RESIDUAL(9, se=3)", "RESIDUAL(9, se=3.0)"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("first", ["right", "wrong"])
def test_the_verdict_does_not_depend_on_what_was_parsed_before(right, wrong, first):
    expansion._arguments.cache_clear()
    for text in (right, wrong) if first == "right" else (wrong, right):
        if text == right:
            assert nas.parse(f"INPUT -> {right} -> FC").params
        else:
            with pytest.raises(PatternError, match="must be"):
                nas.parse(f"INPUT -> {wrong} -> FC")


@pytest.mark.parametrize("batches", [(61, 61.0), (61.0, 61)])
def test_the_verdict_on_a_recipe_does_not_depend_on_what_was_read_before(batches):
    stored._known_recipe.cache_clear()
    for batch in batches:
        assert stored._recipe({"batch": batch}) == (type(batch) is int)


def test_whole_numbers_of_a_domain_are_numbers_where_the_argument_takes_numbers():
    elements.expression.cache_clear()
    elements._realise.cache_clear()
    rates = {"name": "s", "pattern": "INPUT -> DROPOUT -> FC", "where": {"DROPOUT.rate": [0, 1]}}
    assert read_space(rates, "s.yaml").sample(0)  # asks whether the rate matters, with 1 for 1.0
    one = nas.parse("INPUT -> DROPOUT(1) -> FC")
    elements.expression.cache_clear()
    elements._realise.cache_clear()
    assert one.fingerprint == nas.parse("INPUT -> DROPOUT(1.0) -> FC").fingerprint


def test_a_default_of_another_type_makes_no_second_fingerprint(monkeypatch):
    def noisy(x: Shape, *, rate: Fraction = 1) -> Node:  # 1, not 1.0, as people write it
        return Dropout(rate) >> RELU

    monkeypatch.setitem(BLOCKS, "NOISY", noisy)
    default, written = (nas.parse(f"INPUT -> {text} -> FC") for text in ("NOISY", "NOISY(1.0)"))
    assert default == written
    assert default.fingerprint == written.fingerprint


def test_zero_has_one_sign_and_one_text():
    loaded = read_space(
        {"name": "s", "pattern": "INPUT -> LRN -> FC", "where": {"LRN.alpha": -0.0}}, "s.yaml"
    )
    drawn = loaded.sample(0)
    assert nas.parse(str(drawn)) == drawn
    assert drawn.fingerprint == nas.parse("INPUT -> LRN(alpha=0) -> FC").fingerprint


def test_different_networks_have_different_fingerprints():
    texts = [
        "INPUT -> CONV(8) -> FC", "INPUT -> CONV(8, bias=no) -> FC", "INPUT -> CONV(8) -> BN -> FC",
        "INPUT -> CONV(9) -> FC", "INPUT(1, 9, 9) -> CONV(8) -> FC", "INPUT -> CONV(8) -> FC(9)",
        "INPUT -> CONV(8, bias=yes) -> BN -> FC", "INPUT -> CONV(8) -> TANH -> FC",
    ]  # fmt: skip
    assert len({nas.parse(text).fingerprint for text in texts}) == len(texts)


@pytest.mark.parametrize("ending", ["FC(100) -> FC(100)", "FC(100)*2", "[FC(100)]*2"])
def test_the_last_width_is_the_classes_of_an_auxiliary_head_however_it_is_written(ending):
    wide = nas.parse(f"INPUT(3, 32, 32) -> CONV(8) -> AUX -> GAP -> {ending}")
    assert nas.parse(str(wide)) == wide
    assert wide.aux_params == nas.parse(str(wide), classes=100).aux_params
    assert wide.aux_params > nas.parse("INPUT(3, 32, 32) -> CONV(8) -> AUX -> GAP -> FC").aux_params
    five = wide.on((3, 32, 32), 5)
    assert str(five).endswith("GAP -> FC(width=100) -> FC(width=5)")


def test_the_canonical_text_keeps_repeats_as_repeats():
    text = "INPUT -> [[CONV(8) -> RELU]*2 -> POOL]*2 -> [FC(32) -> RELU]*3 -> FC"
    assert str(nas.parse(text)) == (
        "INPUT(1, 8, 8) -> [[CONV(width=8) -> RELU]*2 -> POOL]*2 -> "
        "[FC(width=32) -> RELU]*3 -> FC(width=10)"
    )


def test_input_and_the_last_fc_take_the_data_unless_written():
    pattern = "INPUT -> CONV(8) -> FC"
    assert nas.parse(pattern, input=(3, 32, 32), classes=100).shapes == (
        (3, 32, 32), (8, 32, 32), (100,),
    )  # fmt: skip
    assert nas.parse(pattern).on((3, 16, 16), 5) == nas.parse(pattern, (3, 16, 16), 5)
    with pytest.raises(nas.errors.ShapeError, match="the data is 3x32x32"):
        nas.parse("INPUT(1, 8, 8) -> FC", input=(3, 32, 32))
    with pytest.raises(nas.errors.ShapeError, match="10 features, but there are 5 classes"):
        nas.parse("INPUT -> FC(10)", classes=5)
