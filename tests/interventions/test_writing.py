"""What calls are made of, as JSON and tensors: every kind of value comes back as it was, and nothing that nobody wrote."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import interp
from interp.errors import StoreError
from interp.interventions import Cut, Identity, Replace
from interp.interventions.files import parsed
from interp.interventions.reading import Reader
from interp.interventions.writing import Writer
from interp.metrics import Readout, Reads
from interp.metrics.standard import STANDARD
from interp.prompts import Pair, Pairs, Prompt


def again_of(value: Any, **options: Any) -> Any:
    """What is read of what was written, by way of JSON."""
    writer = Writer()
    data = json.loads(json.dumps(writer.write(value), allow_nan=False))
    return Reader(writer.tensors, what="these data", **options).read(data)


def test_values_of_every_kind() -> None:
    values = {
        "plain": [None, True, 3, 0.1, "text", {"a": [1]}, {}, []],
        "others": (float("inf"), -float("inf"), ..., (), range(2, 4), np.float32(0.25), np.int64(3)),
        "tensors": [torch.tensor([1.5], dtype=torch.bfloat16), torch.zeros(0, 3), torch.tensor(True), torch.eye(4)[:, 1:3]],
        "arrays": [np.arange(6, dtype=np.int16).reshape(2, 3).T],
        "names with dots": {"a.b": torch.zeros(1), "a": {"b": torch.ones(1)}, "": torch.ones(2), 'a"."b': torch.ones(3)},
        "positions": [interp.Positions(role="last"), interp.Positions.parse("last"), interp.Site("z", layer=1, head=2)],
        "grids": interp.grid("pattern", layer=[1, 2], head=..., position=["END", -1], attended="S1"),
        "identity": [Identity(), Replace(), Cut()],
    }
    again = again_of(values)
    assert again["plain"] == values["plain"]
    assert again["others"] == (float("inf"), -float("inf"), ..., (), (2, 3), 0.25, 3)
    for key in ("tensors", "arrays"):
        for one, other in zip(again[key], values[key], strict=True):
            assert (one.dtype, one.shape, type(one)) == (other.dtype, other.shape, type(other))
            assert (one == other).all()
    assert [t.tolist() for t in (again["names with dots"]["a.b"], again["names with dots"]["a"]["b"])] == [[0.0], [1.0]]
    assert [len(t) for t in (again["names with dots"][""], again["names with dots"]['a"."b'])] == [2, 3]
    assert again["positions"] == values["positions"]
    assert again["grids"] == values["grids"]
    assert list(map(type, again["identity"])) == [Identity, Replace, Cut]


def test_pairs_of_every_kind(seed: int) -> None:
    """With the same digest, and prompts that are one object stay one, by which a sweep knows that there is no contrast."""
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    alone = Prompt("Paris is in", {"city": "Paris"})
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": [{"type": "text", "text": "Where?"}]}]
    pairs = Pairs(
        (
            Pair("a – “b”", "c", (" x", " y"), " z", template="t", entities=("e", "f")),
            Pair((3, 4, 5), (3, 4, 6), [(5, 7)], 8),
            Pair(Prompt(chat, {"what": "Where"}), Prompt("all of it", templated=True), " x"),
            Pair(Prompt("say", target="so"), Prompt("say", target=Prompt("what was", {"w": "was"}))),
            Pair(Prompt("<image>", images=(Image.fromarray(pixels), pixels)), Prompt("", images=[pixels[..., 0] / 7.0])),
            Pair(Prompt(inputs={"x.y": random.normal(size=(2, 3)), "z": torch.ones(2)}, roles={"v:beak": (1, 2)}), "b"),
            Pair(alone, alone),
        ),
        "mine",
        {"seed": 3, "of": {"n": (1, 2)}},
    )
    again = again_of(pairs)
    assert again.digest == pairs.digest
    assert (again.task, again.made_by) == (pairs.task, pairs.made_by)
    assert [pair.answers for pair in again] == [pair.answers for pair in pairs]
    assert [pair.entities for pair in again] == [pair.entities for pair in pairs]
    assert again[6].clean is again[6].corrupted
    assert again[0].clean is not again[0].corrupted
    picture, array = again[4].clean.images
    assert (type(picture), picture.mode, type(array)) == (Image.Image, "RGB", np.ndarray)
    assert (np.asarray(picture) == array).all()
    assert type(again[5].clean.inputs["z"]) is torch.Tensor
    assert again[2].clean.messages == pairs[2].clean.messages


def test_a_picture_whose_colours_are_a_palette_is_refused() -> None:
    with pytest.raises(StoreError, match=r"^images.0 is a picture of mode P; give it as picture.convert\('RGB'\)$"):
        again_of(Prompt("", images=[Image.new("P", (2, 2))]))


@pytest.mark.parametrize("name", STANDARD)
def test_metrics(name: str) -> None:
    assert again_of([STANDARD[name], name]) == [STANDARD[name], name]


@dataclass(frozen=True)
class Top:
    """A metric of somebody's own."""

    power: float
    name: str = "top"
    reads: Reads = STANDARD["prob"].reads

    def __call__(self, readout: Readout) -> torch.Tensor:
        return readout.final.amax(-1) ** self.power


def test_a_metric_of_your_own() -> None:
    assert again_of(Top(2.0), kinds=[Top]) == Top(2.0)
    with pytest.raises(
        StoreError, match=r"^these data: '.*test_writing\.Top', a class that is not interp's; .*kinds=\(Top,\)$"
    ):
        again_of(Top(2.0))


def test_a_class_of_the_same_name_is_another() -> None:
    """It would otherwise stand for interp's own."""
    made = type("Scale", (Top,), {"__module__": "mine"})(2.0)
    assert list(Writer().write(made)) == ["mine.Scale"]


ROTATION = {"width": 8, "rank": 3, "parametrization": "qr", "tensors": ["weight"]}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"Rotatoin": {}}, r"^these data: 'Rotatoin', which this version does not know; did you mean 'Rotation'\?$"),
        ({"os.system": "true"}, r"^these data: 'os.system', a class that is not interp's; if you trust it, pass it: kinds="),
        ({"Scale": {"factor": 1.0, "other": 2}}, r"^these data: 'Scale' cannot be made \(TypeError: .*'other'"),
        ([{"Site": "L0.zz"}], r"^these data, at 0: 'Site' cannot be made \(UnknownSiteError: unknown site 'zz'"),
        ({"a": 1, "b": 2}, r"^these data: an object with the keys a, b; expected one key, which says its kind$"),
        ({"Rotation": ROTATION | {"tensors": ["wieght"]}}, r"^these data: the tensor 'wieght' is missing$"),
        ({"Rotation": ROTATION | {"width": 10**9}}, r"it should have 3000000000 numbers, but 24 are there"),
        ({"Mask": {"shape": [10**9]}}, r"it should have 1000000000 numbers, but 0 are there"),
        (
            {"Mask": {"shape": [2], "tensors": ["weight"]}},
            r"'Mask' with tensors of the shapes .*; expected \{'logits': \(2,\)\}",
        ),
        ({"again": "nowhere"}, r"^these data: 'again' cannot be made \(KeyError: 'nowhere'\)$"),
    ],
)
def test_data_that_nobody_wrote(data: Any, words: str) -> None:
    with pytest.raises(StoreError, match=words):
        Reader({"weight": torch.zeros(8, 3)}, what="these data").read(data)


def test_data_nested_without_end() -> None:
    with pytest.raises(StoreError, match="holds no JSON"):
        parsed("[" * 100_000, "these data")
