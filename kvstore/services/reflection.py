"""gRPC's server reflection, so that grpcurl and its like can list and call what is served without our .proto files."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

from google.protobuf.descriptor import FileDescriptor

from kvstore.errors import Code
from kvstore.proto import messages as pb


class ReflectionService:
    """Tells of `services`, by their full names, and of itself, in both versions that clients ask for."""

    versions = ("v1", "v1alpha")

    def __init__(self, services: Iterable[str]) -> None:
        own = (f"grpc.reflection.{version}.ServerReflection" for version in self.versions)
        self._services = sorted([*services, *own])

    async def info(
        self, requests: AsyncIterator[pb.ServerReflectionRequest], send: Callable[[bytes], Awaitable[None]]
    ) -> None:
        """One answer to each request, in order. Ends with the requests."""
        async for request in requests:
            answer = self._answer(request)
            answer.valid_host = request.host
            answer.original_request.CopyFrom(request)
            await send(answer.SerializeToString())

    def _answer(self, request: pb.ServerReflectionRequest) -> pb.ServerReflectionResponse:
        match request.WhichOneof("message_request"):
            case "list_services":
                services = [pb.ServiceResponse(name=name) for name in self._services]
                return pb.ServerReflectionResponse(list_services_response=pb.ListServiceResponse(service=services))
            case "file_by_filename":
                return self._file(lambda: pb.POOL.FindFileByName(request.file_by_filename))
            case "file_containing_symbol":
                return self._file(lambda: pb.POOL.FindFileContainingSymbol(request.file_containing_symbol))
            case "all_extension_numbers_of_type":
                name = request.all_extension_numbers_of_type
                try:
                    pb.POOL.FindMessageTypeByName(name)
                except KeyError:
                    return _error(Code.NOT_FOUND, f"not found: {name}")
                return pb.ServerReflectionResponse(
                    all_extension_numbers_response=pb.ExtensionNumberResponse(base_type_name=name)
                )
            case "file_containing_extension":
                return _error(Code.NOT_FOUND, "no message here has extensions")
            case None:
                return _error(Code.INVALID_ARGUMENT, "the request asks nothing")

    def _file(self, find: Callable[[], FileDescriptor]) -> pb.ServerReflectionResponse:
        try:
            found = find()
        except KeyError as error:
            return _error(Code.NOT_FOUND, f"not found: {error.args[0]}")
        # With all that it imports, itself first: a client need not ask again.
        files: dict[str, bytes] = {}
        _gather(found, files)
        descriptors = pb.FileDescriptorResponse(file_descriptor_proto=reversed(files.values()))
        return pb.ServerReflectionResponse(file_descriptor_response=descriptors)


def _gather(file: FileDescriptor, files: dict[str, bytes]) -> None:
    for imported in file.dependencies:
        _gather(imported, files)
    files.setdefault(file.name, file.serialized_pb)


def _error(code: Code, text: str) -> pb.ServerReflectionResponse:
    return pb.ServerReflectionResponse(error_response=pb.ErrorResponse(error_code=code, error_message=text))
