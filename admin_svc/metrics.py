"""Metrics of the jobs: chunks, their durations, the rows that they worked on, and failures."""

from prometheus_client import Counter, Histogram

# `job` is the name of a scrape's job in Prometheus, so the label has another one.
_SECONDS = Histogram(
    "footfall_chunk_seconds",
    "Durations of the chunks of scheduled jobs, failed ones included",
    ("job_name",),
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
)
_ROWS = Counter("footfall_chunk_rows", "Rows that the chunks of scheduled jobs worked on", ("job_name",))
_FAILURES = Counter("footfall_chunk_failures", "Chunks of scheduled jobs that failed", ("job_name",))


def expect_jobs(names: list[str]) -> None:
    """Shows these jobs with zeros before their first chunk, so that a first failure is seen as an increase."""
    for name in names:
        for metric in (_SECONDS, _ROWS, _FAILURES):
            metric.labels(name)


def count_chunk(job_name: str, seconds: float, rows: int, *, failed: bool) -> None:
    """A chunk of a job has ended. Any thread may call it."""
    _SECONDS.labels(job_name).observe(seconds)
    _ROWS.labels(job_name).inc(rows)
    if failed:
        _FAILURES.labels(job_name).inc()
