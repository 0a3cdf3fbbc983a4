"""The errors lorajax raises, as one tree. Owns: what can go wrong, in words. Does not: map to gRPC (cluster/wire.py).

LorajaxError
├── BadRequest            the caller's message cannot be served as written
├── UnsupportedModel      a base model whose architecture or checkpoint we cannot serve exactly
├── MalformedCheckpoint   files that are broken, or are not what their names say
├── AdapterError
│   ├── MalformedAdapter      the files are not a readable PEFT adapter
│   ├── UnsupportedAdapter    readable, but cannot be served exactly here (names the key to change)
│   ├── CorruptAdapter        the bytes are not the bytes that were registered
│   ├── UnknownAdapter        no adapter of that name
│   ├── AdapterExists         the name is taken by other content and `replace` was not set
│   └── AdapterInUse          requests are using it and `force` was not set
├── DuplicateRequest      a request of that id is in flight
├── NeedsCluster          the call needs more than this one process
├── Overloaded            no room now; try again after `retry_s`
├── Unavailable           starting, draining or gone; try again after `retry_s`
├── DeadlineExceeded      the request's own deadline passed before it finished
└── EngineFailure         a bug or a broken device; the incident is in the log
"""


class LorajaxError(Exception):
    """Base of every error that is ours."""


class BadRequest(LorajaxError):
    """The caller's message cannot be served as written; `field` is its path in the request."""

    def __init__(self, message: str, field: str = "") -> None:
        """Keep the field path beside the message."""
        Exception.__init__(self, message)
        self.field = field


class UnsupportedModel(LorajaxError):
    """A base model whose architecture or checkpoint cannot be served exactly."""


class MalformedCheckpoint(LorajaxError):
    """Files that are broken, or are not what their names say; the message names the file and the tensor or key."""


class AdapterError(LorajaxError):
    """Something is wrong with one adapter; others are untouched."""


class MalformedAdapter(AdapterError):
    """The files are not a readable PEFT adapter."""


class UnsupportedAdapter(AdapterError):
    """A readable adapter that cannot be served exactly here; the message names the key to change."""


class CorruptAdapter(AdapterError):
    """The bytes on disk or on the wire are not the bytes that were registered."""


class UnknownAdapter(AdapterError):
    """No adapter of that name is registered."""


class AdapterExists(AdapterError):
    """The name is taken by other content and `replace` was not set."""


class AdapterInUse(AdapterError):
    """Requests are using the adapter and `force` was not set."""


class DuplicateRequest(LorajaxError):
    """A request of that id is in flight."""


class NeedsCluster(LorajaxError):
    """The call needs a cluster (`lorajax launch`); one process alone cannot answer it."""


class Overloaded(LorajaxError):
    """No room now; the caller may try again after `retry_s` seconds."""

    def __init__(self, message: str, retry_s: float = 1.0) -> None:
        """Keep the retry hint, in seconds, beside the message."""
        Exception.__init__(self, message)
        self.retry_s = retry_s


class Unavailable(LorajaxError):
    """Starting, draining or gone; the caller may try again after `retry_s` seconds."""

    def __init__(self, message: str, retry_s: float = 1.0) -> None:
        """Keep the retry hint, in seconds, beside the message."""
        Exception.__init__(self, message)
        self.retry_s = retry_s


class DeadlineExceeded(LorajaxError):
    """The request's own deadline passed before it finished."""


class EngineFailure(LorajaxError):
    """A bug or a broken device. The request fails, the incident is logged."""
