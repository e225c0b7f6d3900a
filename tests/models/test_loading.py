"""Loading: every way in, and what is wrong said in one line."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import tiny
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from saved import SAVED, build
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers import models as tokenizer_models
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel, PreTrainedTokenizerFast

from interp.doctor import architectures
from interp.errors import AnswerError, LoadError, PositionError, UnknownNameError
from interp.models import Model, examples, load, loading, zoo
from interp.prompts import Pair, Pairs, Prompt
from interp.sites import Site

IDS = torch.tensor([[1, 5, 9, 2]])


def tokenizer() -> PreTrainedTokenizerFast:
    names = ["<s>", *(f"w{i}" for i in range(1, tiny.VOCAB))]
    inner = Tokenizer(tokenizer_models.WordLevel({w: i for i, w in enumerate(names)}, unk_token="<s>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", unk_token="<s>")


@pytest.fixture
def folder(tmp_path: Path, tiny_gpt2: PreTrainedModel) -> Path:
    """A model as ``save_pretrained`` writes it, with its tokenizer."""
    where = tmp_path / "my-model"
    tiny_gpt2.save_pretrained(where)
    tokenizer().save_pretrained(where)
    return where


def one_line(error: pytest.ExceptionInfo[LoadError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 400
    return text


# ways in


def test_a_folder(folder: Path, tiny_gpt2: PreTrainedModel) -> None:
    for where in (folder, str(folder)):
        model = load(where)
        assert model.processor is None
        assert model.missing == {}
        assert model.name == "my-model"
        assert not model.module.training
        assert model.probe is not None
        assert torch.equal(model.module(IDS).logits, tiny_gpt2(IDS).logits)
        assert model.encode("w1 w5 w9 w2").ids.tolist() == IDS.tolist()


def test_a_folder_in_another_dtype_and_without_the_probe(folder: Path) -> None:
    model = load(folder, dtype=torch.float64, check=False, name="mine", bos=True)
    assert (model.dtype, model.probe, model.name) == (torch.float64, None, "mine")
    assert not model.causal, "not proved, so not used"
    assert model.encode("w1").ids.tolist() == [[0, 1]]


def test_a_live_module_is_used_as_it_is(tiny_llama: PreTrainedModel) -> None:
    tiny_llama.train()
    before = [p.clone() for p in tiny_llama.parameters()]
    model = load(tiny_llama)
    assert model.module is tiny_llama
    assert tiny_llama.training
    assert all(torch.equal(p, q) for p, q in zip(tiny_llama.parameters(), before, strict=True))
    assert tiny_llama.config._attn_implementation == "sdpa"
    assert model.name == "LlamaForCausalLM"
    assert model.tokenizer is None


def test_a_live_module_with_a_tokenizer_object_or_folder(folder: Path, tiny_gpt2: PreTrainedModel) -> None:
    for given in (tokenizer(), folder, str(folder)):
        assert load(tiny_gpt2, tokenizer=given, check=False).encode(["w3 w4"]).ids.tolist() == [[3, 4]]


def test_any_module(seed: int) -> None:
    """No config, no blocks, no embedding by transformers' conventions: module paths and logits are there."""
    torch.manual_seed(seed)
    plain = nn.Sequential(nn.Embedding(11, 4), nn.Linear(4, 11))
    model = load(plain)
    assert model.sites() == (Site("logits"),)
    assert model.probe is None
    assert "forward needs input; show how it is called with load(module, example={...})" in model.unknown
    encoder = load(nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2, enable_nested_tensor=False))
    assert encoder.sites() == (Site("logits"),)


@pytest.mark.parametrize(
    ("example", "why"),
    [
        ({"x": torch.zeros(3, 4)}, r"\{'x': \(3, 4\)\} failed \(TypeError: .*keyword argument 'x'\)$"),
        ({"input": torch.zeros(3, 5)}, r"\{'input': \(3, 5\)\} failed \(RuntimeError: mat1 and mat2"),
    ],
)
def test_an_example_that_the_forward_does_not_take_is_refused_at_once(example: dict[str, torch.Tensor], why: str) -> None:
    with pytest.raises(LoadError, match="^a forward pass on example=" + why):
        load(nn.Linear(4, 3), example=example)


def test_an_example_has_names() -> None:
    with pytest.raises(LoadError, match=r"^example is a Tensor; expected the forward's arguments by name"):
        examples.given(torch.zeros(3, 4))


@pytest.mark.parametrize("architecture", SAVED)
def test_every_architecture_is_loaded_as_the_class_it_was_saved_from(architecture: str, tmp_path: Path, seed: int) -> None:
    """Same class, same sites, the same weights to the bit, and the same numbers at every site as the module that was saved.

    Numbers to rounding: weights that lie elsewhere in memory may be multiplied in another order.
    """
    live = load(build(architecture, seed), check=False)
    live.module.save_pretrained(tmp_path / "saved")
    loaded = load(tmp_path / "saved", check=False)
    assert type(loaded.module) is type(live.module)
    assert loaded.sites() == live.sites()
    assert loaded.dtype == torch.float32
    before, after = live.module.state_dict(), loaded.module.state_dict()
    assert before.keys() == after.keys()
    assert [name for name in before if not torch.equal(before[name], after[name])] == []
    sites = live.sites()
    with torch.no_grad(), live.prepared(sites), loaded.prepared(sites):
        theirs = live.backend.run(live.example, reads=sites, writes={})
        ours = loaded.backend.run(live.example, reads=sites, writes={})
    for site in sites:
        size = 1 + float(theirs[site].nan_to_num(neginf=0.0).abs().max())
        torch.testing.assert_close(ours[site], theirs[site], rtol=0, atol=1e-5 * size, equal_nan=True, msg=repr(site))


