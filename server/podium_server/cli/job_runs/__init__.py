"""The jobs behind `podium rerank`, `label`, `mine` and `synthesize`: a module a command, on one `JobRun`."""
