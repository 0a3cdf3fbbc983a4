"""The Adapters and Cluster services of a whole cluster. Owns: calls to events, answers to messages. Decides nothing."""

import grpc

from cluster import serving_pb2 as pb
from cluster.calls import check_name
from cluster.control_service import ControlService
from cluster.control_wire import TABLE_KEY
from cluster.events import DrainAsked, LoadAsked, PinAsked, RebalanceAsked, UnloadAsked
from cluster.view import HostName, HostView, Registration, Table
from lorajax.errors import BadRequest, Unavailable, UnknownAdapter
from lorajax.spec import Level, Version


class ClusterAdapters:
    """Answers `lorajax.v1.Adapters` for all hosts."""

    def __init__(self, control: ControlService) -> None:
        """Ask the coordinator behind `control`."""
        self._control = control

    async def Load(self, message: pb.LoadAdapterRequest, context: grpc.aio.ServicerContext) -> pb.AdapterInfo:
        """Register a folder below an adapter root; a host reads it."""
        check_name(message.name)
        self._require_ready()
        asked = LoadAsked(
            call=self._control.next_call(),
            name=message.name,
            path=message.path,
            replace=message.replace,
            pin=message.pin,
        )
        try:
            answer = await self._control.ask(asked)
        except BadRequest as error:  # a host knows no fields of ours, and only the path was left to check
            raise BadRequest(str(error), "path") from None
        _name_table(context, self._control)
        return self._info(answer.registration)

    async def Unload(
        self, message: pb.UnloadAdapterRequest, context: grpc.aio.ServicerContext
    ) -> pb.UnloadAdapterReply:
        """Take a name away; requests that run on it finish."""
        self._require_ready()
        asked = UnloadAsked(call=self._control.next_call(), name=message.name, force=message.force)
        answer = await self._control.ask(asked)
        _name_table(context, self._control)
        version = answer.registration.adapter.version if answer.registration else ""
        return pb.UnloadAdapterReply(name=message.name, version=version, num_running=answer.count)

    async def List(self, message: pb.ListAdaptersRequest, context: grpc.aio.ServicerContext) -> pb.ListAdaptersReply:
        """Every adapter, by name."""
        table = self._control.table()
        return pb.ListAdaptersReply(
            adapters=[_info(table.registrations[name], table) for name in sorted(table.registrations)]
        )

    async def Pin(self, message: pb.PinAdapterRequest, context: grpc.aio.ServicerContext) -> pb.AdapterInfo:
        """Keep an adapter on the devices that serve it, or let it go."""
        self._require_ready()
        pin = message.pin if message.HasField("pin") else True
        answer = await self._control.ask(PinAsked(call=self._control.next_call(), name=message.name, pin=pin))
        return self._info(answer.registration)

    def _require_ready(self) -> None:
        """Raise Unavailable while front doors would not follow: they believe no table before the cluster is ready."""
        if not self._control.is_ready:
            raise Unavailable("the cluster is starting; try again")

    def _info(self, registration: Registration | None) -> pb.AdapterInfo:
        if registration is None:
            raise UnknownAdapter("the adapter was unloaded meanwhile")
        return _info(registration, self._control.table())


class ClusterStatus:
    """Answers `lorajax.v1.Cluster` for all hosts."""

    def __init__(self, control: ControlService) -> None:
        """Ask the coordinator behind `control`."""
        self._control = control

    async def Status(self, message: pb.StatusRequest, context: grpc.aio.ServicerContext) -> pb.StatusReply:
        """Every host that has been seen, by name."""
        table = self._control.table()
        names: dict[Version, Registration] = {one.adapter.version: one for one in table.registrations.values()}
        return pb.StatusReply(hosts=[self._host(table.hosts[name], names) for name in sorted(table.hosts)])

    async def Drain(self, message: pb.DrainRequest, context: grpc.aio.ServicerContext) -> pb.DrainReply:
        """Let a host finish what runs and leave."""
        answer = await self._control.ask(DrainAsked(call=self._control.next_call(), host=message.host))
        _name_table(context, self._control)
        return pb.DrainReply(host=message.host, num_running=answer.count)

    async def Rebalance(self, message: pb.RebalanceRequest, context: grpc.aio.ServicerContext) -> pb.RebalanceReply:
        """Place anew, now."""
        answer = await self._control.ask(RebalanceAsked(call=self._control.next_call()))
        return pb.RebalanceReply(round=answer.round, num_moves=answer.count)

    async def WatchPlacement(self, message: pb.WatchPlacementRequest, context: grpc.aio.ServicerContext) -> None:
        """The placement as it is, then after each change."""
        last: pb.PlacementReply | None = None
        async for table in self._control.changes():
            if (reply := _placement(table)) != last:
                last = reply
                await context.write(reply)

    def _host(self, host: HostView, names: dict[Version, Registration]) -> pb.HostStatus:
        connection = self._control.connections.get(HostName(host.spec.name))
        hello, load = connection.hello if connection else None, host.load
        return pb.HostStatus(
            name=host.spec.name,
            model=hello.model if hello else "",
            version=hello.software_version if hello else "",
            state=host.state.value,
            adapters=[
                pb.HostAdapter(
                    name=names[version].name,
                    version=version,
                    rank=names[version].adapter.rank,
                    pinned=names[version].is_pinned,
                    level=level.value,
                )
                for version, level in host.copies.items()
                if version in names and level is not Level.STORE
            ],
            kv_pages=pb.PageUse(used=load.kv_pages_total - load.kv_pages_free, total=load.kv_pages_total),
            adapter_pages=pb.PageUse(
                used=load.adapter_pages_total - load.adapter_pages_free, total=load.adapter_pages_total
            ),
            num_running=load.num_running,
            num_waiting=load.num_waiting,
            tokens_per_s=load.tokens_per_s,
            uptime_s=hello.beat.uptime_s if hello else 0.0,
        )


def _name_table(context: grpc.aio.ServicerContext, control: ControlService) -> None:
    """Say by which table a front door must route for the caller to see what was done."""
    context.set_trailing_metadata(((TABLE_KEY, str(control.table().number)),))


def _info(registration: Registration, table: Table) -> pb.AdapterInfo:
    adapter = registration.adapter
    return pb.AdapterInfo(
        name=registration.name,
        version=adapter.version,
        rank=adapter.rank,
        bytes=adapter.num_bytes,
        pinned=registration.is_pinned,
        residency=[
            pb.Residency(host=name, level=host.copies[adapter.version].value)
            for name, host in sorted(table.hosts.items())
            if host.holds(adapter.version)
        ],
    )


def _placement(table: Table) -> pb.PlacementReply:
    return pb.PlacementReply(
        round=table.round,
        shares=[
            pb.Share(adapter=name, version=one.adapter.version, host=share.host, share=share.share)
            for name, one in sorted(table.registrations.items())
            for share in table.shares.get(one.adapter.version, ())
            if share.share > 0
        ],
    )
