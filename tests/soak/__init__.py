"""A fault run: a real server under load, while everything around it fails. `python -m tests.soak --minutes 10`.

It is a program; what pytest collects here tests its measures alone. All of it is on loopback, and bounded in memory and
time.
"""

import os

# Children are started by a process that speaks gRPC, and none of them goes on with what it has open.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
