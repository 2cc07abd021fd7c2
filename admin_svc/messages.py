"""Converts plain values to messages of AdminService, and settings back to plain values. Pure."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from footfall.admin.v1 import admin_pb2 as pb
from google.protobuf.duration_pb2 import Duration

from admin_svc.counting.dead_letters import DeadLetter
from admin_svc.schedule.runs import Run
from admin_svc.sites.api_keys import ApiKey
from admin_svc.sites.settings import DAY_FIELDS, DURATION_FIELDS, LIST_FIELDS, NUMBER_FIELDS
from admin_svc.status import SiteState, TableState
from common.errors import Reason, invalid
from common.sites import DEFAULT_RETENTION_DAYS, Site
from common.timestamps import duration_micros, to_duration, to_timestamp


def site(row: Site) -> pb.Site:
    """A site with its settings. Settings that override the shared retention are absent if they are not set."""
    settings = pb.SiteSettings(
        session_timeout=to_duration(row.session_timeout_us),
        dedupe_retention=to_duration(row.dedupe_retention_us),
        rollup_shard_count=row.rollup_shard_count,
        max_events_per_second=row.max_events_per_second,
        retention_days=row.retention_days or DEFAULT_RETENTION_DAYS,
    )
    for field in DAY_FIELDS[1:]:
        days = getattr(row, field)
        if days is not None:
            setattr(settings, field, days)
    for field in LIST_FIELDS:
        getattr(settings, field).extend(getattr(row, field))
    return pb.Site(
        slug=row.slug,
        name=row.name,
        status=row.status,  # type: ignore[arg-type]  # the numbers of the enum
        settings=settings,
        create_time=to_timestamp(row.created_at),
        update_time=to_timestamp(row.updated_at),
    )


def plain_settings(message: pb.SiteSettings, fields: Iterable[str], prefix: str) -> dict[str, Any]:
    """The values of the fields, by name. None = absent; durations are in µs."""
    plain: dict[str, Any] = {}
    for field in fields:
        value = getattr(message, field)
        if field in LIST_FIELDS:
            plain[field] = list(value)
        elif field in NUMBER_FIELDS:
            plain[field] = value
        elif not message.HasField(field):  # type: ignore[arg-type]  # the stub wants a literal
            plain[field] = None
        else:
            plain[field] = micros_of(f"{prefix}.{field}", value) if field in DURATION_FIELDS else value
    return plain


def micros_of(path: str, value: Duration) -> int:
    """A duration in µs. Raises CallError if it is malformed."""
    if not -999_999_999 <= value.nanos <= 999_999_999 or abs(value.seconds) > 315_576_000_000:
        raise invalid(path, Reason.VALUE_OUT_OF_RANGE, "is not a valid duration")
    return value.seconds * 1_000_000 + value.nanos // 1000


def api_key(row: ApiKey) -> pb.ApiKey:
    """A key, without the key itself."""
    message = pb.ApiKey(
        id=row.key_id,
        kind=row.kind,  # type: ignore[arg-type]  # the numbers of the enum
        site=row.slug or "",
        name=row.name,
        create_time=to_timestamp(row.created_at),
    )
    if row.expires_at is not None:
        message.expire_time.CopyFrom(to_timestamp(row.expires_at))
    if row.last_used_at is not None:
        message.last_used_time.CopyFrom(to_timestamp(row.last_used_at))
    return message


def failed_event(letter: DeadLetter) -> pb.FailedEvent:
    """A dead letter."""
    return pb.FailedEvent(
        event_id=letter.event_id,
        visitor_id=letter.visitor_id,
        occurred_at=to_timestamp(letter.occurred_at),
        received_at=to_timestamp(letter.received_at),
        failed_at=to_timestamp(letter.failed_at),
        attempts=letter.attempts,
        error=letter.error,
    )


def site_state(state: SiteState, runs: Iterable[Run], now: datetime) -> pb.SiteState:
    """The backlog of a site, its floors, and the last runs of its jobs."""
    message = pb.SiteState(
        site=state.slug,
        pending_events=state.pending,
        failed_events=state.dead_letters,
        unfolded_deltas=state.deltas,
        rebuilding=state.rebuilding,
        jobs=map(job_run, runs),
    )
    if state.oldest is not None:
        message.oldest_pending_age.CopyFrom(to_duration(max(0, duration_micros(now - state.oldest))))
    for name in ("raw_from", "hours_from", "days_from"):
        if (floor := getattr(state, name)) is not None:
            getattr(message, name).CopyFrom(to_timestamp(floor))
    return message


def table_state(table: TableState) -> pb.TableState:
    """The size of a table."""
    return pb.TableState(
        name=table.name,
        estimated_rows=table.estimated_rows,
        table_bytes=table.table_bytes,
        index_bytes=table.index_bytes,
        dead_rows=table.dead_rows,
    )


def job_run(run: Run) -> pb.JobRun:
    """One run of a job."""
    return pb.JobRun(
        job=run.job,
        start_time=to_timestamp(run.started_at),
        end_time=to_timestamp(run.finished_at),
        pages=run.chunks,
        rows=run.rows,
        error=run.error or "",
    )
