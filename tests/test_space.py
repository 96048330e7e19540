"""Search spaces: what is drawn is valid, readable, canonical; the classics are points of it; a real
Optuna study can ask for it."""

from __future__ import annotations

import random
import re

import optuna
import pytest
from patterns import INPUTS, SPACES

import nas
from nas.errors import ShapeError, SpaceError
from nas.spaces.bounds import far, read_bound
from nas.spaces.draws import Draw
from nas.spaces.space import Space, load_space, read_space, shipped

optuna.logging.set_verbosity(optuna.logging.WARNING)


def space(where: dict, pattern: str, **more: object) -> Space:
    return read_space({"name": "test", "pattern": pattern, "where": where, **more}, "test.yaml")


# --- every shipped space -------------------------------------------------------------------------


@pytest.mark.parametrize("input", INPUTS, ids=lambda s: "x".join(map(str, s)))
@pytest.mark.parametrize("name", SPACES)
def test_every_draw_of_a_shipped_space_is_valid_and_canonical(name, input):
    loaded = load_space(name, input=input, classes=10)
    rng = random.Random(0)
    for _ in range(60):
        draw = Draw(rng)
        architecture = loaded.suggest(draw)  # no ShapeError
        again = nas.parse(str(architecture))
        assert again == architecture
        assert str(again) == str(architecture)
        assert again.fingerprint == architecture.fingerprint
        assert min(min(shape) for shape in architecture.shapes) >= 1
        # The parameters name the architecture: given back, they give it again, none left to chance.
        params, same = loaded.complete(draw.params, random.Random(1))
        assert params == draw.params
        assert same == architecture


def test_the_spaces_that_ship_are_those_that_are_tested():
    assert {name for name, path in shipped().items() if path.parent.name != "zoo"} == set(SPACES)


def test_a_seed_gives_the_same_architecture_everywhere():
    assert load_space("mixed").sample(7) == load_space("mixed").sample(7)
    assert load_space("mixed").sample(7) != load_space("mixed").sample(8)


@pytest.mark.parametrize("name", SPACES)
def test_parameter_names_are_readable(name):
    draw = Draw(random.Random(1))
    load_space(name, input=(3, 224, 224)).suggest(draw)
    readable = r"[A-Za-z_]\w*(\.[a-z_0-9]+)*\??(\.times)?(\[\d+(,\d+)*\])?"
    assert all(re.fullmatch(readable, key) for key in draw.params), draw.params


# --- the classics --------------------------------------------------------------------------------


def per(name: str, values: list) -> dict[str, object]:
    return {f"{name}[{i}]": value for i, value in enumerate(values, 1)}


def progression(name: str, start: int, times: list[float]) -> dict[str, object]:
    later = {f"{name}.times[{i}]": factor for i, factor in enumerate(times, 2)}
    return {f"{name}[1]": start, **later}


IMAGENET_STEM = "CONV(w0, 7, stride=2) -> BN -> RELU -> POOL(3, stride=2, pad=1)"


def resnet(depths: list[int], width: int = 256, bottleneck: int = 4, groups: int = 1) -> dict:
    return {
        "STEM": IMAGENET_STEM,
        "w0": 64,
        "M": 4,
        **per("N", depths),
        **progression("RESIDUAL.width", width, [2.0, 2.0, 2.0]),
        **per("RESIDUAL.stride", [1, 2, 2, 2]),
        "RESIDUAL.bottleneck": bottleneck,
        "RESIDUAL.groups": groups,
        "RESIDUAL.se": 0,
        "K": 0,
    }


def vgg(depths: list[int], bn: bool) -> dict:
    return {
        "M": 5,
        **per("N", depths),
        **progression("CONV.width", 64, [2.0, 2.0, 2.0]),
        "BN?": "present" if bn else "absent",
        "GAP?": "present",
        "GAP.size": 7,
        "K": 2,
        "FC.width": 4096,
        "DROPOUT?": "present",
    }


