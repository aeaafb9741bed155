"""The command line. A command is imported when it is called, so that `podium --help` is instant.

`app` finds a command and says what went wrong; `options` has what several commands share. Behind them:

- `commands`: one module a command, by its name: its options, its help, and what it calls;
- `job_runs`: the jobs of `rerank`, `label`, `mine` and `synthesize`, which are gone on with whatever ended them;
- `serving`: the processes of `podium serve`;
- `reaching`: servers from outside: one elsewhere, one of our own, many that share a job;
- `documents`: where the documents come from that go into collections;
- `optimizing`: a model made int8, and measured beside what it was;
- `display`: numbers, tables, bars and reports.
"""
