from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class HostMessage(_message.Message):
    __slots__ = ("hello", "beat", "outcome")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    BEAT_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    beat: Beat
    outcome: Outcome
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., beat: _Optional[_Union[Beat, _Mapping]] = ..., outcome: _Optional[_Union[Outcome, _Mapping]] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("host", "address", "incarnation", "host_bytes", "num_adapter_pages", "max_sequences", "can_collect", "speed", "fingerprint", "model", "software_version", "beat")
    HOST_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    HOST_BYTES_FIELD_NUMBER: _ClassVar[int]
    NUM_ADAPTER_PAGES_FIELD_NUMBER: _ClassVar[int]
    MAX_SEQUENCES_FIELD_NUMBER: _ClassVar[int]
    CAN_COLLECT_FIELD_NUMBER: _ClassVar[int]
    SPEED_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    SOFTWARE_VERSION_FIELD_NUMBER: _ClassVar[int]
    BEAT_FIELD_NUMBER: _ClassVar[int]
    host: str
    address: str
    incarnation: int
    host_bytes: int
    num_adapter_pages: int
    max_sequences: int
    can_collect: bool
    speed: float
    fingerprint: str
    model: str
    software_version: str
    beat: Beat
    def __init__(self, host: _Optional[str] = ..., address: _Optional[str] = ..., incarnation: _Optional[int] = ..., host_bytes: _Optional[int] = ..., num_adapter_pages: _Optional[int] = ..., max_sequences: _Optional[int] = ..., can_collect: _Optional[bool] = ..., speed: _Optional[float] = ..., fingerprint: _Optional[str] = ..., model: _Optional[str] = ..., software_version: _Optional[str] = ..., beat: _Optional[_Union[Beat, _Mapping]] = ...) -> None: ...

class Beat(_message.Message):
    __slots__ = ("state", "load", "tokens", "copies", "has_copies", "uptime_s")
    STATE_FIELD_NUMBER: _ClassVar[int]
    LOAD_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    COPIES_FIELD_NUMBER: _ClassVar[int]
    HAS_COPIES_FIELD_NUMBER: _ClassVar[int]
    UPTIME_S_FIELD_NUMBER: _ClassVar[int]
    state: str
    load: Load
    tokens: _containers.RepeatedCompositeFieldContainer[Tokens]
    copies: _containers.RepeatedCompositeFieldContainer[Copy]
    has_copies: bool
    uptime_s: float
    def __init__(self, state: _Optional[str] = ..., load: _Optional[_Union[Load, _Mapping]] = ..., tokens: _Optional[_Iterable[_Union[Tokens, _Mapping]]] = ..., copies: _Optional[_Iterable[_Union[Copy, _Mapping]]] = ..., has_copies: _Optional[bool] = ..., uptime_s: _Optional[float] = ...) -> None: ...

class Load(_message.Message):
    __slots__ = ("num_running", "num_waiting", "waiting_tokens", "kv_pages_free", "kv_pages_total", "adapter_pages_free", "adapter_pages_total", "tokens_per_s")
    NUM_RUNNING_FIELD_NUMBER: _ClassVar[int]
    NUM_WAITING_FIELD_NUMBER: _ClassVar[int]
    WAITING_TOKENS_FIELD_NUMBER: _ClassVar[int]
    KV_PAGES_FREE_FIELD_NUMBER: _ClassVar[int]
    KV_PAGES_TOTAL_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_PAGES_FREE_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_PAGES_TOTAL_FIELD_NUMBER: _ClassVar[int]
    TOKENS_PER_S_FIELD_NUMBER: _ClassVar[int]
    num_running: int
    num_waiting: int
    waiting_tokens: int
    kv_pages_free: int
    kv_pages_total: int
    adapter_pages_free: int
    adapter_pages_total: int
    tokens_per_s: float
    def __init__(self, num_running: _Optional[int] = ..., num_waiting: _Optional[int] = ..., waiting_tokens: _Optional[int] = ..., kv_pages_free: _Optional[int] = ..., kv_pages_total: _Optional[int] = ..., adapter_pages_free: _Optional[int] = ..., adapter_pages_total: _Optional[int] = ..., tokens_per_s: _Optional[float] = ...) -> None: ...

class Tokens(_message.Message):
    __slots__ = ("version", "count")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    version: str
    count: int
    def __init__(self, version: _Optional[str] = ..., count: _Optional[int] = ...) -> None: ...

class Copy(_message.Message):
    __slots__ = ("version", "level")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    version: str
    level: str
    def __init__(self, version: _Optional[str] = ..., level: _Optional[str] = ...) -> None: ...

class Outcome(_message.Message):
    __slots__ = ("number", "error", "message", "spec", "way", "bytes_moved", "seconds")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    WAY_FIELD_NUMBER: _ClassVar[int]
    BYTES_MOVED_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    number: int
    error: str
    message: str
    spec: AdapterSpec
    way: str
    bytes_moved: int
    seconds: float
    def __init__(self, number: _Optional[int] = ..., error: _Optional[str] = ..., message: _Optional[str] = ..., spec: _Optional[_Union[AdapterSpec, _Mapping]] = ..., way: _Optional[str] = ..., bytes_moved: _Optional[int] = ..., seconds: _Optional[float] = ...) -> None: ...

