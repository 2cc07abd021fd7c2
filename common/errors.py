"""All errors that clients can get, and their conversion to gRPC statuses.

The reasons are a contract: clients branch on them. `docs/errors.md` explains each.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import cast

import grpc
import psycopg
import sqlalchemy.exc
from google.protobuf import any_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from common.db import DatabaseFault
from common.telemetry.request_ids import HEADER

_log = logging.getLogger(__name__)

DOMAIN = "footfall"


class Reason(StrEnum):
    """`google.rpc.ErrorInfo.reason` of a refused call, or `EventError.reason` of a rejected event."""

    # An event is rejected; the others of its batch are stored.
    EVENT_TYPE_REQUIRED = "EVENT_TYPE_REQUIRED"
    EVENT_NAME_REQUIRED = "EVENT_NAME_REQUIRED"
    VISITOR_REQUIRED = "VISITOR_REQUIRED"
    TEXT_HAS_NUL = "TEXT_HAS_NUL"
    ID_TOO_LONG = "ID_TOO_LONG"
    OCCURRED_AT_INVALID = "OCCURRED_AT_INVALID"
    OCCURRED_AT_TOO_OLD = "OCCURRED_AT_TOO_OLD"
    OCCURRED_AT_TOO_NEW = "OCCURRED_AT_TOO_NEW"
    PROPERTY_NOT_SCALAR = "PROPERTY_NOT_SCALAR"
    PROPERTY_NOT_FINITE = "PROPERTY_NOT_FINITE"
    PROPERTIES_TOO_LARGE = "PROPERTIES_TOO_LARGE"
    # A call is refused; nothing of it is done.
    BATCH_TOO_MANY_EVENTS = "BATCH_TOO_MANY_EVENTS"
    MESSAGE_TOO_LARGE = "MESSAGE_TOO_LARGE"
    MESSAGE_MALFORMED = "MESSAGE_MALFORMED"
    RPC_UNKNOWN = "RPC_UNKNOWN"
    KEY_REQUIRED = "KEY_REQUIRED"
    KEY_UNKNOWN = "KEY_UNKNOWN"
    KEY_KIND_WRONG = "KEY_KIND_WRONG"
    KEY_SITE_WRONG = "KEY_SITE_WRONG"
    KEY_NOT_FOUND = "KEY_NOT_FOUND"
    SITE_DISABLED = "SITE_DISABLED"
    SITE_NOT_FOUND = "SITE_NOT_FOUND"
    SITE_EXISTS = "SITE_EXISTS"
    SITE_NOT_ALLOWED_HERE = "SITE_NOT_ALLOWED_HERE"
    ORIGIN_NOT_ALLOWED = "ORIGIN_NOT_ALLOWED"
    FIELD_REQUIRED = "FIELD_REQUIRED"
    FIELD_TOO_LONG = "FIELD_TOO_LONG"
    VALUE_OUT_OF_RANGE = "VALUE_OUT_OF_RANGE"
    VALUE_UNKNOWN = "VALUE_UNKNOWN"
    SLUG_INVALID = "SLUG_INVALID"
    WRITE_KEY_INVALID = "WRITE_KEY_INVALID"
    WRITE_KEY_TAKEN = "WRITE_KEY_TAKEN"
    UPDATE_MASK_INVALID = "UPDATE_MASK_INVALID"
    RANGE_INVALID = "RANGE_INVALID"
    TIME_ZONE_UNKNOWN = "TIME_ZONE_UNKNOWN"
    TOO_MANY_BUCKETS = "TOO_MANY_BUCKETS"
    PAGE_TOKEN_INVALID = "PAGE_TOKEN_INVALID"
    CONFIRMATION_REQUIRED = "CONFIRMATION_REQUIRED"
    # The call is valid; the client may try again or ask for less.
    QUEUE_FULL = "QUEUE_FULL"
    TOO_MANY_CALLS = "TOO_MANY_CALLS"
    MESSAGE_LATE = "MESSAGE_LATE"
    STREAM_EXPIRED = "STREAM_EXPIRED"
    RATE_LIMITED = "RATE_LIMITED"
    SHUTTING_DOWN = "SHUTTING_DOWN"
    DATABASE_UNAVAILABLE = "DATABASE_UNAVAILABLE"
    SITE_BUSY = "SITE_BUSY"
    STATEMENT_TOO_SLOW = "STATEMENT_TOO_SLOW"
    INTERNAL = "INTERNAL"


@dataclass
class CallError(Exception):
    """A call is refused. Holds the status, the reason and the message that the client gets."""

    code: grpc.StatusCode
    reason: Reason
    message: str
    field: str | None = None
    retry_after_ms: int | None = None

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"


_MOST_QUOTED = 100


def quoted(text: str) -> str:
    """A caller's text for use in a message: in quotes, cut to 100 characters.

    Errors are sent in HTTP/2 trailers, which hold 8 KiB in all. If they are larger, the client reports a failed
    connection, which it would retry.
    """
    return repr(text) if len(text) <= _MOST_QUOTED else f"{text[:_MOST_QUOTED]!r}…"


def invalid(field: str, reason: Reason, message: str) -> CallError:
    """INVALID_ARGUMENT for the request's `field`."""
    return CallError(grpc.StatusCode.INVALID_ARGUMENT, reason, f"{field}: {message}", field=field)


