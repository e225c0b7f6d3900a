"""Rows of attention alone: where queries are found among others, and writes that change the same in part and whole."""

from __future__ import annotations

import torch

from interp.models.queries import AtQueries, Queries, QueryWrite


def test_pairs_in_any_order_become_rows_with_their_columns() -> None:
    queries = Queries.of(torch.tensor([4, 0, 4, 4, 0]), torch.tensor([7, 2, 1, 7, 2]))
    assert queries.rows.tolist() == [0, 4]
    assert queries.columns.tolist() == [[2, -1], [1, 7]]
    number, slot = queries.find(torch.tensor([4, 0, 4]), torch.tensor([7, 2, 1]))
    assert (number.tolist(), slot.tolist()) == ([1, 0, 1], [1, 0, 0])


def test_what_is_picked_is_what_plain_indexing_gives(seed: int) -> None:
    tensor = torch.randn(5, 3, 8, 2, generator=torch.Generator().manual_seed(seed))
    picked = Queries.of(torch.tensor([4, 0, 4]), torch.tensor([7, 2, 1])).picked(tensor)
    assert torch.equal(picked[1, :, 1], tensor[4, :, 7])
    assert torch.equal(picked[1, :, 0], tensor[4, :, 1])
    assert torch.equal(picked[0, :, 0], tensor[0, :, 2])


def test_no_pairs_are_no_queries() -> None:
    none = Queries.of(torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long))
    assert none.picked(torch.ones(2, 3, 4, 5)).shape == (0, 3, 0, 5)


def test_a_write_changes_the_same_in_part_and_whole(seed: int) -> None:
    h = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    write = AtQueries(torch.tensor([1, 4]), lambda rows: rows.cumsum(-1) + rows.shape[2])
    whole = write(h)
    expected = h.clone()
    expected[:, :, [1, 4]] = h[:, :, [1, 4]].cumsum(-1) + 2
    assert torch.equal(whole, expected)
    some = Queries.every(2, torch.tensor([0, 1, 4]))
    assert torch.equal(write.partly(some.picked(h), some), expected[:, :, [0, 1, 4]])
    assert isinstance(write, QueryWrite)
    assert not isinstance(lambda h: h, QueryWrite)
