"""How annotations are checked in tests: jaxtyping calls ``beartype`` below on every function and dataclass of the package."""

from typing import Any, Self

import beartype as _beartype
import numpy as np

_CONFIGURATION = _beartype.BeartypeConf(
    hint_overrides=_beartype.FrozenDict(
        {
            Self: object,  # jaxtyping decorates methods one by one, where beartype cannot know which class Self is
            np.ndarray[Any, Any]: np.ndarray,  # valid, yet refused by beartype
        }
    )
)

beartype = _beartype.beartype(conf=_CONFIGURATION)