class AdapterSpec(_message.Message):
    __slots__ = ("version", "rank", "targets", "bytes")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    TARGETS_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    version: str
    rank: int
    targets: _containers.RepeatedScalarFieldContainer[str]
    bytes: int
    def __init__(self, version: _Optional[str] = ..., rank: _Optional[int] = ..., targets: _Optional[_Iterable[str]] = ..., bytes: _Optional[int] = ...) -> None: ...

class Adapter(_message.Message):
    __slots__ = ("version", "rank", "bytes", "path", "min_copies")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    MIN_COPIES_FIELD_NUMBER: _ClassVar[int]
    version: str
    rank: int
    bytes: int
    path: str
    min_copies: int
    def __init__(self, version: _Optional[str] = ..., rank: _Optional[int] = ..., bytes: _Optional[int] = ..., path: _Optional[str] = ..., min_copies: _Optional[int] = ...) -> None: ...

class HostCommand(_message.Message):
    __slots__ = ("number", "read", "fetch", "send", "drop", "pin", "drain")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    READ_FIELD_NUMBER: _ClassVar[int]
    FETCH_FIELD_NUMBER: _ClassVar[int]
    SEND_FIELD_NUMBER: _ClassVar[int]
    DROP_FIELD_NUMBER: _ClassVar[int]
    PIN_FIELD_NUMBER: _ClassVar[int]
    DRAIN_FIELD_NUMBER: _ClassVar[int]
    number: int
    read: ReadFolder
    fetch: FetchAdapter
    send: SendAdapter
    drop: DropAdapter
    pin: PinAdapter
    drain: DrainHost
    def __init__(self, number: _Optional[int] = ..., read: _Optional[_Union[ReadFolder, _Mapping]] = ..., fetch: _Optional[_Union[FetchAdapter, _Mapping]] = ..., send: _Optional[_Union[SendAdapter, _Mapping]] = ..., drop: _Optional[_Union[DropAdapter, _Mapping]] = ..., pin: _Optional[_Union[PinAdapter, _Mapping]] = ..., drain: _Optional[_Union[DrainHost, _Mapping]] = ...) -> None: ...

class ReadFolder(_message.Message):
    __slots__ = ("path",)
    PATH_FIELD_NUMBER: _ClassVar[int]
    path: str
    def __init__(self, path: _Optional[str] = ...) -> None: ...

class FetchAdapter(_message.Message):
    __slots__ = ("adapter", "peers", "ticket")
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    PEERS_FIELD_NUMBER: _ClassVar[int]
    TICKET_FIELD_NUMBER: _ClassVar[int]
    adapter: Adapter
    peers: _containers.RepeatedCompositeFieldContainer[PeerAddress]
    ticket: int
    def __init__(self, adapter: _Optional[_Union[Adapter, _Mapping]] = ..., peers: _Optional[_Iterable[_Union[PeerAddress, _Mapping]]] = ..., ticket: _Optional[int] = ...) -> None: ...

class PeerAddress(_message.Message):
    __slots__ = ("host", "address")
    HOST_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    host: str
    address: str
    def __init__(self, host: _Optional[str] = ..., address: _Optional[str] = ...) -> None: ...

class SendAdapter(_message.Message):
    __slots__ = ("version", "target", "ticket")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    TICKET_FIELD_NUMBER: _ClassVar[int]
    version: str
    target: str
    ticket: int
    def __init__(self, version: _Optional[str] = ..., target: _Optional[str] = ..., ticket: _Optional[int] = ...) -> None: ...

class DropAdapter(_message.Message):
    __slots__ = ("version",)
    VERSION_FIELD_NUMBER: _ClassVar[int]
    version: str
    def __init__(self, version: _Optional[str] = ...) -> None: ...

class PinAdapter(_message.Message):
    __slots__ = ("version", "pin")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PIN_FIELD_NUMBER: _ClassVar[int]
    version: str
    pin: bool
    def __init__(self, version: _Optional[str] = ..., pin: _Optional[bool] = ...) -> None: ...

class DrainHost(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WatchTableRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class TableUpdate(_message.Message):
    __slots__ = ("table", "beats")
    TABLE_FIELD_NUMBER: _ClassVar[int]
    BEATS_FIELD_NUMBER: _ClassVar[int]
    table: Table
    beats: HostBeats
    def __init__(self, table: _Optional[_Union[Table, _Mapping]] = ..., beats: _Optional[_Union[HostBeats, _Mapping]] = ...) -> None: ...

class Table(_message.Message):
    __slots__ = ("number", "round", "hosts", "entries", "is_ready")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    HOSTS_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    IS_READY_FIELD_NUMBER: _ClassVar[int]
    number: int
    round: int
    hosts: _containers.RepeatedCompositeFieldContainer[TableHost]
    entries: _containers.RepeatedCompositeFieldContainer[TableEntry]
    is_ready: bool
    def __init__(self, number: _Optional[int] = ..., round: _Optional[int] = ..., hosts: _Optional[_Iterable[_Union[TableHost, _Mapping]]] = ..., entries: _Optional[_Iterable[_Union[TableEntry, _Mapping]]] = ..., is_ready: _Optional[bool] = ...) -> None: ...

class TableHost(_message.Message):
    __slots__ = ("hello", "state")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    state: str
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., state: _Optional[str] = ...) -> None: ...