def densenet(depths: list[int], growth: int = 32, stem: int = 64) -> dict:
    return {
        "STEM": IMAGENET_STEM,
        "w0": stem,
        "M": 4,
        **per("N", depths),
        "DENSE.growth": growth,
        **per("TRANSITION?", ["present", "present", "present", "absent"]),
    }


ROWS = [
    "INCEPTION(64, 96, 128, 16, 32, 32)", "INCEPTION(128, 128, 192, 32, 96, 64)",
    "INCEPTION(192, 96, 208, 16, 48, 64)", "INCEPTION(160, 112, 224, 24, 64, 64)",
    "INCEPTION(128, 128, 256, 24, 64, 64)", "INCEPTION(112, 144, 288, 32, 64, 64)",
    "INCEPTION(256, 160, 320, 32, 128, 128)", "INCEPTION(256, 160, 320, 32, 128, 128)",
    "INCEPTION(384, 192, 384, 48, 128, 128)",
]  # fmt: skip


def googlenet(paper: bool) -> dict:
    places = ["1,1", "1,2", "2,1", "2,2", "2,3", "2,4", "2,5", "3,1", "3,2"]
    norm, lrn = ("", " -> LRN") if paper else (" -> BN(0.001)", "")
    pool = "POOL(3, stride=2, kind=max, ceil=yes)"
    return {
        "STEM": f"CONV(w0, 7, stride=2){norm} -> RELU -> {pool}{lrn} -> CONV(64, 1){norm} -> RELU"
        f" -> CONV(192){norm} -> RELU{lrn} -> {pool}",
        "w0": 64,
        "M": 3,
        **per("N", [2, 5, 2]),
        **{f"UNIT[{place}]": row for place, row in zip(places, ROWS, strict=True)},
        **{f"AUX?[{place}]": "absent" for place in places},
        "AUX?[2,1]": "present",
        "AUX?[2,4]": "present",
        "AUX.pool": "paper" if paper else "adaptive",
        "AUX.bn": not paper,
        "INCEPTION.kernel": 5 if paper else 3,
        "INCEPTION.bn": not paper,
        **per("POOL?", ["present", "present", "absent"]),
        **per("POOL.kernel", [3, 3 if paper else 2]),
        "POOL.kind": "max",
        "DROPOUT?": "present",
        "DROPOUT.rate": 0.4 if paper else 0.2,
    }


