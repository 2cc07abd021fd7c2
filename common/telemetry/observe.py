"""The end of a call: its metrics and its log line."""

from common.calls.call import Call
from common.telemetry.call_log import log_call
from common.telemetry.call_metrics import CALLS, SITE_SECONDS


def expect(rpc: str) -> None:
    """The RPC is served from now on."""
    CALLS.expect(rpc)


def observe(call: Call, code: str, seconds: float) -> None:
    """A call has ended with a gRPC code, such as "OK", after so many seconds. Call it in the event loop's thread."""
    CALLS.add(call.rpc, code, seconds)
    if call.site:
        SITE_SECONDS.add(call.site, seconds)
    log_call(call, code, seconds)
