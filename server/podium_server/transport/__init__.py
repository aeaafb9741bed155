"""The wire: gRPC in, gRPC out. Nothing else in the server knows `grpc` and `podium.v1`."""
