"""Each dimension's rule in SQL and its rule in Python are one rule, under the number that clients use."""

from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

import psycopg
import pytest
from footfall.query.v1 import query_pb2
from footfall.type.v1 import event_pb2

from common.db import plain_url
from common.dimensions import (
    BY_NUMBER,
    EVENT_DIMENSIONS,
    OVERVIEW,
    SESSION_DIMENSIONS,
    Dimension,
    EventDimension,
    EventType,
    KeyedEvent,
)
from common.tables.derived import sessions

TEXTS = (
    "name",
    "path",
    "referrer",
    "utm_source",
    "utm_medium",
    "utm_campaign",
    "device",
    "browser",
    "os",
    "country",
)


class Drawn(NamedTuple):
    """An event as far as its keys depend on it."""

    type: int
    name: str | None
    path: str | None
    referrer: str | None
    utm_source: str | None
    utm_medium: str | None
    utm_campaign: str | None
    device: str | None
    browser: str | None
    os: str | None
    country: str | None


# A TRACK without a name is rejected before it is stored.
COMBINATIONS = [
    Drawn(kind, *(f"the {name}" if there else None for name, there in zip(TEXTS, present, strict=True)))
    for kind in EventType
    for present in product((True, False), repeat=len(TEXTS))
    if present[0] or kind is not EventType.TRACK
]


@pytest.fixture(scope="module")
def connection(postgres_url: str) -> Iterator[psycopg.Connection[tuple[str | None]]]:
    with psycopg.connect(plain_url(postgres_url)) as connection:
        columns = ", ".join(f"{name} text" for name in TEXTS)
        connection.execute(f"CREATE TEMPORARY TABLE combinations (n serial, type smallint, {columns})")
        with connection.cursor().copy(f"COPY combinations (type, {', '.join(TEXTS)}) FROM STDIN") as copy:
            for event in COMBINATIONS:
                copy.write_row(event)
        yield connection
        connection.rollback()


@pytest.mark.parametrize("dimension", EVENT_DIMENSIONS, ids=lambda dimension: dimension.column or "overview")
def test_both_rules_give_the_same_key_whatever_fields_are_there(
    connection: psycopg.Connection[tuple[str | None]], dimension: EventDimension
) -> None:
    events: list[KeyedEvent] = [*COMBINATIONS]
    found = connection.execute(f"SELECT {dimension.sql} FROM combinations e ORDER BY n").fetchall()
    assert [key for (key,) in found] == [dimension.key(event) for event in events]


def test_the_numbers_are_those_of_the_contract() -> None:
    contract = {
        number: name.removeprefix("DIMENSION_").lower() for name, number in query_pb2.Dimension.items() if number
    }
    assert {number: dimension.column for number, dimension in BY_NUMBER.items()} == contract


def test_the_event_types_are_those_of_the_contract() -> None:
    contract = {name.removeprefix("EVENT_TYPE_"): number for name, number in event_pb2.EventType.items() if number}
    assert {kind.name: kind.value for kind in EventType} == contract


def test_every_dimension_has_a_number_of_its_own_and_a_column_of_sessions() -> None:
    every: tuple[Dimension, ...] = (*EVENT_DIMENSIONS, *SESSION_DIMENSIONS)
    assert len({dimension.number for dimension in every}) == len(every)
    for dimension in every:
        assert dimension.column in sessions.c or dimension is OVERVIEW