CLASSICS: dict[str, tuple[str, dict]] = {
    "linear_classifier": ("linear", {}),
    "lenet5": (
        "lenet_like",
        {
            "M": 2,
            **per("CONV.width", [6, 16]),
            **per("CONV.pad", [2, 0]),
            **per("POOL?", ["present", "present"]),
            "POOL.kind": "avg",
            "ACT": "TANH",
            "K": 2,
            **per("FC.width", [120, 84]),
        },
    ),
    "alexnet": (
        "alexnet_like",
        {
            "STEM": "CONV(w0, 11, stride=4, pad=2) -> RELU -> POOL(3, stride=2)",
            "w0": 64,
            "M": 4,
            **per("CONV.width", [192, 384, 256, 256]),
            **per("CONV.kernel", [5, 3, 3, 3]),
            **per("g", [1, 1, 1, 1]),
            **per("LRN?", ["absent"] * 4),
            **per("POOL?", ["present", "absent", "absent", "present"]),
            "GAP?": "present",
            "GAP.size": 6,
            "HEAD": "DROPOUT -> FC -> RELU",
            "K": 2,
            "FC.width": 4096,
        },
    ),
    "alexnet_paper": (
        "alexnet_like",
        {
            "STEM": "CONV(w0, 11, stride=4, pad=0) -> RELU -> LRN -> POOL(3, stride=2)",
            "w0": 96,
            "M": 4,
            **per("CONV.width", [256, 384, 384, 256]),
            **per("CONV.kernel", [5, 3, 3, 3]),
            **per("g", [2, 1, 2, 2]),
            **per("LRN?", ["present", "absent", "absent", "absent"]),
            **per("POOL?", ["present", "absent", "absent", "present"]),
            "GAP?": "absent",
            "HEAD": "FC -> RELU -> DROPOUT",
            "K": 2,
            "FC.width": 4096,
        },
    ),
    "vgg11": ("vgg_like", vgg([1, 1, 2, 2, 2], bn=False)),
    "vgg11_bn": ("vgg_like", vgg([1, 1, 2, 2, 2], bn=True)),
    "vgg13": ("vgg_like", vgg([2, 2, 2, 2, 2], bn=False)),
    "vgg13_bn": ("vgg_like", vgg([2, 2, 2, 2, 2], bn=True)),
    "vgg16": ("vgg_like", vgg([2, 2, 3, 3, 3], bn=False)),
    "vgg16_bn": ("vgg_like", vgg([2, 2, 3, 3, 3], bn=True)),
    "vgg19": ("vgg_like", vgg([2, 2, 4, 4, 4], bn=False)),
    "vgg19_bn": ("vgg_like", vgg([2, 2, 4, 4, 4], bn=True)),
    "googlenet": ("inception_like", googlenet(paper=False)),
    "googlenet_paper": ("inception_like", googlenet(paper=True)),
    "resnet18": ("resnet_like", resnet([2, 2, 2, 2], 64, bottleneck=0)),
    "resnet34": ("resnet_like", resnet([3, 4, 6, 3], 64, bottleneck=0)),
    "resnet50": ("resnet_like", resnet([3, 4, 6, 3])),
    "resnet101": ("resnet_like", resnet([3, 4, 23, 3])),
    "resnet152": ("resnet_like", resnet([3, 8, 36, 3])),
    "resnext50_32x4d": ("resnet_like", resnet([3, 4, 6, 3], bottleneck=2, groups=32)),
    "resnext101_32x8d": ("resnet_like", resnet([3, 4, 23, 3], bottleneck=1, groups=32)),
    "resnext101_64x4d": ("resnet_like", resnet([3, 4, 23, 3], bottleneck=1, groups=64)),
    "wide_resnet50_2": ("resnet_like", resnet([3, 4, 6, 3], bottleneck=2)),
    "wide_resnet101_2": ("resnet_like", resnet([3, 4, 23, 3], bottleneck=2)),
    "densenet121": ("densenet_like", densenet([6, 12, 24, 16])),
    "densenet161": ("densenet_like", densenet([6, 12, 36, 24], growth=48, stem=96)),
    "densenet169": ("densenet_like", densenet([6, 12, 32, 32])),
    "densenet201": ("densenet_like", densenet([6, 12, 48, 32])),
    "mobilenet_v2": (
        "mobilenet_like",
        {
            "w0": 32,
            "M": 7,
            **per("N", [1, 2, 3, 4, 3, 3, 1]),
            **per("MBCONV.width", [16, 24, 32, 64, 96, 160, 320]),
            "MBCONV.kernel": 3,
            **per("MBCONV.stride", [1, 2, 2, 2, 1, 2, 1]),
            **per("MBCONV.expansion", [1, 6, 6, 6, 6, 6, 6]),
            "MBCONV.se": 0,
            "w1": 1280,
            "DROPOUT?": "present",
        },
    ),
}


def test_every_network_of_the_zoo_is_placed_in_a_family():
    assert {name for name, path in shipped().items() if path.parent.name == "zoo"} == set(CLASSICS)


@pytest.mark.parametrize("name", CLASSICS)
def test_a_classic_is_a_point_of_its_familys_space(name):
    family, params = CLASSICS[name]
    classic = load_space(name)
    loaded = load_space(family, input=classic.input, classes=classic.classes)
    asked, architecture = loaded.complete(params, random.Random(0))
    assert asked == params  # the values name it: nothing is drawn, nothing is superfluous
    assert architecture.fingerprint == classic.sample(0).fingerprint
    assert architecture == classic.sample(0)
    assert not loaded.excess(architecture)


