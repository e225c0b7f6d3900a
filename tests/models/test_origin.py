"""What a model was loaded from, as data: enough to load it again, and nothing that would run code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from interp.models import Model, load
from interp.models.origin import LIVE, Origin, why_not


def again(model: Model) -> Model:
    """Loaded once more from what is kept."""
    assert model.origin.why_not == ""
    return load(**model.origin.arguments)


def test_a_model_of_the_zoo() -> None:
    model = load("zoo/induction-2l", dtype=torch.float64, bos=False, backend="torch", device="cpu")
    expected = {"model": "zoo/induction-2l", "name": "zoo/induction-2l", "dtype": "float64", "bos": False}
    assert model.origin == Origin(expected)
    assert (again(model).digest, again(model).dtype, again(model).bos) == (model.digest, torch.float64, False)


@pytest.fixture
def folder(tmp_path: Path, tiny_gpt2: PreTrainedModel) -> Path:
    tiny_gpt2.save_pretrained(tmp_path / "mine")
    return tmp_path / "mine"


def test_a_folder_is_known_from_anywhere(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    model = load("mine", name="other", attn_implementation="eager", check=False)
    monkeypatch.chdir("/")
    assert model.origin.arguments["model"] == str(folder)
    assert (again(model).name, again(model).digest) == ("other", model.digest)


def test_of_the_users_own_folder_the_user_is_not_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder.parent))
    model = load(folder, check=False)
    assert model.origin.arguments["model"] == "~/mine"
    assert again(model).digest == model.digest


def test_inputs_that_show_a_model_are_kept(folder: Path) -> None:
    shown = {"input_ids": torch.tensor([[1, 2, 3], [4, 5, 6], [7, 8, 9]])}
    model = load(folder, example=shown, axes={"transformer.wte": "example position feature"}, subfolder="")
    assert model.origin.arguments["example"] is shown
    assert again(model).example.keys() == shown.keys()


def test_a_live_module_has_no_origin(tiny_gpt2: PreTrainedModel) -> None:
    assert load(tiny_gpt2, check=False).origin is LIVE


def test_a_token_is_nobody_elses(folder: Path) -> None:
    origin = Origin.of(folder, {"token": "secret", "cache_dir": "x", "local_files_only": True, "revision": None})
    assert origin == Origin({"model": str(folder)})


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"trust_remote_code": True}, "it was loaded with trust_remote_code=True"),
        ({"allow_pickle": True}, "it was loaded with allow_pickle=True"),
        ({"remote": True, "backend": "nnsight"}, "it was loaded with remote=True"),
        ({"attn_implementation": "somebody/kernel"}, "it was loaded with attn_implementation='somebody/kernel'"),
        ({"use_kernels": True}, "it was loaded with use_kernels=True"),
        ({"tokenizer": object()}, "it was loaded with tokenizer of type object"),
        ({"processor": "any"}, "it was loaded with processor='any'"),
    ],
)
def test_what_could_run_code_is_not_done_again(arguments: dict[str, Any], words: str) -> None:
    assert Origin.of("gpt2", arguments).why_not == words
    assert why_not({"model": "gpt2", **arguments}) == words


def test_what_is_given_as_it_is_by_default_is_no_part_of_it() -> None:
    given = {"trust_remote_code": False, "allow_pickle": False, "remote": False, "check": True, "dtype": "auto", "bos": "model"}
    assert Origin.of("gpt2", given) == Origin({"model": "gpt2"})
    assert Origin.of("gpt2", {"check": False}).arguments == {"model": "gpt2", "check": False}
