"""The preflight of a space, against spaces small enough to count by hand."""

from __future__ import annotations

import io
import math

import pytest
from patterns import INPUTS, SPACES
from rich.console import Console

import nas
from nas.errors import SpaceError
from nas.language.architecture import Architecture
from nas.report.spaces import preflight_page
from nas.spaces.draws import Chosen
from nas.spaces.preflight import ENUMERATED, Estimate, Preflight, check, few
from nas.spaces.space import Space, load_space, read_space


def preflight(where: dict, pattern: str, **more: object) -> Preflight:
    return check(read_space({"name": "t", "pattern": pattern, "where": where, **more}, "t.yaml"))


@pytest.mark.parametrize("input", [INPUTS[0], INPUTS[-1]], ids=["8x8", "224x224"])
@pytest.mark.parametrize("name", SPACES)
def test_every_shipped_space_is_sound(name, input):
    result = check(load_space(name, input=input, classes=10), draws=300)
    assert result.valid == 1.0
    assert result.fits > 0.1
    assert result.idle == result.unasked == ()
    assert bool(result.warnings) == (name == "linear")
    assert result.asked[1] <= 28 or min(input[1:]) > 96


def test_settings_and_networks_are_told_apart_and_exact_where_small():
    # 3 depths, and the pooling's kind matters only with pooling: 3 * (1 + 2) settings; FLATTEN says
    # nothing before FC, so its 2 settings are one network.
    result = preflight(
        {"N": {"int": [1, 3]}, "POOL.kind": {"choice": ["max", "avg"]}},
        "INPUT -> [RELU]*N -> POOL? -> FLATTEN? -> FC",
    )
    assert result.settings.value == 18
    assert result.settings.error == 0
    assert result.networks == result.seen == 9
    assert result.idle == ("FLATTEN?",)
    assert result.warnings == (
        "different networks in the whole space: 9, fewer than 20",
        "FLATTEN? never changes the network",
    )


