"""OpenAI-compatible endpoints: calls, attempts, faults, and what each dialect understands."""
