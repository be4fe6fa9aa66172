"""Text that is read as the type of a present value, or refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignet_jax import artifacts, typed

KINDS = (
  st.booleans(),
  st.integers(),
  st.floats(allow_nan=False),
  st.text(),
)
SCALARS = st.one_of(*KINDS)
SEQUENCES = st.one_of(
  *(st.lists(kind, min_size=1, max_size=5) for kind in KINDS)
)


@given(value=st.one_of(SCALARS, SEQUENCES, SEQUENCES.map(tuple)))
def test_what_str_writes_is_read_back(value):
  parsed = typed.parse(str(value), value, "x")
  assert parsed == value
  assert type(parsed) is type(value)


@given(present=SCALARS, text=st.text())
def test_any_text_is_read_as_the_type_or_refused_by_name(present, text):
  try:
    parsed = typed.parse(text, present, "config.x")
  except artifacts.InputError as error:
    assert str(error).startswith("config.x is ")
    assert repr(text) in str(error)
  else:
    assert type(parsed) is type(present)


@given(texts=st.lists(st.text(alphabet="abc01.-", min_size=1), min_size=1))
def test_words_need_neither_quotes_nor_brackets(texts):
  expected = tuple(texts)
  for text in (",".join(texts), f"({','.join(texts)},)", ", ".join(texts)):
    assert typed.parse(text, ("word",), "x") == expected


@pytest.mark.parametrize(
  ("value", "text"),
  [
    (True, "true or false (now True)"),
    (3, "an int (now 3)"),
    (0.5, "a float (now 0.5)"),
    ("s", "a str (now 's')"),
    ((1, 2), "a tuple (now (1, 2))"),
    ([1], "a list (now [1])"),
  ],
)
def test_describe(value, text):
  assert typed.describe(value) == text
