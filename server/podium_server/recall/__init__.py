"""Recall: a durable store of documents, and the candidates that it holds for a query.

SQLite is the truth (`store`). Over it stand two indexes in memory that can be made again at any time: vectors
(`vectors`) and words (`lexical`), both kept by `shard`, one a collection (`shards`). Documents come in as `batches`;
what is found is joined by `hybrid`. `engine` has all of it, synchronously; `collections` is the face that the server
uses, off the event loop. Nothing here knows gRPC, judges or strategies, and the encoder is injected.
"""
