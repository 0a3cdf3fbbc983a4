"""Parts that several messages of the control plane share, to and from protobuf. Owns: records of view.py and theirs.

Does not: know whole messages (cluster/control_wire.py does).
"""

from collections.abc import Iterable, Mapping
from dataclasses import fields

from cluster import control_pb2 as pb
from cluster.view import Adapter, HostLoad, HostName, HostSpec
from lorajax.spec import Level, Version


def spec_to_proto(spec: HostSpec) -> pb.Hello:
    """A hello without its beat: what a host is."""
    return pb.Hello(
        host=spec.name,
        address=spec.address,
        incarnation=spec.incarnation,
        host_bytes=spec.host_bytes,
        num_adapter_pages=spec.num_adapter_pages,
        max_sequences=spec.max_sequences,
        can_collect=spec.can_collect,
        speed=spec.speed,
    )


def spec_from_proto(hello: pb.Hello) -> HostSpec:
    """The same."""
    return HostSpec(
        name=HostName(hello.host),
        address=hello.address,
        incarnation=hello.incarnation,
        host_bytes=hello.host_bytes,
        num_adapter_pages=hello.num_adapter_pages,
        max_sequences=hello.max_sequences,
        can_collect=hello.can_collect,
        speed=hello.speed,
    )


def load_to_proto(load: HostLoad) -> pb.Load:
    """How busy a host is."""
    # The record and the message have the same field names.
    return pb.Load(**{field.name: getattr(load, field.name) for field in fields(HostLoad)})


def load_from_proto(load: pb.Load) -> HostLoad:
    """The same."""
    return HostLoad(**{field.name: getattr(load, field.name) for field in fields(HostLoad)})


def copies_to_proto(copies: Mapping[Version, Level]) -> list[pb.Copy]:
    """The adapters that a host knows."""
    return [pb.Copy(version=version, level=level.value) for version, level in copies.items()]


def copies_from_proto(copies: Iterable[pb.Copy]) -> dict[Version, Level]:
    """The same."""
    return {Version(copy.version): Level(copy.level) for copy in copies}


def adapter_to_proto(adapter: Adapter) -> pb.Adapter:
    """One adapter version."""
    return pb.Adapter(
        version=adapter.version,
        rank=adapter.rank,
        bytes=adapter.num_bytes,
        path=adapter.path,
        min_copies=adapter.min_copies,
    )


def adapter_from_proto(adapter: pb.Adapter) -> Adapter:
    """The same."""
    return Adapter(
        version=Version(adapter.version),
        rank=adapter.rank,
        num_bytes=adapter.bytes,
        path=adapter.path,
        min_copies=adapter.min_copies,
    )
