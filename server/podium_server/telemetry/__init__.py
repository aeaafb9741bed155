"""What is seen from outside: figures for Prometheus, spans for OpenTelemetry. `spans` knows nothing of ours."""
