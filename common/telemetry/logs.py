"""Log lines on standard error, as text or as JSON. Every line of a call carries what is known of the call."""

import logging
import sys
from typing import Literal

from pythonjsonlogger.json import JsonFormatter

from common.calls.call import current_call
from common.telemetry.log_repeats import count_repeats

LogFormat = Literal["text", "json"]

_TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s%(of_call)s"
_JSON = ("levelname", "name", "message")
_JSON_NAMES = {"levelname": "level", "name": "logger", "exc_info": "exception", "stack_info": "stack"}


class _OfCall(logging.Filter):
    """Adds request id, RPC, site and key id of the current call to a record. The key itself is known to nobody here."""

    def __init__(self, log_format: LogFormat) -> None:
        super().__init__()
        self._as_json = log_format == "json"

    def filter(self, record: logging.LogRecord) -> bool:
        call = current_call.get()
        if not self._as_json:
            record.of_call = f" [request {call.request_id}]" if call else ""
        elif call:
            record.request_id = call.request_id
            record.rpc = call.rpc
            record.site = call.site
            record.key_id = call.key.key_id if call.key else None
            if call.key is None:
                # Of a call without a valid key nothing else says where it comes from.
                record.peer = call.peer
        return True


def configure_logging(level: str, log_format: LogFormat) -> None:
    """One line per message on standard error; warnings that repeat are counted.

    In text the stack trace of an exception follows on lines of its own.
    """
    handler = logging.StreamHandler(sys.stderr)
    # On the handler, because a logger's filters do not see the lines of loggers below it.
    handler.addFilter(_OfCall(log_format))
    if log_format == "json":
        handler.setFormatter(JsonFormatter(_JSON, rename_fields=_JSON_NAMES, timestamp="time"))
    else:
        handler.setFormatter(logging.Formatter(_TEXT))
    count_repeats(handler)
    logging.basicConfig(level=level, handlers=[handler])
    # It warns at every tick at which the last run is still at work. That is normal for a busy job.
    logging.getLogger("apscheduler").setLevel(logging.ERROR)
