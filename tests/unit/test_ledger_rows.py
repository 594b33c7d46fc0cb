"""Rows: what they hold, how big they are, and what fits where."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyanamo_core.ledger import expressions as x
from pyanamo_core.ledger import rows
from pyanamo_core.model import Definition, Item, PilotRecord, State

TEXT = st.text(max_size=40)


def test_sizes_are_those_of_the_developer_guide() -> None:
    row = {"name": {"S": "é"}, "n": {"N": "12345"}, "list": {"L": [{"S": "ab"}]}, "map": {"M": {"k": {"BOOL": True}}}}
    assert rows.size(row) == (4 + 2) + (1 + 4) + (4 + 3 + 1 + 2) + (3 + 3 + 1 + 1 + 1)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | TEXT, lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner)
    )
)
def test_plain_values_come_back(value: object) -> None:
    assert rows.unpack(rows.pack(value)) == value


@given(st.integers(0, 2**41).map(lambda ms: ms / 1000))
def test_times_come_back_to_the_millisecond(when: float) -> None:
    assert rows.date_time(rows.date_text(when)) == when
    assert x.due_time(x.due_at(when)) == when
    assert rows.unpack(rows.pack(when)) == when


@given(st.text(min_size=1, max_size=200), st.lists(TEXT, max_size=30))
def test_an_inline_definition_leaves_room_for_the_rest_of_the_row(item_id: str, values: list[str]) -> None:
    item = Item(item_id=item_id, task_id="t", state=State.TODO)
    definition = Definition(script="bash call.sh", arguments=tuple(values))
    room = rows.ITEM_ROW_BYTES - rows.size(rows._fullest(item_id, "t")) - len("message") - rows.MESSAGE_BYTES
    assert rows.fits_inline(item, definition) == (rows.size(rows.definition_attributes(definition)) <= room)


@pytest.mark.parametrize("length", [1, 40, 256])
def test_the_fullest_row_with_its_message_has_at_most_920_bytes(length: int) -> None:
    full = rows._fullest("i" * length, "t" * 64)
    item = Item(item_id="i" * length, task_id="t" * 64, state=State.FAILED, message="m" * 500)
    told = rows.with_message(item).message
    assert rows.size(full | ({"message": {"S": told}} if told else {})) <= 920


def test_a_long_definition_is_cut_between_values_into_rows_of_at_most_300_kb() -> None:
    definition = Definition(script="s" * 1000, arguments=tuple(str(n) * 50 for n in range(10_000)))
    found = rows.definition_rows("NA12878", definition, 1_800_000_000.0)
    assert len(found) == 7
    assert all(rows.size(row) < 400_000 for row in found)
    assert [row["row"]["S"][-3:] for row in found] == [f"{n:03d}" for n in range(7)]
    assert rows.read_definition(found) == definition
    assert rows.read_definition(found[:-1]) is None
    assert rows.read_definition(found[1:]) is None


def test_texts_are_cut_between_letters() -> None:
    assert rows.clipped("ééé", 5) == "éé"
    assert rows.clipped_end("ééé", 5) == "éé"
    assert rows.clipped("abc", 3) == rows.clipped_end("abc", 3) == "abc"


def test_each_attribute_name_in_an_expression_is_given_a_hash() -> None:
    # Given every condition and update of the ledger
    told = [value for name, value in vars(x).items() if name.isupper() and isinstance(value, str) and ":" in value]
    assert len(told) > 25
    # Then no bare word is left but DynamoDB's own grammar, so that no reserved word can ever bite
    for text in told:
        (hashed,), names = x.named(text.format(sequence="n0") if "{" in text else text)
        bare = set(re.findall(r"(?<![:#\w])[A-Za-z_]\w*", hashed))
        assert bare <= {"SET", "REMOVE", "AND", "OR", "IN", "size", "attribute_exists", "attribute_not_exists"}
        assert all(f"#{name}" == alias for alias, name in names.items())


def test_items_of_a_sheet_spread_over_all_shards() -> None:
    found = [rows.shard_of(f"HG{number:05d}", 16) for number in range(3200)]
    assert min(found.count(shard) for shard in range(16)) > 100


def test_a_pilot_s_index_keys_follow_from_its_row_as_it_is_read_again() -> None:
    # Given last beats of any fraction, also some that round the other way once they are cut to the digits of a row
    for fraction in (0.734504, 0.734496, 0.7345, 0.0005, 0.99951):
        record = PilotRecord(pilot_id="p", last_beat=1_795_466_010 + fraction)
        row = rows.pilot_row(record, 4)
        # When a row is read and written again, then nothing changes: fsck compares them so
        assert rows.pilot_row(rows.read_pilot(row), 4) == row