class TableEntry(_message.Message):
    __slots__ = ("name", "adapter", "is_pinned", "shares")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    IS_PINNED_FIELD_NUMBER: _ClassVar[int]
    SHARES_FIELD_NUMBER: _ClassVar[int]
    name: str
    adapter: Adapter
    is_pinned: bool
    shares: _containers.RepeatedCompositeFieldContainer[HostShare]
    def __init__(self, name: _Optional[str] = ..., adapter: _Optional[_Union[Adapter, _Mapping]] = ..., is_pinned: _Optional[bool] = ..., shares: _Optional[_Iterable[_Union[HostShare, _Mapping]]] = ...) -> None: ...

class HostShare(_message.Message):
    __slots__ = ("host", "share")
    HOST_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    host: str
    share: float
    def __init__(self, host: _Optional[str] = ..., share: _Optional[float] = ...) -> None: ...

class HostBeats(_message.Message):
    __slots__ = ("beats",)
    BEATS_FIELD_NUMBER: _ClassVar[int]
    beats: _containers.RepeatedCompositeFieldContainer[HostBeat]
    def __init__(self, beats: _Optional[_Iterable[_Union[HostBeat, _Mapping]]] = ...) -> None: ...

class HostBeat(_message.Message):
    __slots__ = ("host", "beat")
    HOST_FIELD_NUMBER: _ClassVar[int]
    BEAT_FIELD_NUMBER: _ClassVar[int]
    host: str
    beat: Beat
    def __init__(self, host: _Optional[str] = ..., beat: _Optional[_Union[Beat, _Mapping]] = ...) -> None: ...

class PullRequest(_message.Message):
    __slots__ = ("version", "offset")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    version: str
    offset: int
    def __init__(self, version: _Optional[str] = ..., offset: _Optional[int] = ...) -> None: ...

class PrepareRequest(_message.Message):
    __slots__ = ("ticket", "is_refused", "target", "incarnation", "met", "is_busy")
    TICKET_FIELD_NUMBER: _ClassVar[int]
    IS_REFUSED_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    MET_FIELD_NUMBER: _ClassVar[int]
    IS_BUSY_FIELD_NUMBER: _ClassVar[int]
    ticket: int
    is_refused: bool
    target: str
    incarnation: int
    met: int
    is_busy: bool
    def __init__(self, ticket: _Optional[int] = ..., is_refused: _Optional[bool] = ..., target: _Optional[str] = ..., incarnation: _Optional[int] = ..., met: _Optional[int] = ..., is_busy: _Optional[bool] = ...) -> None: ...

class PrepareReply(_message.Message):
    __slots__ = ("total_bytes", "incarnation", "is_gentle")
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    IS_GENTLE_FIELD_NUMBER: _ClassVar[int]
    total_bytes: int
    incarnation: int
    is_gentle: bool
    def __init__(self, total_bytes: _Optional[int] = ..., incarnation: _Optional[int] = ..., is_gentle: _Optional[bool] = ...) -> None: ...

class FollowRequest(_message.Message):
    __slots__ = ("process",)
    PROCESS_FIELD_NUMBER: _ClassVar[int]
    process: int
    def __init__(self, process: _Optional[int] = ...) -> None: ...

class Order(_message.Message):
    __slots__ = ("number", "digest", "write", "step")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    WRITE_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    number: int
    digest: bytes
    write: PageWrite
    step: Step
    def __init__(self, number: _Optional[int] = ..., digest: _Optional[bytes] = ..., write: _Optional[_Union[PageWrite, _Mapping]] = ..., step: _Optional[_Union[Step, _Mapping]] = ...) -> None: ...

class PageWrite(_message.Message):
    __slots__ = ("version", "index", "page", "arrays")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    PAGE_FIELD_NUMBER: _ClassVar[int]
    ARRAYS_FIELD_NUMBER: _ClassVar[int]
    version: str
    index: int
    page: int
    arrays: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, version: _Optional[str] = ..., index: _Optional[int] = ..., page: _Optional[int] = ..., arrays: _Optional[_Iterable[bytes]] = ...) -> None: ...

class Step(_message.Message):
    __slots__ = ("bucket", "has_adapters", "leaves")
    BUCKET_FIELD_NUMBER: _ClassVar[int]
    HAS_ADAPTERS_FIELD_NUMBER: _ClassVar[int]
    LEAVES_FIELD_NUMBER: _ClassVar[int]
    bucket: int
    has_adapters: bool
    leaves: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, bucket: _Optional[int] = ..., has_adapters: _Optional[bool] = ..., leaves: _Optional[_Iterable[bytes]] = ...) -> None: ...
