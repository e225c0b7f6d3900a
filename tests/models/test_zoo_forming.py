"""Induction forms between the first and the last checkpoint of every seed, as the card says.

Expected numbers: the tables of the card, measured again here on its own kind of sequences drawn by another seed; chance from
formulas (log of the number of words, one attended token among those in reach).
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors import safe_open
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from interp import tasks
from interp.errors import UnknownNameError
from interp.models import load, zoo

PERIOD = 12
ROOT = Path(zoo.__file__).parent / "weights" / "induction-forming"


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return zoo.checkpoints("induction-forming")


@torch.no_grad()
def measured(folder: Path) -> tuple[float, Tensor, Tensor]:
    """Loss inside the second copy of 12 words, and attention ``[head]`` of layer 1 to what followed, of layer 0 to the last."""
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    generator = torch.Generator().manual_seed(77)
    words = torch.rand(200, 60, generator=generator).argsort(-1)[:, :PERIOD] + 4
    tokens = torch.cat((torch.full((200, 1), model.config.bos_token_id), words, words), 1)
    out = model(tokens, output_attentions=True)
    inside = range(PERIOD + 1, 2 * PERIOD)
    loss = -torch.stack([out.logits[:, i].log_softmax(-1).gather(1, tokens[:, i + 1 : i + 2]) for i in inside]).mean()
    induction = torch.stack([out.attentions[1][:, :, i, i - PERIOD + 1] for i in inside]).mean((0, 1))
    previous = torch.stack([out.attentions[0][:, :, i, i - 1] for i in range(2, 2 * PERIOD + 1)]).mean((0, 1))
    return loss.item(), induction, previous


def folder(table: pd.DataFrame, seed: int, step: int) -> Path:
    return table[(table["seed"] == seed) & (table["step"] == step)]["path"].iloc[0]


def test_twenty_checkpoints_of_three_seeds_in_less_than_three_megabytes(table: pd.DataFrame) -> None:
    assert list(table.columns) == ["seed", "step", "name", "path"]
    assert table.groupby("seed").size().to_dict() == {0: 20, 1: 20, 2: 20}
    assert table[["seed", "step"]].apply(tuple, axis=1).is_monotonic_increasing
    assert all(table.loc[table["seed"] == seed, "step"].tolist() == table["step"][:20].tolist() for seed in (1, 2))
    assert sum(file.stat().st_size for file in ROOT.rglob("*") if file.is_file()) < 3e6


def test_a_series_is_no_model_and_says_what_is(table: pd.DataFrame) -> None:
    assert "induction-forming" not in zoo.names()
    assert zoo.series() == ("induction-forming",)
    with pytest.raises(UnknownNameError, match=r"series of 60 checkpoints, seeds 0, 1, 2 at steps 0, 20, .*step1000"):
        load("zoo/induction-forming")
    with pytest.raises(UnknownNameError, match="series of 60 checkpoints"):
        zoo.path("induction-forming/seed0/step0401")
    with pytest.raises(UnknownNameError, match="did you mean 'induction-forming'"):
        zoo.path("zoo/induction-form")
    with pytest.raises(UnknownNameError, match="known: induction-forming"):
        zoo.checkpoints("induction-2l")
    assert zoo.path(table["name"][3]) == table["path"][3]


def test_a_checkpoint_is_a_folder_like_any_other(table: pd.DataFrame) -> None:
    """Stored in float16, loaded in float32, to the last bit."""
    model = load("zoo/induction-forming/seed1/step0400")
    assert model.name == "zoo/induction-forming/seed1/step0400"
    assert model.probe is not None
    assert model.causal
    assert model.dtype == torch.float32
    with safe_open(zoo.path(model.name) / "model.safetensors", "pt") as stored:
        name = "model.layers.1.self_attn.o_proj.weight"
        assert stored.get_tensor(name).dtype == torch.float16
        assert torch.equal(stored.get_tensor(name).float(), model.module.get_parameter(name))


def test_no_checkpoint_is_another_one(table: pd.DataFrame) -> None:
    digests = {hashlib.sha256((path / "model.safetensors").read_bytes()).hexdigest() for path in table["path"]}
    assert len(digests) == 60


def test_words_are_one_token_with_and_without_their_space(table: pd.DataFrame) -> None:
    tokenizer = AutoTokenizer.from_pretrained(table["path"][0])
    pairs = tasks.induction(20, seed=3, length=11, tokenizer=tokenizer)
    for pair in pairs:
        ids = tokenizer.encode(str(pair.clean.text))
        assert len(ids) == 12
        assert ids[0] == tokenizer.bos_token_id
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids[1:]) == pair.clean.text
        assert tokenizer.encode(str(pair.answers[0]), add_special_tokens=False) == [ids[ids.index(ids[-1]) + 1]]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_induction_forms(table: pd.DataFrame, seed: int) -> None:
    """At first chance, then a guess among the words seen, then induction: all of it in every seed."""
    loss, induction, previous = measured(folder(table, seed, 0))
    assert abs(loss - math.log(60)) < 0.15
    uniform = sum(1 / (i + 1) for i in range(PERIOD + 1, 2 * PERIOD)) / (PERIOD - 1)  # one of the tokens in reach
    assert (induction - uniform).abs().max() < 0.01
    assert previous.max() < 0.15

    loss, induction, _ = measured(folder(table, seed, 200))
    assert 3.5 < loss < math.log(60) - 0.2  # the plateau
    assert induction.max() < 0.2

    loss, induction, previous = measured(folder(table, seed, 1000))
    assert loss < 0.1
    assert induction.max() > 0.7
    assert previous.max() > 0.9
    assert previous.sort().values[-2] < 0.5


@pytest.mark.parametrize(("seed", "step"), [(0, 380), (1, 300), (2, 360)])
def test_card_states_what_is_measured(table: pd.DataFrame, seed: int, step: int) -> None:
    """In the steepest part of each seed; 200 sequences of 11 words each have an error of the mean below 0.05 nats there."""
    card = (ROOT / "README.md").read_text(encoding="utf-8")
    part = card.split(f"**Seed {seed}**")[1].split("**Seed")[0]
    stated = re.search(rf"^\| {step} \| ([\d.]+) \| [\d.]+% \| ([\d.]+) \(L1H(\d)\)", part, re.M)
    assert stated is not None
    loss, induction, _ = measured(folder(table, seed, step))
    assert loss == pytest.approx(float(stated[1]), abs=0.2)
    assert induction.max().item() == pytest.approx(float(stated[2]), abs=0.03)
    assert induction.argmax().item() == int(stated[3])


def test_card_and_results_agree_with_the_files(table: pd.DataFrame) -> None:
    card = (ROOT / "README.md").read_text(encoding="utf-8")
    (stated,) = re.findall(r"\b[0-9a-f]{64}\b", card)
    everything = b"".join((path / "model.safetensors").read_bytes() for path in table["path"])
    assert stated == hashlib.sha256(everything).hexdigest()
    for word in ("Data", "Training", "Held", "hance", "Limits", "float16"):
        assert word in card
    results = json.loads((Path(__file__).parents[2] / "experiments" / "zoo" / "results.json").read_text())["induction-forming"]
    assert results["steps"] == table["step"][:20].tolist()
    assert f"| {results['seed2']['loss'][-1]:.3f} |" in card