# --- what a domain means -------------------------------------------------------------------------


def test_per_gives_each_repetition_its_own_value():
    loaded = space(
        {"M": 3, "CONV.width": {"int": [1, 1000], "per": "M"}},
        "INPUT -> [CONV -> RELU]*M -> GAP -> FC",
    )
    params, architecture = loaded.draw(random.Random(0))
    assert list(params) == ["CONV.width[1]", "CONV.width[2]", "CONV.width[3]"]
    widths = [dict(s.args)["width"] for s in architecture.steps if s.name == "CONV"]
    assert widths == list(params.values())


def test_without_per_one_value_serves_the_whole_network():
    loaded = space({"M": 3, "CONV.width": {"int": [1, 1000]}}, "INPUT -> CONV*M -> GAP -> FC")
    params, architecture = loaded.draw(random.Random(0))
    assert list(params) == ["CONV.width"]
    assert len({step.args for step in architecture.steps if step.name == "CONV"}) == 1


def test_a_progression_multiplies_what_came_before_up_to_its_most():
    widths = {"start": [8], "times": [2.0], "per": "M", "most": 20}
    loaded = space({"M": 4, "CONV.width": widths}, "INPUT -> CONV*M -> GAP -> FC")
    params, architecture = loaded.draw(random.Random(0))
    assert params == {}
    assert [s.cost.shape[0] for s in architecture.steps[:4]] == [8, 16, 20, 20]


def test_first_gives_only_the_first_turn_the_value():
    loaded = space(
        {"N": 3, "RESIDUAL.stride": {"choice": [2], "first": "N"}},
        "INPUT -> RESIDUAL(4)*N -> GAP -> FC",
    )
    assert "-> RESIDUAL(width=4, stride=2) -> RESIDUAL(width=4)*2 ->" in str(loaded.sample(0))


def test_a_bare_value_is_a_domain_of_one():
    loaded = space(
        {"POOL?": "present", "POOL.kernel": 3, "POOL.stride": 2, "CONV.bias": False},
        "INPUT -> CONV(4) -> POOL? -> FC",
    )
    params, architecture = loaded.draw(random.Random(0))
    assert params == {}
    assert "CONV(width=4, bias=no) -> POOL(kernel=3, stride=2)" in str(architecture)


def test_a_bare_list_is_a_choice():
    bare, told = ({"CONV.width": spec, "N": 2} for spec in ([8, 16], {"choice": [8, 16]}))
    pattern = "INPUT -> [CONV]*N -> FC"
    assert [str(space(bare, pattern).sample(i)) for i in range(4)] == [
        str(space(told, pattern).sample(i)) for i in range(4)
    ]
    with pytest.raises(SpaceError, match=r"CONV.width.choice: .*\[8, 16\]"):
        space({"CONV.width": [[8, 16], 4]}, "INPUT -> CONV -> FC")


def test_an_optional_element_is_there_only_where_it_fits():
    loaded = space({"M": 6, "POOL?": "present"}, "INPUT -> [CONV(2) -> POOL?]*M -> FC")
    assert str(loaded.sample(0)).count("POOL") == 1  # 8 -> 4 -> 2 -> 1, and [...]*3 prints once
    assert loaded.sample(0).shapes[-2] == (2, 1, 1)


def test_an_argument_is_offered_only_where_every_value_fits():
    loaded = space(
        {"M": 3, "CONV.kernel": 5, "CONV.pad": {"choice": [0, 1], "per": "M"}},
        "INPUT -> CONV(2)*M -> FC",
    )
    for seed in range(20):
        params, architecture = loaded.draw(random.Random(seed))
        assert ("CONV.pad[2]" in params) == (architecture.shapes[1][1] >= 5)


