"""For any space: asking, decoding and encoding are inverse to each other."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from spaces import SearchSpace

DROP = ["magnitude", "sensitivity", "stability", "adversarial_gradient", "cosine", "momentum"]


@st.composite
def numbers(draw, low, high, *, integer=False):
    """A fixed number, a range (log or stepped) or a choice within [low, high]."""
    value = st.integers(low, high) if integer else st.floats(low, high)
    form = draw(st.sampled_from(["fixed", "range", "log", "step", "choice"]))
    if form == "fixed":
        return draw(value)
    if form == "choice":
        return {"choice": draw(st.lists(value, min_size=1, max_size=4, unique=True))}
    if form == "step" and integer:
        step = draw(st.integers(1, 5))
        start = draw(st.integers(low, high - 3 * step))
        return {"low": start, "high": start + 3 * step, "step": step}
    if form == "step":
        step = (high - low) / 4
        return {"low": low, "high": low + 3 * step, "step": step}
    first, second = draw(st.lists(value, min_size=2, max_size=2, unique=True).map(sorted))
    return {"low": first, "high": second, "log": form == "log" and first > 0}


@st.composite
def choices(draw, values):
    """One of the values, or a choice of some."""
    some = draw(st.lists(st.sampled_from(values), min_size=1, unique=True))
    return {"choice": some} if draw(st.booleans()) else some[0]


@st.composite
def variants(draw):
    method = draw(st.sampled_from(["dense", "static", "snip", "set", "gmp", "acdc", "jackpots"]))
    settings = {"method": method}
    if method != "dense" and draw(st.booleans()):
        settings["density"] = draw(numbers(0.01, 1.0))
    if method in ("set", "gmp"):
        settings["drop"] = draw(choices(DROP))
        settings["update_every"] = draw(numbers(1, 200, integer=True))
    return settings


WIDTHS = st.one_of(
    st.lists(numbers(1, 99, integer=True), min_size=1, max_size=3),
    st.lists(
        st.lists(st.integers(1, 99), min_size=1, max_size=3), min_size=1, max_size=3, unique_by=str
    ).map(lambda lists: {"choice": lists}),
)


@st.composite
def trees(draw):
    unique = st.lists(variants(), min_size=1, max_size=4, unique_by=str)
    topology = draw(st.one_of(variants(), unique.map(lambda some: {"choice": some})))
    return {
        "data": {"name": "digits"},
        "evaluation": {"radius": 0.05},
        "batch_size": draw(numbers(1, 512, integer=True)),
        "model": {"family": "mlp", "widths": draw(WIDTHS)},
        "topology": topology,
        "loss": {"name": "ibp", "kappa": draw(numbers(0.0, 1.0))},
        "epsilon": {"warmup": draw(numbers(0.0, 0.4)), "ramp_end": draw(numbers(0.5, 1.0))},
    }


class Sampled:
    """A trial that draws as a sampler would, knowing only what it is asked."""

    def __init__(self, rng):
        self.rng, self.params = rng, {}

    def _keep(self, name, value):
        assert name not in self.params
        self.params[name] = value
        return value

    def suggest_float(self, name, low, high, *, step=None, log=False):
        count = round((high - low) / step) if step else 0
        value = low + step * self.rng.randint(0, count) if step else self.rng.uniform(low, high)
        return self._keep(name, min(max(value, low), high))

    def suggest_int(self, name, low, high, *, step=1, log=False):
        return self._keep(name, self.rng.randrange(low, high + 1, step))

    def suggest_categorical(self, name, choices):
        return self._keep(name, self.rng.choice(choices))


@settings(deadline=None, max_examples=60)
@given(trees(), st.integers(0, 2**32))
def test_round_trips(tree, seed):
    space = SearchSpace(tree)
    rng = random.Random(seed)
    trial = Sampled(rng)
    for params in (space.sample(rng), space.suggest(trial)):
        config = space.decode(params)
        encoded = space.encode(config)
        assert space.decode(encoded) == config
        if "#" not in str(params):  # else an earlier variant of the same method may contain it
            assert encoded == params
        assert {p.path for p in space.parameters()} >= params.keys()
    assert trial.params == params


@settings(deadline=None, max_examples=60)
@given(numbers(1, 200, integer=True), numbers(0.01, 1.0), st.integers(0, 2**32))
def test_samples_lie_in_the_domain_and_reach_decode(update_every, density, seed):
    topology = {"method": "rigl", "update_every": update_every, "density": density}
    space = SearchSpace(
        {"data": {"name": "digits"}, "evaluation": {"radius": 0.1}, "topology": topology}
    )
    rng = random.Random(seed)
    for _ in range(5):
        config = space.decode(space.sample(rng)).topology
        for hole, value in ((update_every, config.update_every), (density, config.density)):
            if isinstance(hole, dict) and "low" in hole:
                assert hole["low"] <= value <= hole["high"]
            elif isinstance(hole, dict):
                assert value in hole["choice"]
            else:
                assert value == hole
