"""Where the documents come from that go into collections: files, and Python's own library."""
