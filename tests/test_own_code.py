"""The same code has the same digest, other code another one, and what cannot be told has none."""

import math
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial, wraps
from types import SimpleNamespace

import numpy as np
import pytest

from interp.metrics import LogitDiff, Reads
from interp.own_code import in_writing, own_code

READS = Reads()
SOURCE = """
import math
FACTOR = {factor}
def helper(x):
    return {helper}
class Base:
    def twice(self, x):
        return {base}
class Mine(Base):
    scale = {scale}
    def __call__(self, x, power={power}):
        inner = lambda y: y + {inner}
        return inner(helper(self.twice(x))) * FACTOR * math.pi if x in {{"a", "b", "c"}} else super().twice(x)
"""
PLAIN = {"factor": 2, "helper": "x + 1", "base": "2 * x", "scale": 3, "power": 1, "inner": 5}


def made(**words):
    place = {"__name__": "__main__"}
    exec(SOURCE.format(**PLAIN | words), place)
    return place["Mine"]()


def test_the_same_code_has_the_same_digest():
    assert own_code(made()) == own_code(made())
    assert len(own_code(made())) == 16


@pytest.mark.parametrize("word", PLAIN)
def test_other_code_has_another_digest(word):
    assert own_code(made()) != own_code(made(**{word: "x" if isinstance(PLAIN[word], str) else 7}))


def test_another_process_finds_the_same():
    code = f"""
import sys; sys.path.insert(0, {__file__.rpartition("/")[0]!r})
from test_own_code import made, own_code
print(own_code(made()))
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip() == own_code(made())


@pytest.mark.parametrize("thing", [LogitDiff(), {}, 3, np.zeros(2), len, partial(len)])
def test_what_is_installed_stands_by_its_name(thing):
    assert own_code(thing) == ""


def test_what_a_class_encloses_counts():
    def factory(inner):
        class Mine:
            def __call__(self, x):
                return inner(x)

        return Mine()

    found = [own_code(factory(inner)) for inner in (lambda x: x, lambda x: 2 * x, math.sin, partial(max, 1), partial(max, 2))]
    assert None not in found
    assert len(set(found)) == 5
    assert own_code(factory(np.zeros(3))) is None  # whose numbers may change


def test_members_of_every_kind():
    def factory(n):
        @dataclass(frozen=True)
        class Mine:
            reads: Reads = READS
            words: tuple = ("a", n)

            @property
            def plain(self):
                return n

            @cached_property
            def kept(self):
                return n

            @staticmethod
            def alone():
                return Mine

            @classmethod
            def of(cls):
                return cls()

        return Mine()

    assert own_code(factory(1)) == own_code(factory(1)) != own_code(factory(2))


def decorated(factor, keep):
    """A function behind a decorator of one's own, which says that it is another one."""

    def wrapper(function):
        @keep(function)
        def inner(*given):
            return factor * function(*given)

        return inner

    return wrapper(math.sin)


@pytest.mark.parametrize("keep", [wraps, lambda function: lambda inner: inner], ids=["with its name", "without"])
def test_what_a_decorator_does_counts(keep):
    class Named:
        factor = 1

    found = []
    for factor in (2, 2, 3):
        kind = type("Mine", (Named,), {"call": staticmethod(decorated(factor, keep))})
        found.append(own_code(kind()))
    assert found[0] == found[1] != found[2]
    assert None not in found


def test_what_a_decorator_of_a_package_wraps_counts():
    def factory(n):
        class Mine:
            @contextmanager
            def inside(self):
                yield n

        return Mine()

    assert own_code(factory(1)) == own_code(factory(1)) != own_code(factory(2))


class Plain:
    def __init__(self, factor):
        self.factor = factor

    def times(self, x):
        return self.factor * x


def test_objects_and_their_methods_are_known_by_what_they_hold():
    for made in (Plain, lambda n: Plain(n).times, lambda n: SimpleNamespace(a=Plain(n)), lambda n: partial(Plain(n).times, 1)):
        assert in_writing(made(1)) == in_writing(made(1)) != in_writing(made(2))
        assert in_writing(made(np.zeros(2))) is None
    circle = Plain(1)
    circle.factor = circle
    assert in_writing(circle) is None
