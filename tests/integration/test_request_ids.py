"""The id of a call is in its error, in its log lines and nowhere else; log lines name site and key, never a key."""

import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import grpc
import psycopg
import pytest
from footfall.admin.v1 import admin_pb2, admin_pb2_grpc
from footfall.ingest.v1 import ingest_pb2, ingest_pb2_grpc
from footfall.query.v1 import query_pb2, query_pb2_grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from tests.oracle.raw_events import DAY
from tests.support.footfall_site import FootfallSite, time_range
from tests.support.processes import Running, eventually, running_service
from tests.support.refusals import batch, event, queries

if TYPE_CHECKING:
    from tests.support.suite import Suite

VISIBLE = "".join(map(chr, range(0x21, 0x7F)))
LONGEST = VISIBLE[:64]


@pytest.fixture(scope="module")
def site(suite: "Suite") -> FootfallSite:
    return FootfallSite(suite, "request-ids")


def ids_of(call: Callable[..., object], *arguments: object, **options: object) -> tuple[str, str]:
    """The request id in the details of a refused call, and that in its trailers."""
    with pytest.raises(grpc.RpcError) as caught:
        call(*arguments, **options)
    error: Any = caught.value
    info = error_details_pb2.RequestInfo()
    status: Any = rpc_status.from_call(error)
    assert [detail.Unpack(info) for detail in status.details].count(True) == 1
    trailers = [value for name, value in error.trailing_metadata() if name == "x-request-id"]
    assert len(trailers) == 1
    return info.request_id, str(trailers[0])


def refused_calls(site: FootfallSite) -> Iterator[tuple[Callable[..., object], Any]]:
    """A call of each kind of RPC, without a key."""
    yield site.ingest.IngestBatch, batch(event())
    yield lambda request, **options: list(site.ingest.IngestStream(iter([request]), **options)), batch()
    yield site.operator.ListSites, admin_pb2.ListSitesRequest()
    yield from queries(site)


def test_every_error_has_the_id_that_its_caller_sent(site: FootfallSite) -> None:
    """In the details and in the trailers alike."""
    for call, request in refused_calls(site):
        for given in ("a", "trace/7f:3", LONGEST, VISIBLE[-64:]):
            assert ids_of(call, request, metadata=(("x-request-id", given),)) == (given, given)


@pytest.mark.parametrize("given", ["", " ", "a b", "x" * 65])
def test_an_id_that_is_none_is_replaced(site: FootfallSite, given: str) -> None:
    """Each call gets another."""
    found = {ids_of(site.ingest.IngestBatch, batch(), metadata=(("x-request-id", given),)) for _ in range(3)}
    assert len(found) == 3
    for in_details, in_trailers in found:
        assert in_details == in_trailers != given
        assert 1 <= len(in_details) <= 64
    assert ids_of(site.ingest.IngestBatch, batch()) not in found


class Lines:
    """The JSON lines of a process."""

    def __init__(self, running: Running) -> None:
        self._log = running.log

    def of(self, request_id: str) -> list[dict[str, Any]]:
        return [line for line in self.all() if line.get("request_id") == request_id]

    def all(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._log.read_text().splitlines(keepends=True) if line.endswith("\n")]


@pytest.fixture
def service(suite: "Suite") -> Iterator[Callable[..., tuple[grpc.Channel, Lines]]]:
    """Starts a service that logs JSON; gives a channel to it and its lines."""
    with _Started(suite) as started:
        yield started.start


class _Started:
    def __init__(self, suite: "Suite") -> None:
        self._suite = suite
        self._open: list[Any] = []

    def __enter__(self) -> "_Started":
        return self

    def __exit__(self, *_: object) -> None:
        for one in reversed(self._open):
            one.__exit__(None, None, None)

    def start(self, name: str, **settings: str) -> tuple[grpc.Channel, Lines]:
        environment = {
            "FOOTFALL_DATABASE_URL": self._suite.database_url,
            "FOOTFALL_SCHEDULE": "off",
            "FOOTFALL_LOG_FORMAT": "json",
            **settings,
        }
        context = running_service(name, self._suite.data_dir, environment)
        running = context.__enter__()
        channel = grpc.insecure_channel(running.address)
        self._open += [context, channel]
        channel.__enter__()
        return channel, Lines(running)


