"""Attributes of one entity: the country, the continent and the language of a city, each asked for in sentences of its own.

    >>> task = attributes()
    >>> task.model
    attributes(city, asked, template → country(city), continent(city), language(city), O(asked, country, continent, language))
    >>> task.render({"city": "Kyoto", "asked": "language", "template": 0}).text
    'People in Kyoto mostly speak'

To swap one attribute is to change what is said where it is asked for, and nothing where another is: half of the rows of
``counterfactuals(n, ["country"], seed=0)`` ask for the country, a quarter each for the two others (Huang et al., RAVEL, arXiv
2402.17700). :func:`interp.effects.alignment.disentangled` scores the two halves. A source is another city, whose attributes are
all other ones, in the sentence of its base. Cities and sentences of the test part are none of the training part's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from interp.prompts import Prompt
from interp.tasks.causal_model import Categorical, CausalModel, CausalTask, Integer, Mechanism
from interp.tasks.causal_model.kinds import Array, Kind
from interp.tasks.causal_model.rows import Inputs, Sampler
from interp.tasks.template import Template, last_word

ATTRIBUTES = ("country", "continent", "language")
_FACTS = """
Paris Lyon Marseille = France Europe French, Berlin Munich Hamburg = Germany Europe German
Rome Milan Naples Venice = Italy Europe Italian, Madrid Barcelona Seville = Spain Europe Spanish
Lisbon = Portugal Europe Portuguese, Athens = Greece Europe Greek, Warsaw Krakow = Poland Europe Polish
Budapest = Hungary Europe Hungarian, Stockholm = Sweden Europe Swedish, Oslo = Norway Europe Norwegian
Copenhagen = Denmark Europe Danish, Helsinki = Finland Europe Finnish, Vienna Salzburg = Austria Europe German
London Manchester Liverpool = England Europe English, Moscow = Russia Europe Russian
Cairo Alexandria = Egypt Africa Arabic, Lagos Abuja = Nigeria Africa English, Casablanca Marrakesh = Morocco Africa Arabic
Accra = Ghana Africa English, Algiers = Algeria Africa Arabic, Tripoli = Libya Africa Arabic, Mombasa = Kenya Africa Swahili
Tokyo Osaka Kyoto = Japan Asia Japanese, Beijing Shanghai = China Asia Chinese, Bangkok = Thailand Asia Thai
Hanoi = Vietnam Asia Vietnamese, Seoul = Korea Asia Korean, Baghdad Basra = Iraq Asia Arabic, Tehran = Iran Asia Persian
Damascus = Syria Asia Arabic, Delhi = India Asia Hindi, Jakarta = Indonesia Asia Indonesian
"""
CITIES: Mapping[str, tuple[str, ...]] = {
    city: tuple(facts.split())
    for cities, facts in (line.split(" = ") for line in _FACTS.replace("\n", ",").split(",") if line.strip())
    for city in cities.split()
}
"""Of every city the values of :data:`ATTRIBUTES`."""

TEMPLATES: Mapping[str, tuple[Template, ...]] = {
    name: tuple(Template(f"attributes/{name}-{i}", text) for i, text in enumerate(texts))
    for name, texts in {
        "country": (
            "{city} is a city in the country of",
            "Whoever goes to {city} travels to the country of",
            "The city of {city} lies in",
            "The train to {city} took us to the country of",
        ),
        "continent": (
            "{city} is a city on the continent of",
            "Whoever goes to {city} travels to the continent of",
            "The city of {city} is found on the continent of",
            "The train to {city} took us through the continent of",
        ),
        "language": (
            "People in {city} mostly speak",
            "Whoever goes to {city} should learn some words of",
            "The language that one hears in the streets of {city} is",
            "The newspapers of {city} are written in",
        ),
    }.items()
}
"""The first half is trained on, the second tested."""
_EACH = 2


def attributes() -> CausalTask:
    """What a city's country, continent or language is.

    Variables ``country``, ``continent`` and ``language``; looked for by default is the country. Inputs ``city``, ``asked``, one
    of :data:`ATTRIBUTES`, and ``template``, one of two sentences for it. Role ``city`` in every prompt, and ``END``.
    """
    cities = np.array(list(CITIES))
    values = {name: np.array([CITIES[city][i] for city in cities]) for i, name in enumerate(ATTRIBUTES)}
    kinds: dict[str, Kind] = {
        "city": Categorical(tuple(cities.tolist())),
        "asked": Categorical(ATTRIBUTES),
        "template": Integer(0, 2 * _EACH - 1),
        **{name: Categorical(tuple(dict.fromkeys(found.tolist()))) for name, found in values.items()},
        "O": Categorical(tuple(dict.fromkeys(word for found in values.values() for word in found.tolist()))),
    }

    def of(name: str) -> Mechanism:
        known = dict(zip(cities.tolist(), values[name].tolist(), strict=True))
        return Mechanism(lambda city: np.array([known[one] for one in city.tolist()]), ("city",))

    said = Mechanism(
        lambda asked, *each: np.select([asked == name for name in ATTRIBUTES], list(each), ""), ("asked", *ATTRIBUTES)
    )
    model = CausalModel(kinds, {**{name: of(name) for name in ATTRIBUTES}, "O": said}, output="O", name="attributes")
    parts = [np.arange(len(cities)) % 2 == side for side in (0, 1)]
    return CausalTask(
        "attributes",
        {"attributes": model},
        {
            name: _sampler(cities[part], number)
            for number, (name, part) in enumerate(zip(("train", "test"), parts, strict=True))
        },
        _render,
        lambda value: f" {value}",
        variables={"attributes": ("country",)},
        choices=lambda base, source, label: list(dict.fromkeys(values[base["asked"]].tolist())),
        named=lambda row: (row["city"],),
        template=lambda row: TEMPLATES[row["asked"]][row["template"]].id,
        source=_source,
    )


def _sampler(cities: Array, part: int) -> Sampler:
    def sample(n: int, draw: np.random.Generator) -> Inputs:
        return {
            "city": draw.choice(cities, size=n),
            "asked": draw.choice(ATTRIBUTES, size=n),
            "template": part * _EACH + draw.integers(_EACH, size=n),
        }

    return sample


def _source(base: Inputs, draw: np.random.Generator) -> Inputs:
    """In the same sentence a city of the same part that shares none of the base's attributes."""
    order = list(CITIES)
    found = []
    for city in base["city"].tolist():
        own = CITIES[city]
        rest = [
            one
            for one in order[order.index(city) % 2 :: 2]
            if all(mine != other for mine, other in zip(own, CITIES[one], strict=True))
        ]
        found.append(rest[int(draw.integers(len(rest)))])
    return {"city": np.array(found), "asked": base["asked"], "template": base["template"]}


def _render(row: Mapping[str, Any]) -> Prompt:
    prompt = TEMPLATES[row["asked"]][row["template"]].render(city=str(row["city"]))
    return Prompt(prompt.text, {**prompt.roles, "END": last_word(str(prompt.text))})
