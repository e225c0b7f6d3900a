"""Damaged stores (see tests/support/fuzz.py)."""

from fuzz import fuzz

ROUNDS = 100


def test_damage_is_never_a_crash_nor_a_wrong_number(tmp_path, seed):
    seen = fuzz(tmp_path, ROUNDS, seed)
    assert seen["refused"] > 2 * ROUNDS  # several things are tried of a damaged run
    assert 0 < seen["untouched"] < ROUNDS  # a file that nothing depends on, such as the index