def test_what_cannot_matter_is_not_sampled():
    loaded = load_space("mixed", input=(3, 32, 32))
    for seed in range(100):
        params, _ = loaded.draw(random.Random(seed))
        stages = range(1, params["M"] + 1)
        assert all(f"N[{i}]" in params for i in stages)
        assert f"N[{params['M'] + 1}]" not in params
        for i in stages:
            block = params[f"BLOCK[{i}]"]
            assert (f"DENSE.growth[{i}]" in params) == (block == "DENSE")
            assert (f"BLOCK.width[{i}]" in params) == (block != "DENSE")
            assert (f"RESIDUAL.bottleneck[{i}]" in params) == (block == "RESIDUAL")
        assert ("FC.width" in params) == (params["K"] > 0)


def test_an_element_symbol_may_stand_for_a_chain_and_pass_arguments_on():
    loaded = space(
        {"BLOCK": {"choice": ["PLAIN", "POOL -> CONV(w)"]}, "w": 6, "v": 5},
        "INPUT -> BLOCK(width=v) -> GAP -> FC",
    )
    texts = {str(loaded.sample(seed)) for seed in range(20)}
    assert texts == {
        "INPUT(1, 8, 8) -> CONV(width=5) -> BN -> RELU -> GAP -> FC(width=10)",
        "INPUT(1, 8, 8) -> POOL -> CONV(width=6) -> GAP -> FC(width=10)",
    }


def test_large_inputs_widen_the_domains():
    small, large = (load_space("resnet_like", input=(3, s, s)) for s in (32, 224))
    assert small.domains["w0"] != large.domains["w0"]
    assert small.constraints["params"].limit < large.constraints["params"].limit


def test_constraints_of_arithmetic_tell_the_excess():
    loaded = space({}, "INPUT -> FC", constraints={"params": "<= 600", "macs": ">= 1e3"})
    assert loaded.excess(loaded.sample(0)) == {"params": 50, "macs": 360}


def test_a_recipe_may_be_searched():
    loaded = space({}, "INPUT -> FC", recipe={"lr": {"float": [0.01, 1.0], "log": True}, "crop": 1})
    draw = Draw(random.Random(0))
    recipe = loaded.suggest_recipe(draw)
    assert recipe.lr == draw.params["recipe.lr"]
    assert recipe.crop == 1


def test_given_parameters_are_kept_and_the_rest_is_drawn():
    loaded = load_space("resnet_like")
    params, _ = loaded.complete({"M": 3, "N[2]": 2, "nonsense": 5, "N[1]": 99}, random.Random(0))
    assert (params["M"], params["N[2]"]) == (3, 2)
    assert "nonsense" not in params
    assert params["N[1]"] in (1, 2, 3)


def test_a_space_in_which_nothing_fits_says_so():
    loaded = space({"w": {"choice": [3, 5]}}, "INPUT -> CONV(w, 9, pad=0) -> FC")
    with pytest.raises(SpaceError, match="no draw in 100 fits; the last: CONV"):
        loaded.sample(0)
    with pytest.raises(ShapeError):
        loaded.suggest(Draw(random.Random(0)))


def test_a_closed_space_is_one_network():
    assert load_space("resnet18").closed
    assert load_space("linear").closed
    assert not load_space("resnet_like").closed


# --- Optuna --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet_like", "mixed", "inception_like"])
def test_the_distributions_of_a_real_study_never_contradict_each_other(name, tmp_path):
    loaded = load_space(name, input=(1, 28, 28))
    url = f"sqlite:///{tmp_path}/study.db"

    def run(n: int) -> optuna.Study:
        study = optuna.create_study(
            study_name="s", storage=url, load_if_exists=True,
            sampler=optuna.samplers.RandomSampler(seed=n),
        )  # fmt: skip
        study.optimize(lambda trial: loaded.suggest(trial).params, n_trials=n)
        return study

    run(5)
    study = run(6)  # resumed from the database, which takes 0.1 s to ask
    assert len(study.trials) == 11
    for trial in study.trials:
        assert loaded.suggest(optuna.trial.FixedTrial(trial.params)).params == trial.value


