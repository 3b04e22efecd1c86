"""TLS of the server: the files, by etcd's names, and what grpc and HTTP each need of them."""

from __future__ import annotations

import dataclasses
import ssl
from pathlib import Path

import grpc

from kvstore.server.config import ListenError


@dataclasses.dataclass(frozen=True)
class ServerTLS:
    """Certificate and key of the server, PEM files; with `trusted_ca_file` or `client_cert_auth` clients need one too.

    As in etcd, naming a trusted CA is enough to ask every client for a certificate that it signed.
    """

    cert_file: Path
    key_file: Path
    trusted_ca_file: Path | None = None
    client_cert_auth: bool = False

    def grpc_credentials(self) -> grpc.ServerCredentials:
        """For a gRPC port. Raises `ListenError` when a file cannot be used."""
        self.context()  # gRPC tells of unusable files only in its log, and serves nothing
        authority = None if self.trusted_ca_file is None else self.trusted_ca_file.read_bytes()
        pair = (self.key_file.read_bytes(), self.cert_file.read_bytes())
        return grpc.ssl_server_credentials([pair], authority, authority is not None)

    def context(self) -> ssl.SSLContext:
        """For an HTTP port. Raises `ListenError` when a file cannot be used."""
        if self.client_cert_auth and self.trusted_ca_file is None:
            raise ListenError("cannot check client certificates: --client-cert-auth needs a --trusted-ca-file")
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        files = [file for file in (self.cert_file, self.key_file, self.trusted_ca_file) if file is not None]
        try:
            for file in files:
                file.read_bytes()  # unlike those below, this error says which file it is about
            context.load_cert_chain(self.cert_file, self.key_file)
            if self.trusted_ca_file is not None:
                context.load_verify_locations(self.trusted_ca_file)
                context.verify_mode = ssl.CERT_REQUIRED
        except ssl.SSLError as error:
            names = ", ".join(map(str, files))
            raise ListenError(f"cannot use the TLS files {names}: {error.reason or error}") from error
        except OSError as error:
            raise ListenError(f"cannot read the TLS file {error.filename}: {error.strerror}") from error
        return context
