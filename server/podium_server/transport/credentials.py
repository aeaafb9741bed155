"""Certificates as gRPC takes them: looked at again before every handshake."""

from __future__ import annotations

import grpc

from podium_server.access.tls import Certificates, Material


def server_credentials(certificates: Certificates) -> grpc.ServerCredentials:
    """Return credentials that follow the files: connections made after a change see the new certificates."""
    given = certificates.material

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        # In a thread of gRPC's, before each handshake. A handshake of HTTP may have been the first to see the change:
        # what counts is what gRPC was given, and not whether anything has changed since the last look.
        nonlocal given
        certificates.changed()
        if certificates.material is given:
            return None
        given = certificates.material
        return _configuration(given)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(given),
        fetch,  # type: ignore[arg-type]  # None is "no change", as gRPC documents and its types do not know
        require_client_authentication=certificates.mutual,
    )


def _configuration(material: Material) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(material.key, material.certificate)], root_certificates=material.client_ca or None
    )
