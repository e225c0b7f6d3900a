"""Pages of the app, as tests read them."""


def texts(component):
    """All text of a page, in order."""
    if component is None or isinstance(component, str | int | float):
        return [str(component)] if component not in (None, "") else []
    if isinstance(component, list | tuple):
        return [text for one in component for text in texts(one)]
    return texts(getattr(component, "children", None))
