"""JSON over HTTP beside gRPC: the dialects that clients speak already, and the contract itself as JSON.

REST is a translator. A body becomes a message of the contract, the message goes through the door (`transport.door`) to
the very method that gRPC calls, and the answer becomes a body. So the drain, the guards, the limits, the ledger and the
errors are the same, and nothing here knows how documents are ranked.

| module | what it does |
| --- | --- |
| `server` | listens: uvicorn inside our event loop, with bounds on headers, connections and time |
| `app` | which path is whose |
| `bodies` | bytes of a request into JSON: bounded, strict |
| `calls` | a request into a call of the door, with a deadline, cancelled when the client goes |
| `asked` | what a dialect wants, in no dialect's words; the message of the contract made of it |
| `scores` | scores of any kind into those that a dialect promises |
| `faults` | errors as HTTP knows them |
| `dialects` | a module for each: its fields in, its fields out, its errors |
| `native` | every method of the contract as JSON |
| `openapi`, `page` | what there is, generated |
"""