def test_options_for_a_live_module_that_cannot_apply(tiny_gpt2: PreTrainedModel) -> None:
    with pytest.raises(LoadError, match="a live module is used as it is, so dtype cannot apply"):
        load(tiny_gpt2, dtype=torch.float64)
    with pytest.raises(LoadError, match="chekc"):
        load(tiny_gpt2, chekc=False)


@pytest.mark.parametrize("name", zoo.names())
def test_the_zoo_is_a_folder_like_any_other(name: str) -> None:
    model = load(f"zoo/{name}")
    assert isinstance(model, Model)
    assert model.name == f"zoo/{name}"
    assert model.probe is not None
    assert model.causal
    assert model.tokenizer is not None


def test_a_processor_of_images_is_kept(tmp_path: Path, seed: int) -> None:
    build("vit", seed).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(
        '{"image_processor_type": "ViTImageProcessor", "size": {"height": 16, "width": 16}}'
    )
    model = load(tmp_path, check=False)
    pixels = model.processor(Image.new("RGB", (40, 30)), return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, 16, 16)
    assert model.module(pixels).logits.shape == (1, 5)
    own = object()
    assert load(tmp_path, check=False, processor=own).processor is own
    (tmp_path / "preprocessor_config.json").write_text("{")
    broken = load(tmp_path, check=False)
    assert broken.processor is None
    assert "preprocessor_config.json' is not a valid JSON file" in broken.missing["processor"]


# what is wrong


def test_nothing_there(tmp_path: Path) -> None:
    for name in (tmp_path / "none", "./none", "~/no/such/folder", "some/deep/path", "model.gguf"):
        with pytest.raises(LoadError, match="no such file or folder") as error:
            load(name)
        assert str(name) in one_line(error)


def test_a_folder_without_a_config(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"has no config\.json, so it is not a model in transformers' format"):
        load(tmp_path)


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".pth", ".ckpt"])
def test_a_pickle_is_refused_and_never_opened(folder: Path, suffix: str) -> None:
    (folder / "model.safetensors").unlink()
    marker = folder / "was-run"

    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (marker,)

    torch.save(Evil(), folder / f"pytorch_model{suffix}")
    with pytest.raises(
        LoadError, match=rf"has no \*.safetensors; pytorch_model\{suffix} is a pickle, which can run code"
    ) as error:
        load(folder)
    one_line(error)
    assert not marker.exists()


def test_no_weights_at_all(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(LoadError, match=r"has no \*.safetensors$"):
        load(folder)


@pytest.mark.parametrize("content", [b"", b"xx", b"\x08\0\0\0\0\0\0\0{}      ", None])
def test_damaged_weights(folder: Path, content: bytes | None) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100] if content is None else content)
    with pytest.raises(LoadError, match="my-model") as error:
        load(folder)
    one_line(error)


