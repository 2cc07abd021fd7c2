"""Which call of a fuzz is made with which key, metadata and bytes: drawn from one seed."""

import random
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import psycopg
from footfall.admin.v1 import admin_pb2
from google.protobuf.message_factory import GetMessageClass

from bench.fuzz_calls import LONGEST_METADATA, Attempt, Metadata, Rpc
from bench.fuzz_messages import Maker
from common.db import plain_url
from common.keys.key import hash_key
from tests.oracle.raw_events import SECOND
from tests.support.footfall_site import FootfallSite
from tests.support.suite import Suite
from tests.support.traffic import WHOLE

DOOMED = "fuzz-doomed"
"""A site that messages may change, empty and delete."""

_HARMFUL = ("DeleteSite", "UpdateSite", "RotateWriteKey", "CreateSite", "EnsureSite")
"""They are not given the name of the site that is verified afterwards: it would be closed or gone, or its old events
too old."""
_MOST_TOKENS = 50
_LARGEST = 6_000_000
"""In bytes: more than a service takes, and less than gRPC itself refuses."""
_RAW = 0.4
"""The part of the calls with changed bytes."""
_KEYS = ("right", "right", "right", "right", "none", "wrong kind", "unknown", "garbage")
_KEEP = "UPDATE api_keys SET expires_at = NULL WHERE key_sha256 = ANY(%s)"
_WORDS: Mapping[str, Sequence[str]] = {
    "event_name": ("sign up", "buy", "nothing"),
    "name": ("sign up", "buy", "n"),
    "property_key": ("plan", "seats"),
    "key": ("plan", "seats", "/a"),
    "time_zone": ("", "UTC", "Asia/Kolkata", "America/New_York", "Australia/Lord_Howe", "Nowhere/City"),
    "visitor_id": tuple(f"visitor {number}" for number in range(20)),
    "session_id": ("", "tab 1", "tab 2"),
    "user_id": ("", "user of visitor 1"),
    "path": ("/", "/a", "/b"),
    "paths": ("name", "settings.retention_days", "settings", "slug", "*", "nothing"),
    "event_id": ("", "a", "7d444840-9dc0-11d1-b245-5ffdce74fad2"),
    "write_key": ("", "", "fw_of-a-doomed-site-of-a-fuzz"),
    "service": ("", "footfall.ingest.v1.IngestService", "grpc.health.v1.Health"),
    "file_containing_symbol": ("footfall.ingest.v1.IngestService", "a.b"),
    "file_by_filename": ("footfall/type/v1/event.proto", "a.proto"),
}


class Planner:
    """Draws calls. Their answers give it page tokens to send later; `mend_keys` brings back the keys that a call of
    RevokeApiKey has ended, so that later ones are still let in."""

    def __init__(self, suite: Suite, site: FootfallSite, rpcs: Sequence[Rpc], seed: int) -> None:
        self._rng = random.Random(seed)
        self._by_service: dict[str, list[Rpc]] = {}
        for rpc in rpcs:
            self._by_service.setdefault(rpc.service, []).append(rpc)
        self._tokens = [""]
        made = site.operator.CreateApiKey(
            admin_pb2.CreateApiKeyRequest(kind=admin_pb2.API_KEY_KIND_READ, site=site.slug), metadata=site.as_admin
        )
        self._right = {"ingest": [site.write_key], "query": [made.key, suite.admin_key], "admin": [suite.admin_key]}
        self._wrong = {
            "ingest": [made.key, suite.admin_key],
            "query": [site.write_key],
            "admin": [site.write_key, made.key],
        }
        site.operator.EnsureSite(admin_pb2.EnsureSiteRequest(slug=DOOMED), metadata=site.as_admin)
        seconds = WHOLE[0] // SECOND, WHOLE[1] // SECOND
        doomed = dict.fromkeys(("site", "slug", "confirm_slug"), (DOOMED, "fuzz-new", ""))
        words = {**_WORDS, **doomed, "page_token": self._tokens}
        self._gentle = Maker(self._rng, {**words, "site": (site.slug, site.slug, site.slug, DOOMED)}, seconds)
        self._harmful = Maker(self._rng, words, seconds)
        self._database = psycopg.connect(plain_url(suite.database_url), autocommit=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self._database.close()

    def attempt(self, number: int) -> Attempt:
        """The next call."""
        rng = self._rng
        # Each service as often as the others; the RPCs of gRPC, which each process has, a little less often than ours.
        of_service = self._by_service[rng.choice(sorted(self._by_service))]
        rpc = rng.choice(of_service)
        if not rpc.is_ours:
            rpc = rng.choice(of_service)
        key = rng.choice(_KEYS)
        count = rng.choice((0, 1, 2, 5)) if rpc.request_streaming else 1
        requests = [self._request(rpc) for _ in range(count)]
        return Attempt(number, rpc, key, self._metadata(rpc, key), requests)

    def learn(self, attempt: Attempt, answers: Sequence[bytes]) -> None:
        """Keeps the page tokens of answers."""
        if not answers or "next_page_token" not in attempt.rpc.response.fields_by_name:
            return
        make: Any = GetMessageClass(attempt.rpc.response)
        answer = make()
        answer.ParseFromString(answers[0])
        if answer.next_page_token:
            self._tokens.append(answer.next_page_token)
            del self._tokens[1:-_MOST_TOKENS]

    def mend_keys(self) -> None:
        """Makes the keys of this fuzz valid again."""
        keys = {key for kind in (self._right, self._wrong) for some in kind.values() for key in some}
        self._database.execute(_KEEP, ([hash_key(key) for key in keys],))

    def _request(self, rpc: Rpc) -> bytes:
        maker = self._harmful if rpc.name in _HARMFUL else self._gentle
        while len(data := maker.typed(rpc.request).SerializeToString()) > _LARGEST:
            pass
        return maker.mutated(data) if self._rng.random() < _RAW else data

    def _key(self, service: str, kind: str) -> str:
        match kind:
            case "right":
                return self._rng.choice(self._right[service])
            case "wrong kind":
                return self._rng.choice(self._wrong[service])
            case "unknown":
                return f"fw_{self._rng.getrandbits(256):064x}"
            case "garbage":
                return self._gentle.text(self._rng.choice((1, 60, LONGEST_METADATA // 2)))
        return ""

    def _metadata(self, rpc: Rpc, kind: str) -> Metadata:
        rng = self._rng
        key = self._key(rpc.service, kind)
        found: list[tuple[str, str | bytes]] = []
        if kind != "none":
            found.append(("x-write-key", key) if rpc.service == "ingest" else ("authorization", f"Bearer {key}"))
        if rng.random() < 0.2:
            odd = (
                ("origin", self._gentle.text(rng.choice((1, 30, 2_000)))),
                ("x-request-id", self._gentle.text(rng.choice((1, 30, 2_000)))),
                ("traceparent", self._gentle.text(60)),
                ("odd-bin", rng.randbytes(rng.choice((0, 1, 500)))),
                ("x-forwarded-for", "::1, 999.999.999.999"),
                ("authorization", self._gentle.text(30)),
                ("x-write-key", self._gentle.text(30)),
                ("user-agent-of", "é".encode().hex()),
            )
            found.insert(0 if kind != "right" else len(found), rng.choice(odd))
        return tuple(found)
