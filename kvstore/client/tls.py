"""TLS of a client."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    import grpc


@dataclasses.dataclass(frozen=True)
class TLS:
    """Which servers to trust and who we are, as PEM files.

    `ca_file` is the authority of the server's certificate (without it, the system's); `cert_file` and `key_file` are
    for servers that ask for a client certificate.
    """

    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] = os.environ) -> Self:
        """The files that ETCDCTL_CACERT, ETCDCTL_CERT and ETCDCTL_KEY name, as for etcdctl."""
        names = (environ.get(name) for name in ("ETCDCTL_CACERT", "ETCDCTL_CERT", "ETCDCTL_KEY"))
        return cls(*(Path(name) if name else None for name in names))

    def credentials(self) -> grpc.ChannelCredentials:
        """For gRPC. Raises ValueError when a file cannot be read, or one of certificate and key is missing."""
        import grpc

        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("a client certificate and its key go together: only one of the two was given")
        return grpc.ssl_channel_credentials(_read(self.ca_file), _read(self.key_file), _read(self.cert_file))


def _read(file: Path | None) -> bytes | None:
    if file is None:
        return None
    try:
        return file.read_bytes()
    except OSError as error:
        raise ValueError(f"cannot read the TLS file {file}: {error.strerror}") from None