def test_a_checkpoint_that_lacks_a_tensor_is_refused(folder: Path) -> None:
    """transformers would fill the gap with random numbers and log a note."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    del tensors["transformer.h.1.mlp.c_proj.weight"]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(LoadError, match=re.escape("transformer.h.1.mlp.c_proj.weight")) as error:
        load(folder)
    one_line(error)


def test_a_checkpoint_with_a_tensor_of_another_shape_is_refused(folder: Path) -> None:
    file = folder / "model.safetensors"
    tensors = load_file(file)
    tensors["transformer.h.1.mlp.c_proj.weight"] = torch.zeros(3, 3)
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(LoadError) as error:
        load(folder)
    one_line(error)


@pytest.mark.parametrize("text", ["{", "{}", '{"model_type": "no-such-architecture"}'])
def test_a_config_that_says_nothing(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    with pytest.raises(LoadError, match="my-model") as error:
        load(folder)
    one_line(error)


def test_a_file_that_is_no_model(folder: Path) -> None:
    with pytest.raises(LoadError, match=re.escape("is a file but not a .gguf; give the folder that holds config.json")):
        load(folder / "model.safetensors")


@pytest.mark.parametrize("content", [b"", b"GGUF garbage", b"not a model" * 100])
def test_a_gguf_file_that_is_none(tmp_path: Path, content: bytes) -> None:
    """The real one is loaded in tests/real."""
    file = tmp_path / "model.gguf"
    file.write_bytes(content)
    with pytest.raises(LoadError) as error:
        load(file)
    one_line(error)


def test_the_gguf_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "some-model.gguf").write_bytes(b"GGUF garbage")
    with pytest.raises(LoadError, match=r"some-model\.gguf"):
        load(tmp_path / "some-model.gguf")


@pytest.mark.parametrize("name", ["gpt2", "some-org/some-model"])
def test_an_unreachable_hub_is_one_line(name: str) -> None:
    """conftest sets HF_HUB_OFFLINE, and no cache holds these."""
    with pytest.raises(LoadError, match=rf"^'{name}' is no local folder, and the Hugging Face hub could not serve it") as error:
        load(name)
    one_line(error)


def test_a_tokenizer_that_is_not_there(tmp_path: Path, tiny_llama: PreTrainedModel) -> None:
    """transformers makes an empty tokenizer of a folder without one, which finds no token in any text."""
    tiny_llama.save_pretrained(tmp_path / "bare")
    bare = load(tmp_path / "bare")
    assert bare.tokenizer is None
    assert bare.encode([IDS[0].tolist()]).ids.tolist() == IDS.tolist()
    words = "prompt 'w1' is a text, but .*bare holds no tokenizer: pass tokenizer= to load, or give token ids"
    with pytest.raises(PositionError, match=words):
        bare.encode("w1")
    pair = Pair(clean=Prompt((1, 2)), corrupted=Prompt((1, 3)), answers=("w1",))
    with pytest.raises(AnswerError, match=r"answer 'w1' is a text, but .*bare holds no tokenizer: give its token id"):
        bare.encode(Pairs((pair,)))
    assert load(tmp_path / "bare", tokenizer=tokenizer()).encode("w1 w2").ids.tolist() == [[1, 2]]


def test_a_tokenizer_that_cannot_be_read(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(LoadError, match=r"^tokenizer of .*my-model: .*; pass tokenizer= to load$") as error:
        load(folder)
    one_line(error)


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("/no/such", "no such folder"),
        ("{bare}", "the folder holds no tokenizer"),
        ("gpt2", "'gpt2' is no local folder, and the"),
    ],
)
def test_a_tokenizer_asked_for_by_name(tmp_path: Path, tiny_llama: PreTrainedModel, where: str, words: str) -> None:
    with pytest.raises(LoadError, match=words) as error:
        load(tiny_llama, tokenizer=where.format(bare=tmp_path))
    one_line(error)


def test_a_zoo_model_that_is_none() -> None:
    with pytest.raises(UnknownNameError, match="unknown zoo model 'no-such-model'"):
        load("zoo/no-such-model")


# digests


def test_a_folders_digest_is_of_its_weight_files(folder: Path, tmp_path: Path) -> None:
    digest = load(folder, check=False).digest
    assert re.fullmatch("[0-9a-f]{16}", digest)
    copy = tmp_path / "elsewhere"
    shutil.copytree(folder, copy)
    assert load(copy, check=False).digest == digest, "the place does not matter"
    (copy / "README.md").write_text("text")
    assert load(copy, check=False).digest == digest, "nor what is not weights"
    file = copy / "model.safetensors"
    tensors = load_file(file)
    tensors["transformer.wpe.weight"][0, 0] += 1
    save_file(tensors, file, metadata={"format": "pt"})
    assert load(copy, check=False).digest != digest


@pytest.mark.parametrize(
    "architecture",
    ["gpt2", "llama", "gpt-neox", "bloom", "bert", "gemma2", "mixtral", "gpt-oss", "jamba", "deepseek-v3"],
)
def test_sites_on_the_meta_device_are_where_they_are_with_weights(architecture: str) -> None:
    """Which of several tensors is what attention adds, and how a fused map is divided, only numbers say: a twin's."""
    with torch.device("meta"):
        bare = load(architectures.ARCHITECTURES[architecture]().eval())
    real = load(architectures.build(architecture))
    assert bare.sites() == real.sites()
    assert {site: bare.taps(site) for site in bare.sites()} == {site: real.taps(site) for site in real.sites()}
    assert {site: bare.sizes_at(site) for site in bare.sites()} == {site: real.sizes_at(site) for site in real.sites()}


def test_a_model_on_the_meta_device_lists_its_sites_with_their_sizes() -> None:
    """Nothing is computed: what structure proposes, in the shapes of a pass without numbers."""
    with torch.device("meta"):
        bare = load(GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=48, n_head=6, vocab_size=97)))
    real = load(GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=48, n_head=6, vocab_size=97)))
    assert bare.sites() == real.sites()
    assert [bare.sizes_at(site) for site in bare.sites()] == [real.sizes_at(site) for site in real.sites()]
    assert (bare.probe, bare.stack_refused) == (None, "its weights are on the meta device")


def test_loading_says_what_it_does(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    load("zoo/induction-2l", progress=True)
    told = capsys.readouterr().err
    steps = [
        "reading weights",
        "finding sites",
        "proving sites",
        "trying padding",
        "trying attention",
        "trying blocks one by one",
    ]
    places = [told.index(f"loading: {step} (") for step in steps]
    assert places == sorted(places)
    load("zoo/induction-2l", progress=False)
    assert "loading: " not in capsys.readouterr().err
    monkeypatch.setattr(loading, "_PATIENCE", 1000.0)
    load("zoo/induction-2l")
    assert "loading: " not in capsys.readouterr().err
