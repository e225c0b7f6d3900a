"""What happens when something is chosen or clicked: the wires between the page and what answers it.

That is :mod:`interp.app.answers` of pages and figures, :mod:`interp.app.behind` of what stands behind them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dash import ALL, Dash, Input, Output, State, ctx, no_update
from dash.dcc.express import send_bytes
from dash.exceptions import PreventUpdate

from interp.app import answers, behind, drawing, listing, pages, parts
from interp.app.choices import CONTROLS, TABLE
from interp.app.data import Library
from interp.errors import StoreError, UserError
from interp.store.run import COMPLETE, DAMAGED

_AT = {"places": State({"type": "at", "axis": ALL}, "value"), "axes": State({"type": "at", "axis": ALL}, "id")}

SOON, LATER = 3_000, 20_000
"""Milliseconds between two looks at the list, while a run in it grows and while none does."""

_TOGGLE = """
function(clicks, kept) {
    const own = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
    let theme = kept || own;
    if (clicks) { theme = theme === "dark" ? "light" : "dark"; }
    document.documentElement.dataset.theme = theme;
    return theme;
}
"""


def register(app: Dash, library: Library) -> None:
    """Wire the page."""
    app.clientside_callback(_TOGGLE, Output("theme", "data"), Input("toggle", "n_clicks"), State("theme", "data"))

    app.clientside_callback("() => window.innerWidth", Output("room", "data"), Input("url", "pathname"))

    @app.callback(Output("page", "children"), Input("url", "pathname"))
    def _route(path: str | None) -> Any:
        return answers.route(library, path)

    _register_list(app, library)
    _register_maps(app, library)
    _register_cells(app, library)


def _register_list(app: Dash, library: Library) -> None:
    columns = (*listing.MENUS, "tags")

    @app.callback(
        output=(
            Output("runs", "children"),
            Output("picked", "children"),
            Output("page-number", "data"),
            Output("list-tick", "interval"),
            {column: Output(f"by-{column}", "options") for column in columns},
        ),
        inputs={
            "asked": {
                "text": Input("text", "value"),
                "since": Input("days", "start_date"),
                "until": Input("days", "end_date"),
                "sort": Input("sort", "value"),
                **{column: Input(f"by-{column}", "value") for column in columns},
            },
            "turns": Input({"type": "turn", "by": ALL}, "n_clicks"),
            "tick": Input("list-tick", "n_intervals"),
            "picks": Input("picks", "data"),
        },
        state={
            "number": State("page-number", "data"),
            "offered": {column: State(f"by-{column}", "options") for column in columns},
        },
    )
    def _list(
        asked: dict[str, Any], turns: list[int], tick: Any, picks: list[str] | None, number: int, offered: dict[str, Any]
    ) -> tuple[Any, ...]:
        runs = library.table()
        found = listing.filtered(runs, **{key: value for key, value in asked.items() if value})
        pressed = ctx.triggered_id
        if isinstance(pressed, dict) and pressed["type"] == "turn":
            number += pressed["by"] if any(turns) else 0
        elif pressed not in ("list-tick", "picks"):
            number = 0
        growing = ~runs["status"].isin([COMPLETE, DAMAGED])
        picked = [run_id for run_id in picks or [] if run_id in set(runs["id"])]
        menus = {column: no_update if offered[column] == now else now for column, now in listing.offered(runs).items()}
        soon = SOON if growing.any() or not len(runs) else LATER
        return listing.rows(found, number, picked, len(runs)), listing.picked(picked), number, soon, menus

    @app.callback(
        output=Output("picks", "data"),
        inputs={"values": Input({"type": "pick", "run": ALL}, "value")},
        state={"ids": State({"type": "pick", "run": ALL}, "id"), "picks": State("picks", "data")},
        prevent_initial_call=True,
    )
    def _pick(values: list[list[str]], ids: list[dict[str, str]], picks: list[str] | None) -> Any:
        before = list(picks or [])
        on = {identity["run"]: bool(value) for identity, value in zip(ids, values, strict=True)}
        after = [run for run in before if on.get(run, True)] + [
            run for run, ticked in on.items() if ticked and run not in before
        ]
        return after if after != before else no_update


def _register_maps(app: Dash, library: Library) -> None:
    @app.callback(
        output={
            "options": [Output(control, "options") for control in CONTROLS],
            "values": [Output(control, "value") for control in CONTROLS],
            "hidden": [Output(f"{control}-field", "hidden") for control in CONTROLS],
            "sliders": Output("sliders", "children"),
            "choice": Output("choice", "data"),
        },
        inputs={"stamp": Input("stamp", "data"), "values": [Input(control, "value") for control in CONTROLS]},
        state={"ids": State("ids", "data"), "before": State("choice", "data"), "at": _AT},
    )
    def _choose(stamp: Any, values: list[Any], ids: list[str], before: dict[str, Any] | None, at: Any) -> dict[str, Any]:
        offer = answers.choose(library, ids, _wanted(dict(zip(CONTROLS, values, strict=True)), at))
        options = [[{"value": value, "label": label} for value, label in offer.options[control]] for control in CONTROLS]
        same = before is not None and before["sliders"] == offer.sliders
        return {
            "options": options,
            "values": [offer.values[control] for control in CONTROLS],
            "hidden": [len(offered) < 2 for offered in options],
            "sliders": no_update
            if same
            else [pages.slider(a, names, offer.choice.at[a]) for a, names in offer.sliders.items()],
            "choice": offer.choice.spec() | {"sliders": offer.sliders},
        }

    @app.callback(
        output=Output({"type": "panel", "of": ALL}, "children"),
        inputs={
            "choice": Input("choice", "data"),
            "places": Input({"type": "at", "axis": ALL}, "value"),
            "theme": Input("theme", "data"),
            "stamp": Input("stamp", "data"),
        },
        state={
            "axes": State({"type": "at", "axis": ALL}, "id"),
            "panels": State({"type": "panel", "of": ALL}, "id"),
            "ids": State("ids", "data"),
            "room": State("room", "data"),
        },
    )
    def _draw(choice: Any, places: Any, theme: Any, stamp: Any, axes: Any, panels: Any, ids: list[str], room: Any) -> list[Any]:
        if choice is None:
            raise PreventUpdate
        wanted = _wanted(choice, {"places": places, "axes": axes})
        drawn = answers.draw(library, ids, wanted, _template(theme), room)
        kind = "-".join(filter(None, (choice["family"], choice["view"], choice["x"], choice["y"])))
        return [answers.on_screen(panel["of"], drawn[panel["of"]], kind) for panel in panels]

    @app.callback(
        output=(Output("strongest", "children"), Output("strongest-card", "hidden"), Output("detail-card", "hidden")),
        inputs={"choice": Input("choice", "data"), "stamp": Input("stamp", "data")},
        state={"ids": State("ids", "data")},
    )
    def _strongest(choice: Any, stamp: Any, ids: list[str]) -> tuple[Any, bool, bool]:
        if choice is None:
            raise PreventUpdate
        found = behind.strongest(library, ids, choice)
        return found, found is None, found is None and choice["view"] == TABLE

    @app.callback(
        output=(Output("banner", "children"), Output("stamp", "data"), Output("tick", "disabled")),
        inputs={"tick": Input("tick", "n_intervals")},
        state={"ids": State("ids", "data"), "stamp": State("stamp", "data")},
        prevent_initial_call=True,
    )
    def _follow(tick: int, ids: list[str], stamp: list[str]) -> tuple[Any, ...]:
        try:
            runs = answers.opened(library, ids)
        except StoreError as error:
            return parts.note(f"{error}; it was removed while it was shown", "note bad"), no_update, True
        now = [opened.stamp for opened in runs]
        if now == stamp:
            raise PreventUpdate
        return pages.banner(runs), now, not any(opened.grows for opened in runs)

    @app.callback(
        output=Output("download", "data"),
        inputs={"clicks": Input({"type": "save", "of": ALL, "as": ALL}, "n_clicks")},
        state={"choice": State("choice", "data"), "at": _AT, "ids": State("ids", "data")},
        prevent_initial_call=True,
    )
    def _save(clicks: list[int], choice: Any, at: Any, ids: list[str]) -> Any:
        pressed = ctx.triggered_id
        if not isinstance(pressed, dict) or not any(clicks) or choice is None:
            raise PreventUpdate
        try:
            content, filename = answers.save(library, ids, _wanted(choice, at), pressed["of"], pressed["as"])
        except UserError as error:
            content, filename = str(error).encode(), "why-not.txt"
        return send_bytes(content, filename)

    @app.callback(Output("url", "pathname"), Input("other", "value"), State("ids", "data"), prevent_initial_call=True)
    def _compare(other: str | None, ids: list[str]) -> Any:
        return f"/compare/{ids[0]}/{other}" if other else no_update


def _register_cells(app: Dash, library: Library) -> None:
    @app.callback(
        output=Output("cell", "data"),
        inputs={
            "points": Input({"type": "map", "of": ALL, "as": ALL}, "clickData"),
            "rows": Input({"type": "strong", "place": ALL, "of": ALL}, "n_clicks"),
        },
        state={
            "figures": State({"type": "map", "of": ALL, "as": ALL}, "figure"),
            "panels": State({"type": "map", "of": ALL, "as": ALL}, "id"),
            "at": _AT,
            "choice": State("choice", "data"),
            "ids": State("ids", "data"),
        },
        prevent_initial_call=True,
    )
    def _click(
        points: list[Any], rows: Any, figures: list[Any], panels: list[Any], at: Any, choice: Any, ids: list[str]
    ) -> Any:
        pressed = ctx.triggered_id
        if not isinstance(pressed, dict) or not ctx.triggered[0]["value"]:
            raise PreventUpdate
        if pressed["type"] == "strong":
            return {"cell": behind.place_of(pressed["place"]), "of": pressed["of"]}
        number = next(i for i, panel in enumerate(panels) if panel["of"] == pressed["of"])
        found = behind.clicked(library, ids, _wanted(choice, at), pressed["of"], points[number]["points"][0], figures[number])
        return found if found is not None else no_update

    @app.callback(
        output=Output("detail", "children"),
        inputs={
            "cell": Input("cell", "data"),
            "choice": Input("choice", "data"),
            "theme": Input("theme", "data"),
            "stamp": Input("stamp", "data"),
        },
        state={"ids": State("ids", "data"), "room": State("room", "data")},
    )
    def _detail(cell: Any, choice: Any, theme: Any, stamp: Any, ids: list[str], room: Any) -> Any:
        return behind.detail(library, ids, choice or {}, cell, _template(theme), room)

    @app.callback(
        output=Output("example-number", "data"),
        inputs={
            "clicks": Input({"type": "example", "index": ALL}, "n_clicks"),
            "points": Input({"type": "strip", "of": ALL}, "clickData"),
        },
        prevent_initial_call=True,
    )
    def _example(clicks: Any, points: list[Any]) -> Any:
        pressed, value = ctx.triggered_id, ctx.triggered[0]["value"]
        if not isinstance(pressed, dict) or not value:
            raise PreventUpdate
        number = pressed["index"] if pressed["type"] == "example" else value["points"][0].get("customdata")
        return number if isinstance(number, int) else no_update

    @app.callback(
        output=Output("prompts", "children"),
        inputs={
            "cell": Input("cell", "data"),
            "choice": Input("choice", "data"),
            "example": Input("example-number", "data"),
        },
        state={"ids": State("ids", "data")},
    )
    def _prompt(cell: Any, choice: Any, example: Any, ids: list[str]) -> Any:
        return behind.prompt(library, ids, choice or {}, cell, example if isinstance(example, int) else 0)


def _wanted(choice: Mapping[str, Any], at: Mapping[str, Any]) -> dict[str, Any]:
    """A choice with the axes where the sliders stand."""
    places = {identity["axis"]: place for identity, place in zip(at["axes"], at["places"], strict=True)}
    return {**choice, "at": {**(choice.get("at") or {}), **places}}


def _template(theme: Any) -> str:
    return drawing.DARK if theme == "dark" else drawing.LIGHT
