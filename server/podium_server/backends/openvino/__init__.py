"""What the modules that run OpenVINO share: where a model comes from, its graph, its card, its tokens, how it runs."""

import sys

# OpenVINO's converter sends what it converts to Google Analytics, unasked, from a fork of the process, which gRPC's
# threads do not survive. Without this package it takes its own stub.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # None is how an import is forbidden
