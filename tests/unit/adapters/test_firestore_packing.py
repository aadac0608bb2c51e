"""Every JSON value survives the round trip through Firestore's types."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from muster_coordinator.adapters.firestore import _pack, _unpack

KEYS = st.sampled_from(["a", "[]", "[]]", "[]]]", "[", "[]x"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=12,
)


def lists_in_lists(value):
    if isinstance(value, dict):
        return any(map(lists_in_lists, value.values()))
    return isinstance(value, list) and any(isinstance(item, list) or lists_in_lists(item) for item in value)


@given(st.dictionaries(KEYS, VALUES, max_size=3))
def test_packed_value_has_no_nested_list_and_unpacks_equal(data):
    packed = _pack(data)
    assert not lists_in_lists(packed)
    assert _unpack(packed) == data
