"""Certificates as gRPC takes them: looked at again before every handshake."""

from __future__ import annotations

import grpc

from podium_server.access.tls import Certificates, Material


def server_credentials(certificates: Certificates) -> grpc.ServerCredentials:
    """Return credentials that follow the files: connections made after a change see the new certificates."""

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        # In a thread of gRPC's, before each handshake.
        changed = certificates.changed()
        return None if changed is None else _configuration(changed)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(certificates.material),
        fetch,  # type: ignore[arg-type]  # None is "no change", as gRPC documents and its types do not know
        require_client_authentication=certificates.mutual,
    )


def _configuration(material: Material) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(material.key, material.certificate)], root_certificates=material.client_ca or None
    )
