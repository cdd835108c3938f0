"""Which examples stood, packed and unpacked; what is damaged is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from deconfound.records import StudyExamples


@given(
    st.dictionaries(st.integers(0, 300), st.sampled_from([(True, True), (True, False), (False, False)]), max_size=40)
)
def test_examples_are_packed_and_come_back(stood):
    found = StudyExamples.packed(stood)
    assert found.stood == stood
    assert found.count == len(stood)
    assert StudyExamples.model_validate_json(found.model_dump_json()) == found


def test_five_hundred_examples_take_three_hundred_characters():
    found = StudyExamples.packed(dict.fromkeys(range(500), (True, False)))
    assert found == StudyExamples(indices="0-499", right="f" * 125, stands="0" * 125)


@pytest.mark.parametrize(
    ("indices", "digits"),
    [("a", "0"), ("-1", "0"), ("3-1", "0"), ("0-3,3", "00"), ("5,2", "0"), ("0-4", "f"), ("0-3", "ff"), ("0", "g")],
)
def test_what_is_damaged(indices, digits):
    with pytest.raises(ValidationError):
        StudyExamples(indices=indices, right=digits, stands=digits)