@pytest.mark.parametrize("name", SPACES)
def test_300_random_trials_of_every_space(name):
    loaded = load_space(name, input=(3, 224, 224) if name == "resnet_like" else (3, 32, 32))
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(lambda trial: loaded.suggest(trial).params, n_trials=300)
    assert all(t.state == optuna.trial.TrialState.COMPLETE for t in study.trials)
    distributions: dict[str, object] = {}
    for trial in study.trials:
        for key, distribution in trial.distributions.items():
            assert distributions.setdefault(key, distribution) == distribution


def test_tpe_and_a_fixed_trial_give_the_same_architecture():
    loaded = load_space("mixed")
    sampler = optuna.samplers.TPESampler(seed=0, multivariate=True, n_startup_trials=5)
    study = optuna.create_study(sampler=sampler)
    study.optimize(lambda trial: loaded.suggest(trial).params, n_trials=15)
    best = loaded.suggest(optuna.trial.FixedTrial(study.best_params))
    assert best.params == study.best_value


def test_what_is_nearest_to_its_bounds_is_told_by_their_sizes() -> None:
    bounds = {"accuracy": read_bound(">=0.9", ""), "params": read_bound("<=1000", "")}

    def distance(accuracy: float, params: float) -> float:
        values = {"accuracy": accuracy, "params": params}
        return far({name: bounds[name].excess(value) for name, value in values.items()}, bounds)

    assert distance(0.9, 1000) == distance(0.95, 10) == 0
    assert distance(0.45, 1000) == pytest.approx(0.5)
    assert distance(0.81, 1100) == pytest.approx(0.2)
    assert far({"score": 3.0}, {"score": read_bound("<=-2", "")}) == pytest.approx(1.5)


@pytest.mark.parametrize(
    ("pattern", "told"),
    [
        ("INPUT(c, 8, 8) -> CONV(w) -> FC", "sizes must be whole numbers from 1 to 65536"),
        ("INPUT(3, 8) -> CONV(w) -> FC", "must be INPUT(channels, height, width)"),
        ("INPUT(3, 9, 9) -> CONV(w) -> FC", "the data is 1x8x8"),
        ("CONV(w) -> FC", "a pattern begins with INPUT"),
        ("INPUT -> CONV(w) -> INPUT -> FC", "INPUT stands at the beginning alone"),
        ("INPUT -> CONV(w) -> [RELU -> INPUT]? -> FC", "INPUT stands at the beginning alone"),
        ("INPUT -> CONV(w) -> DROPOUT(2)? -> FC", "rate is 2: must be a number from 0 to 1"),
        ("INPUT -> CONV(w, 3.0) -> FC", "kernel is 3.0: must be a whole number"),
        ("INPUT -> CONV(w) -> RELU*5000 -> FC", "5000 repeats: must be a whole number from 0"),
    ],
)
def test_all_that_is_written_is_checked_when_the_file_is_read(pattern: str, told: str) -> None:
    with pytest.raises(SpaceError) as caught:
        space({"w": {"choice": [4, 8]}}, pattern)
    assert told in str(caught.value)
    assert str(caught.value).startswith("test.yaml: ")


def test_alternatives_are_checked_when_the_file_is_read() -> None:
    with pytest.raises(SpaceError, match=r"CONV\(0\): width is 0"):
        space({"B": {"choice": ["CONV(4)", "CONV(0)"]}}, "INPUT -> B -> FC")


@pytest.mark.parametrize("wrong", [True, "x", [3], [0, 1, 1], {"a": 1}])
def test_a_wrong_input_is_refused_even_where_the_images_have_their_own(wrong: object) -> None:
    data = {"name": "y", "pattern": "INPUT -> CONV(8) -> GAP -> FC", "input": wrong}
    with pytest.raises(SpaceError, match="a test: input: "):
        read_space(data, "a test", (1, 8, 8), 10)
