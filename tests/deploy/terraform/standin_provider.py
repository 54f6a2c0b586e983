"""A stand-in for a Terraform provider: it serves the schema of the real one and creates nothing.

Computed attributes are unknown in a plan, get values when they are applied, and keep them. It proves that a
configuration is well-formed against the schema; it knows nothing of allowed values, regions, quotas or permissions.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import msgpack
from tf.gen import grpc_controller_pb2 as controller
from tf.gen import grpc_controller_pb2_grpc as controller_rpc
from tf.gen import grpc_stdio_pb2_grpc as stdio_rpc
from tf.gen import tfplugin_pb2 as pb
from tf.gen import tfplugin_pb2_grpc as rpc

from .provider_schemas import Attribute, Block, ProviderSchema

NESTING = {"single": 1, "list": 2, "set": 3, "map": 4}
UNKNOWN = msgpack.ExtType(0, b"\0")
# Values of data sources and of computed attributes whose form a configuration depends on.
KNOWN: dict[tuple[str, str], Any] = {
    ("aws_availability_zones", "names"): ["zone-a", "zone-b", "zone-c"],
    ("aws_caller_identity", "account_id"): "123456789012",
    ("aws_partition", "partition"): "aws",
    ("aws_partition", "dns_suffix"): "amazonaws.com",
    ("azurerm_client_config", "tenant_id"): "00000000-0000-0000-0000-000000000001",
    ("azurerm_client_config", "subscription_id"): "00000000-0000-0000-0000-000000000002",
    ("google_project", "number"): "123456789012",
    ("google_project", "project_id"): "stand-in",
}


def _is_unknown(value: object) -> bool:
    return isinstance(value, msgpack.ExtType)


def _decode(value: pb.DynamicValue) -> Any:
    if value.json:
        return json.loads(value.json)
    return msgpack.unpackb(value.msgpack, raw=False, strict_map_key=False) if value.msgpack else None


def _encode(value: object) -> pb.DynamicValue:
    return pb.DynamicValue(msgpack=msgpack.packb(value))


def build_block(block: Block) -> pb.Schema.Block:
    """Return the block in the form of the plugin protocol."""
    return pb.Schema.Block(
        attributes=[
            pb.Schema.Attribute(
                name=name,
                type=json.dumps(one.type).encode(),
                required=one.required,
                optional=one.optional,
                computed=one.computed,
            )
            for name, one in sorted(block.attributes.items())
        ],
        block_types=[
            pb.Schema.NestedBlock(
                type_name=name,
                block=build_block(one.block),
                nesting=NESTING[one.nesting],
                min_items=one.least if one.nesting != "single" else 0,
                max_items=one.most,
            )
            for name, one in sorted(block.blocks.items())
        ],
    )


def find_computed_only(block: Block, value: Mapping[str, Any] | None, path: str = "") -> Iterator[str]:
    """Yield the paths of attributes that a configuration sets although only the provider computes them."""
    for name, one in block.attributes.items():
        if one.computed and not one.optional and not one.required and (value or {}).get(name) is not None:
            yield f"{path}{name}"
    for name, nested in block.blocks.items():
        for number, item in enumerate(_list_items((value or {}).get(name))):
            yield from find_computed_only(nested.block, item, f"{path}{name}[{number}].")


def _list_items(value: Any) -> list[Any]:
    if value is None or _is_unknown(value):
        return []
    return value if isinstance(value, list) else [value]


def _map_block(block: Block, value: Any, change: Callable[[str, Attribute, Any], Any]) -> Any:
    """Return the value with each attribute replaced by `change(name, attribute, value)`, in nested blocks too."""
    if value is None or _is_unknown(value):
        return value
    changed = {name: change(name, one, value.get(name)) for name, one in block.attributes.items()}
    for name, nested in block.blocks.items():
        inner = value.get(name)
        if isinstance(inner, list):
            changed[name] = [_map_block(nested.block, item, change) for item in inner]
        else:
            changed[name] = _map_block(nested.block, inner, change)
    return changed


def _mark_unknown(_name: str, attribute: Attribute, value: Any) -> Any:
    return UNKNOWN if attribute.computed and value is None else value


def invent_value(kind: Any, seed: str) -> Any:
    """Return a value of a type; the same seed gives the same value."""
    if kind == "string":
        return hashlib.sha256(seed.encode()).hexdigest()[:20]
    if kind == "number":
        return int(hashlib.sha256(seed.encode()).hexdigest()[:4], 16)
    if kind == "bool":
        return False
    if kind == "dynamic":
        return None
    holder, inner = kind
    if holder == "object":
        return {name: invent_value(one, f"{seed}.{name}") for name, one in inner.items()}
    return {} if holder == "map" else [invent_value(inner, f"{seed}[0]")]


class StandInProvider(rpc.ProviderServicer):  # type: ignore[misc]
    """The plugin protocol, version 6, over the schema of a provider."""

    def __init__(self, schema: ProviderSchema) -> None:
        self._schema = schema
        self._count = 0
        self._lock = threading.Lock()

    def GetMetadata(self, request: Any, context: Any) -> Any:
        return pb.GetMetadata.Response()

    def GetProviderSchema(self, request: Any, context: Any) -> Any:
        def wrap(block: Block) -> pb.Schema:
            return pb.Schema(version=0, block=build_block(block))

        return pb.GetProviderSchema.Response(
            provider=wrap(self._schema.configuration),
            resource_schemas={name: wrap(one) for name, one in self._schema.resources.items()},
            data_source_schemas={name: wrap(one) for name, one in self._schema.data_sources.items()},
        )

    def ValidateProviderConfig(self, request: Any, context: Any) -> Any:
        return pb.ValidateProviderConfig.Response()

    def ValidateResourceConfig(self, request: Any, context: Any) -> Any:
        block = self._schema.resources[request.type_name]
        return pb.ValidateResourceConfig.Response(diagnostics=self._check(block, request))

    def ValidateDataResourceConfig(self, request: Any, context: Any) -> Any:
        block = self._schema.data_sources[request.type_name]
        return pb.ValidateDataResourceConfig.Response(diagnostics=self._check(block, request))

    @staticmethod
    def _check(block: Block, request: Any) -> list[pb.Diagnostic]:
        return [
            pb.Diagnostic(
                severity=pb.Diagnostic.ERROR,
                summary="Value for unconfigurable attribute",
                detail=f"{request.type_name}: only the provider sets {path}",
            )
            for path in find_computed_only(block, _decode(request.config))
        ]

    def ConfigureProvider(self, request: Any, context: Any) -> Any:
        return pb.ConfigureProvider.Response()

    def UpgradeResourceState(self, request: Any, context: Any) -> Any:
        return pb.UpgradeResourceState.Response(upgraded_state=pb.DynamicValue(json=request.raw_state.json))

    def ReadResource(self, request: Any, context: Any) -> Any:
        return pb.ReadResource.Response(new_state=request.current_state)

    def PlanResourceChange(self, request: Any, context: Any) -> Any:
        prior, proposed = _decode(request.prior_state), _decode(request.proposed_new_state)
        planned = proposed
        if prior is None and proposed is not None:
            planned = _map_block(self._schema.resources[request.type_name], proposed, _mark_unknown)
        return pb.PlanResourceChange.Response(planned_state=_encode(planned))

    def ApplyResourceChange(self, request: Any, context: Any) -> Any:
        state = self._fill(request.type_name, self._schema.resources[request.type_name], _decode(request.planned_state))
        return pb.ApplyResourceChange.Response(new_state=_encode(state))

    def ReadDataSource(self, request: Any, context: Any) -> Any:
        block = self._schema.data_sources[request.type_name]
        wanted = _map_block(block, _decode(request.config), _mark_unknown)
        return pb.ReadDataSource.Response(state=_encode(self._fill(request.type_name, block, wanted, seed="data")))

    def _fill(self, type_name: str, block: Block, value: Any, *, seed: str = "") -> Any:
        with self._lock:
            self._count += 1
            seed = seed or str(self._count)

        def fill(name: str, attribute: Attribute, value: Any) -> Any:
            if not _is_unknown(value):
                return value
            known = KNOWN.get((type_name, name))
            if known is not None:
                return known
            return invent_value(attribute.type, f"{type_name}.{seed}.{name}")

        return _map_block(block, value, fill)

    def StopProvider(self, request: Any, context: Any) -> Any:
        return pb.StopProvider.Response()


class _Controller(controller_rpc.GRPCControllerServicer):  # type: ignore[misc]
    """Terraform asks a plugin to end after each command; this one goes on."""

    def Shutdown(self, request: Any, context: Any) -> Any:
        return controller.Empty()


class _Output(stdio_rpc.GRPCStdioServicer):  # type: ignore[misc]
    def StreamStdio(self, request: Any, context: Any) -> Iterator[Any]:
        return iter(())


class ProviderServer:
    """Serves a stand-in provider at a Unix socket. `address` goes into TF_REATTACH_PROVIDERS."""

    def __init__(self, schema: ProviderSchema, folder: Path) -> None:
        self._path = folder / f"{schema.name}.sock"
        self._server = grpc.server(futures.ThreadPoolExecutor(max_workers=8))
        rpc.add_ProviderServicer_to_server(StandInProvider(schema), self._server)
        controller_rpc.add_GRPCControllerServicer_to_server(_Controller(), self._server)
        stdio_rpc.add_GRPCStdioServicer_to_server(_Output(), self._server)
        self._server.add_insecure_port(f"unix://{self._path}")
        self._source = f"registry.terraform.io/hashicorp/{schema.name}"

    @property
    def address(self) -> dict[str, object]:
        place = {"Network": "unix", "String": str(self._path)}
        return {
            self._source: {
                "Protocol": "grpc",
                "ProtocolVersion": 6,
                "Pid": os.getpid(),
                "Test": True,
                "Addr": place,
            }
        }

    def __enter__(self) -> ProviderServer:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(grace=None)