def site_not_found(slug: str) -> CallError:
    """NOT_FOUND for a slug that no site has."""
    return CallError(grpc.StatusCode.NOT_FOUND, Reason.SITE_NOT_FOUND, f"there is no site {quoted(slug)}", field="site")


def site_closed(slug: str) -> CallError:
    """PERMISSION_DENIED for events sent to a site that is disabled or being deleted."""
    return CallError(
        grpc.StatusCode.PERMISSION_DENIED, Reason.SITE_DISABLED, f"site {quoted(slug)} takes no events now"
    )


def site_busy() -> CallError:
    """UNAVAILABLE for a site that is being rebuilt or whose lock another transaction holds exclusively."""
    return CallError(
        grpc.StatusCode.UNAVAILABLE,
        Reason.SITE_BUSY,
        "the site is being rebuilt; try again when RebuildSite has no more",
        retry_after_ms=5_000,
    )


def database_unavailable() -> CallError:
    """UNAVAILABLE while the database cannot be reached or does not answer."""
    return CallError(
        grpc.StatusCode.UNAVAILABLE,
        Reason.DATABASE_UNAVAILABLE,
        "the database cannot be reached now; try again: what is sent twice with the same ids is counted once",
        retry_after_ms=1000,
    )


def from_exception(error: BaseException) -> CallError:
    """The error that a client gets for an exception. It never holds a stack trace, SQL or a key."""
    if isinstance(error, CallError):
        return error
    if isinstance(error, sqlalchemy.exc.DBAPIError) and error.orig is not None:
        error = error.orig
    if isinstance(error, psycopg.errors.QueryCanceled):
        return CallError(
            grpc.StatusCode.DEADLINE_EXCEEDED,
            Reason.STATEMENT_TOO_SLOW,
            "the database took too long; ask for a shorter range or fewer rows",
        )
    if isinstance(error, DatabaseFault):
        _log.warning("database unavailable: %s", error)
        return database_unavailable()
    _log.error("a call failed", exc_info=error)
    return CallError(grpc.StatusCode.INTERNAL, Reason.INTERNAL, "the server failed; its log says why")


def to_status(error: CallError, request_id: str) -> tuple[grpc.Status, Sequence[tuple[str, str]]]:
    """The status with details (ErrorInfo, BadRequest, RetryInfo, RequestInfo) and the extra trailing metadata of a
    refused call."""
    details: list[Message] = [error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN)]
    if error.field is not None:
        violation = error_details_pb2.BadRequest.FieldViolation(field=error.field, description=error.message)
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    extra = [(HEADER, request_id)]
    if error.retry_after_ms is not None:
        delay = Duration()
        delay.FromMilliseconds(error.retry_after_ms)
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
        extra.append(("grpc-retry-pushback-ms", str(error.retry_after_ms)))
    details.append(error_details_pb2.RequestInfo(request_id=request_id))
    packed = []
    for detail in details:
        item = any_pb2.Any()
        item.Pack(detail)
        packed.append(item)
    code = cast(tuple[int, str], error.code.value)[0]
    return rpc_status.to_status(status_pb2.Status(code=code, message=error.message, details=packed)), extra
