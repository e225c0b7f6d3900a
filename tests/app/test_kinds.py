"""Results of every kind that the workbench makes, on a model of the zoo: each is drawn by the view that is made for it."""

import pytest

import interp
from interp.app import answers, behind, prompts
from interp.app.data import Library
from interp.store import Store


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A store with a run of each kind, and their ids."""
    model, store = interp.load("zoo/language-4l"), Store(tmp_path_factory.mktemp("kinds"))
    pairs = interp.tasks.ioi(4, seed=0, templates=[0], order="ABBA", tokenizer=model.tokenizer)
    text = pairs[0].clean.text
    results = {
        "lens": interp.lens(model, text),
        "attention": interp.attention(model, text),
        "dla": interp.dla(model, pairs),
        "edges": interp.patch_edges(model, pairs, metric="logit_diff"),
        "copying": interp.weights.copying_score(model),
        "gates": interp.gate_heads(model, pairs, seeds=2, updates=1, batch=2),
    }
    return Library(store), {name: store.save(result, name=name).id for name, result in results.items()}


@pytest.mark.parametrize(
    ("kind", "title"),
    [
        ("lens", "logit lens of resid_post: probability of the most probable token"),
        ("attention", "attention pattern of L2H1"),
        ("dla", "direct logit attribution: what each term adds"),
        ("edges", "damage of logit_diff, sender by receiver"),
        ("copying", "copying"),
        ("gates", "roles of z"),
    ],
)
def test_each_kind_has_its_drawing(kept, kind, title):
    library, ids = kept
    figure = answers.draw(library, [ids[kind]], {"at": {"layer": 2, "head": 1}})["a"].figure
    assert figure.layout.title.text.startswith(title)


def test_each_kind_has_its_choices(kept):
    library, ids = kept
    first = {kind: next(iter(answers.choose(library, [run], {}).options["view"]))[0] for kind, run in ids.items()}
    assert first == {
        "lens": "lens",
        "attention": "attention",
        "dla": "dla",
        "edges": "edges",
        "copying": "map",
        "gates": "gates",
    }
    for view, title in (("circuit", "edges: damage of logit_diff"), ("paths", "paths: damage of logit_diff")):
        assert answers.draw(library, [ids["edges"]], {"view": view})["a"].figure.layout.title.text.startswith(title)
    heads = answers.draw(library, [ids["dla"]], {"view": "map"})["a"].figure
    assert heads.layout.title.text.startswith("contribution to the logit difference, layer by head")
    alone = answers.draw(library, [ids["dla"]], {"example": "2"})["a"].figure
    assert "example 2" in alone.layout.title.text
    for kind, run in ids.items():
        for view, _ in answers.choose(library, [run], {}).options["view"]:
            panel = answers.draw(library, [run], {"view": view})["a"]
            assert panel.figure is not None or view == "table", (kind, view, panel.said)


def test_a_click_on_a_lens_tells_its_tokens_and_marks_the_prompt(kept):
    library, ids = kept
    run = [ids["lens"]]
    cell = behind.clicked(library, run, {}, "a", {"x": 5, "y": 2}, {})
    assert cell["cell"] == {"position": 5, "layer": 2}
    shown = str(behind.detail(library, run, {}, cell, "plotly_white"))
    likeliest = library.open(ids["lens"]).result["token"].values[0, 2, 5, 0]
    assert repr(likeliest) in shown.replace("\\'", "'")
    assert str(behind.prompt(library, run, {}, cell, 0)).count("token marked") == 2  # one token, and the legend


def test_a_role_is_marked_where_the_recipe_says_that_it_is(tmp_path):
    from interp.engine.recipe import recorded

    model, store = interp.load("zoo/language-4l"), Store(tmp_path)
    pairs = interp.tasks.ioi(3, seed=0, tokenizer=model.tokenizer)
    where = interp.grid("resid_pre", layer=..., position=["S2", "END"])
    effects = interp.patch(model, pairs, where, "logit_diff")
    run = store.save(effects, beside=recorded("patch", model, model.encode(pairs), where=where, metric="logit_diff"))
    library = Library(store)
    for example, pair in enumerate(pairs):
        for at, role in enumerate(["S2", "END"]):
            shown = prompts.prompts(effects, example, {"layer": 0, "position": at}, library.recipe(run.id))
            for side, prompt in zip(shown, (pair.clean, pair.corrupted), strict=True):
                start, end = prompt.roles[role]
                assert [t.text.strip(' ,:."') for t in side.tokens if t.marked] == [prompt.text[start:end]]
    page = behind.prompt(library, [run.id], {}, {"cell": {"layer": 0, "position": 0}}, 1)
    assert str(page).count("marked") == 3  # one word in each prompt, and the legend
    assert library.recipe(store.save(effects.assign_attrs(spec="another")).id) is None


def test_a_result_of_any_kind_is_downloaded(kept):
    library, ids = kept
    for run in ids.values():
        for ending in ("csv", "nc", "html"):
            content, name = answers.save(library, [run], {}, "a", ending)
            assert len(content) > 300
            assert name.endswith(ending)
