"""Server reflection, asked as grpcurl asks: the services, then the files, until every type is known."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

from kvstore.node import Node
from kvstore.proto import messages as pb
from kvstore.server import Server

VERSIONS = ["v1", "v1alpha"]


@pytest.fixture
async def channel(endpoint: str) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(endpoint) as channel:
        yield channel


async def ask(
    channel: grpc.aio.Channel, version: str, *requests: pb.ServerReflectionRequest
) -> list[pb.ServerReflectionResponse]:
    path = f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
    stream = channel.stream_stream(path, None, None)(None)
    answers = []
    for request in requests:
        await stream.write(request.SerializeToString())
        data = await stream.read()
        assert isinstance(data, bytes)
        answers.append(pb.ServerReflectionResponse.FromString(data))
    await stream.done_writing()
    assert not isinstance(await stream.read(), bytes)
    return answers


async def services(channel: grpc.aio.Channel, version: str) -> list[str]:
    (answer,) = await ask(channel, version, pb.ServerReflectionRequest(list_services="*"))
    return [service.name for service in answer.list_services_response.service]


@pytest.mark.parametrize("version", VERSIONS)
async def test_everything_served_is_listed_and_described(
    channel: grpc.aio.Channel, server: Server, version: str
) -> None:
    listed = await services(channel, version)
    assert set(listed) == {path.split("/")[1] for path in server.routes}
    assert {"etcdserverpb.KV", "v3lockpb.Lock", "grpc.health.v1.Health"} < set(listed)
    pool = DescriptorPool()
    known: set[str] = set()
    for name in listed:
        (answer,) = await ask(channel, version, pb.ServerReflectionRequest(file_containing_symbol=name))
        for data in reversed(answer.file_descriptor_response.file_descriptor_proto):
            file = FileDescriptorProto.FromString(data)
            if file.name not in known:
                known.add(file.name)
                pool.Add(file)
    methods = {f"/{name}/{method.name}" for name in listed for method in pool.FindServiceByName(name).methods}
    assert set(server.routes) <= methods


async def test_a_call_made_with_what_was_learned(channel: grpc.aio.Channel, node: Node) -> None:
    question = pb.ServerReflectionRequest(host="h", file_containing_symbol="etcdserverpb.PutRequest")
    (answer,) = await ask(channel, "v1", question)
    assert (answer.valid_host, answer.original_request) == ("h", question)
    pool = DescriptorPool()
    for data in reversed(answer.file_descriptor_response.file_descriptor_proto):
        pool.AddSerializedFile(data)
    put = GetMessageClass(pool.FindMessageTypeByName("etcdserverpb.PutRequest"))(key=b"a", value=b"1")
    await channel.unary_unary("/etcdserverpb.KV/Put", None, None)(put.SerializeToString())
    assert node.revision == 2


async def test_other_questions_and_errors(channel: grpc.aio.Channel) -> None:
    R = pb.ServerReflectionRequest  # noqa: N806
    extension = pb.ExtensionRequest(containing_type="etcdserverpb.PutRequest", extension_number=1)
    by_name, numbers, *errors = await ask(
        channel,
        "v1",
        R(file_by_filename="kv.proto"),
        R(all_extension_numbers_of_type="mvccpb.KeyValue"),
        R(file_by_filename="nothing.proto"),
        R(file_containing_symbol="no.Such"),
        R(all_extension_numbers_of_type="no.Such"),
        R(file_containing_extension=extension),
        R(),
    )
    (data,) = by_name.file_descriptor_response.file_descriptor_proto
    assert FileDescriptorProto.FromString(data).package == "mvccpb"
    assert numbers.all_extension_numbers_response.base_type_name == "mvccpb.KeyValue"
    codes = [error.error_response.error_code for error in errors]
    assert codes == [5, 5, 5, 5, 3]
    assert all(error.error_response.error_message for error in errors)
