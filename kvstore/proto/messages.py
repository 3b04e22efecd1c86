"""The message classes of every .proto file here, built at import from the compiled `etcd.binpb`.

They live in a descriptor pool of their own, so other packages that register etcd's names (aetcd, python-etcd3) can be
used in the same process, and no generated code ties us to one protobuf release. `messages.pyi` tells the fields.
"""

from pathlib import Path

from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

from kvstore.proto import FILES

POOL = DescriptorPool()


def _load(compiled: bytes) -> None:
    # A FileDescriptorSet is its files one after the other, each behind tag 1 and a length: reading the frames here
    # saves importing descriptor_pb2, which nothing else needs.
    at = 0
    while at < len(compiled):
        assert compiled[at] == 0x0A
        at += 1
        length = shift = 0
        while True:
            byte = compiled[at]
            at += 1
            length |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
            shift += 7
        POOL.AddSerializedFile(compiled[at : at + length])
        at += length


_load(Path(__file__).with_name("etcd.binpb").read_bytes())
for _file in FILES:
    for _name, _descriptor in POOL.FindFileByName(_file).message_types_by_name.items():
        globals().setdefault(_name, GetMessageClass(_descriptor))