def test_a_pattern_of_many_repetitions_is_examined_in_no_more_networks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A network for each parameter made it quadratic, minutes for 4,096; and the square of the
    number of settings is beyond a float."""
    built: list[object] = []
    chosen = Space.chosen

    def seen(space: Space, chooser: Chosen) -> Architecture:
        built.append(chooser)
        return chosen(space, chooser)

    monkeypatch.setattr(Space, "chosen", seen)
    where = {"N": {"choice": [512]}, "w": {"choice": [4, 8], "per": "N"}}
    pattern = "INPUT -> [CONV(w)]*N -> GAP -> FC"
    result = check(
        read_space({"name": "t", "pattern": pattern, "where": where}, "t.yaml"), draws=10
    )
    assert result.idle == ()
    assert result.settings == Estimate(2.0**512)
    assert len(built) < 100
    assert result.draws == 10
    longer = {**where, "N": {"choice": [1024]}}
    result = check(
        read_space({"name": "t", "pattern": pattern, "where": longer}, "t.yaml"), draws=50
    )
    assert result.draws == 20  # of as many elements as 50 with 400


def test_networks_of_many_settings_and_layers_are_not_all_built(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """4,096 settings of up to 4,096 layers are 8 million layers, 170 s."""
    layers = 0
    chosen = Space.chosen

    def counted(space: Space, chooser: Chosen) -> Architecture:
        nonlocal layers
        network = chosen(space, chooser)
        layers += len(network.steps)
        return network

    monkeypatch.setattr(Space, "chosen", counted)
    deep = read_space(
        {"name": "t", "pattern": "INPUT -> [CONV(8)]*N -> GAP -> FC",
         "where": {"N": {"int": [1, 4096]}}}, "t.yaml",
    )  # fmt: skip
    result = check(deep, draws=50)
    assert layers < 2 * 400 * 50
    assert result.settings == Estimate(4096, 0)
    assert result.networks is None
    assert result.idle == ()
    page = Console(width=120, file=io.StringIO())
    page.print(preflight_page(deep, result))
    assert f"{result.draws} of 50, as the networks are long, 100.00 % valid" in page.file.getvalue()
    assert f"{result.seen} different in these draws, of about 4,100" in page.file.getvalue()


def test_a_search_does_not_enumerate_long_networks_either() -> None:
    def of(most: int) -> Space:
        where = {"N": {"int": [1, most]}}
        return read_space(
            {"name": "t", "pattern": "INPUT -> [RELU]*N -> GAP -> FC", "where": where}, "t.yaml"
        )

    known = few(of(100))
    assert known is not None
    assert len(known) == 100
    assert few(of(1_000)) is None


def test_settings_that_make_one_network_are_counted_as_one():
    # A width of 8 over 5 to 64 is 1: gates of one channel, or none.
    result = preflight(
        {"RESIDUAL.se": {"choice": [0, 5, 6, 7, 8, 9, 10, 16, 20, 32, 64]},
         "RESIDUAL.kernel": {"choice": [3, 5]}},
        "INPUT -> CONV(8) -> RESIDUAL(width=8) -> GAP -> FC",
    )  # fmt: skip
    assert (result.settings.value, result.networks, result.seen) == (22, 4, 4)
    assert result.warnings == ("different networks in the whole space: 4, fewer than 20",)


def test_large_spaces_are_estimated_within_their_error():
    # sum over M of 10^M for M = 1..6
    result = preflight(
        {"M": {"int": [1, 6]}, "CONV.width": {"int": [1, 10], "per": "M"}},
        "INPUT -> CONV*M -> GAP -> FC",
    )
    truth = sum(10**m for m in range(1, 7))
    assert truth > ENUMERATED
    assert result.networks is None
    assert 0 < abs(result.settings.value - truth) < 4 * result.settings.error
    assert result.seen <= 1000


def test_the_estimate_weighs_what_a_logarithmic_domain_draws_more_often():
    result = preflight(
        {"a": {"int": [1, 64], "log": True}, "b": {"int": [1, 64], "log": True},
         "c": {"int": [1, 64], "log": True}},
        "INPUT -> CONV(a) -> CONV(b) -> CONV(c) -> GAP -> FC",
    )  # fmt: skip
    assert abs(result.settings.value - 64**3) < 4 * result.settings.error


def test_a_real_number_makes_a_space_endless():
    result = preflight({"DROPOUT.rate": {"float": [0.1, 0.5]}}, "INPUT -> DROPOUT -> FC")
    assert result.settings.value == math.inf
    assert result.networks is None


def test_draws_that_do_not_fit_are_counted_and_told():
    # 8x8: kernels 1 to 8 fit without padding, 9 to 16 do not.
    result = preflight({"k": {"int": [1, 16]}}, "INPUT -> CONV(4, k, pad=0) -> FC")
    assert 0.4 < result.valid < 0.6
    assert result.settings.value == result.networks == 8
    assert "of the draws fit the data" in result.warnings[0]


def test_where_nothing_fits_there_is_no_preflight():
    with pytest.raises(SpaceError, match="no draw in 100 fits"):
        preflight({"w": {"int": [1, 2]}}, "INPUT -> CONV(w, 9, pad=0) -> FC")


def test_constraints_are_told_one_by_one():
    # FC(10) on 64 * w features after CONV(w, 1): 640w + 10 + 2w params, 64w + 640w macs
    result = preflight(
        {"w": {"int": [1, 10]}},
        "INPUT -> CONV(w, 1) -> FC",
        constraints={"params": "<= 3220", "macs": "<= 1408", "accuracy": ">= 0.5"},
    )
    assert result.shares["params"] == pytest.approx(0.5, abs=0.06)
    assert result.shares["macs"] == pytest.approx(0.2, abs=0.05)
    assert result.fits == result.shares["macs"]
    assert set(result.shares) == {"params", "macs"}
    assert result.sizes["params"].quantiles[0] == 652
    assert result.sizes["params"].quantiles[-1] == 6430
    assert sum(result.sizes["params"].histogram.values()) == 1000


def test_a_metric_that_no_training_gives_is_told():
    result = preflight(
        {"w": {"int": [1, 30]}},
        "INPUT -> CONV(w, 1) -> FC",
        objectives={"acuracy": "max", "params": "min", "latency_ms@rpi5": "min"},
        constraints={"energy": "<= 3"},
    )
    assert [told.partition("; ")[0] for told in result.warnings] == [
        "without an --evaluator: objective acuracy: there is no such metric",
        "without an --evaluator: constraint energy: there is no such metric",
    ]
    assert result.warnings[0].endswith("did you mean accuracy?")


def test_a_domain_that_is_never_asked_is_told():
    result = preflight({"RESIDUAL.groups": {"choice": [3, 5]}}, "INPUT -> RESIDUAL(8) -> FC")
    assert result.unasked == ("RESIDUAL.groups",)


def test_a_single_value_that_no_network_has_is_told():
    shadowed = preflight(
        {"N": {"int": [1, 2]}, "B": {"choice": ["PLAIN(4)", "PLAIN(8)"], "per": "N"},
         "B.kernel": {"choice": [3, 5], "per": "N"}, "PLAIN.kernel": 7},
        "INPUT -> B*N -> GAP -> FC",
    )  # fmt: skip
    assert shadowed.unasked == ("PLAIN.kernel",)
    assert any("where.PLAIN.kernel was never asked for" in told for told in shadowed.warnings)
    never_fits = preflight({"w": [4, 8], "POOL.pad": 2}, "INPUT -> CONV(w) -> POOL -> FC")
    assert never_fits.unasked == ("POOL.pad",)
    default = preflight({"w": [4, 8], "PLAIN.kernel": 3}, "INPUT -> PLAIN(w) -> FC")
    assert default.unasked == ()


@pytest.mark.parametrize(
    ("name", "values", "pattern", "same"),
    [
        ("POOL.ceil", [True, False], "INPUT -> CONV(w) -> POOL -> FC",
         "INPUT -> CONV(w) -> POOL -> FC"),
        ("POOL.stride", [3, 5], "INPUT -> CONV(w) -> POOL(7) -> FC",
         "INPUT -> CONV(w) -> POOL(7) -> FC"),
        ("POOL.kind", ["avg", "max"], "INPUT -> CONV(w) -> POOL(1, stride=2) -> FC",
         "INPUT -> CONV(w) -> POOL(1, stride=2) -> FC"),
        ("PLAIN.stride", [2, 3], "INPUT -> POOL(8) -> PLAIN(w) -> FC",
         "INPUT -> POOL(8) -> PLAIN(w) -> FC"),
        ("INCEPTION.stride", [2, 1], "INPUT -> POOL(8) -> CONV(w) -> INCEPTION(width=16) -> FC",
         "INPUT -> POOL(8) -> CONV(w) -> INCEPTION(width=16) -> FC"),
        # Its default, no gates, is another network: it is not that, whatever is asked for.
        ("RESIDUAL.se", [5, 8, 16], "INPUT -> CONV(w) -> RESIDUAL(8) -> FC",
         "INPUT -> CONV(w) -> RESIDUAL(8, se=5) -> FC"),
    ],
)  # fmt: skip
def test_an_argument_of_which_each_value_does_the_same_is_not_sampled(name, values, pattern, same):
    where = {"w": {"choice": [4, 8]}, name: {"choice": values}}
    result = preflight(where, pattern)
    assert result.settings.value == result.networks == 2
    assert result.asked == (1, 1)
    space = read_space({"name": "t", "pattern": pattern, "where": where}, "t.yaml")
    drawn = {space.sample(seed) for seed in range(20)}
    assert drawn == {nas.parse(same.replace("(w)", f"({w})")) for w in (4, 8)}


def test_an_argument_is_sampled_where_it_makes_a_difference_on_this_map():
    where = {"w": {"choice": [4, 8]}, "POOL.ceil": {"choice": [True, False]}}
    odd = "INPUT(1, 9, 9) -> CONV(w) -> POOL -> FC"
    assert preflight(where, odd, input=[1, 9, 9]).networks == 4
    strides = {"w": {"choice": [4, 8]}, "PLAIN.stride": {"choice": [1, 2]}}
    assert preflight(strides, "INPUT -> CONV(w) -> PLAIN(4) -> FC").networks == 4
