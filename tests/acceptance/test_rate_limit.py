"""A site may send so many events a second; over that its calls are told when to come again, its streams wait."""

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import grpc
from footfall.ingest.v1 import ingest_pb2

from tests.support.commands import footfall
from tests.support.footfall_site import FootfallSite
from tests.support.processes import eventually
from tests.support.pushback import pushback_of
from tests.support.refusals import invalid, refusal_of
from tests.support.traffic import batch_of, made_up

if TYPE_CHECKING:
    from tests.support.suite import Suite

EVENTS = made_up(51, visitors=5, events=200)
OWED = EVENTS[:100]
"""At one event a second, a site that has sent these owes 99 seconds."""
MORE = EVENTS[100:110]


def set_rate(suite: "Suite", site: FootfallSite, rate: int) -> None:
    code, output = footfall(suite, "sites", "update", site.slug, "--max-events-per-second", rate)
    assert code == 0, output


def is_taken(site: FootfallSite) -> bool:
    try:
        site.send(batch_of(MORE))
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
            raise
        return False
    return True


def test_a_call_over_the_rate_is_refused_whole_with_its_delay_until_the_rate_changes(suite: "Suite") -> None:
    site = FootfallSite(suite, "rate", max_events_per_second=1)
    assert site.send(batch_of(OWED)).accepted == len(OWED)
    refused = pushback_of(site.send, batch_of(MORE))
    assert refused[:2] == (grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED")
    assert 60_000 < refused.retry_ms <= 100_000
    assert len(site.events()) == len(OWED)
    assert FootfallSite(suite, "unlimited").send(batch_of(MORE)).accepted == len(MORE)
    set_rate(suite, site, 0)
    eventually(lambda: is_taken(site))


def test_a_batch_that_is_refused_for_another_reason_takes_nothing_of_the_rate(suite: "Suite") -> None:
    site = FootfallSite(suite, "wrong", max_events_per_second=1)
    too_many = ingest_pb2.IngestBatchRequest(events=[ingest_pb2.Event() for _ in range(501)])
    assert refusal_of(site.send, too_many) == invalid("BATCH_TOO_MANY_EVENTS", "events")
    assert site.send(batch_of(OWED)).accepted == len(OWED)


def test_a_stream_over_the_rate_waits_and_goes_on_when_the_rate_is_raised(suite: "Suite") -> None:
    site = FootfallSite(suite, "slow", max_events_per_second=1)
    requests = [ingest_pb2.IngestStreamRequest(events=batch_of(events).events) for events in (OWED, MORE)]
    answers: Any = site.ingest.IngestStream(iter(requests), metadata=site.as_sender, timeout=60)
    assert next(answers).accepted == len(OWED)
    with ThreadPoolExecutor() as pool:
        second = pool.submit(next, answers)
        assert pushback_of(site.send, batch_of(MORE)).reason == "RATE_LIMITED"
        assert not second.done()
        set_rate(suite, site, 1_000_000)
        assert second.result().accepted == len(MORE)


def test_the_command_sets_the_rate_of_a_new_site_and_refuses_an_impossible_one(suite: "Suite") -> None:
    slug = f"made-{uuid4().hex[:8]}"
    code, output = footfall(suite, "sites", "create", slug, "--max-events-per-second", 7)
    assert code == 0, output
    line = next(line for line in footfall(suite, "sites", "list")[1].splitlines() if slug in line)
    assert " 7 " in line
    code, output = footfall(suite, "sites", "update", slug, "--max-events-per-second", -1)
    assert code != 0
    assert "max_events_per_second" in output
    assert footfall(suite, "sites", "update", slug)[0] != 0
