"""Why Prometheus gave no usable answer, in a closed reason and a sentence that says what to check."""

from spillway.core.signal import SignalReason


class PrometheusFailure(Exception):
    """No usable answer. `reason` is for programs, the message for people; neither holds a token or a header."""

    def __init__(self, reason: SignalReason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class AnswerTooLarge(PrometheusFailure):
    """The answer, or the work behind it, is over a limit: half the time span may fit."""
