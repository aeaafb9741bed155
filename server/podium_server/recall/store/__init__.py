"""The durable truth of recall, one SQLite file: `store` opens it, `batch` writes, `reader` reads, `rows` go between."""
