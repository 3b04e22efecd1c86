"""The compiled protocol buffers."""

from __future__ import annotations

import subprocess
import sys

from kvstore.proto import FILES, generate, messages


def test_the_compiled_files_are_fresh() -> None:
    compiled = generate.compile_protos(FILES)
    assert compiled == generate.COMPILED.read_bytes(), "run `make proto`"
    assert generate.stub(compiled) == generate.STUB.read_text(), "run `make proto`"


def test_the_default_pool_is_left_to_others() -> None:
    code = (
        "from google.protobuf import descriptor_pool\n"
        "from kvstore.proto import messages\n"
        "for name in ('etcdserverpb.PutRequest', 'mvccpb.KeyValue'):\n"
        "    assert messages.POOL.FindMessageTypeByName(name)\n"
        "    try:\n"
        "        descriptor_pool.Default().FindMessageTypeByName(name)\n"
        "    except KeyError:\n"
        "        continue\n"
        "    raise SystemExit(f'{name} is in the default pool')\n"
    )
    # In a process of its own: in this one the tests of another client may have filled the pool.
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_messages_go_over_the_wire_and_back() -> None:
    put = messages.PutRequest(key=b"k", value=b"v", lease=-1)
    assert put.SerializeToString() == b"\x0a\x01k\x12\x01v\x18" + b"\xff" * 9 + b"\x01"
    assert messages.PutRequest.FromString(put.SerializeToString()) == put


def test_the_embedded_client_needs_neither_grpc_nor_protobuf() -> None:
    code = (
        "import sys, kvstore.client, kvstore.client.embedded\n"
        "loaded = sorted(name for name in sys.modules if name.split('.')[0] in ('grpc', 'google'))\n"
        "sys.exit(f'imported {loaded[:3]}' if loaded else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, "")
