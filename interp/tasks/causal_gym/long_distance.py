"""Long-distance dependencies: a cleft, or a question word, says what is left to say much later."""

from __future__ import annotations

from interp.tasks.causal_gym.task import GymTask
from interp.tasks.causal_gym.words import KNOWN_BY, phrases, words

GROUP = "long-distance"

_CLEFT = {"action": (" to",), "thing": (" the",)}
_WHAT = {"verb": {
    "action": ("did",),
    "thing": words("planted built bought wrote drew carried found stole ordered lost repaired wore sold caught painted wanted"),
}}  # fmt: skip
_WHO = phrases(
    """
    gardener / old woman / thief / young man / carpenter / grandmother / pirate / little boy / inventor / artist / neighbor /
    farmer / teacher / blacksmith / tailor / girl / hermit / fisherman / shopkeeper / tall stranger / prisoner / old king /
    young couple / youngest brother / musician / lawyer / retired captain / twins / tourists / first guest / choir / baker /
    landlady / beekeeper / two sisters / bride / detective / new owner / boatman / caretaker
    """
)
_GAP = {"gap": {"that": ("that",), "what": ("what",)}}
_FILLED = {"that": (" his", " her"), "what": (".",)}

#: What somebody does, something still to be said.
_VERBS = words(
    """
    stole burned painted sold buried broke lost wrote found dropped built ate designed carried caught promised wanted cooked
    bought borrowed
    """
)

#: The same with a thing, and with a preposition that wants one more.
_MADE, _THINGS, _FOR = zip(*(phrases(line) for line in (
    "cut / bread / with", "filled / bucket / with", "wiped / floor / with", "hid / money / under", "put / soup / on",
    "opened / bottle / with", "wrapped / gift / in", "covered / table / with", "tied / boat / to", "leaned / ladder / against",
    "washed / wound / with", "pinned / note / to", "made / chair / from", "hung / coat / on", "mended / net / with",
    "lined / jacket / with", "parked / truck / behind", "locked / gate / with",
)), strict=True)  # fmt: skip

#: The same with a preposition that wants a person.
_GAVE, _GIFTS, _TO = zip(*(phrases(line) for line in (
    "baked / cake / for", "sold / horse / to", "cleaned / room / for", "stole / wallet / from", "brought / soup / to",
    "wrote / letter / to", "knitted / scarf / for", "copied / book / for", "built / boat / with", "borrowed / hammer / from",
    "shared / house / with", "sent / bill / to", "made / chair / for", "sang / song / with", "mended / net / for",
    "showed / jacket / to", "washed / truck / with", "took / keys / from",
)), strict=True)  # fmt: skip
_NOUNS = words(
    """
    thief cook hunter tailor painter grocer child sailor judge miner barber queen guest inventor soldier doctor waiter mayor
    """
)
_SPEAKERS = ("aunt", "mechanic", "butcher", "pilot", "violinist", "duchess", "captain", "librarian", "goalkeeper", "bishop")
_SAID = words("said thought believed claimed knew heard")


def _embedded(depth: int) -> GymTask:
    """A gap below as many verbs of saying, none of which can have it."""
    levels = range(1, depth + 1)
    between = " ".join(f"the {{speaker{k}}} {{said{k}}}" for k in levels)
    free = {"known": KNOWN_BY, "noun": _NOUNS, "verb": _VERBS}
    free |= {f"speaker{k}": _SPEAKERS for k in levels} | {f"said{k}": _SAID for k in levels}
    return GymTask(
        f"filler_gap_embed_{depth}", GROUP, f"as filler_gap_obj, with {depth} clauses of saying above the gap",
        f"{{known}} {{gap}} {between} the {{noun}} {{verb}}",
        labels=_FILLED, varies=_GAP, free=free,
    )  # fmt: skip


TASKS = (
    GymTask(
        "cleft", GROUP, "“what … did was” wants an action, and “what … bought was” a thing", "What the {subject} {verb} was",
        labels=_CLEFT, varies=_WHAT, free={"subject": _WHO},
    ),
    GymTask(
        "cleft_mod", GROUP, "as cleft, with a phrase more before the label", "What the {subject} {verb} {modifier} was",
        labels=_CLEFT, varies=_WHAT, free={"subject": _WHO, "modifier": phrases(
            """next / then / that night / in the end / after lunch / the next morning / after the war / when it rained /
            on Sunday / before dinner / after that / in the village"""
        )},
    ),
    _embedded(3),
    _embedded(4),
    GymTask(
        "filler_gap_hierarchy", GROUP, "inside a subject “what” leaves a gap at the object, so that the main verb comes, and "
        "“that” leaves none", "The fact that the {subject} {said} {gap} the {noun} {verb}",
        labels={"that": (" the",), "what": (" was",)}, varies=_GAP,
        free={"subject": _SPEAKERS, "said": words("knew remembered revealed noticed forgot discovered guessed explained"),
              "noun": _NOUNS, "verb": _VERBS},
    ),
    GymTask(
        "filler_gap_obj", GROUP, "“what” leaves a gap at the object, and “that” leaves none", "{known} {gap} the {noun} {verb}",
        labels=_FILLED, varies=_GAP, free={"known": KNOWN_BY, "noun": _NOUNS, "verb": _VERBS},
    ),
    GymTask(
        "filler_gap_pp", GROUP, "“what” leaves a gap after a preposition, and “that” leaves none",
        "{known} {gap} the {noun} {verb} the {object} {preposition}",
        labels=_FILLED, varies=_GAP, matched=(("verb", "object", "preposition"),),
        free={"known": KNOWN_BY, "noun": _NOUNS, "verb": _MADE, "object": _THINGS, "preposition": _FOR},
    ),
    GymTask(
        "filler_gap_subj", GROUP, "as filler_gap_pp, the filler being a person, “who”",
        "{known} {gap} the {noun} {verb} the {object} {preposition}",
        labels={"that": (" his", " her"), "who": (".",)}, varies={"gap": {"that": ("that",), "who": ("who",)}},
        matched=(("verb", "object", "preposition"),),
        free={"known": KNOWN_BY, "noun": _NOUNS, "verb": _GAVE, "object": _GIFTS, "preposition": _TO},
    ),
)  # fmt: skip