def test_a_line_of_a_call_says_which_call_it_was(
    service: Callable[..., tuple[grpc.Channel, Lines]], site: FootfallSite, database: psycopg.Connection[Any]
) -> None:
    """With all calls logged: one line each, with what an operator searches for, and no key."""
    channel, lines = service("ingest", FOOTFALL_LOG_CALLS="all")
    stub = ingest_pb2_grpc.IngestServiceStub(channel)
    stub.IngestBatch(batch(event()), metadata=(*site.as_sender, ("x-request-id", "good")))
    assert (
        len(
            list(
                stub.IngestStream(
                    iter([ingest_pb2.IngestStreamRequest(events=[event()])] * 3),
                    metadata=(*site.as_sender, ("x-request-id", "stream")),
                )
            )
        )
        == 3
    )
    ids_of(stub.IngestBatch, batch(), metadata=(("x-write-key", "fw_nobodys"), ("x-request-id", "bad")))
    for request_id, rpc, code in (
        ("good", "IngestBatch", "OK"),
        ("stream", "IngestStream", "OK"),
        ("bad", "IngestBatch", "UNAUTHENTICATED"),
    ):
        (line,) = eventually(lambda of=request_id: lines.of(of))  # type: ignore[misc]  # it is a lambda's default
        assert line["rpc"] == f"footfall.ingest.v1.IngestService/{rpc}"
        assert line["code"] == code
        assert 0 < line["seconds"] < 60
        if code == "OK":
            row = database.execute(
                "SELECT key_id FROM api_keys k JOIN sites s USING (site_id) WHERE s.slug = %s AND k.name = 'first'",
                (site.slug,),
            ).fetchone()
            assert row is not None
            assert (line["site"], line["key_id"]) == (site.slug, row[0])
        else:
            assert (line["site"], line["key_id"]) == ("", None)
            assert line["peer"] == "ipv4:127.0.0.1"
    assert "fw_" not in json.dumps(lines.all())


def test_only_calls_that_fail_have_a_line_unless_told_otherwise(
    service: Callable[..., tuple[grpc.Channel, Lines]], site: FootfallSite
) -> None:
    """And of those with one code only the first ten in a minute: a sender without a key must not fill the disk."""
    channel, lines = service("query")
    stub = query_pb2_grpc.QueryServiceStub(channel)
    overview = query_pb2.GetOverviewRequest(site=site.slug, range=time_range(0, DAY))
    stub.GetOverview(overview, metadata=(*site.as_admin, ("x-request-id", "good")))
    for number in range(30):
        ids_of(stub.GetOverview, overview, metadata=(("x-request-id", f"nobody-{number}"),))
    missing = query_pb2.GetOverviewRequest(site="nobodys", range=time_range(0, DAY))
    ids_of(stub.GetOverview, missing, metadata=(*site.as_admin, ("x-request-id", "missing")))
    (line,) = eventually(lambda: lines.of("missing"))
    assert (line["level"], line["code"]) == ("INFO", "NOT_FOUND")
    assert lines.of("good") == []
    assert [number for number in range(30) if lines.of(f"nobody-{number}")] == list(range(10))


def test_no_call_has_a_line_if_told_so(service: Callable[..., tuple[grpc.Channel, Lines]], site: FootfallSite) -> None:
    channel, lines = service("query", FOOTFALL_LOG_CALLS="none")
    stub = query_pb2_grpc.QueryServiceStub(channel)
    ids_of(stub.GetOverview, query_pb2.GetOverviewRequest(), metadata=(("x-request-id", "silent"),))
    assert lines.of("silent") == []


def test_a_stack_trace_carries_the_id_of_its_call(
    service: Callable[..., tuple[grpc.Channel, Lines]], site: FootfallSite, database: psycopg.Connection[Any]
) -> None:
    """In one line, with the call's own line beside it; the id is the one that the caller was told."""
    channel, lines = service("admin")
    stub = admin_pb2_grpc.AdminServiceStub(channel)
    request = admin_pb2.GetSiteRequest(site=site.slug)
    stub.GetSite(request, metadata=site.as_admin)
    database.execute("ALTER TABLE sites RENAME raw_from TO raw_from_away")
    try:
        told, _ = ids_of(stub.GetSite, request, metadata=site.as_admin)
    finally:
        database.execute("ALTER TABLE sites RENAME raw_from_away TO raw_from")
    trace, ended = eventually(lambda: lines.of(told) if len(lines.of(told)) == 2 else [])
    assert "raw_from does not exist" in trace["exception"]
    assert (trace["level"], ended["level"], ended["code"]) == ("ERROR", "WARNING", "INTERNAL")


def test_a_text_line_carries_the_id_too(suite: "Suite", site: FootfallSite) -> None:
    environment = {"FOOTFALL_DATABASE_URL": suite.database_url}
    with (
        running_service("query", suite.data_dir, environment) as running,
        grpc.insecure_channel(running.address) as channel,
    ):
        stub = query_pb2_grpc.QueryServiceStub(channel)
        ids_of(stub.GetOverview, query_pb2.GetOverviewRequest(), metadata=(("x-request-id", "text-1"),))
        line = eventually(lambda: [line for line in running.log.read_text().splitlines() if "text-1" in line])[0]
    assert "QueryService/GetOverview UNAUTHENTICATED in " in line
    assert line.endswith(" [request text-1]")
