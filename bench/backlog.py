"""A backlog of events to aggregate: the traffic of two hours, in the batches of many senders.

A session has five events, and one in five visitors has two sessions: 300,000 events are of 50,000 visitors and 60,000
sessions. The events of a session are about half a minute apart, and so in different batches, between events of other
visitors.
"""

import random
import time

from footfall.ingest.v1 import ingest_pb2
from footfall.type.v1 import event_pb2
from google.protobuf.timestamp_pb2 import Timestamp

from bench.events import uuid7
from bench.own_suite import Stage
from bench.senders import call_all

EVENTS_A_SESSION = 5
PAGES = 2_000
_SESSIONS_A_ROUND = 6
_VISITORS_A_ROUND = 5
_EVENTS_A_BATCH = 500
_SENDERS = 8
_SPAN_SECONDS = 7_200
_GAP_SECONDS = 30.0
_MICROS = 1_000_000


def make_backlog(events: int, seed: int = 3) -> list[bytes]:
    """Encoded batches, oldest events first. All events lie in the last two hours."""
    rng = random.Random(seed)
    begin = time.time() - _SPAN_SECONDS
    moments = []
    for session in range(events // EVENTS_A_SESSION):
        at = begin + rng.random() * (_SPAN_SECONDS - EVENTS_A_SESSION * 2 * _GAP_SECONDS)
        for _ in range(EVENTS_A_SESSION):
            moments.append((at, session))
            at += rng.random() * 2 * _GAP_SECONDS
    moments.sort()
    requests = []
    for start in range(0, len(moments), _EVENTS_A_BATCH):
        request = ingest_pb2.IngestBatchRequest()
        for at, session in moments[start : start + _EVENTS_A_BATCH]:
            _add(request, at, session, rng)
        requests.append(request.SerializeToString())
    return requests


def send_backlog(stage: Stage, key: str, requests: list[bytes]) -> int:
    """Sends the batches to ingest. Returns how many events were accepted."""
    return call_all(stage.connection.ingest, key, requests, _SENDERS).accepted


def _add(request: ingest_pb2.IngestBatchRequest, at: float, session: int, rng: random.Random) -> None:
    turn, place = divmod(session, _SESSIONS_A_ROUND)
    # The sixth session of a round is the second one of the round's first visitor.
    visitor = turn * _VISITORS_A_ROUND + place % _VISITORS_A_ROUND
    own = random.Random(visitor)
    micros = round(at * _MICROS)
    event = request.events.add(
        event_id=uuid7(),
        type=event_pb2.EVENT_TYPE_PAGEVIEW,
        visitor_id=f"visitor-{visitor:06d}-00000000",
        session_id=f"session-{session:08d}",
        path=f"/articles/{int(PAGES ** rng.random()) - 1:04d}",
        title="An article about something",
        referrer=own.choice(("", "https://www.example.org/search", "https://news.example.net/")),
        context=event_pb2.Context(
            source="web",
            device=own.choice(("desktop", "mobile", "tablet")),
            browser=own.choice(("Firefox", "Chrome", "Safari", "Edge")),
            os=own.choice(("Linux", "Windows", "macOS", "Android", "iOS")),
            country=own.choice(("DE", "FR", "US", "IN", "JP", "BR")),
            utm_source=own.choice(("", "", "newsletter", "ads")),
        ),
        occurred_at=Timestamp(seconds=micros // _MICROS, nanos=micros % _MICROS * 1_000),
    )
    if rng.random() < 0.1:
        event.type = event_pb2.EVENT_TYPE_TRACK
        event.name = "signup"
        event.properties.update({"plan": rng.choice(("free", "pro")), "seats": rng.randrange(10)})
