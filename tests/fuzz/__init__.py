"""The fuzz run: a real server with two tenants, a million inputs that mean no good, and laws for every answer.

`python -m tests.fuzz --inputs 1000000 --seed 0 --out bench/results/fuzz.md`. Every input follows from the seed, its
kind and its number, so that a finding is made again from three words. `test_fuzz_run.py` runs some of each kind.

| module | what it does |
| --- | --- |
| `victim` | the server as a child process: two tenants, their keys, what the rival owns; its memory, files and log |
| `laws` | what no answer may be, and what every answer must be |
| `protobufs` | damage to serialized messages, field by field and byte by byte |
| `messages` | a few good messages of every method, to damage |
| `metadata` | what may stand beside a message |
| `doorways` | bytes in, bytes out: over gRPC, or one layer in, without a socket |
| `bodies` | damage to JSON, as values and as text |
| `requests` | damage to HTTP itself |
| `http`, `http2` | connections that send whatever they are given |
| `by_schema` | schemathesis, in an environment of its own |
| `findings` | the smallest input that still breaks a law, kept in a file |
| `run` | the phases, and the table |
"""
